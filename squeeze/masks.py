"""Soft masks: one non-negative scalar for everything that can be removed, differentiable and exactly removable."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from squeeze.errors import PlanError
from squeeze.selection import Scores
from squeeze.structure.cost import Cost
from squeeze.structure.groups import Structure
from squeeze.structure.parts import Axis, Choice

Kind = Literal["filters", "blocks", "branches", "inputs"]
KINDS: tuple[Kind, ...] = ("filters", "blocks", "branches", "inputs")
USUAL: tuple[Kind, ...] = ("filters", "blocks", "branches")
"""What is masked where nobody says otherwise: what goes leaves ordinary layers."""


@dataclass(frozen=True)
class Part:
    """Consecutive mask values that belong to one group, block or branch, or to the inputs of one layer.

    Attributes:
        kind: What is masked.
        index: Into the structure's groups, blocks, branches or inputs.
        name: Of the group, block, branch or layer.
        start: Index of its first value.
        size: How many values it has: the group's units, the layer's inputs, or 1.
    """

    kind: Kind
    index: int
    name: str
    start: int
    size: int

    @property
    def span(self) -> slice:
        """Its values, as a slice of all of them."""
        return slice(self.start, self.start + self.size)


class SoftMasks(nn.Module):
    """One scalar per removable unit, block, branch and input (Lin et al. 2019, CVPR: the mask m), ones to begin with.

    A mask multiplies what the readers of a structure see, by scaling the entries of their parameters: a
    value of exactly 0 and the removal are the same function in eval mode, and any other value can be folded.

    Attributes:
        values: (M,) the masks.
        parts: Which values belong to what, in order.
        macs: (M,) multiply-accumulates saved by removing that entry alone.
        params: (M,) parameters saved by removing that entry alone.
        left_out: (name, reason) of the groups and blocks that cannot be soft-masked.
    """

    index: Tensor

    def __init__(self, structure: Structure, structures: Sequence[Kind] = USUAL) -> None:
        super().__init__()
        self.parts, self.left_out = _parts(structure, structures)
        self._structure = structure
        self._places, index = _places(structure, self.parts)
        self._lengths = [len(entries) for entries in index]
        self.register_buffer("index", torch.from_numpy(np.concatenate([*index, np.arange(0)])), persistent=False)
        size = sum(part.size for part in self.parts)
        self.values = nn.Parameter(torch.ones(size))
        savings = _savings(structure, self.parts)
        self.macs = torch.tensor([cost.macs for cost in savings], dtype=torch.float64)
        self.params = torch.tensor([cost.params for cost in savings], dtype=torch.float64)

    def scaled(self, model: nn.Module, values: Tensor | None = None) -> dict[str, Tensor]:
        """The parameters that readers use, multiplied by their masks, for `torch.func.functional_call`.

        Differentiable in the masks and in the parameters. Parameters that no mask touches and buffers are
        left out; a tied parameter appears once, under its first name.

        Args:
            model: Whose parameters.
            values: (M,) in place of the masks.
        """
        owned = self._owned(model)
        first = {id(parameter): name for name, parameter in reversed(owned.items())}
        values = self.values if values is None else values
        entries = torch.cat((values, values.new_ones(1))).index_select(0, self.index)
        scaled: dict[str, Tensor] = {}
        for (tensor, dim), factor in zip(self._places, entries.split(self._lengths), strict=True):
            name = first[id(owned[tensor])]
            shape = [1] * owned[tensor].dim()
            if dim is not None:
                shape[dim] = len(factor)
            base = scaled.get(name, owned[tensor])
            scaled[name] = base * factor.view(shape).to(base.dtype)
        return scaled

    @torch.no_grad()
    def fold(self, model: nn.Module, values: Tensor | None = None) -> None:
        """Multiply the masks (or `values` in their place) into the model's parameters, in place."""
        owned = dict(model.named_parameters())
        for name, value in self.scaled(model, values).items():
            owned[name].copy_(value)

    @torch.no_grad()
    def shift(self, model: nn.Module, factor: Tensor) -> None:
        """Divide the masks by `factor` (M,), and multiply the parameters by it: together they compute the same."""
        self.fold(model, factor)
        self.values.div_(factor)

    @torch.no_grad()
    def norms(self, model: nn.Module) -> Tensor:
        """(M,) the L2 norms of the entries that each mask multiplies."""
        owned = self._owned(model)
        squares = self.values.new_zeros(len(self.values) + 1)
        for (tensor, dim), index in zip(self._places, self.index.split(self._lengths), strict=True):
            square = owned[tensor].to(squares.dtype).square()
            kept = square.sum().view(1) if dim is None else square.movedim(dim, 0).flatten(1).sum(1)
            squares.index_add_(0, index, kept)
        return squares[:-1].sqrt()

    def _owned(self, model: nn.Module) -> dict[str, nn.Parameter]:
        """The model's parameters by all of their names; those that the masks need are among them."""
        owned = dict(model.named_parameters(remove_duplicate=False))
        for tensor, _ in self._places:
            if tensor not in owned:
                raise PlanError(
                    f"masks: {tensor!r} must be a parameter of the model, got none of that name; trace it again."
                )
        return owned

    def scores(self, values: np.ndarray | None = None) -> Scores:
        """Importance for `squeeze.selection.select`: the masks, or other `values` (M,) in their place.

        What has no mask may not go.
        """
        values = self.values.detach().double().cpu().numpy() if values is None else values
        units = [np.full(group.size, np.inf) for group in self._structure.groups]
        blocks = {block.name: np.inf for block in self._structure.blocks}
        branches, inputs = {branch.name: np.inf for branch in self._structure.branches}, dict[str, np.ndarray]()
        for part in self.parts:
            if part.kind == "filters":
                units[part.index] = np.array(values[part.span], dtype=np.float64)
            elif part.kind == "inputs":
                inputs[self._weight(part)] = np.array(values[part.span], dtype=np.float64)
            else:
                (blocks if part.kind == "blocks" else branches)[part.name] = float(values[part.start])
        return Scores(tuple(units), blocks, branches, inputs)

    def _weight(self, part: Part) -> str:
        return self._structure.inputs[part.index].tensor

    def choice(self, removed: np.ndarray) -> Choice:
        """The choice that removes the entries where `removed` (M,) is True."""
        units = list(self._structure.nothing().units)
        names: dict[Kind, set[str]] = {"blocks": set(), "branches": set()}
        inputs = {}
        for part in self.parts:
            if part.kind == "filters":
                units[part.index] = removed[part.span].astype(bool)
            elif part.kind == "inputs":
                inputs[self._weight(part)] = removed[part.span].astype(bool)
            elif removed[part.start]:
                names[part.kind].add(part.name)
        return Choice(tuple(units), frozenset(names["blocks"]), frozenset(names["branches"]), inputs)

    def removed(self, choice: Choice) -> np.ndarray:
        """Undo `choice`: (M,) True where an entry goes."""
        pieces = [self._gone(part, choice) for part in self.parts]
        return np.concatenate([*pieces, np.zeros(0, dtype=bool)])

    def _gone(self, part: Part, choice: Choice) -> np.ndarray:
        if part.kind == "filters":
            return choice.units[part.index]
        if part.kind == "inputs":
            return choice.inputs.get(self._weight(part), np.zeros(part.size, dtype=bool))
        return np.array([part.name in (choice.blocks if part.kind == "blocks" else choice.branches)])


