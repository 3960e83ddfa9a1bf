"""The result of a trace: what can be removed from a model, what it touches, and what is pinned."""

import fnmatch
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from squeeze.errors import PlanError
from squeeze.plan import Drop, Edit, Resize, Select, Slice
from squeeze.structure.cost import Cost, CostModel
from squeeze.structure.parts import Block, Branch, Choice, Edge, Gateable, Group, Pin


@dataclass(frozen=True, eq=False)
class Structure:
    """What can be removed from a model, found by `squeeze.trace`."""

    groups: tuple[Group, ...]
    blocks: tuple[Block, ...]
    branches: tuple[Branch, ...]
    edges: tuple[Edge, ...]
    pinned: tuple[Pin, ...]
    costs: CostModel = field(repr=False)
    gateable: tuple[Gateable, ...] = ()

    @property
    def removable(self) -> bool:
        """Whether there is anything that can go."""
        return bool(self.groups or self.blocks or self.branches)

    @cached_property
    def inputs(self) -> tuple[Edge, ...]:
        """What can be read selectively, of a tensor that keeps its width: see `Select`.

        Inputs that nothing else reads are left out where they can go as units: removed where they are made, they save
        more.
        """
        private = self._private
        return tuple(edge for edge in self.edges if edge.module and (edge.tensor, edge.dim) not in private)

    @property
    def _private(self) -> set[tuple[str, int]]:
        """Dimensions that read nothing but units that nothing else reads."""
        counts: dict[tuple[str, int], int] = defaultdict(int)
        for group in self.groups:
            reads = [axis for axis in group.axes if axis.reads]
            if group.exact and group.maskable and len(reads) == 1:
                counts[reads[0].tensor, reads[0].dim] += int((reads[0].units >= 0).sum())
        return {place for place, count in counts.items() if count == self.costs.shapes[place[0]][place[1]]}

    @cached_property
    def kinds(self) -> tuple[str, ...]:
        """For each group what is the same for those in like places, in rows of like modules, however long the rows."""
        found, parts = list[str](), Counter[frozenset[tuple[str, int]]]()
        for group in self.groups:
            places = frozenset((axis.tensor, axis.dim) for axis in group.axes)
            names = sorted({_place(tensor, dim) for tensor, dim in places})
            found.append(" ".join([*names, str(parts[places])]))  # parts of the same dimensions are not alike
            parts[places] += 1
        return tuple(found)

    def nothing(self) -> Choice:
        """The choice that removes nothing."""
        return Choice(tuple(np.zeros(group.size, dtype=bool) for group in self.groups))

    def cost(self, choice: Choice | None = None) -> Cost:
        """MACs and parameters after a choice is carried out (of the dense model if None)."""
        if choice is None:
            return self.costs.after({}, frozenset(), frozenset())
        dropped = self._dropped(choice)
        ops = frozenset(op for item in dropped for op in item.ops)
        gone = frozenset(name for item in dropped for name in self.owned(item))
        return self.costs.after(self.kept(choice), ops, gone)

    def edits(self, choice: Choice) -> tuple[Edit, ...]:
        """The edits that carry out a choice: drops first, then slices of what is left, then selections and sizes."""
        unknown = (choice.blocks - {b.name for b in self.blocks}) | (choice.branches - {b.name for b in self.branches})
        sizes = {edge.tensor: edge.size for edge in self.inputs}
        unknown |= {name for name, gone in choice.inputs.items() if sizes.get(name) != len(gone)}
        if unknown or [len(u) for u in choice.units] != [g.size for g in self.groups]:
            raise PlanError(
                f"choice: must be made for this structure, got other groups or names {sorted(unknown)}; trace again."
            )
        self._check_joined(choice)
        drops: list[Edit] = [
            Drop(b.name, b.modules, b.parameters, b.parts) for b in self.blocks if b.name in choice.blocks
        ]
        drops += [Drop(b.name, b.modules, b.parameters, b.parts) for b in self.branches if b.name in choice.branches]
        gone = {name for item in self._dropped(choice) for name in self.owned(item)}
        cut, kept = self._cut(choice), self.kept(choice)
        slices = [Slice.of(t, d, keep) for (t, d), keep in sorted(cut.items()) if t not in gone and not keep.all()]
        selects = [
            Select.of(edge.module, read)
            for edge in self.inputs
            if edge.tensor in choice.inputs and edge.tensor not in gone
            if not (read := kept[edge.tensor, edge.dim][cut.get((edge.tensor, edge.dim), slice(None))]).all()
        ]
        lost = Counter[tuple[str, str, int]]()
        for group, units in zip(self.groups, choice.units, strict=True):
            lost.update(
                {(size.module, size.attribute, size.value): size.step * int(units.sum()) for size in group.sizes}
            )
        resizes = [Resize(*number, number[-1] - less) for number, less in lost.items() if less]
        return (*drops, *slices, *selects, *resizes)

    def _dropped(self, choice: Choice) -> list[Block | Branch]:
        items: list[Block | Branch] = [*self.blocks, *self.branches]
        return [item for item in items if item.name in choice.blocks | choice.branches]

    def _check_joined(self, choice: Choice) -> None:
        """A concatenation without operands is nothing."""
        left = {b.concat for b in self.branches if b.name not in choice.branches}
        for branch in self.branches:
            if branch.name in choice.branches and not branch.spare and branch.concat not in left:
                raise PlanError(f"choice: {branch.name} or a branch beside it must stay, got all of them; keep one.")

    def choice(self, edits: Iterable[Edit]) -> Choice:
        """The choice that edits carry out: the inverse of `edits`."""
        edits = tuple(edits)
        sliced = {(e.tensor, e.dim): e.indices() for e in edits if isinstance(e, Slice)}
        left = {place: set(indices.tolist()) for place, indices in sliced.items()}
        dropped = frozenset(e.name for e in edits if isinstance(e, Drop))
        units = []
        for group in self.groups:
            gone = np.zeros(group.size, dtype=bool)
            for axis in group.axes:
                if (axis.tensor, axis.dim) in left:
                    cut = [u for i, u in enumerate(axis.units) if u >= 0 and i not in left[axis.tensor, axis.dim]]
                    gone[cut] = True
            units.append(gone)
        blocks = frozenset(b.name for b in self.blocks) & dropped
        read = {e.module: e for e in edits if isinstance(e, Select)}
        inputs = {}
        for edge in self.inputs:
            if edge.module in read:
                whole = sliced.get((edge.tensor, edge.dim), np.arange(edge.size))
                inputs[edge.tensor] = np.isin(np.arange(edge.size), np.delete(whole, read[edge.module].indices()))
        return Choice(tuple(units), blocks, dropped - blocks, inputs)

    def owned(self, item: Block | Branch) -> frozenset[str]:
        """Names of all tensors that go with a block or branch."""
        inside = {n for n in self.costs.shapes if any(n.startswith(f"{m}.") for m in item.modules)}
        return frozenset(inside | set(item.parameters))

    def ignoring(self, patterns: Iterable[str]) -> "Structure":
        """The structure without what touches a layer whose name matches (``head``, ``layer1.*``, ``*.fc``).

        A pattern names a parameter, a module or everything below a module.
        """
        patterns = tuple(patterns)
        groups, pins = [], list(self.pinned)
        for group in self.groups:
            hit = [axis for axis in group.axes if matches(axis.tensor, patterns)]
            if not hit:
                groups.append(group)
            pins += [Pin(a.tensor, a.dim, int((a.units >= 0).sum()), "ignored by name") for a in hit]
        blocks = tuple(b for b in self.blocks if not any(matches(n, patterns) for n in self.owned(b)))
        branches = tuple(
            b
            for b in self.branches
            if not any(matches(n, patterns) for n in (*self.owned(b), *(a.tensor for a in b.reads)))
        )
        edges = tuple(replace(e, module="") if matches(e.tensor, patterns) else e for e in self.edges)
        gated = tuple(site for site in self.gateable if not matches(f"{site.conv}.weight", patterns))
        kept = replace(self, groups=tuple(groups), blocks=blocks, branches=branches, edges=edges, gateable=gated)
        return replace(kept, pinned=tuple(pins))

    def kept(self, choice: Choice) -> dict[tuple[str, int], np.ndarray]:
        """For every (tensor, dim) that a choice touches: True where an index stays."""
        kept = self._cut(choice)
        for edge in self.inputs if choice.inputs else ():
            if edge.tensor in choice.inputs:
                here = kept.get((edge.tensor, edge.dim), np.ones(edge.size, dtype=bool))
                left = here & ~choice.inputs[edge.tensor]
                kept[edge.tensor, edge.dim] = left if left.any() else here & (here.cumsum() == 1)
        return kept

    def _cut(self, choice: Choice) -> dict[tuple[str, int], np.ndarray]:
        """As `kept`, of what goes with all of its readers."""
        gone = np.concatenate([*choice.units, np.zeros(1, dtype=bool)])
        kept = {place: ~gone[units] for place, units in self._units.items() if gone[units].any()}
        for branch in self.branches:
            for axis in branch.reads if branch.name in choice.branches else ():
                here = axis.of(np.ones(1, dtype=bool))
                kept[axis.tensor, axis.dim] = kept.get((axis.tensor, axis.dim), True) & ~here
        return kept

    @cached_property
    def _units(self) -> dict[tuple[str, int], np.ndarray]:
        """For every (tensor, dim), the unit of each index, counted through all groups; -1 where it is in none."""
        found: dict[tuple[str, int], np.ndarray] = {}
        first = 0
        for group in self.groups:
            for axis in group.axes:
                place, here = (axis.tensor, axis.dim), np.where(axis.units >= 0, axis.units + first, -1)
                found[place] = np.maximum(found[place], here) if place in found else here
            first += group.size
        return found


def _place(tensor: str, dim: int) -> str:
    """The same in rows of like modules; a module's own layers (``fc1``, ``fc2``) are not like each other."""
    *path, layer, own = ("", *tensor.split("."))
    return f"{numberless('.'.join(path))}.{layer}.{own}[{dim}]"


def numberless(name: str) -> str:
    """The same for like places in rows of like modules."""
    return re.sub(r"\d+", "#", name)


def matches(tensor: str, patterns: Iterable[str]) -> bool:
    """A pattern names the tensor, or a module that it is in (``head``, ``layer1.*``, ``*.fc``)."""
    parts = tensor.split(".")
    prefixes = [".".join(parts[: i + 1]) for i in range(len(parts))]
    return any(fnmatch.fnmatchcase(prefix, pattern) for prefix in prefixes for pattern in patterns)
