"""Single connections: which weights read which inputs, and which layers can read fewer of them by selecting."""

from collections import defaultdict

import numpy as np
from torch import nn

from squeeze.nn import partly_computed, reading_dim
from squeeze.structure.parts import Edge
from squeeze.structure.run import Record


def edges(record: Record, model: nn.Module) -> tuple[Edge, ...]:
    """The weight dims that read activations."""
    nodes = record.nodes
    read = np.zeros(nodes.total + 1, dtype=bool)
    for ids in record.context.ledger.reads:
        read[ids] = True
    sized = np.zeros(nodes.total + 1, dtype=bool)
    for contraction in record.context.contractions:
        for axis in contraction.axes:
            sized[axis] = True
    layers = _selecting_layers(record, model)
    return tuple(
        Edge(tensor, dim, size, layers.get((tensor, dim), "") if sized[first : first + size].all() else "")
        for (tensor, dim), (first, size) in nodes.spans.items()
        if read[first : first + size].all()
    )


def _selecting_layers(record: Record, model: nn.Module) -> dict[tuple[str, int], str]:
    """For the weight dims that can read fewer inputs, the layer: it alone holds the weight, and alone uses it.

    Its forward is torch's own, so reading less is the same as reading zeros by construction, and nothing is tried here.
    """
    users: dict[str, set[str]] = defaultdict(set)
    for call, ran in zip(record.tape.calls, record.tape.ops, strict=True):
        for name in ran.parameters:
            users[name].add(call.module)
    names: dict[int, int] = defaultdict(int)
    for _, parameter in model.named_parameters(remove_duplicate=False):
        names[id(parameter)] += 1
    found, gated = {}, partly_computed(model)
    for name, module in model.named_modules():
        dim = reading_dim(module) if name and module not in gated else None
        if dim is not None and users[f"{name}.weight"] == {name} and names[id(module.weight)] == 1:
            found[f"{name}.weight", dim] = name
    return found
