"""From ties to groups: nodes that go together are a unit, units that touch the same things a group."""

import itertools
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import nn

from squeeze.structure.cost import CostModel, Op
from squeeze.structure.labels import Nodes
from squeeze.structure.parts import Axis, Group, Pin
from squeeze.structure.run import Record

KERNEL = "the kernel's size"
PRODUCT = "two activations are multiplied and summed over it"


@dataclass(frozen=True, eq=False)
class Coupling:
    """Every node's unit, and which units can go.

    Attributes:
        unit: (nodes,) the connected component of each node.
        free: (nodes,) the node's unit can be removed.
        groups: The groups.
        members: For each group, its units' components in order.
        pinned: What stays, and why.
    """

    unit: np.ndarray
    free: np.ndarray
    groups: tuple[Group, ...]
    members: tuple[np.ndarray, ...]
    pinned: tuple[Pin, ...]


def couple(record: Record, model: nn.Module, extra_pins: list[tuple[np.ndarray, str, str]]) -> Coupling:
    """Connected components of the ties, without what is pinned, sorted into groups."""
    nodes, ledger = record.nodes, record.context.ledger
    unit = _components(record)
    parameters = {name for name, _ in model.named_parameters()}
    pins = [*extra_pins, *ledger.pins]
    unused = [span for (name, _), span in nodes.spans.items() if name not in record.used]
    pins += [
        (np.arange(first, first + size), "is not used in a run on the example inputs", "") for first, size in unused
    ]
    cause = np.full(unit.max(initial=-1) + 1, -1)
    for number in range(len(pins) - 1, -1, -1):
        cause[unit[pins[number][0]]] = number
    owned = np.zeros(len(cause), dtype=bool)
    for (name, _), (first, size) in nodes.spans.items():
        if name in parameters:
            owned[unit[first : first + size]] = True
    free = (cause[unit] < 0) & owned[unit]
    groups, members = _groups(record, unit, free)
    return Coupling(unit, free, groups, members, _pins(nodes, unit, cause, pins, parameters))


def _components(record: Record) -> np.ndarray:
    total, ties = record.nodes.total, record.context.ledger.ties
    if not ties:
        return np.arange(total)
    a, b = (np.concatenate([tie[side] for tie in ties]) for side in (0, 1))
    graph = coo_array((np.ones(len(a), dtype=np.int8), (a, b)), shape=(total, total))
    return connected_components(graph, directed=False)[1]


def _groups(record: Record, unit: np.ndarray, free: np.ndarray) -> tuple[tuple[Group, ...], tuple[np.ndarray, ...]]:
    spans = list(record.nodes.spans.items())
    marks, names = _Marks.of(record, unit), set[str]()
    groups, members = [], []
    rank = np.full(unit.max(initial=-1) + 1, -1)
    for places, units in _alike(spans, unit, free):
        rank[units] = np.arange(len(units))
        axes = []
        for number in places:
            (tensor, dim), (first, size) = spans[number]
            here = rank[unit[first : first + size]]
            axes.append(Axis(tensor, dim, here, bool(marks.reads[first : first + size][here >= 0].all())))
        rank[units] = -1
        group = _described(marks, tuple(axes), units)
        name = next(n for n in _numbered(group.name) if n not in names)
        names.add(name)
        groups.append(replace(group, name=name))
        members.append(units)
    return tuple(groups), tuple(members)


def _alike(
    spans: list[tuple[tuple[str, int], tuple[int, int]]], unit: np.ndarray, free: np.ndarray
) -> list[tuple[tuple[int, ...], np.ndarray]]:
    """Units that take equally many indices of the same tensor dims: the numbers of these dims, and the units."""
    span = np.repeat(np.arange(len(spans)), [size for _, (_, size) in spans])
    pairs, counts = np.unique(unit[free].astype(np.int64) * len(spans) + span[free], return_counts=True)
    components, places = np.divmod(pairs, max(len(spans), 1))
    starts = np.flatnonzero(np.diff(components, prepend=-1))
    found: dict[bytes, list[int]] = defaultdict(list)
    order = np.lexsort((components[starts], places[starts]))  # as they come in the model
    ends = np.append(starts[1:], len(pairs))
    both = np.stack([places, counts], axis=1)
    for number in order:
        found[both[starts[number] : ends[number]].tobytes()].append(number)
    return [
        (tuple(places[starts[same[0]] : ends[same[0]]].tolist()), components[starts[same]]) for same in found.values()
    ]


