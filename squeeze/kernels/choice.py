"""Which way a clustered convolution is computed: by the native kernel where that was measured to be faster."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from squeeze.kernels.native import Code, code
from squeeze.kernels.operands import ClusteredOperands
from squeeze.kernels.packing import Packed, fits, packed

ROUNDS = 5
"""How often each way is timed, in turn, before one is chosen."""

Shape = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Prepared:
    """A convolution with what its ways of computing need, made when they first need it.

    Attributes:
        operands: The convolution.
        state: What it was made of; another state needs another `Prepared`.
        native: Its native code, or None.
        faster: For each input shape and number of threads, whether the native kernel was faster.
    """

    operands: ClusteredOperands
    state: tuple[int, ...]
    native: Code | None
    faster: dict[tuple[Shape, int], bool] = field(default_factory=dict)

    @cached_property
    def packed(self) -> Packed:
        """For the native kernel."""
        assert self.native is not None  # noqa: S101 - for the type checker
        return packed(self.operands, self.native)

    @cached_property
    def weight(self) -> Tensor:
        """For the dense convolution."""
        return self.operands.expanded()

    def convolve(self, x: Tensor) -> Tensor:
        """Whichever way is faster for this shape and this number of threads; the first call of a shape measures."""
        if self.native is not None and x.numel() and self.choice(x):
            return self.packed.run(x, torch.get_num_threads())
        return self.operands.convolve(x, self.weight)

    def choice(self, x: Tensor) -> bool:
        """Whether the native kernel is faster; there must be one."""
        threads = torch.get_num_threads()
        key = (tuple(x.shape), threads)
        if key not in self.faster:
            self.faster[key] = faster(
                lambda: self.packed.run(x, threads), lambda: self.operands.convolve(x, self.weight)
            )
        return self.faster[key]


def faster(one: Callable[[], Tensor], other: Callable[[], Tensor]) -> bool:
    """Measure both in turn: the best of `ROUNDS` counts, which other load on the machine disturbs least."""
    best = [float("inf"), float("inf")]
    for warm in range(ROUNDS + 1):
        for number, way in enumerate((one, other)):
            begin = time.perf_counter()
            way()
            if warm:
                best[number] = min(best[number], time.perf_counter() - begin)
    return best[0] < best[1]


class Cache:
    """Prepared convolutions, as long as their centroids live and do not change."""

    def __init__(self) -> None:
        self._known = WeakTensorKeyDictionary()

    def __len__(self) -> int:
        return len(self._known)

    def get(self, operands: ClusteredOperands) -> Prepared:
        """The convolution, prepared anew if a tensor of it has changed."""
        tensors = [t for t in (operands.centroids, operands.index, operands.reads, operands.bias) if t is not None]
        if any(t.is_inference() for t in tensors):  # they do not say when they change
            return Prepared(_held(operands), (), None)
        state = tuple(number for t in tensors for number in (t.data_ptr(), t._version))
        found = self._known.get(operands.centroids)
        if found is None or found.state != state:
            found = Prepared(_held(operands), state, None if fits(operands) else code())
            self._known[operands.centroids] = found
        return found


def _held(operands: ClusteredOperands) -> ClusteredOperands:
    """The same numbers in tensors of their own identity, so that a cache does not keep its keys alive."""
    bias = None if operands.bias is None else operands.bias.detach()
    return replace(operands, centroids=operands.centroids.detach(), bias=bias)
