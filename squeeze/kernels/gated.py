"""Convolutions of which some filters are computed, on the channels that are there, without copying weights."""

import ctypes
import threading
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from squeeze.kernels.native import Code, GatedCall, GatedLayer, GatedSite, code

LANES = 16
"""The controller's weights end in zeros up to a multiple of these floats: the longest vector."""
SIZES = 64
"""Of inputs that a thread remembers."""


@dataclass(frozen=True, eq=False)
class GatedOperands:
    """A convolution and what decides which of its filters are on.

    Attributes:
        weight: (N, C / groups, K, K'), with a batch norm folded in if there is one.
        bias: (N,) or None.
        stride: Two numbers, as are the next two.
        padding: Zeros on either side.
        dilation: Distance between taps.
        groups: 1, or C = N for a depthwise convolution.
        controller: Weight (h, C) and bias of the layer that reads the channels' means, weight (N, h) and bias of the
            one that gives logits, a ReLU between; None for a convolution without a gate.
    """

    weight: Tensor
    bias: Tensor | None
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int = 1
    controller: tuple[Tensor, Tensor, Tensor, Tensor] | None = None


def available() -> bool:
    """The package was built with a native kernel that runs here."""
    return code() is not None


def why_not(operands: GatedOperands) -> str:
    """Why no native kernel computes this convolution; "" if one can."""
    of = operands
    if not available():
        return "squeeze was installed without a C++ compiler, or its kernel is another version's: install it again"
    tensors = [of.weight, *([] if of.bias is None else [of.bias]), *(of.controller or ())]
    if any(t.dtype is not torch.float32 or t.device.type != "cpu" for t in tensors):
        return "its weights are not float32 on the CPU"
    if of.groups != 1 and (of.groups != len(of.weight) or of.weight.shape[1] != 1):
        return "it has groups of several channels"
    return ""


@dataclass(frozen=True, eq=False, slots=True)
class Ready:
    """What calls for inputs of one batch and size in one thread have in common.

    Attributes:
        site: What the kernel is told, but for the tensors of one call.
        at: Its address.
        shape: Of an output with all filters.
        strides: Of that.
        logits: (batch, N), written by each call if there is a controller.
        rows: (N,) int64, all at first; written likewise.
        first: The first so many of `rows`, by how many.
    """

    site: GatedSite
    at: int
    shape: tuple[int, int, int, int]
    strides: tuple[int, ...]
    logits: Tensor
    rows: Tensor
    first: dict[int, Tensor]


class Readied(threading.local):
    """By batch, height and width; each thread has its own."""

    def __init__(self) -> None:
        self.known: dict[tuple[int, ...], Ready] = {}


