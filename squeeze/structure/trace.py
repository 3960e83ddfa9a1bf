"""`trace`: what can be removed from a model."""

from dataclasses import replace

import numpy as np
from torch import nn

from squeeze.structure.bodies import Graph, blocks, branches
from squeeze.structure.couple import Coupling, cost_model, couple, edges
from squeeze.structure.groups import Structure
from squeeze.structure.run import Record, run_on_labels
from squeeze.structure.trial import Failure, Trial
from squeeze.task import Inputs

_ROUNDS = 8

Pins = list[tuple[np.ndarray, str, str]]


def trace(model: nn.Module, example_inputs: Inputs) -> Structure:
    """Find what can be removed from a model, by running it on labels and then trying every cut.

    The model is left bit-identical. It runs in eval mode, in its own precision, on its own device.

    Args:
        model: Any module that runs eagerly.
        example_inputs: A tensor, a tuple of positional or a dict of keyword arguments.

    Returns:
        Groups of units, residual blocks and branches that can go, and what is pinned, with reasons.

    Raises:
        TraceError: The model does not run on the inputs.
    """
    readings: dict[int, int] = {}
    pins: Pins = []
    refused: set[str] = set()
    for _ in range(_ROUNDS):
        record = run_on_labels(model, example_inputs, readings)
        coupling = couple(record, model, pins)
        if _reread(record, _stuck(record, coupling), readings):
            continue
        structure = _structure(record, coupling, model, refused)
        failures = Trial(model, example_inputs, structure).failures()
        if not failures:
            return structure
        blamed = [f for f in failures if isinstance(f.item, int)]
        refused |= {f.item for f in failures if isinstance(f.item, str)}
        doubtful = [f for f in blamed if not _reread(record, _nodes(coupling, f), readings)]
        pins += [(_nodes(coupling, failure), failure.reason, failure.where) for failure in doubtful]
    record = run_on_labels(model, example_inputs, readings)
    coupling = couple(record, model, pins)
    last = _structure(record, coupling, model, refused)
    blamed_at_last = {f.item for f in Trial(model, example_inputs, last).failures()}
    pins += [
        (_nodes(coupling, Failure(g, "", "")), "breaks the model", "") for g in blamed_at_last if isinstance(g, int)
    ]
    return _structure(
        record, couple(record, model, pins), model, refused | {n for n in blamed_at_last if isinstance(n, str)}
    )


def _structure(record: Record, coupling: Coupling, model: nn.Module, refused: set[str]) -> Structure:
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
        blocks=tuple(b for b in structure.blocks if b.name not in refused),
        branches=tuple(b for b in structure.branches if b.name not in refused),
    )


def _nodes(coupling: Coupling, failure: Failure) -> np.ndarray:
    members = coupling.members[int(failure.item)]
    return np.flatnonzero(np.isin(coupling.unit, members))


def _stuck(record: Record, coupling: Coupling) -> np.ndarray:
    """Nodes of places that could be read in another way, and where the present reading leaves nothing to remove."""
    found = [
        site.ids for site in record.context.sites if site.eager and not coupling.free[site.ids[site.ids >= 0]].any()
    ]
    return np.concatenate(found) if found else np.empty(0, dtype=np.int64)


def _reread(record: Record, nodes: np.ndarray, readings: dict[int, int]) -> bool:
    """Take the next reading wherever one is left and these nodes are concerned."""
    changed = False
    for site in record.context.sites:
        if np.isin(site.ids, nodes).any() and readings.get(site.key, 0) + 1 < site.options:
            readings[site.key] = readings.get(site.key, 0) + 1
            changed = True
    return changed
