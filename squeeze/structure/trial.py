"""The trial: labels cannot see sizes written in the user's code, so every cut is tried on the running model."""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from squeeze.edits import rewrite
from squeeze.errors import PlanError
from squeeze.structure.context import first_line, line_of
from squeeze.structure.groups import Choice, Structure
from squeeze.structure.run import quietly
from squeeze.task import Inputs, call, tensors_of

Item = TypeVar("Item", int, str)
TOLERANCE = 1e-3


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
    """Tries cuts on a copy of a model whose numbers are stirred, so that a misplaced channel shows."""

    def __init__(self, model: nn.Module, inputs: Inputs, structure: Structure) -> None:
        self.inputs = inputs
        self.structure = structure
        self.model = stirred(model)
        self.dense = self._run(self.model)
        self.random = np.random.default_rng(0)

    def failures(self) -> list[Failure]:
        """Every group, block and branch that breaks the model, or moves its output, when it is cut."""
        groups = [number for number, group in enumerate(self.structure.groups) if group.size > 1]
        one = {g: self._one(self.structure.groups[g].size) for g in groups}
        bad = self._culprits(groups, lambda items: self._cut({g: one[g] for g in items}))
        failed = {failure.item for failure in bad}
        half = {g: self._half(self.structure.groups[g].size) for g in groups if g not in failed}
        bad += self._culprits(list(half), lambda items: self._cut({g: half[g] for g in items}))
        bad += self._culprits([b.name for b in self.structure.blocks], self._drop_blocks)
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
        if len(items) == 1:
            reason, _, where = problem.partition(" @ ")
            return [Failure(items[0], reason, where)]
        middle = len(items) // 2
        found = self._culprits(items[:middle], attempt) + self._culprits(items[middle:], attempt)
        failed = {failure.item for failure in found}
        rest = [item for item in items if item not in failed]
        if len(rest) < len(items):
            return found + (self._together(rest, attempt) if attempt(rest) else [])
        return self._together(rest, attempt)

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

    def _cut(self, gone: dict[int, np.ndarray]) -> str:
        nothing = self.structure.nothing()
        units = tuple(gone.get(number, kept) for number, kept in enumerate(nothing.units))
        return self._attempt(replace(nothing, units=units))

    def _drop_blocks(self, names: Sequence[str]) -> str:
        return self._attempt(replace(self.structure.nothing(), blocks=frozenset(names)))

    def _drop_branches(self, names: Sequence[str]) -> str:
        return self._attempt(replace(self.structure.nothing(), branches=frozenset(names)))

    def _attempt(self, choice: Choice) -> str:
        """Carry out a choice and compare with the masked model; "" if all is well."""
        try:
            found = self._run(rewrite(self.model, self.structure.edits(choice)))
        except PlanError as error:
            return str(error)
        except Exception as error:  # noqa: BLE001 - whatever the user's code raises is the finding
            return f"{type(error).__name__}: {first_line(error)} @ {line_of(error)}"
        if [t.shape for t in found] != [t.shape for t in self.dense]:
            return "the output changes its shape"
        reference = masked(self.model, self.structure, choice)
        if reference is None or agree(self._run(reference), found, TOLERANCE):
            return ""
        return "the output is not that of the masked model"

    def _run(self, model: nn.Module) -> list[Tensor]:
        with quietly(model), torch.no_grad():
            return tensors_of(call(model, self.inputs))


def masked(model: nn.Module, structure: Structure, choice: Choice) -> nn.Module | None:
    """A copy in which nothing is read of what a choice removes; None if that is not the same as removing it."""
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
    reference = copy.deepcopy(model)
    tensors = dict([*reference.named_parameters(), *reference.named_buffers()])
    with torch.no_grad():
        for axis, gone in axes:
            index = np.flatnonzero((axis.units >= 0) & gone[axis.units])
            tensors[axis.tensor].index_fill_(axis.dim, torch.as_tensor(index), 0)
        for block in blocks:
            for name in block.scales:
                tensors[name].zero_()
    return reference


def stirred(model: nn.Module) -> nn.Module:
    """A copy with slightly different floating-point numbers everywhere: equal channels become unequal."""
    copied = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in [*copied.parameters(), *copied.buffers()]:
            if tensor.is_floating_point() and tensor.numel():
                noise = torch.rand(tensor.shape, generator=generator).to(tensor)
                tensor.mul_(0.9 + 0.2 * noise).add_(0.02 * noise.flip(0) if tensor.dim() else 0.02 * noise)
    return copied


def agree(expected: Sequence[Tensor], found: Sequence[Tensor], tolerance: float) -> bool:
    """``max|expected − found| ≤ tolerance · max|expected|``, output by output; NaN agrees with NaN."""
    for a, b in zip(expected, found, strict=True):
        if not a.is_floating_point():
            continue
        scale = float(torch.nan_to_num(a, 0, 0, 0).abs().max()) if a.numel() else 0.0
        if math.isfinite(scale) and not torch.allclose(a, b, rtol=0, atol=tolerance * scale + 1e-30, equal_nan=True):
            return False
    return True
