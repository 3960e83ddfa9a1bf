"""What gated convolutions and those around them have in common: some filters of some channels."""

from collections.abc import Iterator
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from squeeze.errors import InputError
from squeeze.kernels.gated import Filters, GatedOperands
from squeeze.kernels.kept import KeptFilters, Place
from squeeze.nn.folding import Folded
from squeeze.nn.gates import Sent, Wire, asked_for
from squeeze.nn.speeds import Speeds

_COUNTS = "num_batches_tracked"
"""The one tensor of theirs that nothing is computed from in eval mode."""
_SETTINGS = ("stride", "padding", "dilation", "padding_mode", "groups", "eps")
"""What convolutions and batch norms compute with besides tensors."""


class Convolving(nn.Module):
    """A convolution, the batch norm behind it, and the wires to what lies before and behind.

    Attributes:
        conv: The convolution.
        norm: The batch norm that its output goes into, and nothing else does; None for none.
        source: From the gated convolution that made its input, if all of that is gated.
        sink: To those who read its output, if all of them know what to do with fewer channels.
    """

    norm: nn.BatchNorm2d | None

    def __init__(self, conv: nn.Conv2d, norm: nn.BatchNorm2d | None = None) -> None:
        super().__init__()
        self.conv = conv
        self.register_module("norm", norm)
        self.source: Wire | None = None
        self.sink: Wire | None = None
        self._folded, self._native, self.speeds = Folded(), KeptFilters(), Speeds()

    def train(self, mode: bool = True) -> Self:
        """What is kept of the weights is made anew: they may have changed through `.data`, which nothing tells of."""
        self._folded, self._native = Folded(), KeptFilters()
        return super().train(mode)

    @property
    def learning(self) -> bool:
        """In train mode, or its batch norm is, whose statistics must then see all that it normalises."""
        norm = self._modules["norm"]
        return self.training or (norm is not None and norm.training)

    def filters(self, x: Tensor, rows: Tensor | None, present: Tensor | None) -> Tensor:
        """Some filters of some channels, by PyTorch, in eval mode: (B, c, H, W) to (B, n, H', W'); None for all."""
        return self._convolved(x, *self.folded(), rows, present)

    def folded(self) -> tuple[Tensor, Tensor | None]:
        """Weight and bias of the convolution with its batch norm, in eval mode."""
        return self._folded.get(self.conv, self.norm)

    def native(self, x: Tensor) -> Filters | None:
        """The native kernel for inputs like this one, if there is one."""
        if x.dtype is not torch.float32 or not x.is_cpu or x.dim() != 4 or not x.numel():
            return None
        return self._native.get(self._operands, self._places)

    def _places(self) -> Iterator[Place]:
        """Where all is that it is made of; past nn.Module.__getattr__, which takes as long as all else that is done."""
        modules = [self._modules]
        for own in modules:
            for name, module in own.items():
                yield own, name, module
                if module is not None:
                    modules.append(module._modules)
                    for held in (module._parameters, module._buffers):
                        yield from ((held, name, value) for name, value in held.items() if name != _COUNTS)
                    said = vars(module)
                    yield from ((said, name, said[name]) for name in _SETTINGS if name in said)

    def _operands(self) -> GatedOperands | None:
        conv = self.conv
        if conv.padding_mode != "zeros" or isinstance(conv.padding, str) or "weight" not in conv._parameters:
            return None
        weight, bias = self.folded()
        padding = tuple(int(side) for side in conv.padding)
        return GatedOperands(weight, bias, conv.stride, padding, conv.dilation, conv.groups, self.controller())

    def controller(self) -> tuple[Tensor, Tensor, Tensor, Tensor] | None:
        """Weight and bias of the two layers that decide, if there is a gate."""
        return None

    def sent(self, x: Tensor) -> Sent | None:
        """What came with the input."""
        sent = None if self.source is None else self.source.received()
        if sent is not None and sent.present is not None and not torch.compiler.is_exporting():
            if x.shape[1] != len(sent.present):
                raise InputError(
                    f"{type(self).__name__}: must read what the gated convolution before it made ({len(sent.present)} "
                    f"channels), got {x.shape[1]} channels; run the whole model."
                )
        return sent

    def _sending(self, sent: Sent, y: Tensor) -> Tensor:
        """The output, after those that read it are told what is on."""
        if self.sink is not None:
            self.sink.send(sent)
        return y

    def plain(self, x: Tensor, present: Tensor | None = None) -> Tensor:
        """All filters, by the modules as they are."""
        y = self.conv(x) if present is None else self._convolved(x, self.conv.weight, self.conv.bias, None, present)
        return y if self.norm is None else self.norm(y)

    def quickest(self, x: Tensor, rows: Tensor | None, present: Tensor | None) -> Tensor:
        """As `filters`, of a narrow input: by PyTorch, or natively if that was measured to be faster."""
        native = self.native(x) if quick() else None
        if native is None:
            return self.filters(x, rows, present)
        ways = {
            "PyTorch": lambda: self.filters(x, rows, present),
            "native": lambda: native.convolve(x, rows, present, scatter=False),
        }
        return ways[self.speeds.fastest(x, ways)]()

    def _convolved(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, rows: Tensor | None, present: Tensor | None
    ) -> Tensor:
        conv, groups, padding = self.conv, self.conv.groups, self.conv.padding
        if rows is not None:
            weight, bias = weight.index_select(0, rows), None if bias is None else bias.index_select(0, rows)
            groups = 1 if groups == 1 else weight.shape[0]
        if present is not None and conv.groups == 1:
            weight = weight.index_select(1, present)
        if conv.padding_mode != "zeros":
            x, padding = functional.pad(x, conv._reversed_padding_repeated_twice, mode=conv.padding_mode), (0, 0)
        return functional.conv2d(x, weight, bias, conv.stride, padding, conv.dilation, groups)


@torch.no_grad()
def with_norms_folded(model: nn.Module) -> nn.Module:
    """The model, in eval mode, with the batch norms in our convolutions folded into their weights; changes the model.

    A program that is exported would do that anew in each call.
    """
    for layer in model.modules():
        if not isinstance(layer, Convolving) or layer.norm is None:
            continue
        if "weight" in layer.conv._parameters:  # it is not computed by a parametrization
            weight, bias = layer.folded()
            layer.conv.weight, layer.conv.bias = nn.Parameter(weight), None if bias is None else nn.Parameter(bias)
            layer.norm = None
    return model


def partly_computed(model: nn.Module) -> frozenset[nn.Module]:
    """The convolutions of which modules of ours take filters and channels past their forward: they stay what they are.

    A later pass may cut them, but not put others in their place.
    """
    return frozenset(layer.conv for layer in model.modules() if isinstance(layer, Convolving))


def quick() -> bool:
    """Nothing is recorded, counted or traced, and nobody asked for another way than the fastest."""
    return not (
        torch.is_grad_enabled()
        or torch.compiler.is_compiling()
        or torch.compiler.is_exporting()
        or torch.jit.is_tracing()  # type: ignore[attr-defined]
        or is_in_torch_dispatch_mode()
        or asked_for() != "fastest"
    )