def _parts(structure: Structure, structures: Sequence[Kind]) -> tuple[tuple[Part, ...], tuple[tuple[str, str], ...]]:
    """What gets masks, and what does not and why."""
    parts: list[Part] = []
    left_out: list[tuple[str, str]] = []

    def add(kind: Kind, index: int, name: str, size: int, reason: str) -> None:
        if reason:
            left_out.append((name, reason))
        else:
            parts.append(Part(kind, index, name, parts[-1].span.stop if parts else 0, size))

    if "filters" in structures:
        for i, group in enumerate(structure.groups):
            reason = "" if group.maskable else group.note or "not everything that reads it can be scaled"
            reason = reason or _unread(structure, group.axes)
            add("filters", i, group.name, group.size, reason)
    if "blocks" in structures:
        for i, block in enumerate(structure.blocks):
            add("blocks", i, block.name, 1, "" if block.scales else block.note or "no parameter scales its output")
    if "branches" in structures:
        for i, branch in enumerate(structure.branches):
            add("branches", i, branch.name, 1, _unread(structure, branch.reads))
    if "inputs" in structures:
        for i, edge in enumerate(structure.inputs):
            add("inputs", i, edge.module, edge.size, "")
    return tuple(parts), tuple(left_out)


def _unread(structure: Structure, axes: Sequence[Axis]) -> str:
    """Why what reads along these axes cannot be scaled; "" if it can."""
    reads = [axis.tensor for axis in axes if axis.reads]
    fixed = [tensor for tensor in reads if tensor not in structure.costs.parameters]
    return f"read through the buffer {fixed[0]}" if fixed else "" if reads else "nothing reads it"


def _places(structure: Structure, parts: Sequence[Part]) -> tuple[list[tuple[str, int | None]], list[np.ndarray]]:
    """For each (parameter, dim) to scale, the mask index of every entry along dim; M stands for a factor of 1."""
    none = sum(part.size for part in parts)
    places: list[tuple[str, int | None]] = []
    index: list[np.ndarray] = []

    def add(tensor: str, dim: int, entries: np.ndarray) -> None:
        # Groups that share a dim (all the layers that a concat joins) become one factor, so one product.
        for at, place in enumerate(places):
            if place == (tensor, dim) and not ((index[at] != none) & (entries != none)).any():
                index[at] = np.minimum(index[at], entries)
                return
        places.append((tensor, dim))
        index.append(entries)

    for part in parts:
        if part.kind == "blocks":
            for tensor in structure.blocks[part.index].scales:
                places.append((tensor, None))
                index.append(np.array([part.start], dtype=np.int64))
            continue
        if part.kind == "inputs":
            edge = structure.inputs[part.index]
            add(edge.tensor, edge.dim, np.arange(part.start, part.start + part.size))
            continue
        axes = structure.groups[part.index].axes if part.kind == "filters" else structure.branches[part.index].reads
        for axis in axes:
            if axis.reads:
                units = axis.units.astype(np.int64)
                add(axis.tensor, axis.dim, np.where(units >= 0, part.start + units, none))
    return places, index


def _savings(structure: Structure, parts: Sequence[Part]) -> list[Cost]:
    """What goes with each entry alone; the units of a group are taken to cost the same."""
    dense = structure.cost()
    savings: list[Cost] = []
    for part in parts:
        units, blocks, branches = list(structure.nothing().units), frozenset[str](), frozenset[str]()
        inputs = dict[str, np.ndarray]()
        if part.kind == "filters":
            units[part.index] = np.arange(part.size) == 0
        elif part.kind == "blocks":
            blocks = frozenset({part.name})
        elif part.kind == "inputs":
            inputs = {structure.inputs[part.index].tensor: np.arange(part.size) == 0}
        else:
            branches = frozenset({part.name})
        left = structure.cost(Choice(tuple(units), blocks, branches, inputs))
        savings += [Cost(dense.macs - left.macs, dense.params - left.params)] * part.size
    return savings
