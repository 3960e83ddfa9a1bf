"""Blocks and branches: parts of the op graph that end in a sum or a concatenation and nowhere else."""

import heapq
import os.path
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from torch import nn

from squeeze.structure.couple import Coupling
from squeeze.structure.movement import RULES as MOVEMENT
from squeeze.structure.parts import Axis, Block, Branch
from squeeze.structure.run import Record
from squeeze.structure.tape import Ran

_NORMS = frozenset("native_batch_norm native_layer_norm native_group_norm _native_batch_norm_legit_no_training".split())
_HOMOGENEOUS = frozenset(
    "relu relu_ leaky_relu leaky_relu_ clone dropout max_pool2d_with_indices avg_pool2d _adaptive_avg_pool2d mean "
    "constant_pad_nd upsample_nearest2d upsample_bilinear2d roll _to_copy".split()
)


@dataclass(frozen=True, eq=False)
class Body:
    """Ops whose results are used by one operand of one op alone.

    Attributes:
        ops: Their numbers.
        contractions: Their numbers in the cost model.
        modules: The outermost modules that do nothing else, in the order of their calls.
        parts: How many values each of them returns.
        parameters: What only these ops use, outside of `modules`.
        last: Number of the op whose output leaves the body.
    """

    ops: frozenset[int]
    contractions: frozenset[int]
    modules: tuple[str, ...]
    parts: tuple[int, ...]
    parameters: tuple[str, ...]
    last: int


class Graph:
    """Who uses whose output, in one run."""

    def __init__(self, record: Record, model: nn.Module) -> None:
        self.record = record
        self.ops: Sequence[Ran] = record.ops
        self.users: dict[int, list[int]] = defaultdict(list)
        self.uses: dict[str, set[int]] = defaultdict(set)
        for number, ran in enumerate(record.ops):
            for source in ran.inputs:
                self.users[source].append(number)
            for name in ran.parameters:
                self.uses[name].add(number)
        self.outputs = frozenset(record.tape.outputs)
        self.parameters = {name for name, _ in model.named_parameters()}
        self.tensors = [name for name, _ in [*model.named_parameters(), *model.named_buffers()]]
        self.above = {name: frozenset(_above(name)) for name in self.tensors}
        self.taken: set[str] = set()

    def exclusive(self, last: int, end: int) -> frozenset[int]:
        """Ops that matter to nothing but op `end`, by way of op `last`."""
        if last < 0 or self.users[last] != [end] or last in self.outputs:
            return frozenset()
        body: set[int] = set()
        queue = [-last]
        while queue:
            number = -heapq.heappop(queue)
            if number in body or number in self.outputs:
                continue
            if number == last or all(user in body for user in self.users[number]):
                body.add(number)
                for source in self.ops[number].inputs:
                    if source >= 0:
                        heapq.heappush(queue, -source)
        return frozenset(body)

    def entries(self, body: frozenset[int]) -> set[int]:
        """What a body reads from outside; -1 for the model's inputs."""
        found = set()
        for number in body:
            ran = self.ops[number]
            for source, parameter in zip(ran.inputs, ran.parameters, strict=True):
                if source not in body and not parameter:
                    found.add(source)
        return found

    def depends(self, number: int, on: set[int]) -> bool:
        """Op `number` is one of `on`, or computed from one of them."""
        seen, queue = set(), [number]
        while queue:
            current = queue.pop()
            if current in on:
                return True
            if current < 0 or current in seen:
                continue
            seen.add(current)
            queue += [s for s, p in zip(self.ops[current].inputs, self.ops[current].parameters, strict=True) if not p]
        return False

    def body(self, ops: frozenset[int], last: int) -> Body | None:
        """The modules and parameters of a body; None if it contains no contraction or shares weights."""
        contractions = frozenset(i for i, c in enumerate(self.record.context.contractions) if c.number in ops)
        modules = self._modules(ops)
        own = {n: u for n, u in self.uses.items() if n and u & ops}
        inside = self.below(modules)
        shared = any(self.uses[name] - ops for name in inside)
        if not contractions or not modules or shared:
            return None
        parameters = tuple(n for n in self.tensors if n in own and n not in inside and not own[n] - ops)
        return Body(ops, contractions, tuple(modules), tuple(modules.values()), parameters, last)

    def below(self, modules: Collection[str]) -> set[str]:
        """Names of the tensors in some modules."""
        return {name for name in self.tensors if not self.above[name].isdisjoint(modules)}

    def _modules(self, ops: frozenset[int]) -> dict[str, int]:
        inside: dict[str, bool] = {}
        parts: dict[str, int] = {}
        for called in self.record.calls:
            ran = [n for n in range(called.start, called.stop) if self.ops[n].inputs or self.users[n]]
            only = (
                all(number in ops for number in ran)
                if len(ran)
                else bool(called.sources) and ops.issuperset(called.sources)
            )
            inside[called.name] = inside.get(called.name, True) and only and bool(called.name)
            parts[called.name] = called.returns
        names = [name for name, only in inside.items() if only]
        return {n: parts[n] for n in names if set(_above(n)).isdisjoint(names)}

    def name(self, body: Body) -> str:
        """The innermost module that holds the whole body, or its first module with a contraction."""
        shared = os.path.commonprefix([f"{m}.".split(".") for m in body.modules])
        first = self.record.context.contractions[min(body.contractions)].module
        candidates = [".".join(part for part in shared if part), first, body.modules[0]]
        candidates += [f"{first}#{i}" for i in range(2, 1000)]
        chosen = next(name for name in candidates if name and name not in self.taken)
        self.taken.add(chosen)
        return chosen


