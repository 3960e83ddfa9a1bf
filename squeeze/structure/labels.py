"""Labels: which unit every element of every tensor belongs to.

Each index of each dimension of each parameter and buffer is a *node* with an integer id. While the
model runs, every tensor carries a short list of `Layer`: along one of its dimensions, the node of
each index. Ties between nodes, pins and flags are collected in a `Ledger`.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from squeeze.structure.tape import Operand

NONE = -1
"""The id of an index that belongs to no node."""


@dataclass(frozen=True, eq=False)
class Layer:
    """Along dimension `dim` of a tensor, the node of each index (int64, 1-D; `NONE` where there is none)."""

    dim: int
    ids: Tensor

    @cached_property
    def any(self) -> bool:
        """Some index has a node."""
        return bool(self.ids.numpy().max(initial=NONE) > NONE)


@dataclass(frozen=True, eq=False)
class Labels:
    """What is known of a tensor.

    Attributes:
        layers: Its labels.
        wild: All elements are the same constant, made in forward: it fits whatever it meets.
        fixed: Computed from parameters and constants alone, not from the model's inputs.
    """

    layers: tuple[Layer, ...] = ()
    wild: bool = False
    fixed: bool = False

    def along(self, dim: int) -> Tensor | None:
        """The ids along a dimension; None if it is not labelled."""
        return next((layer.ids for layer in self.layers if layer.dim == dim), None)


@dataclass
class Ledger:
    """What a run on labels found out about nodes.

    Attributes:
        ties: Pairs of node arrays that go together.
        pins: Nodes that stay, why, and the line that is the cause.
        statistics: Nodes over which something is computed together, and what.
        reads: Nodes of weights that are summed over with an activation.
        passes: Nodes of weights whose labels an activation takes over.
        products: Nodes over which two activations are multiplied and summed.
    """

    ties: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    pins: list[tuple[np.ndarray, str, str]] = field(default_factory=list)
    statistics: list[tuple[np.ndarray, str]] = field(default_factory=list)
    reads: list[np.ndarray] = field(default_factory=list)
    passes: list[np.ndarray] = field(default_factory=list)
    products: list[np.ndarray] = field(default_factory=list)

    def merge(self, other: "Ledger") -> None:
        """Add what another run found out (its statistics aside)."""
        for name in ("ties", "pins", "reads", "passes", "products"):
            getattr(self, name).extend(getattr(other, name))

    def tie(self, a: Tensor, b: Tensor, where: Callable[[], str]) -> None:
        """Node a[i] goes if and only if node b[i] goes; a node that meets none is pinned."""
        one, two = a.flatten().numpy(), b.flatten().numpy()
        both = (one >= 0) & (two >= 0)
        differ = both & (one != two)
        if differ.any():
            self.ties.append((one[differ], two[differ]))
        lonely = np.concatenate([one[~both], two[~both]])
        if (lonely >= 0).any():
            self.pin(
                lonely, "meets elements that cannot be removed with it (padding, a constant or the input)", where()
            )

    def pin(self, ids: Tensor | np.ndarray, reason: str, where: str) -> None:
        """These nodes stay."""
        nodes = np.unique(np.asarray(ids).ravel())
        nodes = nodes[nodes >= 0]
        if len(nodes):
            self.pins.append((nodes, reason, where))

    def flag_statistics(self, ids: Tensor, note: str) -> None:
        """Something is computed over all of these nodes together, so that a mask is not a removal."""
        self.statistics.append((np.unique(ids.numpy()), note))


@dataclass(frozen=True, eq=False)
class Nodes:
    """Which ids belong to which dimension of which parameter or buffer.

    Attributes:
        spans: (tensor name, dim) → (first id, number of ids).
        total: Number of ids.
    """

    spans: dict[tuple[str, int], tuple[int, int]]
    total: int

    @classmethod
    def of(cls, named: Iterable[tuple[str, Operand]]) -> "Nodes":
        """One id for each index of each dimension larger than 1."""
        spans: dict[tuple[str, int], tuple[int, int]] = {}
        total = 0
        for name, operand in named:
            for dim, size in enumerate(operand.shape):
                if size > 1:
                    spans[name, dim] = (total, size)
                    total += size
        return cls(spans, total)

    def labels(self, name: str, operand: Operand) -> Labels:
        """The labels a parameter or buffer starts with."""
        layers = []
        for dim in range(operand.dim()):
            if (name, dim) in self.spans:
                first, size = self.spans[name, dim]
                layers.append(Layer(dim, torch.arange(first, first + size)))
        return Labels(tuple(layers), fixed=True)


def spread(layer: Layer, shape: torch.Size) -> Tensor:
    """The labels as a tensor of the full shape; takes no memory."""
    view = [1] * len(shape)
    view[layer.dim] = shape[layer.dim]
    return layer.ids.view(view).expand(shape)


def condensed(full: Tensor) -> Tensor:
    """The same labels with size 1 along every dimension that is only expanded: what is left to look at is small."""
    return full[tuple(slice(1) if stride == 0 else slice(None) for stride in full.stride())]


def varying(full: Tensor) -> list[int]:
    """Dimensions along which a label tensor varies: by strides, then by value."""
    small = condensed(full)
    long = [dim for dim in range(small.dim()) if small.shape[dim] > 1]
    if len(long) == 1:
        ids = small.numpy()
        return long if ids.size and (ids != ids.flat[0]).any() else []
    return [dim for dim in long if not bool((small == small.narrow(dim, 0, 1)).all())]


def along_one(full: Tensor, dim: int) -> Tensor:
    """The label vector along `dim`, at index 0 of every other dimension."""
    index = tuple(slice(None) if d == dim else 0 for d in range(full.dim()))
    return full[index].clone()