class Filters:
    """A convolution, ready for one code.

    The input is (batch, c, H, W) float32 on the CPU: c = C channels, or those in `present`, (c,) int64 in ascending
    order, the others being 0. Outputs hold n filters side by side, or, scattered, all N with zeros for those that are
    not computed. There are no gradients. A depthwise convolution reads a channel for each filter: give `rows` alone.

    Args:
        operands: The convolution; `why_not` must have nothing against it.
        native: For which code.
    """

    def __init__(self, operands: GatedOperands, native: Code) -> None:
        filters, channels, *kernel = operands.weight.shape
        self.depthwise = operands.groups > 1
        self._channels = filters if self.depthwise else channels
        self._code, self._all, self._gated = native, torch.arange(filters, device="cpu"), native.gated
        self._layer = GatedLayer(filters=filters, channels=self._channels, depthwise=self.depthwise)
        for name, pair in (
            ("kernel", kernel),
            ("stride", operands.stride),
            ("padding", operands.padding),
            ("dilation", operands.dilation),
        ):
            setattr(self._layer, name, tuple(pair))
        self._arrays = {"weight": operands.weight.detach().contiguous()}
        if operands.bias is not None:
            self._arrays["bias"] = operands.bias.detach().contiguous()
        self._decides = operands.controller is not None
        if operands.controller is not None:
            self._arrays |= self._controller(*operands.controller)
        for name, tensor in self._arrays.items():
            setattr(self._layer, name, tensor.data_ptr())
        self._calls: dict[tuple[int, ...], GatedCall] = {}
        self._readied = Readied()

    def _controller(
        self, reduce: Tensor, reduce_bias: Tensor, expand: Tensor, expand_bias: Tensor
    ) -> dict[str, Tensor]:
        """Its weights by input, so that vectors run over outputs."""
        arrays = {"reduce": reduce.t(), "reduce_bias": reduce_bias, "expand": expand.t(), "expand_bias": expand_bias}
        padded = {
            name: functional.pad(t.detach(), (0, -t.shape[-1] % LANES)).contiguous() for name, t in arrays.items()
        }
        self._layer.hidden = len(reduce)
        self._layer.hidden_padded, self._layer.filters_padded = (len(padded[n]) for n in ("reduce_bias", "expand_bias"))
        return padded

    def convolve(self, x: Tensor, rows: Tensor | None, present: Tensor | None, scatter: bool) -> Tensor:
        """Some filters, for all of the batch: (batch, n, H', W'), or (batch, N, H', W') if scattered.

        Args:
            x: The input.
            rows: (n,) int64 in ascending order, which filters; None for all.
            present: Which channels the input holds; None for all.
            scatter: All filters get a place in the output.

        Raises:
            ValueError: If the input, `rows` or `present` do not fit the convolution.
        """
        rows = self._all if rows is None else _listed(rows, "rows")
        x, present = self._read(x, rows if self.depthwise else present)
        call = self._call(x, present)
        y = x.new_empty(x.shape[0], self._layer.filters if scatter else len(rows), call.out_height, call.out_width)
        call.output, call.rows, call.count, call.scatter = y.data_ptr(), rows.data_ptr(), len(rows), scatter
        self._code.run_gated("rows", self._layer, call, torch.get_num_threads())
        return y

    def logits(self, x: Tensor, present: Tensor | None) -> Tensor:
        """(batch, N) what the controller says."""
        self._require_controller()
        x, present = self._read(x, present)
        call, logits = self._call(x, present), x.new_empty(x.shape[0], self._layer.filters)
        call.logits = logits.data_ptr()
        self._code.run_gated("logits", self._layer, call, torch.get_num_threads())
        return logits

    def gated(self, x: Tensor, present: Tensor | None, scatter: bool) -> tuple[Tensor, Tensor, Tensor, int]:
        """The controller, then the filters that it leaves on.

        Returns:
            The output, in which a filter is 0 for those samples that it is off for; the logits (batch, N); (n,) int64,
            the filters with a logit above 0 for some sample, or filter 0 alone where there is none; and how many are on
            for some sample. Logits and filters lie in memory that the next call for this batch and size in this thread
            writes to.

        Raises:
            ValueError: If the input or `present` do not fit the convolution, or it has no controller.
        """
        self._require_controller()
        y, ready, on = self._run(x, present, scatter)
        count = on or 1
        if not scatter and count < ready.shape[1]:
            batch, _, height, width = ready.shape
            y.resize_(batch, count, height, width)
        rows = ready.first.get(count)
        if rows is None:
            rows = ready.first[count] = ready.rows[:count]
        return y, ready.logits, rows, on

    def read(self, x: Tensor, present: Tensor | None) -> Tensor:
        """All filters of a convolution without a controller, (batch, N, H', W'): `convolve` by a shorter road.

        Raises:
            ValueError: If the input or `present` do not fit the convolution, or it has a controller.
        """
        if self._decides:
            raise ValueError("Filters: must have no controller to be read as a whole, got one; call gated.")
        return self._run(x, present, False)[0]

    def _run(self, x: Tensor, present: Tensor | None, scatter: bool) -> tuple[Tensor, Ready, int]:
        """With room for all filters; and how many are on."""
        come = None
        if present is not None:
            present = _listed(present, "present")
            come = present.data_ptr()
        x = self._fitting(x, present)
        batch, reads, height, width = x.shape
        ready = self._readied.known.get((batch, height, width))
        if ready is None:
            ready = self._ready(x)
        y = x.new_empty_strided(ready.shape, ready.strides)  # whatever the defaults for new tensors are
        on = self._gated(ready.at, x.data_ptr(), y.data_ptr(), come, reads, scatter, torch.get_num_threads())
        if on < 0:
            raise self._code.refused(on, self._layer)
        return y, ready, on

    def _ready(self, x: Tensor) -> Ready:
        known, batch, filters = self._readied.known, x.shape[0], self._layer.filters
        call, logits, rows = self._call(x, None), x.new_empty(batch, filters), self._all.clone()
        call.rows, call.count = rows.data_ptr(), filters
        if self._decides:
            call.logits = logits.data_ptr()
        site = self._code.site(self._layer, call)
        height, width = call.out_height, call.out_width
        strides = (filters * height * width, height * width, width, 1)
        ready = Ready(site, ctypes.addressof(site), (batch, filters, height, width), strides, logits, rows, {})
        if len(known) >= SIZES:
            known.clear()
        known[batch, x.shape[2], x.shape[3]] = ready
        return ready

    def _require_controller(self) -> None:
        if not self._decides:
            raise ValueError(
                "Filters: must have a controller to give logits, got none; give its weights in GatedOperands."
            )

    def _read(self, x: Tensor, present: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The input and the list of its channels, as the kernel reads them."""
        present = None if present is None else _listed(present, "present")
        return self._fitting(x, present), present

    def _fitting(self, x: Tensor, present: Tensor | None) -> Tensor:
        reads = self._channels if present is None else len(present)
        if x.dtype is not torch.float32 or not x.is_cpu or x.dim() != 4 or x.shape[1] != reads:
            raise ValueError(
                f"Filters: the input must be (batch, {reads}, H, W) float32 on the CPU, got {tuple(x.shape)} "
                f"{x.dtype} on {x.device}; convolve it with PyTorch."
            )
        return x.contiguous()

    def _call(self, x: Tensor, present: Tensor | None) -> GatedCall:
        """A call without its output."""
        found = self._calls.get(x.shape)
        if found is None:
            batch, reads, *sides = x.shape
            tall, wide = (self._side(side, i) for i, side in enumerate(sides))
            if len(self._calls) >= SIZES:
                self._calls.clear()
            found = self._calls[x.shape] = GatedCall(
                images=batch, reads=reads, height=sides[0], width=sides[1], out_height=tall, out_width=wide
            )
        call = GatedCall.from_buffer_copy(found)
        call.input = x.data_ptr()
        if present is not None:
            call.present = present.data_ptr()
        return call

    def _side(self, side: int, i: int) -> int:
        layer = self._layer
        reach = layer.dilation[i] * (layer.kernel[i] - 1) + 1
        size: int = (side + 2 * layer.padding[i] - reach) // layer.stride[i] + 1
        if size <= 0:
            raise ValueError(
                f"Filters: must have an input of {reach - 2 * layer.padding[i]} positions at least, got {side}."
            )
        return size


def _listed(numbers: Tensor, name: str) -> Tensor:
    if numbers.dtype is not torch.int64 or not numbers.is_cpu or numbers.dim() != 1:
        raise ValueError(
            f"Filters: {name} must be a list of int64 on the CPU, got {tuple(numbers.shape)} {numbers.dtype} on "
            f"{numbers.device}."
        )
    return numbers.contiguous()
