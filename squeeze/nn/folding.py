"""A batch norm folded into the convolution before it, kept as long as neither changes."""

from typing import Any

import torch
from torch import Tensor, nn


class Folded:
    """Weight and bias of a convolution that computes what it and its batch norm compute in eval mode."""

    def __init__(self) -> None:
        self._state: tuple[float, ...] = ()
        self._tensors: tuple[Tensor, Tensor | None] | None = None
        self._held: tuple[Tensor, ...] = ()

    def __deepcopy__(self, memo: Any) -> "Folded":
        return Folded()

    def __reduce__(self) -> Any:
        return Folded, ()

    def get(self, conv: nn.Conv2d, norm: nn.BatchNorm2d | None) -> tuple[Tensor, Tensor | None]:
        """(N, C / groups, K, K) and (N,), without gradients."""
        if norm is None:
            return conv.weight, conv.bias
        computed = "weight" not in conv._parameters  # by a parametrization, anew each time
        if computed or torch.compiler.is_compiling() or torch.compiler.is_exporting():
            return _folded(conv, norm)
        made_of = (conv.weight, conv.bias, norm.weight, norm.bias, norm.running_mean, norm.running_var)
        tensors = [t for t in made_of if t is not None]
        try:
            state = (norm.eps, *[number for t in tensors for number in (t.data_ptr(), t._version)])
        except RuntimeError:  # tensors made in inference mode do not say when they change
            return _folded(conv, norm)
        if self._tensors is None or state != self._state:
            # Memory that is held is not given to other tensors, which would look the same.
            self._held = tuple(t.detach() for t in tensors)
            self._state, self._tensors = state, _folded(conv, norm)
        return self._tensors


@torch.no_grad()
def _folded(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    if norm.running_mean is None or norm.running_var is None:
        raise TypeError("a batch norm without running statistics cannot be folded")
    scale = (norm.running_var + norm.eps).rsqrt()
    scale = scale if norm.weight is None else scale * norm.weight
    shift = -norm.running_mean if conv.bias is None else conv.bias - norm.running_mean
    bias = shift * scale if norm.bias is None else shift * scale + norm.bias
    return conv.weight.detach() * scale[:, None, None, None], bias.detach()
