"""`trace`: what can be removed from a model."""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace

import numpy as np
from torch import nn

from squeeze.errors import TraceError
from squeeze.structure.bodies import Graph, blocks, branches
from squeeze.structure.couple import Coupling, cost_model, couple
from squeeze.structure.dense import Dense
from squeeze.structure.edges import edges
from squeeze.structure.gating import gateable
from squeeze.structure.groups import Structure
from squeeze.structure.known import Known
from squeeze.structure.reference import stirred
from squeeze.structure.run import Record, labelled
from squeeze.structure.smaller import LONG, shapes_of, smaller, twice
from squeeze.structure.tape import Tape, recorded
from squeeze.structure.trial import Trial
from squeeze.structure.watch import Tell, Watch
from squeeze.task import Inputs

_ROUNDS = 24


def trace(
    model: nn.Module,
    example_inputs: Inputs,
    *,
    tell: Tell | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Structure:
    """Find what can be removed from a model, by running it on labels and then trying every cut.

    The model is left bit-identical. It runs in eval mode, in its own precision, on its own device.

    Args:
        model: Any module that runs eagerly.
        example_inputs: A tensor, a tuple of positional or a dict of keyword arguments.
        tell: Is handed a line every few seconds, if it takes that long: which op or group takes the time.
        clock: What tells the time.

    Returns:
        Groups of units, residual blocks and branches that can go, and what is pinned, with reasons.

    Raises:
        TraceError: The model does not run on the inputs, or not twice in the same way.
    """
    watch, known = Watch(tell, clock), Known()
    tapes = _tapes(model, example_inputs, watch)
    shapes = shapes_of(tapes[0].results)
    proof = smaller(model, example_inputs, tapes[0], watch)
    watch.step("a copy of the model")
    long = sum(call.macs or 0 for call in tapes[0].calls) > LONG
    dense = Dense(stirred(model), example_inputs, shapes, watch, proof, long)
    for _ in range(_ROUNDS):
        record = _labelled(tapes, known)
        coupling = known.sized(couple(record, model, known.pins))
        if known.unstick(record, _stuck(record, coupling)):
            continue
        structure = _structure(record, coupling, model)
        trial = Trial(dense, structure)
        if known.learn(trial, record, coupling, structure):
            continue
        if trial.fits():
            whole = _with_bodies(structure, record, coupling, model)
            return _without(whole, trial.bodies(whole))
        dense = Dense(dense.model, example_inputs, shapes, watch, long=long)
    raise TraceError(
        f"trace: {type(model).__name__} must behave in the same way in every run, got other failures in each of "
        f"{_ROUNDS} trials; make its forward deterministic in eval mode."
    )


def _tapes(model: nn.Module, inputs: Inputs, watch: Watch) -> list[Tape]:
    """What runs; in training mode, too, if eval mode leaves parameters unused (auxiliary heads)."""
    tapes = [recorded(model, inputs, watch)]
    if {name for name, _ in model.named_parameters()} - tapes[0].used:
        for samples in (lambda inputs: inputs, twice):
            with suppress(TraceError):
                return [*tapes, recorded(model, samples(inputs), watch, training=True)]
    return tapes


def _labelled(tapes: Sequence[Tape], known: Known) -> Record:
    """What the runs say, and what the rounds so far have taught."""
    record = labelled(tapes[0], known.readings)
    for tape in tapes[1:]:
        other = labelled(tape, {})
        record.context.ledger.merge(other.context.ledger)
        record.used |= other.used
    known.apply(record)
    return record


def _structure(record: Record, coupling: Coupling, model: nn.Module) -> Structure:
    """Without blocks and branches, which are looked for when the groups are proved."""
    found = edges(record, model)
    return Structure(coupling.groups, (), (), found, coupling.pinned, cost_model(record, model))


def _with_bodies(structure: Structure, record: Record, coupling: Coupling, model: nn.Module) -> Structure:
    graph = Graph(record, model)
    gated = gateable(graph, model)
    return replace(structure, blocks=blocks(graph), branches=branches(graph, coupling), gateable=gated)


def _without(structure: Structure, refused: set[str]) -> Structure:
    """What is left when these blocks and branches cannot go."""
    return replace(
        structure,
        blocks=tuple(b for b in structure.blocks if b.name not in refused),
        branches=tuple(b for b in structure.branches if b.name not in refused),
    )


def _stuck(record: Record, coupling: Coupling) -> np.ndarray:
    """Nodes of places that could be read in another way, and where the present reading leaves nothing to remove."""
    found = [
        site.ids for site in record.context.sites if site.eager and not coupling.free[site.ids[site.ids >= 0]].any()
    ]
    return np.concatenate(found) if found else np.empty(0, dtype=np.int64)
