"""Sizes that the user's modules keep as whole numbers: which of them must shrink with a group, found by trying.

A number of the same value by accident is refused: a number is taken only if the model gets further with it and, in the
end, computes what the masked model computes; whatever it does not get further with stays.
"""

import itertools
from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from squeeze.blame import modules_of
from squeeze.copying import sharing
from squeeze.edits import carry_out, own_sizes
from squeeze.structure.couple import PRODUCT, Coupling
from squeeze.structure.cuts import first_cut
from squeeze.structure.dense import Dense
from squeeze.structure.groups import Structure, numberless
from squeeze.structure.parts import Choice, Group, Size
from squeeze.structure.reference import masked, swapped
from squeeze.structure.smaller import shapes_of

_ATTEMPTS = 64
Sizes = tuple[Size, ...]


@dataclass(frozen=True, order=True)
class _Outcome:
    """Whether a smaller model computes what it should, how many ops it came, and the modules at work at its end."""

    works: bool
    ops: int
    modules: tuple[str, ...] = field(default=(), compare=False)


class _Count(TorchDispatchMode):
    """Counts what runs."""

    ops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.ops += 1
        return func(*args, **(kwargs or {}))


class _Attempts:
    """Cuts one group alone, together with some sizes: once, as the trial that follows cuts it a second time."""

    def __init__(self, dense: Dense, structure: Structure, number: int) -> None:
        self._dense, self._structure, self._number = dense, structure, number
        self._group = structure.groups[number]
        self._gone = first_cut(self._group.size, number)
        self._known: dict[frozenset[Size], _Outcome] = {}

    def __call__(self, sizes: Sizes) -> _Outcome:
        key = frozenset(sizes)
        if key not in self._known and len(self._known) < _ATTEMPTS:
            self._known[key] = self._outcome(sizes)
        return self._known.get(key, _Outcome(False, 0))

    def _outcome(self, sizes: Sizes) -> _Outcome:
        structure, nothing = self._structure, self._structure.nothing()
        groups = [replace(g, sizes=sizes) if i == self._number else g for i, g in enumerate(structure.groups)]
        units = tuple(self._gone if i == self._number else none for i, none in enumerate(nothing.units))
        choice = replace(nothing, units=units)
        edits, outputs = replace(structure, groups=tuple(groups)).edits(choice), list[Tensor]()
        for dense in dict.fromkeys((self._dense.numberless, self._dense)):  # what crashes at once need not be computed
            smaller, found = sharing(dense.model), _Count()
            names = {module: name for name, module in smaller.named_modules()}
            try:
                with found:
                    outputs = dense.run(carry_out(smaller, edits))
            except Exception as error:  # noqa: BLE001 - whatever the user's code raises is the finding
                working = (names[module] for module in modules_of(error) if module in names)
                return _Outcome(False, found.ops, tuple(working))
        return _Outcome(self._right(choice, smaller, outputs), found.ops)

    def _right(self, choice: Choice, smaller: nn.Module, outputs: Sequence[Tensor]) -> bool:
        """It computes what the masked model does; where a mask is not a removal, units can change places."""
        dense, structure = self._dense, self._structure
        if shapes_of(outputs) != dense.shapes and shapes_of(outputs) != shapes_of(dense.outputs):
            return False
        reference = masked(dense.model, structure, choice)
        if reference is not None and dense.same(dense.run(reference), outputs):
            return True
        if reference is not None and self._group.note != PRODUCT:
            return False
        twin = swapped(smaller, structure, [self._number], choice)
        return dense.same(outputs, dense.run(twin))