def _above(name: str) -> Iterator[str]:
    """Names of the modules that hold it."""
    return (name[:place] for place, letter in enumerate(name) if letter == ".")


def blocks(graph: Graph) -> tuple[Block, ...]:
    """Residual bodies: one operand of a sum whose other operand starts at the same fork."""
    found = []
    for number, ran in enumerate(graph.ops):
        if ran.name not in ("add", "add_") or len(ran.inputs) != 2 or ran.shapes[0] != ran.shapes[1]:
            continue
        bodies = []
        for side in (0, 1):
            ops = graph.exclusive(ran.inputs[side], number)
            body = graph.body(ops, ran.inputs[side]) if ops and ran.inputs[0] != ran.inputs[1] else None
            if body is not None and graph.depends(ran.inputs[1 - side], graph.entries(ops)):
                bodies.append(body)
        if bodies:
            body = max(bodies, key=lambda b: len(b.contractions))
            scales = _scales(graph, body)
            note = "" if scales else "its output is not linear in any of its parameters"
            name = graph.name(body)
            found.append(Block(name, body.modules, body.parameters, scales or (), body.contractions, note, body.parts))
    return tuple(found)


def _scales(graph: Graph, body: Body) -> tuple[str, ...] | None:
    """Parameters that, multiplied by m ≥ 0, multiply the body's output by m; None if there are none."""
    found = _linear_in(graph, body, body.last)
    if found is None or len(set(found)) != len(found) or any(graph.uses[name] - body.ops for name in found):
        return None
    return tuple(found)


def _linear_in(graph: Graph, body: Body, number: int) -> list[str] | None:
    if number not in body.ops:
        return None
    ran = graph.ops[number]
    weights = [_parameter(graph, ran, i) for i in range(len(ran.inputs))]
    if ran.name in _NORMS:
        return (
            [w for w in weights[1:3] if w in graph.parameters]
            if len(weights) > 1 and weights[1] in graph.parameters
            else None
        )
    if ran.name in ("convolution", "linear"):
        return _if_all(weights[1:], graph)
    if ran.name in ("addmm", "mm"):
        return _if_all([weights[0], weights[2]] if ran.name == "addmm" else weights[1:], graph)
    if ran.name in ("mul", "mul_") and any(w in graph.parameters for w in weights):
        return [w for w in weights if w in graph.parameters][:1]
    if ran.name in ("add", "add_", "cat"):
        parts = [
            [w] if w in graph.parameters else _linear_in(graph, body, s)
            for s, w in zip(ran.inputs, weights, strict=True)
        ]
        return None if any(p is None for p in parts) else [name for p in parts for name in p or []]
    if ran.name in _HOMOGENEOUS or (ran.name in MOVEMENT and len(ran.inputs) == 1):
        return _linear_in(graph, body, ran.inputs[0])
    return None


def _if_all(names: list[str], graph: Graph) -> list[str] | None:
    return names if names and all(name in graph.parameters for name in names) else None


def _parameter(graph: Graph, ran: Ran, position: int) -> str:
    """The parameter an operand is, or is a view of."""
    if ran.parameters[position]:
        return ran.parameters[position]
    source = ran.inputs[position]
    if source >= 0 and graph.ops[source].name in (
        "t",
        "transpose",
        "permute",
        "view",
        "expand",
        "unsqueeze",
        "detach",
        "alias",
    ):
        return _parameter(graph, graph.ops[source], 0)
    return ""


def branches(graph: Graph, coupling: Coupling) -> tuple[Branch, ...]:
    """Operands of a concatenation that can go with all of their channels."""
    found = []
    for number, operands in graph.record.operands.items():
        ran, bodies = graph.ops[number], []
        for position, ids in enumerate(operands):
            last = ran.inputs[position]
            ops = graph.exclusive(last, number)
            others = [source for place, source in enumerate(ran.inputs) if place != position]
            body = graph.body(ops, last) if ops and ids is not None else None
            entries = graph.entries(ops)
            if body is not None and ids is not None and any(graph.depends(other, entries) for other in others):
                reads = _outside(graph, coupling, body, ids.numpy())
                bodies += [(body, reads)] if reads else []
        for body, reads in bodies if len(operands) > 1 else []:
            name = graph.name(body)
            spare = len(bodies) < len(operands)
            of = body.modules, body.parameters, body.contractions, body.parts
            found.append(Branch(name, f"cat {number}", reads, *of, spare))
    return tuple(found)


def _outside(graph: Graph, coupling: Coupling, body: Body, ids: np.ndarray) -> tuple[Axis, ...] | None:
    """What must shrink outside of a branch when its channels go; None if they cannot."""
    if (ids < 0).any() or not coupling.free[ids].all():
        return None
    units = np.unique(coupling.unit[ids])
    inside = graph.below(body.modules) | set(body.parameters)
    read = np.zeros(len(coupling.unit) + 1, dtype=bool)
    for nodes in graph.record.context.ledger.reads:
        read[nodes] = True
    of_branch = np.zeros(coupling.unit.max(initial=-1) + 1, dtype=bool)
    of_branch[units] = True
    hits, axes = of_branch[coupling.unit], list[Axis]()
    touched = np.cumsum(np.append(False, hits))
    for (tensor, dim), (first, size) in graph.record.nodes.spans.items():
        if touched[first + size] == touched[first] or tensor in inside:
            continue
        hit = hits[first : first + size]
        reads = bool(read[first : first + size][hit].all())
        if not reads and len(graph.record.shapes[tensor]) > 1:
            return None
        axes.append(Axis(tensor, dim, np.where(hit, 0, -1), reads))
    return tuple(axes)
