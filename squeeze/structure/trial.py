"""The trial: labels cannot see sizes written in the user's code, so every cut is tried on the running model."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor, nn

from squeeze.blame import first_line, line_of
from squeeze.copying import Holders, sharing
from squeeze.edits import carry_out, carry_out_shapes
from squeeze.errors import PlanError
from squeeze.plan import Edit
from squeeze.structure.couple import PRODUCT
from squeeze.structure.culprits import Failure, Search
from squeeze.structure.cuts import first_cut, second_cut
from squeeze.structure.dense import Dense
from squeeze.structure.groups import Structure, numberless
from squeeze.structure.parts import Choice, Group
from squeeze.structure.reference import masked, swapped
from squeeze.structure.smaller import shapes_of

_RESHAPED = "the output changes its shape"
_MOVED = "the output is not that of the masked model"


@dataclass(frozen=True)
class _Cut:
    """A choice that was carried out: the smaller model and its outputs, or what went wrong."""

    model: nn.Module
    outputs: Sequence[Tensor] = ()
    problem: str = ""

    @property
    def broken(self) -> str:
        """The problem, unless it is one that the masked model may have as well."""
        return "" if self.problem == _RESHAPED else self.problem


@dataclass(frozen=True, eq=False)
class _Stage:
    """What is cut already, and what goes next.

    Attributes:
        model: Without what is cut already.
        before: The choice that is cut already.
        going: For each group, True where a unit is gone afterwards.
    """

    model: nn.Module
    before: Choice
    going: tuple[np.ndarray, ...]

    def choice(self, numbers: Sequence[int]) -> Choice:
        """What is cut already, and what goes next of some groups."""
        wanted = set(numbers)
        pairs = enumerate(zip(self.before.units, self.going, strict=True))
        return replace(self.before, units=tuple(new if i in wanted else old for i, (old, new) in pairs))


class Trial:
    """Tries the cuts of a structure, in two stages: about half of every group, then more of what is left.

    The second stage is tried on the model that the first one left, in a fraction of the first one's time. What is right
    by chance in one stage, because what is left happens to be the share that the code computes, is not in the other.

    Args:
        dense: The uncut model.
        structure: What is believed of it.

    Attributes:
        scaled: Numbers of groups whose size the code uses as a number (1/√d in attention), found by `groups`.
    """

    def __init__(self, dense: Dense, structure: Structure) -> None:
        self.dense = dense
        self.structure = structure
        self.scaled: set[int] = set()
        sizes = [group.size for group in structure.groups]
        self._every = [number for number, size in enumerate(sizes) if size > 1]
        first = tuple(first_cut(size, number) for number, size in enumerate(sizes))
        second = tuple(second_cut(gone, number) for number, gone in enumerate(first))
        self._later = (first, second)
        self._nothing = structure.nothing()
        self._stage = _Stage(dense.model, self._nothing, first)
        self._contents = [_content(group) for group in structure.groups]
        self._cuts: dict[tuple[int, ...], _Cut] = {}
        self._done = _Cut(dense.model)

    def groups(self) -> list[Failure[int]]:
        """The groups that break the model, or move its output, when they are cut: of the first trouble that shows."""
        every = self._every
        exact = [number for number in every if self.structure.groups[number].exact]
        for going in self._later:
            self._stage = replace(self._stage, going=going)
            for numbers, trouble in ((every, self._breaks), (exact, self._moves)):
                found = self._blamed(trouble, numbers)
                if found or self.scaled:
                    return found
            self._advance()
        inexact = [number for number in every if number not in exact]
        found = Search(self._unlearns, self._kind, self.scaled).culprits(every)
        return found or Search(self._swaps, self._kind).culprits(inexact)

    def _blamed(self, trouble: Callable[[Sequence[int]], str], numbers: Sequence[int]) -> list[Failure[int]]:
        if trouble == self._breaks and trouble(numbers) and self._crashes(numbers):
            trouble = self._crashes
        return Search(trouble, self._kind, self.scaled).culprits(numbers)

    def bodies(self, whole: Structure) -> set[str]:
        """The blocks and branches that cannot go, tried on what `groups` left: it is quicker.

        Args:
            whole: The structure of the same groups, with blocks and branches.
        """
        self.structure = whole
        bad = Search(self._drops_blocks, numberless).culprits([b.name for b in self.structure.blocks])
        by_concat: dict[str, list[str]] = {}
        for branch in self.structure.branches:
            by_concat.setdefault(branch.concat, []).append(branch.name)
        for turn in (0, 1):
            names = [n for siblings in by_concat.values() for i, n in enumerate(siblings) if i % 2 == turn]
            bad += Search(self._drops_branches, numberless).culprits(names)
        return {failure.item for failure in bad}

    def fits(self) -> bool:
        """What was tried on smaller inputs runs on the example's, too: all groups cut."""
        return not self.dense.reduced or self.dense.fits(self._done.model)

    def _kind(self, number: int) -> str:
        return self.structure.kinds[number]

    def _advance(self) -> None:
        """From here on, what goes of all groups is gone."""
        self._done = self._cut(self._every)
        self._stage = replace(self._stage, model=self._done.model, before=self._stage.choice(self._every))
        self._cuts = {}

    def _cut(self, numbers: Sequence[int]) -> _Cut:
        """The one with all groups is needed again, and kept."""
        key = tuple(numbers)
        self._say([self.structure.groups[number].name for number in numbers])
        cut = self._cuts.get(key) or self._carried_out(self._stage.choice(numbers))
        if key == tuple(self._every):
            self._cuts[key] = cut
        return cut

    def _say(self, names: Sequence[str]) -> None:
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        self.dense.watch.step(f"trying to cut {''.join(names[:1])}{more}")

    def _carried_out(self, choice: Choice) -> _Cut:
        return self._tried(choice, self.dense, carry_out)

    def _tried(self, choice: Choice, dense: Dense, carry_out: Callable[[nn.Module, Sequence[Edit]], nn.Module]) -> _Cut:
        smaller = sharing(dense.model)
        try:
            outputs = dense.run(carry_out(smaller, self.structure.edits(choice)))
        except PlanError as error:
            return _Cut(smaller, problem=str(error))
        except Exception as error:  # noqa: BLE001 - whatever the user's code raises is the finding
            return _Cut(smaller, problem=f"{type(error).__name__}: {first_line(error)} @ {line_of(error)}")
        # Where data decide about shapes, the model whose numbers are stirred may return others.
        if shapes_of(outputs) != dense.shapes and shapes_of(outputs) != shapes_of(dense.outputs):
            return _Cut(smaller, outputs, _RESHAPED)
        return _Cut(smaller, outputs)

    def _breaks(self, numbers: Sequence[int]) -> str:
        """What goes wrong."""
        return self._unless_known(numbers, self.dense, self._breaking)

    def _crashes(self, numbers: Sequence[int]) -> str:
        """What `_breaks` says, as far as it can be found out quickly: from shapes alone, and few positions."""
        return self._unless_known(numbers, self.dense.numberless, self._crashing)

    def _unless_known(self, numbers: Sequence[int], dense: Dense, trouble: Callable[[Sequence[int]], str]) -> str:
        """What went well with the same groups in a round before is not tried again on the way."""
        groups = frozenset(self._contents[number] for number in numbers)
        whole, early = len(numbers) == len(self._every), self._stage.before is self._nothing
        if early and not whole and groups in dense.unbroken:
            return ""
        problem = trouble(numbers)
        if early and not problem:
            dense.unbroken.add(groups)
        return problem

    def _crashing(self, numbers: Sequence[int]) -> str:
        self._say([self.structure.groups[number].name for number in numbers])
        return self._tried(self._stage.choice(numbers), self.dense.numberless, carry_out_shapes).broken

    def _breaking(self, numbers: Sequence[int]) -> str:
        cut = self._cut(numbers)
        # A detector's shapes may follow from its numbers: then they are the masked model's.
        if cut.problem == _RESHAPED and (expected := self._expected(numbers)) is not None:
            return "" if shapes_of(expected) == shapes_of(cut.outputs) else cut.problem
        return cut.problem

    def _expected(self, numbers: Sequence[int]) -> list[Tensor] | None:
        """The outputs of the masked model; None if a mask is not a removal."""
        reference = self._masked(numbers)
        return None if reference is None else self.dense.run(reference)

    def _masked(self, numbers: Sequence[int]) -> nn.Module | None:
        stage = self._stage
        going = replace(stage.before, units=_only(numbers, stage.going))
        return masked(stage.model, self.structure, going, stage.before)

    def _unlearns(self, numbers: Sequence[int]) -> str:
        if len(numbers) == len(self._every):
            return self._trouble_in_training(self._done)
        cut = self._carried_out(replace(self._stage.before, units=_only(numbers, self._stage.before.units)))
        return cut.broken or self._trouble_in_training(cut)

    def _trouble_in_training(self, cut: _Cut) -> str:
        trained = self.dense.train(cut.model)
        expected = self.dense.whole_shapes if self.dense.reduced else shapes_of(cut.outputs)
        if trained is not None and shapes_of(trained) == expected:
            return ""
        if self.dense.trained is None or (trained is not None and shapes_of(trained) == self.dense.trained):
            return ""
        return "the model does not train"

    def _moves(self, numbers: Sequence[int]) -> str:
        cut = self._cut(numbers)
        if cut.broken:
            return cut.broken
        reference = self._masked(numbers)
        if reference is None or self.dense.same(self.dense.run(reference), cut.outputs):
            return ""
        products = [n for n in numbers if self.structure.groups[n].note == PRODUCT]
        if products and self._only_scaled(reference, products, cut):
            self.scaled.update(products)
            return ""
        return "" if self.dense.same_precisely(reference, cut.model) else _MOVED

    def _only_scaled(self, reference: nn.Module, products: Sequence[int], cut: _Cut) -> bool:
        """Attention by hand divides by √d, a size that labels cannot see: the only difference is that factor."""
        tensors, holders = dict(reference.named_parameters()), Holders(reference)
        for number in products:
            before, after = ((~gone[number]).sum() for gone in (self._stage.before.units, self._stage.going))
            for axis in self.structure.groups[number].axes:
                if axis.tensor in tensors and not axis.reads:
                    scaled = nn.Parameter(tensors[axis.tensor].detach() * float(before / after) ** 0.25)
                    holders.replace(tensors[axis.tensor], scaled)
                    tensors[axis.tensor] = scaled
        return self.dense.same(self.dense.run(reference), cut.outputs)

    def _swaps(self, numbers: Sequence[int]) -> str:
        """Where a mask is not a removal: no weight may notice that units change places."""
        stage = self._stage
        twin = swapped(stage.model, self.structure, numbers, stage.before)
        same = self.dense.same_model(twin, self._done.model, self._done.outputs)
        return "" if same else "its channels are not alike: another order of them is another function"

    def _drops_blocks(self, names: Sequence[str]) -> str:
        return self._drops(replace(self.structure.nothing(), blocks=frozenset(names)))

    def _drops_branches(self, names: Sequence[str]) -> str:
        return self._drops(replace(self.structure.nothing(), branches=frozenset(names)))

    def _drops(self, bodies: Choice) -> str:
        stage = self._stage
        self._say(sorted(bodies.blocks | bodies.branches))
        cut = self._carried_out(replace(bodies, units=stage.before.units))
        if trouble := cut.broken or self._trouble_in_training(cut):
            return trouble
        reference = masked(stage.model, self.structure, bodies, stage.before)
        if reference is None:
            return cut.problem
        return "" if self.dense.same_model(reference, cut.model, cut.outputs) else _MOVED


def _content(group: Group) -> bytes:
    """The same for groups that cut the same from the model, in whatever round."""
    axes = [f"{axis.tensor}[{axis.dim}]".encode() + axis.units.tobytes() for axis in group.axes]
    return hashlib.sha256(b" ".join([repr(group.sizes).encode(), *axes])).digest()


def _only(numbers: Sequence[int], units: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
    """What goes of some groups; the others are whole."""
    wanted = set(numbers)
    return tuple(gone & (number in wanted) for number, gone in enumerate(units))
