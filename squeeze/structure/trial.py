"""The trial: labels cannot see sizes written in the user's code, so every cut is tried on the running model."""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from squeeze.blame import first_line, line_of
from squeeze.copying import copied, replace_tensor, sharing
from squeeze.edits import carry_out
from squeeze.errors import PlanError
from squeeze.structure.couple import PRODUCT
from squeeze.structure.groups import Choice, Structure
from squeeze.structure.run import quietly
from squeeze.task import Inputs, call, tensors_of

Item = TypeVar("Item", int, str)
TOLERANCE = 1e-3
"""How far float32 may be off in a badly conditioned model."""
NOISE = 1e-6
"""A relative change of the inputs that no cut can be blamed for."""
_MOVED = "the output is not that of the masked model"


@dataclass(frozen=True)
class Failure:
    """Why a cut does not work.

    Attributes:
        item: Number of the group, or name of the block or branch.
        reason: In a few words.
        where: The line of the user's code, or "".
    """

    item: int | str
    reason: str
    where: str


class Trial:
    """Tries cuts on a model whose numbers are `stirred`, so that a misplaced channel shows.

    Attributes:
        scaled: Numbers of groups whose size the code uses as a number (1/√d in attention), found by `failures`.
    """

    def __init__(self, model: nn.Module, inputs: Inputs, structure: Structure) -> None:
        self.inputs = inputs
        self.structure = structure
        self.model = model
        self.dense = self._run(self.model)
        self.tolerance = self._conditioning()
        self.trained: list[Tensor] | None = None
        self.random = np.random.default_rng(0)
        self.scaled: set[int] = set()

    def failures(self) -> list[Failure]:
        """What breaks the model, or moves its output, when it is cut: of the first kind of cut that does."""
        sizes = {number: group.size for number, group in enumerate(self.structure.groups) if group.size > 1}
        one, half = ({number: make(size) for number, size in sizes.items()} for make in (self._one, self._half))
        exact = [number for number in sizes if self.structure.groups[number].exact]
        inexact = [number for number in sizes if not self.structure.groups[number].exact]
        for numbers, cut in ((exact, one), (inexact, one), (exact, half), (inexact, half), (list(sizes), half)):
            if numbers not in (exact, inexact):
                self.trained = self._run_training(self.model)
            bad = self._culprits(numbers, partial(self._cut, cut))
            if bad or self.scaled:
                return bad
        if bad := self._culprits(inexact, self._swap):
            return bad
        bad = self._culprits([b.name for b in self.structure.blocks], self._drop_blocks)
        by_concat: dict[str, list[str]] = {}
        for branch in self.structure.branches:
            by_concat.setdefault(branch.concat, []).append(branch.name)
        for turn in (0, 1):
            names = [n for siblings in by_concat.values() for i, n in enumerate(siblings) if i % 2 == turn]
            bad += self._culprits(names, self._drop_branches)
        return bad

    def _one(self, size: int) -> np.ndarray:
        gone = np.zeros(size, dtype=bool)
        gone[size // 2] = True
        return gone

    def _half(self, size: int) -> np.ndarray:
        gone = self.random.random(size) < 0.5
        gone[self.random.integers(size)] = False
        return gone

    def _culprits(self, items: Sequence[Item], attempt: Callable[[Sequence[Item]], str]) -> list[Failure]:
        """The items that break an attempt, by bisection; `attempt` returns "" or what went wrong."""
        if not items or not (problem := attempt(items)):
            return []
        if len(items) == 1 or self._alike(items, attempt):
            reason, _, where = problem.partition(" @ ")
            return [Failure(item, reason, where) for item in items]
        middle = len(items) // 2
        found = self._culprits(items[:middle], attempt) + self._culprits(items[middle:], attempt)
        failed = {failure.item for failure in found}
        rest = [item for item in items if item not in failed and item not in self.scaled]
        if len(rest) < len(items):
            return found + (self._together(rest, attempt) if attempt(rest) else [])
        return self._together(rest, attempt)

    def _alike(self, items: Sequence[Item], attempt: Callable[[Sequence[Item]], str]) -> bool:
        """The same layer in a row of blocks, the first and the last of which break the model: all of them stay."""
        kinds = {re.sub(r"\d+", "#", self._name(item)) for item in items}
        return len(items) > 2 and len(kinds) == 1 and bool(attempt(items[:1])) and bool(attempt(items[-1:]))

    def _name(self, item: int | str) -> str:
        if isinstance(item, str):
            return item
        axes = self.structure.groups[item].axes
        return " ".join(f"{axis.tensor}[{axis.dim}]" for axis in axes)

    def _together(self, items: list[Item], attempt: Callable[[Sequence[Item]], str]) -> list[Failure]:
        """Items that only fail in company: the last of the shortest failing prefix goes, until none fails."""
        found: list[Failure] = []
        while items and (problem := attempt(items)):
            low, high = 0, len(items)
            while low + 1 < high:
                middle = (low + high) // 2
                low, high = (low, middle) if (shorter := attempt(items[:middle])) else (middle, high)
                problem = shorter or problem
            reason, _, where = problem.partition(" @ ")
            found.append(Failure(items.pop(high - 1), f"must shrink together with another layer: {reason}", where))
        return found

    def _cut(self, gone: dict[int, np.ndarray], numbers: Sequence[int]) -> str:
        nothing = self.structure.nothing()
        units = tuple(gone[number] if number in numbers else kept for number, kept in enumerate(nothing.units))
        choice = replace(nothing, units=units)
        problem = self._attempt(choice)
        if problem == _MOVED and len(numbers) == 1 and self._only_scaled(numbers[0], choice):
            self.scaled.add(numbers[0])
            return ""
        return problem

    def _swap(self, numbers: Sequence[int]) -> str:
        """Where a mask is not a removal: no weight may notice that units change places."""
        tensors = dict([*self.model.named_parameters(), *self.model.named_buffers()])
        fresh: dict[str, Tensor] = {}
        for number in numbers:
            for axis in self.structure.groups[number].axes:
                tensor = fresh.get(axis.tensor, tensors[axis.tensor])
                order = torch.as_tensor(turned(axis.units), device=tensor.device)
                fresh[axis.tensor] = tensor.detach().index_select(axis.dim, order)
        twin = sharing(self.model)
        for name, tensor in fresh.items():
            replace_tensor(twin, tensors[name], _as(tensors[name], tensor))
        same = agree(self.dense, self._run(twin), self.tolerance)
        return "" if same else "its channels are not alike: another order of them is another function"

    def _only_scaled(self, number: int, choice: Choice) -> bool:
        """Attention by hand divides by √d, a size that labels cannot see: the only difference is that factor."""
        group, gone = self.structure.groups[number], choice.units[number]
        reference = masked(self.model, self.structure, choice)
        if reference is None or group.note != PRODUCT:
            return False
        tensors = dict(reference.named_parameters())
        factor = (group.size / int((~gone).sum())) ** 0.25
        with torch.no_grad():
            for axis in group.axes:
                if axis.tensor in tensors and not axis.reads:
                    tensors[axis.tensor].mul_(factor)
        return agree(
            self._run(reference),
            self._run(carry_out(sharing(self.model), self.structure.edits(choice))),
            self.tolerance,
        )

    def _drop_blocks(self, names: Sequence[str]) -> str:
        return self._attempt(replace(self.structure.nothing(), blocks=frozenset(names)))

    def _drop_branches(self, names: Sequence[str]) -> str:
        return self._attempt(replace(self.structure.nothing(), branches=frozenset(names)))

    def _attempt(self, choice: Choice) -> str:
        """Carry out a choice and compare with the masked model; "" if all is well."""
        try:
            smaller = carry_out(sharing(self.model), self.structure.edits(choice))
            found = self._run(smaller)
        except PlanError as error:
            return str(error)
        except Exception as error:  # noqa: BLE001 - whatever the user's code raises is the finding
            return f"{type(error).__name__}: {first_line(error)} @ {line_of(error)}"
        reference = masked(self.model, self.structure, choice)
        expected = self.dense if reference is None else self._run(reference)
        if [t.shape for t in found] != [t.shape for t in expected]:  # a detector's may follow from its numbers
            return "the output changes its shape"
        if self.trained is not None:
            in_training = self._run_training(smaller)
            if in_training is None or [t.shape for t in in_training] != [t.shape for t in self.trained]:
                return "the model does not train"
        return "" if reference is None or agree(expected, found, self.tolerance) else _MOVED

    def _conditioning(self) -> float:
        """What outputs may differ by: rounding, enlarged as this model enlarges it, and no more."""
        shaken = self._run(self.model, pytree.tree_map_only(Tensor, _shaken, self.inputs))
        same = [t.shape for t in shaken] == [t.shape for t in self.dense]
        levels = (1e-5, 3e-5, 1e-4, 3e-4) if same else ()
        return next((level for level in levels if agree(self.dense, shaken, level / 10)), TOLERANCE)

    def _run(self, model: nn.Module, inputs: Inputs = None) -> list[Tensor]:
        with quietly(model), torch.no_grad():
            return tensors_of(call(model, self.inputs if inputs is None else inputs))

    def _run_training(self, model: nn.Module) -> list[Tensor] | None:
        """As `_run`, in training mode; None if the model needs more than example inputs for that."""
        try:
            with quietly(model, training=True), torch.no_grad():
                return tensors_of(call(model, self.inputs))
        except Exception:  # noqa: BLE001 - whatever the user's code raises, training cannot be tried
            return None


def masked(model: nn.Module, structure: Structure, choice: Choice) -> nn.Module | None:
    """A model in which nothing is read of what a choice removes; None if that is not the same as removing it.

    Tensors that are not masked are those of the given model.
    """
    groups = [(g, gone) for g, gone in zip(structure.groups, choice.units, strict=True) if gone.any()]
    blocks = [b for b in structure.blocks if b.name in choice.blocks]
    if any(not group.exact for group, _ in groups) or any(not block.scales for block in blocks):
        return None
    axes = [(axis, gone) for group, gone in groups for axis in group.axes if axis.reads or not group.maskable]
    axes += [
        (axis, np.ones(1, dtype=bool))
        for b in structure.branches
        if b.name in choice.branches
        for axis in b.reads
        if axis.reads
    ]
    reference = sharing(model)
    tensors = dict([*reference.named_parameters(), *reference.named_buffers()])
    touched = {axis.tensor for axis, _ in axes} | {name for block in blocks for name in block.scales}
    fresh = {name: _twin(tensors[name]) for name in touched}
    for name, twin in fresh.items():
        replace_tensor(reference, tensors[name], twin)
    with torch.no_grad():
        for axis, gone in axes:
            index = np.flatnonzero((axis.units >= 0) & gone[axis.units])
            fresh[axis.tensor].index_fill_(axis.dim, torch.as_tensor(index, device=fresh[axis.tensor].device), 0)
        for block in blocks:
            for name in block.scales:
                fresh[name].zero_()
    return reference


def turned(units: np.ndarray) -> np.ndarray:
    """An order of indices in which every unit stands where the one before it stood."""
    order = np.arange(len(units))
    inside = np.flatnonzero(units >= 0)
    places = inside[np.argsort(units[inside], kind="stable")].reshape(units.max() + 1, -1)
    order[places] = np.roll(places, -1, axis=0)
    return order


def _twin(tensor: Tensor) -> Tensor:
    return _as(tensor, tensor.detach().clone())


def _as(like: Tensor, tensor: Tensor) -> Tensor:
    return nn.Parameter(tensor, requires_grad=like.requires_grad) if isinstance(like, nn.Parameter) else tensor


def stirred(model: nn.Module) -> nn.Module:
    """A copy with slightly different floating-point numbers everywhere: equal channels become unequal."""
    twin = copied(model)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in [*twin.parameters(), *twin.buffers()]:
            if tensor.is_floating_point() and tensor.numel():
                noise = torch.rand(tensor.shape, generator=generator).to(tensor)
                tensor.mul_(0.9 + 0.2 * noise).add_(0.02 * noise.flip(0) if tensor.dim() else 0.02 * noise)
    return twin


def _shaken(tensor: Tensor) -> Tensor:
    """Slightly other numbers, if they are numbers."""
    if not tensor.is_floating_point():
        return tensor
    generator = torch.Generator().manual_seed(1)
    return tensor * (1 + NOISE * torch.randn(tensor.shape, generator=generator).to(tensor))


def agree(expected: Sequence[Tensor], found: Sequence[Tensor], tolerance: float) -> bool:
    """``max|expected − found| ≤ tolerance · max|expected|``, output by output; NaN agrees with NaN."""
    for a, b in zip(expected, found, strict=True):
        if a.shape != b.shape:
            return False
        if not a.is_floating_point():
            continue
        scale = float(torch.nan_to_num(a, 0, 0, 0).abs().max()) if a.numel() else 0.0
        if math.isfinite(scale) and not torch.allclose(a, b, rtol=0, atol=tolerance * scale + 1e-30, equal_nan=True):
            return False
    return True
