"""Which way a clustered convolution is computed: by the native kernel where that was measured to be faster."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.weak import WeakTensorKeyDictionary

from squeeze.kernels.native import Code, code
from squeeze.kernels.operands import ClusteredOperands
from squeeze.kernels.packing import Packed, fits, packed

ROUNDS = 5
"""How often each way is timed, in turn, before one is chosen."""


@dataclass(frozen=True, eq=False)
class Prepared:
    """A convolution with what its ways of computing need, made when they first need it.

    Attributes:
        operands: The convolution.
        state: What it was made of; another state needs another `Prepared`.
        native: Its native code, or None.
        faster: For each input shape and number of threads, whether the native kernel was faster.
        picks: The same, whether densely it is faster to pick out the channels that are read than to read all.
    """

    operands: ClusteredOperands
    state: tuple[int, ...]
    native: Code | None
    faster: dict[tuple[torch.Size, int], bool] = field(default_factory=dict)
    picks: dict[tuple[torch.Size, int], bool] = field(default_factory=dict)

    @property
    def code_name(self) -> str:
        """Of the native code, or ""."""
        return "" if self.native is None else self.native.name

    @cached_property
    def packed(self) -> Packed:
        """For the native kernel."""
        assert self.native is not None  # noqa: S101 - for the type checker
        return packed(self.operands, self.native)

    @cached_property
    def weight(self) -> Tensor:
        """For the dense convolution of the channels that are read."""
        return self.operands.expanded()

    @cached_property
    def whole(self) -> Tensor:
        """For the dense convolution of all channels."""
        return self.operands.whole()

    def convolve(self, x: Tensor) -> Tensor:
        """Whichever way is faster for this shape and this number of threads; the first call of a shape measures."""
        if not x.is_cpu or not x.numel():
            return self.operands.convolve(x, self.weight)
        if self.native is not None and x.dtype is torch.float32 and self.choice(x):
            return self.packed.run(x, torch.get_num_threads())
        return self.dense(x)

    def dense(self, x: Tensor) -> Tensor:
        """By PyTorch, on the CPU: a copy of the channels that are read may take longer than to read all."""
        of, key = self.operands, (x.shape, torch.get_num_threads())

        def everything() -> Tensor:
            groups = of.index.shape[0]
            return functional.conv2d(x, self.whole, of.bias, of.stride, of.padding, of.dilation, groups)

        def picked() -> Tensor:
            return of.convolve(x, self.weight)

        if of.reads is not None and key not in self.picks:
            self.picks[key] = faster(picked, everything)
        return picked() if of.reads is None or self.picks[key] else everything()

    def choice(self, x: Tensor) -> bool:
        """Whether the native kernel is faster; there must be one."""
        key = (x.shape, torch.get_num_threads())
        found = self.faster.get(key)
        if found is None:
            self.dense(x)  # measures, too
            found = self.faster[key] = faster(lambda: self.packed.run(x, key[1]), lambda: self.dense(x))
        return found


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


class Kept:
    """A convolution that its module keeps prepared while its tensors do not change; not copied with the module."""

    def __init__(self) -> None:
        self._prepared: Prepared | None = None
        self._valid = False

    def __deepcopy__(self, memo: Any) -> "Kept":
        return Kept()

    def __reduce__(self) -> Any:
        return Kept, ()

    def get(self, operands: Callable[[], ClusteredOperands], tensors: Iterable[Tensor | None]) -> Prepared | None:
        """The convolution, prepared anew if a tensor has changed; None if tensors do not say when they change."""
        state = state_of(tensors)
        before = self._prepared
        if before is None or not self._valid or before.state != state:
            made = _prepared(operands(), state) if state else None
            if made is not None and before is not None:  # which way is faster does not hang on values
                made = replace(made, faster=before.faster, picks=before.picks)
            self._prepared, self._valid = made, True
        return self._prepared

    def forget(self) -> None:
        """Tensors may have changed without telling: the next call prepares the convolution anew."""
        self._valid = False


class Cache:
    """Prepared convolutions, as long as their centroids live and do not change."""

    def __init__(self) -> None:
        self._known = WeakTensorKeyDictionary()

    def __len__(self) -> int:
        return len(self._known)

    def get(self, operands: ClusteredOperands) -> Prepared:
        """The convolution, prepared anew if a tensor of it has changed."""
        state = state_of((operands.centroids, operands.index, operands.reads, operands.bias))
        if not state:
            return Prepared(_held(operands), (), None)
        found = self._known.get(operands.centroids)
        if found is None or found.state != state:
            found = self._known[operands.centroids] = _prepared(operands, state)
        return found


def state_of(tensors: Iterable[Tensor | None]) -> tuple[int, ...]:
    """Numbers that differ when a tensor was replaced or changed; none for tensors made in inference mode."""
    try:
        return tuple([number for t in tensors if t is not None for number in (t.data_ptr(), t._version)])
    except RuntimeError:
        return ()


def _prepared(operands: ClusteredOperands, state: tuple[int, ...]) -> Prepared:
    return Prepared(_held(operands), state, None if fits(operands) else code())


def _held(operands: ClusteredOperands) -> ClusteredOperands:
    """The same numbers in tensors of their own identity, so that a cache does not keep its keys alive."""
    bias = None if operands.bias is None else operands.bias.detach()
    return replace(operands, centroids=operands.centroids.detach(), bias=bias)
