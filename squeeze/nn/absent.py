"""What a removed module returns: nothing, in a form that the code around it carries to the sum or join it ends in."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn


class Absent:
    """The output of a removed module.

    Whatever is computed from it is absent too, until it is added to a tensor (which is then the
    sum) or joined with others (which are then the concatenation).

    Args:
        parts: How many values the removed module returned; 0 for a bare one.
    """

    def __init__(self, parts: int = 0) -> None:
        self._parts = parts

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func in _SUMS and len(args) == 2:
            left, right = args
            return right if isinstance(left, Absent) else left
        if func in _JOINS:
            present = [part for part in args[0] if not isinstance(part, Absent)]
            return func(present, *args[1:], **(kwargs or {})) if present else cls()
        return cls()

    def _absorb(self, *args: Any, **kwargs: Any) -> "Absent":
        return Absent()

    def __add__(self, other: Any) -> Any:
        return other

    __radd__ = __iadd__ = __add__
    __mul__ = __rmul__ = __imul__ = __truediv__ = __matmul__ = __neg__ = __getitem__ = __call__ = _absorb

    def __getattr__(self, name: str) -> "Absent":
        if name.startswith("__"):
            raise AttributeError(name)
        if name in _SIZES:
            raise TypeError(f"{name} of a removed block: its output has none; this block must stay.")
        return Absent()

    def __iter__(self) -> Iterator["Absent"]:
        if not self._parts:
            raise TypeError("iterating over a removed block: its output has no length; this block must stay.")
        return iter([Absent() for _ in range(self._parts)])

    def __bool__(self) -> bool:
        raise TypeError("testing a removed block: its output has no value; this block must stay.")


_SUMS = frozenset(
    {torch.add, torch.Tensor.add, torch.Tensor.add_, torch.Tensor.__add__, torch.Tensor.__radd__, torch.Tensor.__iadd__}
)
_JOINS = frozenset({torch.cat, torch.concat, torch.concatenate})
_SIZES = frozenset({"shape", "size", "dim", "ndim", "numel", "dtype", "device", "item", "tolist"})


class Removed(nn.Module):
    """Stands where a module was; computes nothing.

    Args:
        parts: How many values the module returned; 0 for a bare one.
    """

    def __init__(self, parts: int = 0) -> None:
        super().__init__()
        self.parts = parts

    def forward(self, *args: Any, **kwargs: Any) -> Absent:
        """Return an `Absent`, whatever comes in."""
        return Absent(self.parts)

    def extra_repr(self) -> str:
        """How many values it stands for, if several."""
        return f"parts={self.parts}" if self.parts else ""
