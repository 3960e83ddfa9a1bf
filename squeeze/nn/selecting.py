"""Layers that read some of their inputs only: a selection in front of a narrower layer."""

from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from squeeze.copying import layout
from squeeze.errors import InputError


class Selecting(nn.Module):
    """What the layers below have in common with each other: which of its inputs a layer reads.

    Such a layer takes as wide a tensor as before, picks the inputs that it reads, and is otherwise an ordinary layer
    with a narrower weight: the same keys in its state, the same gradients, the same operators. Neighbouring inputs are
    a view; only others are gathered, which costs a copy of what is read.

    Attributes:
        reads: (inputs,) bool, which inputs are read.
        index: (inputs that are read,) int64, their numbers.
        span: (first, number) of these if they are neighbours, else None.
    """

    reads: Tensor
    index: Tensor
    weight: Tensor
    span: tuple[int, int] | None

    def forward(self, input: Tensor, *args: Any, **kwargs: Any) -> Any:
        """As the ordinary layer, of the inputs that are read."""
        return super().forward(self.selected(input), *args, **kwargs)

    def selected(self, x: Tensor) -> Tensor:
        """The inputs that are read: (…, inputs, positions …) to (…, inputs that are read, positions …)."""
        dim = 1 - self.weight.dim()
        if x.shape[dim] != len(self.reads):
            raise InputError(
                f"{type(self).__name__}: must be given {len(self.reads)} inputs, got {x.shape[dim]} in dim {dim} of "
                f"{tuple(x.shape)}; use the plan's own architecture."
            )
        if self.span is None:
            return x.index_select(dim, self.index)
        return x if self.span[1] == len(self.reads) else x.narrow(dim, *self.span)

    def settle(self) -> None:
        """Follow `reads`, of which inputs were cut."""
        self.index = self.reads.nonzero().flatten()
        first, count = int(self.index[0]), len(self.index)
        self.span = (first, count) if int(self.index[-1]) - first + 1 == count else None
        # It takes as many inputs as before, and code that asks for their number means that.
        setattr(self, "in_features" if isinstance(self, nn.Linear) else "in_channels", len(self.reads))

    def extra_repr(self) -> str:
        """The ordinary layer's, and how many of the inputs are read."""
        return f"{super().extra_repr()}, reads={len(self.index)}"


class SelectLinear(Selecting, nn.Linear):
    """A linear layer that reads some of its features."""


class SelectConv1d(Selecting, nn.Conv1d):
    """A 1-D convolution that reads some of its channels."""


class SelectConv2d(Selecting, nn.Conv2d):
    """A 2-D convolution that reads some of its channels."""


class SelectConv3d(Selecting, nn.Conv3d):
    """A 3-D convolution that reads some of its channels."""


class SelectConvTranspose1d(Selecting, nn.ConvTranspose1d):
    """A transposed 1-D convolution that reads some of its channels."""


class SelectConvTranspose2d(Selecting, nn.ConvTranspose2d):
    """A transposed 2-D convolution that reads some of its channels."""


class SelectConvTranspose3d(Selecting, nn.ConvTranspose3d):
    """A transposed 3-D convolution that reads some of its channels."""


SELECTABLE = MappingProxyType(
    {
        nn.Linear: SelectLinear,
        nn.Conv1d: SelectConv1d,
        nn.Conv2d: SelectConv2d,
        nn.Conv3d: SelectConv3d,
        nn.ConvTranspose1d: SelectConvTranspose1d,
        nn.ConvTranspose2d: SelectConvTranspose2d,
        nn.ConvTranspose3d: SelectConvTranspose3d,
    }
)
"""What layers become that read fewer inputs. Of exactly these classes: others may do more in their forward."""


def reading_dim(layer: nn.Module) -> int | None:
    """The dim of a layer's weight that reads its inputs, if it can read fewer of them; else None."""
    known = isinstance(layer, Selecting) or type(layer) in SELECTABLE
    own = isinstance(layer._parameters.get("weight"), nn.Parameter) and "forward" not in vars(layer)
    if not known or not own or getattr(layer, "groups", 1) != 1:
        return None
    return 0 if getattr(layer, "transposed", False) else 1


def selecting(layer: nn.Module, kept: np.ndarray) -> nn.Module:
    """A layer that reads fewer inputs, with the weights of the given one, which is left as it is.

    Args:
        layer: One with a `reading_dim`, which may select already.
        kept: (inputs that its weight reads,) bool, True where it still does; one at least.

    Returns:
        The layer itself if all are kept.
    """
    weight: Any = layer._parameters["weight"]
    if kept.all():
        return layer
    index = torch.as_tensor(np.flatnonzero(kept), device=weight.device)
    made: Any = object.__new__(type(layer) if isinstance(layer, Selecting) else SELECTABLE[type(layer)])
    vars(made).update(vars(layer))
    made._parameters, made._buffers = dict(layer._parameters), dict(layer._buffers)
    made._non_persistent_buffers_set = set(layer._non_persistent_buffers_set)
    with torch.no_grad():
        narrow = weight.detach().index_select(reading_dim(layer), index).contiguous(memory_format=layout(weight))
    made._parameters["weight"] = nn.Parameter(narrow, requires_grad=weight.requires_grad)
    before = layer.index if isinstance(layer, Selecting) else torch.arange(len(kept), device=weight.device)
    reads = torch.zeros(
        len(layer.reads) if isinstance(layer, Selecting) else len(kept), dtype=torch.bool, device=weight.device
    )
    reads[before[index]] = True
    made.register_buffer("reads", reads, persistent=False)
    made.register_buffer("index", before[index], persistent=False)
    made.settle()
    narrowed: nn.Module = made
    return narrowed
