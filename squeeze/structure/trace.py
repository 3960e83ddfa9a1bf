"""`trace`: what can be removed from a model."""

from dataclasses import replace

import numpy as np
from torch import nn

from squeeze.errors import TraceError
from squeeze.structure.bodies import Graph, blocks, branches
from squeeze.structure.couple import Coupling, cost_model, couple, edges
from squeeze.structure.groups import Structure
from squeeze.structure.known import Known
from squeeze.structure.run import Record, run_on_labels
from squeeze.structure.trial import Trial, stirred
from squeeze.task import Inputs

_ROUNDS = 24


def trace(model: nn.Module, example_inputs: Inputs) -> Structure:
    """Find what can be removed from a model, by running it on labels and then trying every cut.

    The model is left bit-identical. It runs in eval mode, in its own precision, on its own device.

    Args:
        model: Any module that runs eagerly.
        example_inputs: A tensor, a tuple of positional or a dict of keyword arguments.

    Returns:
        Groups of units, residual blocks and branches that can go, and what is pinned, with reasons.

    Raises:
        TraceError: The model does not run on the inputs, or not twice in the same way.
    """
    known = Known()
    shaken = stirred(model)
    for _ in range(_ROUNDS):
        record = _run(model, example_inputs, known)
        coupling = couple(record, model, known.pins)
        if known.reread(record, _stuck(record, coupling)):
            continue
        structure = _structure(record, coupling, model, known)
        if not known.learn(Trial(shaken, example_inputs, structure), record, coupling, structure):
            return structure
    raise TraceError(
        f"trace: {type(model).__name__} must behave in the same way in every run, got other failures in each of "
        f"{_ROUNDS} trials; make its forward deterministic in eval mode."
    )


def _run(model: nn.Module, inputs: Inputs, known: Known) -> Record:
    """Run on labels; once more in training mode if eval mode leaves parameters unused (auxiliary heads)."""
    record = run_on_labels(model, inputs, known.readings)
    if {name for name, _ in model.named_parameters()} - record.used:
        try:
            other = run_on_labels(model, inputs, {}, training=True)
        except TraceError:
            other = None
        if other is not None:
            record.context.ledger.merge(other.context.ledger)
            record.used |= other.used
    known.apply(record)
    return record


def _structure(record: Record, coupling: Coupling, model: nn.Module, known: Known) -> Structure:
    graph = Graph(record, model)
    structure = Structure(
        coupling.groups,
        blocks(graph),
        branches(graph, coupling),
        edges(record, record.nodes),
        coupling.pinned,
        cost_model(record, model),
    )
    return replace(
        structure,
        blocks=tuple(b for b in structure.blocks if b.name not in known.refused),
        branches=tuple(b for b in structure.branches if b.name not in known.refused),
    )


def _stuck(record: Record, coupling: Coupling) -> np.ndarray:
    """Nodes of places that could be read in another way, and where the present reading leaves nothing to remove."""
    found = [
        site.ids for site in record.context.sites if site.eager and not coupling.free[site.ids[site.ids >= 0]].any()
    ]
    return np.concatenate(found) if found else np.empty(0, dtype=np.int64)
