"""What stands where a module was.

A removed one returns nothing, in a form that the code around it carries to the sum or join it ends in.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as every


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
        named = dict(kwargs or {})
        if func in _SUMS:
            return _sum(func, *args, **named)
        if func in _JOINS:
            parts = args[0] if args else named.pop("tensors")
            present = [part for part in parts if not isinstance(part, Absent)]
            return func(present, *args[1:], **named) if present else cls()
        return cls()

    def _absorb(self, *args: Any, **kwargs: Any) -> "Absent":
        return Absent()

    def __add__(self, other: Any, *, alpha: float = 1) -> Any:
        return _sum(torch.add, self, other, alpha=alpha)

    __radd__ = __iadd__ = add = add_ = __add__
    __sub__ = __rsub__ = __isub__ = __mul__ = __rmul__ = __imul__ = __matmul__ = __rmatmul__ = _absorb
    __truediv__ = __rtruediv__ = __itruediv__ = __pow__ = __neg__ = __getitem__ = __call__ = _absorb

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


def _sum(func: Callable[..., Any], input: Any, other: Any, *, alpha: float = 1) -> Any:
    """What is left of ``input + alpha · other``.

    It is a tensor of its own, as a sum is: the code around it may write into it.
    """
    if isinstance(input, Tensor):
        return input if func in _IN_PLACE else input.clone()
    if isinstance(other, Tensor):
        return other.clone() if alpha == 1 else other * alpha
    return Absent()


_IN_PLACE = frozenset({torch.Tensor.add_, torch.Tensor.__iadd__})
_SUMS = frozenset({torch.add, torch.Tensor.add, torch.Tensor.__add__, torch.Tensor.__radd__, *_IN_PLACE})
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


class Passing(nn.Module):
    """Stands around a module without weights, such as a drop path: what was removed comes no further.

    In training such a module may ask for the shape of what it is given, and a removed module's output has none.

    Args:
        inner: Does as before with whatever is there.
    """

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the inner module returns; an `Absent` if all there is to compute with is absent."""
        given = [*args, *kwargs.values()]
        if any(isinstance(value, Absent) for value in given) and not any(isinstance(value, Tensor) for value in given):
            return Absent()
        return self.inner(*args, **kwargs)


class Moved(nn.Identity):
    """Stands where a module was that another one now holds, such as a batch norm that a convolution took in.

    torch's way of calling a module takes longer than some small convolutions with few filters; here it is taken only
    if there are hooks.
    """

    def __call__(self, input: Tensor) -> Tensor:
        """The input."""
        if (
            self._forward_hooks
            or self._forward_pre_hooks
            or self._backward_hooks
            or self._backward_pre_hooks
            or every._has_any_global_hook()
        ):
            return super().__call__(input)
        return input