def _numbered(name: str) -> Iterator[str]:
    yield name
    yield from (f"{name}#{i}" for i in itertools.count(2))


@dataclass(frozen=True, eq=False)
class _Marks:
    """What is done with nodes and units.

    Attributes:
        reads: (nodes,) it is read, and nothing else is done with it.
        both: (units,) one of its nodes is read and passed on.
        product: (units,) two activations are multiplied and summed over it.
        statistic: (units,) which note says what statistics run over it; -1 for none.
        notes: The notes.
    """

    reads: np.ndarray
    both: np.ndarray
    product: np.ndarray
    statistic: np.ndarray
    notes: tuple[str, ...]

    @classmethod
    def of(cls, record: Record, unit: np.ndarray) -> "_Marks":
        total, ledger = record.nodes.total, record.context.ledger

        def marked(arrays: list[np.ndarray]) -> np.ndarray:
            mark = np.zeros(total + 1, dtype=bool)  # the last is that of no node
            mark[np.concatenate([np.empty(0, dtype=np.int64), *arrays])] = True
            return mark[:total]

        def of_units(mark: np.ndarray) -> np.ndarray:
            found = np.zeros(unit.max(initial=-1) + 1, dtype=bool)
            found[unit[mark]] = True
            return found

        statistic = np.full(unit.max(initial=-1) + 1, -1)
        for number, (ids, _) in enumerate(ledger.statistics):
            statistic[unit[ids[ids >= 0]]] = number
        read, passed = marked(ledger.reads), marked(ledger.passes)
        return cls(
            read & ~passed,
            of_units(read & passed),
            of_units(marked(ledger.products)),
            statistic,
            tuple(note for _, note in ledger.statistics),
        )


def _described(marks: _Marks, axes: tuple[Axis, ...], units: np.ndarray) -> Group:
    statistic = marks.statistic[units].max(initial=-1)
    note = ""
    if statistic >= 0:
        note = marks.notes[statistic]
    elif marks.product[units].any():
        note = PRODUCT
    elif marks.both[units].any():
        note = "one weight both sends and reads it"
    elif not any(axis.reads for axis in axes):
        note = "no weight reads it"
    source = next((axis for axis in axes if axis.dim == 0 and not axis.reads), axes[0])
    return Group(source.tensor.rpartition(".")[0] or source.tensor, len(units), axes, statistic < 0, not note, note)


def _pins(
    nodes: Nodes, unit: np.ndarray, cause: np.ndarray, pins: list[tuple[np.ndarray, str, str]], parameters: set[str]
) -> tuple[Pin, ...]:
    found = []
    for (tensor, dim), (first, size) in nodes.spans.items():
        causes, counts = np.unique(cause[unit[first : first + size]], return_counts=True)
        for number, count in zip(causes, counts, strict=True):
            if number >= 0 and tensor in parameters and pins[number][1] != KERNEL:
                found.append(Pin(tensor, dim, int(count), pins[number][1], pins[number][2]))
    return tuple(found)


def cost_model(record: Record, model: nn.Module) -> CostModel:
    """The contractions of a run, as they will shrink."""
    ops = tuple(Op(c.module, c.macs, c.axes) for c in record.context.contractions)
    shapes = {name: tuple(t.shape) for name, t in [*model.named_parameters(), *model.named_buffers()]}
    parameters = frozenset(name for name, _ in model.named_parameters())
    return CostModel(ops, shapes, parameters, record.nodes.spans, record.nodes.total)
