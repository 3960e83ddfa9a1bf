"""Gated convolutions, and those that read them, in standard operators of ONNX: what they are exported as."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional

from squeeze.nn.convolving import Convolving
from squeeze.nn.gates import Controller, Sent, Signal, binarised, over_positions, tell
from squeeze.nn.onnx_costs import Form, Sizes, form_of


class ReadingOnnx(Convolving):
    """A convolution that reads a gated tensor, in eval mode.

    Args:
        layer: Its tensors are shared, but for those that a batch norm is folded into, and its wires.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, layer: Convolving) -> None:
        super().__init__(layer.conv, layer.norm)
        self.source, self.sink = layer.source, layer.sink
        with torch.no_grad():
            weight, bias = layer.folded()
            bias = weight.new_zeros(weight.shape[0]) if bias is None else bias
        # What is folded here need not be traced.
        self.register_buffer("weight", weight.detach(), persistent=False)
        self.register_buffer("bias", bias.detach(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, c, H, W) to (B, N, H', W')."""
        sent = self.sent(x)
        return self.convolved(x, None, None if sent is None else sent.present)

    def convolved(self, x: Tensor, rows: Tensor | None, present: Tensor | None, transposed: bool = False) -> Tensor:
        """Some filters of some channels: (B, c, H, W) to (B, n, H', W').

        Args:
            x: What is read.
            rows: (n,) of the filters; None for all.
            present: (c,) which channels x holds; None for all.
            transposed: By a transposed convolution.
        """
        conv, bias = self.conv, self.bias if rows is None else self.bias.index_select(0, rows)
        if transposed:
            weight = picked(self.weight.transpose(0, 1).flip(2, 3), present, rows)
            edges = [dilation * (kernel - 1) - padding for kernel, dilation, padding in _sides(conv)]
            return functional.conv_transpose2d(x, weight, bias, padding=edges, dilation=conv.dilation)
        weight, padding = picked(self.weight, rows, present), conv.padding
        if conv.padding_mode != "zeros":
            x, padding = functional.pad(x, conv._reversed_padding_repeated_twice, mode=conv.padding_mode), (0, 0)
        return functional.conv2d(x, weight, bias, conv.stride, padding, conv.dilation)


class GatedOnnx(ReadingOnnx):
    """A gated convolution in eval mode; whoever observes it is told.

    Args:
        layer: As of a reader.
        gate: Its controller.
    """

    def __init__(self, layer: Convolving, gate: Controller) -> None:
        super().__init__(layer)
        self.gate = gate

    def forward(self, x: Tensor) -> Tensor:
        """(B, c, H, W) to (B, N, H', W'), with fewer channels where that pays."""
        sent = self.sent(x)
        present = None if sent is None else sent.present
        logits = self._logits(x, present)
        code = binarised(logits, training=False)
        tell(self, Signal(logits, code))
        form = self._form(x, present is not None)
        if form.way == "all":
            return self._sending(Sent(logits), self.convolved(x, None, present) * over_positions(code))
        used = code.amax(0)
        on = used >= used.max()  # all of them if none is on
        rows = on.nonzero().flatten()
        y = self.convolved(x, rows, present, form.way == "transposed")
        if form.narrow:
            return self._sending(Sent(logits, rows), y * over_positions(code.index_select(1, rows)))
        places = on.long().cumsum(0).sub(1).clamp(min=0)  # the code makes 0 of what lies where a filter is off
        return self._sending(Sent(logits), y.index_select(1, places) * over_positions(code))

    def _logits(self, x: Tensor, present: Tensor | None) -> Tensor:
        """As the controller's own; rows of a transposed weight are picked faster than columns."""
        reduce, expand = self.gate.reduce, self.gate.expand
        pooled = x.mean((2, 3))
        if present is None:
            hidden = reduce(pooled)
        else:
            hidden = torch.addmm(reduce.bias, pooled, reduce.weight.t().index_select(0, present))
        logits: Tensor = expand(hidden.relu())
        return logits

    def _form(self, x: Tensor, comes_narrow: bool) -> Form:
        conv, sink = self.conv, self.sink
        sizes = Sizes.of(conv, x.shape[2], x.shape[3])
        # Of a depthwise convolution, which may follow, the number of groups must be known.
        readers = None if sink is None or sink.depthwise else sink.reading
        return form_of(sizes, comes_narrow, readers, can_transpose(conv))


def picked(weight: Tensor, first: Tensor | None, second: Tensor | None) -> Tensor:
    """Some of the rows and columns of a weight: (A, B, K, K) to (a, b, K, K).

    ONNX Runtime copies a row at once, columns number by number: of 1×1 kernels, columns are rows of the transpose.

    Args:
        weight: Known when the model is exported.
        first: (a,) along dim 0; None for all.
        second: (b,) along dim 1; None for all.
    """
    if second is None:
        return weight if first is None else weight.index_select(0, first)
    if weight[0, 0].numel() == 1:
        flat = weight.flatten(1)
        flat = flat if first is None else flat.index_select(0, first)
        return flat.t().index_select(0, second).t()[:, :, None, None]
    weight = weight if first is None else weight.index_select(0, first)
    return weight.index_select(1, second)


def can_transpose(conv: nn.Conv2d) -> bool:
    """A transposed convolution of the flipped weight computes the same."""
    if conv.padding_mode != "zeros" or isinstance(conv.padding, str) or set(conv.stride) != {1}:
        return False
    return max(conv.kernel_size) > 1 and all(0 <= p <= d * (k - 1) for k, d, p in _sides(conv))


def _sides(conv: nn.Conv2d) -> Iterable[tuple[int, int, int]]:
    """Kernel size, dilation and padding in numbers, along height and width."""
    return zip(conv.kernel_size, conv.dilation, map(int, conv.padding), strict=True)