class Search:
    """Looks for the sizes that a group needs if it is to be cut alone.

    Args:
        dense: The uncut model.
        structure: What is believed of it.
        coupling: Of the same groups.
        pieces: Ids of what is cut from tensors, or joined: numbers that count it may count several groups.
    """

    def __init__(self, dense: Dense, structure: Structure, coupling: Coupling, pieces: Sequence[np.ndarray]) -> None:
        self._dense = dense
        self.structure = structure
        self._coupling = coupling
        self._pieces = pieces
        self._pieces_long = frozenset(map(len, pieces))
        self._own = {name: own for name, module in dense.model.named_modules() if (own := own_sizes(module))}
        self._found: dict[str, set[str]] = {}
        self._helped: set[str] = set()
        self._hopeless: set[tuple[str, str]] = set()

    def like(self, number: int) -> Sizes | None:
        """What the first of a row of groups like the `number`-th needed, here; untried. None if that is not known."""
        group, found = self.structure.groups[number], self._found.get(self.structure.kinds[number])
        if (_places(group), self.structure.kinds[number]) in self._hopeless:
            return ()
        sizes = self._of_kinds(number, found or ())
        return sizes if {_kind(size) for size in sizes} == found else None

    def needed(self, number: int) -> Sizes:
        """Of the `number`-th group; none if there are no numbers with which it can be cut, or if it needs none."""
        group, kind = self.structure.groups[number], self.structure.kinds[number]
        attempts, helped = _Attempts(self._dense, self.structure, number), self._of_kinds(number, self._helped)
        if helped and attempts(helped).works:
            return helped
        sizes = _searched(attempts, self._fitting(number), _near(group))
        if sizes:
            self._found[kind] = {_kind(size) for size in sizes}
            self._helped |= self._found[kind]
        else:
            self._hopeless.add((_places(group), kind))
        return sizes

    def _of_kinds(self, number: int, kinds: Container[str]) -> Sizes:
        fitting, group = self._fitting(number), self.structure.groups[number]
        return tuple(size for name in _near(group) for size in fitting.get(name, ()) if _kind(size) in kinds)

    def _fitting(self, number: int) -> dict[str, Sizes]:
        """Each module's numbers that may count a group.

        They are as large as a piece that each unit has as much of; or a multiple of the group's size: of what a unit
        takes somewhere, or a part. But where there are the first, none of the second counts another piece.
        """
        group, pieces = self.structure.groups[number], self._lengths(number)
        takes = {int(np.bincount(axis.units[axis.units >= 0]).max()) for axis in group.axes}
        found: dict[str, Sizes] = {}
        for name, own in self._own.items():
            sizes = [Size(name, attribute, value, pieces[value]) for attribute, value in own.items() if value in pieces]
            left_out = self._pieces_long if sizes else pieces.keys()
            for attribute, value in own.items():
                step, rest = divmod(value, group.size)
                if value not in left_out and step and not rest and any(take % step == 0 for take in takes):
                    sizes.append(Size(name, attribute, value, step))
            if sizes:
                found[name] = tuple(sizes)
        return found

    def _lengths(self, number: int) -> dict[int, int]:
        """How long the pieces are that a group is a part of, and what a unit takes of each."""
        members, found = self._coupling.members[number], dict[int, int]()
        rank = np.full(self._coupling.unit.max(initial=-1) + 1, -1)
        rank[members] = np.arange(len(members))
        for ids in self._pieces:
            units = rank[self._coupling.unit[ids[ids >= 0]]]
            counts = np.bincount(units[units >= 0], minlength=len(members))
            if counts.min() == counts.max() > 0:
                found[len(ids)] = int(counts[0])
        return found


def _searched(attempts: _Attempts, fitting: Mapping[str, Sizes], near: Sequence[str]) -> Sizes:
    """Sizes with which the attempt works, each of which it needs."""
    chosen = list[Sizes]()
    outcome = attempts(())
    while not outcome.works:
        options = _further(fitting, near, outcome.modules, _all(chosen))
        bests = (_best(attempts, _all(chosen), rows) for rows in options)
        best = next((row for row in bests if attempts(_all(chosen, row)) > outcome), None)
        if best is None:
            return ()
        chosen.append(best)
        outcome = attempts(_all(chosen))
    for row in list(chosen):
        others = [other for other in chosen if other is not row]
        chosen = others if attempts(_all(others)).works else chosen
    return _all(chosen)


def _best(attempts: _Attempts, chosen: Sizes, rows: Sequence[Sizes]) -> Sizes:
    """The row that works, or comes furthest."""
    works = (row for row in rows if attempts(chosen + row).works)
    return next(works, None) or max(rows, key=lambda row: attempts(chosen + row), default=())


def _further(
    fitting: Mapping[str, Sizes], near: Sequence[str], working: Sequence[str], chosen: Sizes
) -> Iterator[list[Sizes]]:
    """What to try next: numbers of the modules at work, in all modules like them, alone, together; then others."""
    left = {name: [size for size in sizes if size not in chosen] for name, sizes in fitting.items()}
    for names in (working, [name for name in near if name not in working]):
        sizes = [size for name in names for size in left.get(name, ())]
        kinds = {_kind(size) for size in sizes}
        like = [size for name in near for size in left.get(name, ()) if _kind(size) in kinds]
        yield _rows([*sizes, *like], _kind)
        if names is working:
            yield [(size,) for size in sizes]
            yield _rows(sizes, lambda size: size.module)
            inner = next((left[name] for name in names if left.get(name)), [])
            yield list(itertools.combinations(inner, 2))


def _near(group: Group) -> list[str]:
    """The modules that hold what the group touches, and those around them."""
    paths = (axis.tensor.split(".")[:-1] for axis in group.axes)
    return list(dict.fromkeys(".".join(path[:n]) for path in paths for n in range(len(path), -1, -1)))


def _all(chosen: Sequence[Sizes], more: Sizes = ()) -> Sizes:
    return tuple(size for row in (*chosen, more) for size in row)


def _rows(sizes: Iterable[Size], key: Callable[[Size], str]) -> list[Sizes]:
    rows: dict[str, list[Size]] = defaultdict(list)
    for size in dict.fromkeys(sizes):
        rows[key(size)].append(size)
    return [tuple(row) for row in rows.values()]


def _places(group: Group) -> str:
    """As its kind, but not the same for rows of other lengths."""
    return " ".join(numberless(f"{axis.tensor}[{axis.dim}]") for axis in group.axes)


def _kind(size: Size) -> str:
    return f"{numberless(size.module)}.{size.attribute}"
