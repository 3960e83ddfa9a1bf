"""Convolutions that compute, for each input anew, only the filters that a gate leaves on."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from squeeze.copying import layout
from squeeze.errors import InputError
from squeeze.kernels.gated import Filters
from squeeze.nn.convolving import Convolving, quick
from squeeze.nn.gated_onnx import GatedOnnx, ReadingOnnx
from squeeze.nn.gates import Controller, Sent, Signal, asked_for, binarised, observed, over_positions, tell
from squeeze.nn.speeds import ALL, Way, seconds

EXPORTED_FROM = 5_000_000
"""Multiply-accumulates from which a convolution in an exported program (.pt2) computes only filters that are on: with
smaller ones PyTorch takes longer to pick weights than it saves. ONNX has forms of its own."""


class GatedConv2d(Convolving):
    """A convolution with a gate for each filter (Li et al., ECCV 2020): y = z ⊙ norm(conv(x)), z from x.

    In training, with gradients, under torch.compile and torch.jit.trace, and wherever `computing("masked")` says so,
    all filters are computed, and multiplied by the code. In eval mode without gradients, those that are off need not
    be computed; if `sink` is there, the output then holds those channels only that are on for some sample. What is
    faster is measured, in the first call of a shape, for this one convolution. A code without any filter is allowed:
    the output is all 0.

    Args:
        conv: In one group; kept.
        norm: The batch norm behind it; kept.
        hidden: Width of the controller's bottleneck.
        relu: A ReLU follows, and nothing else reads the output: responses are means of what it lets through.
    """

    def __init__(self, conv: nn.Conv2d, norm: nn.BatchNorm2d | None, hidden: int, relu: bool = False) -> None:
        super().__init__(conv, norm)
        self.gate = Controller(conv.in_channels, conv.out_channels, hidden).to(conv.weight.device, conv.weight.dtype)
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, N, H', W'); with fewer channels where `sink` is there."""
        learning = self.learning
        if not learning and quick():
            y = self._natively(x)
            if y is not None:
                return y
        sent = self.sent(x)
        present = None if sent is None else sent.present
        exporting = torch.compiler.is_exporting()
        whole = torch.is_grad_enabled() or torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined]
        whole = whole or asked_for() == "masked"
        if learning or (not exporting and (whole or not len(x))):  # of no samples there is nothing to be skipped
            return self._masked(self.plain(x, present), self.gate(x, present))
        if exporting or asked_for() != "fastest" or is_in_torch_dispatch_mode():
            logits = self._told(self.gate(x, present))
            if exporting and not self._exports_narrow(x):
                return self._everything(x, logits, present)
            return self._apart(x, logits, sent) if asked_for() == "apart" else self._narrow(x, logits, present)
        return self._fastest(x, sent)

    def _told(self, logits: Tensor) -> Tensor:
        """The logits, in eval mode; whoever observes is told."""
        if observed():
            tell(self, Signal(logits, binarised(logits, training=False)))
        return logits

    def _masked(self, y: Tensor, logits: Tensor) -> Tensor:
        """All filters (B, N, H', W'), multiplied by the code."""
        code = binarised(logits, self.training)
        if observed():
            tell(self, Signal(logits, code, (y.relu() if self.relu else y).mean((2, 3)) if self.training else None))
        return self._sending(Sent(logits, soft=code), y * over_positions(code))

    def _narrow(self, x: Tensor, logits: Tensor, present: Tensor | None) -> Tensor:
        """Only filters that are on for some sample."""
        code = binarised(logits, training=False)
        rows, exact = _on(code)
        y = self.filters(x, rows, present)
        if not exact:
            y = y * over_positions(code.index_select(1, rows))
        return _scattered(y, rows, code) if self.sink is None else self._sending(Sent(logits, rows, exact), y)

    def _natively(self, x: Tensor) -> Tensor | None:
        """By the kernel, if that is known to promise most; before anything is known of the code.

        With small layers every microsecond of Python counts: there is a second, slower road to the same.
        """
        kept, source, sink = self._native, self.source, self.sink
        if not kept.unchanged() or not x.is_cpu or x.dim() != 4:
            return None
        sent = None if source is None else source.received()
        present = None if sent is None else sent.present
        speed, native = self.speeds.known(x, present is not None), kept.filters
        if native is None or speed is None or speed.way != "native":
            return None
        if self._hooked() or (present is not None and present.shape[0] != x.shape[1]):
            return None
        y, logits, rows, on = native.gated(x, present, sink is None)
        speed.saw(on / logits.shape[1])
        if observed():
            self._told(logits.clone())
        if sink is not None:
            sink.send(Sent(logits, rows, on > 0 and logits.shape[0] == 1))
        return y

    def _fastest(self, x: Tensor, sent: Sent | None) -> Tensor:
        """Whichever way is the fastest for the code of these inputs, measured if it was not yet."""
        present = None if sent is None else sent.present
        native = self.native(x)
        speed = self.speeds.of(x, present is not None, lambda: self._ways(x, present, native))
        decides = None if self._hooked() else native
        logits = self._told(self.gate(x, present) if decides is None else decides.logits(x, present))
        code = binarised(logits, training=False)
        share = float(code.amax(0).mean())
        speed.saw(share)
        way, taken = speed.best(share)
        if len(code) > 1:
            one = self.speeds.of(x[:1], present is not None, lambda: self._ways(x[:1], present, native))
            if sum(one.best(share)[1] for share in code.mean(1).tolist()) < taken:
                return self._apart(x, logits, sent)
        if way == ALL:
            return self._everything(x, logits, present)
        if way == "native" and native is not None:
            rows, exact = _on(code)
            y = native.convolve(x, rows, present, self.sink is None)
            if not exact:
                y = y * over_positions(code if self.sink is None else code.index_select(1, rows))
            return self._sending(Sent(logits, rows, exact), y)
        return self._narrow(x, logits, present)

    def _everything(self, x: Tensor, logits: Tensor, present: Tensor | None) -> Tensor:
        """All filters in eval mode, multiplied by the code: (B, N, H', W')."""
        code = over_positions(binarised(logits, training=False))
        return self._sending(Sent(logits), self.filters(x, None, present) * code)

    def _exports_narrow(self, x: Tensor) -> bool:
        """Whether an exported program computes only filters that are on; the output is as large as x / stride."""
        if self.sink is not None and self.sink.depthwise:
            return False
        stride = self.conv.stride[0] * self.conv.stride[1]
        return self.conv.weight.numel() * (x.shape[2] * x.shape[3] // stride) >= EXPORTED_FROM

    def _apart(self, x: Tensor, logits: Tensor, sent: Sent | None) -> Tensor:
        """Samples of equal codes together, the others one by one: (B, N, H', W')."""
        code = binarised(logits, training=False)
        came = code.new_ones(len(code), 0) if sent is None else sent.code
        numbers = torch.unique(torch.cat((code, came), 1), dim=0, return_inverse=True)[1]
        whole: Tensor | None = None
        for number in range(int(numbers.max()) + 1):
            samples = (numbers == number).nonzero().flatten()
            rows, _ = _on(code[samples[:1]])
            columns, place = (None, None) if sent is None else _columns(sent, int(samples[0]))
            part = x.index_select(0, samples)
            part = part if place is None else part.index_select(1, place)
            y = self.filters(part, rows, columns) * over_positions(code[samples][:, rows])
            if whole is None:
                whole = y.new_zeros(len(x), code.shape[1], *y.shape[2:])
            whole[samples.unsqueeze(1), rows] = y
        assert whole is not None  # noqa: S101 - for the type checker
        return self._sending(Sent(logits), whole)

    def _ways(self, x: Tensor, present: Tensor | None, native: Filters | None) -> Mapping[str, Way]:
        """What is timed, controllers included."""
        count, code = self.conv.out_channels, x.new_ones(len(x), self.conv.out_channels)
        # Hooks are for calls, not for what is timed.
        logits = (lambda: self.gate.forward(x, present)) if native is None else (lambda: native.logits(x, present))

        def some(share: float) -> Callable[[], Tensor]:
            rows = torch.arange(max(1, round(share * count)), device=x.device)
            return lambda: (logits(), _scattered(self.filters(x, rows, present), rows, code))[1]

        def natively(share: float) -> Callable[[], Tensor]:
            assert native is not None  # noqa: S101 - for the type checker
            rows = torch.arange(max(1, round(share * count)), device=x.device)
            return lambda: (logits(), native.convolve(x, rows, present, self.sink is None))[1]

        def everything(share: float) -> Callable[[], Tensor]:
            return lambda: (logits(), self.filters(x, None, present) * over_positions(code))[1]

        return {ALL: everything, "some": some} | ({} if native is None else {"native": natively})

    def _hooked(self) -> bool:
        """Somebody listens to the controller, or changes what it says: it must run as the module that it is."""
        gate = self._modules["gate"]
        return bool(gate._forward_hooks or gate._forward_pre_hooks)  # type: ignore[union-attr]

    def controller(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Weight and bias of the two layers that decide."""
        reduce, expand = self.gate.reduce, self.gate.expand
        return reduce.weight, reduce.bias, expand.weight, expand.bias

    def way(self, x: Tensor) -> str:
        """How an input like this one is computed in eval mode: up to which share of the filters some are computed."""
        sent = self.sent(x)
        present = None if sent is None else sent.present
        with torch.no_grad():
            native = self.native(x)
            speed = self.speeds.of(x, present is not None, lambda: self._ways(x, present, native))
        limit, name = speed.limit, speed.best(speed.share)[0]
        if limit <= 0:
            return "dense: measured to be faster"
        how = "native" if name == "native" else "conditional"
        return how if limit >= 1 else f"{how} up to {limit:.0%} of the filters"

    @torch.no_grad()
    def cost(self, x: Tensor, share: float) -> float:
        """Seconds of a call with a share of the filters, in units of those that it takes without a gate; measures.

        Args:
            x: (B, C, H, W).
            share: From 0 to 1.
        """
        native = self.native(x)
        speed = self.speeds.of(x, False, lambda: self._ways(x, None, native))
        return speed.best(share)[1] / seconds(lambda: self.plain(x))

    def onnx_form(self) -> nn.Module:
        """For ONNX Runtime, which is fast at other things than PyTorch."""
        return GatedOnnx(self, self.gate)

    def extra_repr(self) -> str:
        """What becomes of the output."""
        return "narrow output" if self.sink is not None else ""


class ReadingConv2d(Convolving):
    """A convolution without a gate that reads a gated tensor: with fewer columns where fewer channels come."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, c, H, W) to (B, N, H', W')."""
        learning = self.learning
        if not learning and quick():
            y = self._natively(x)
            if y is not None:
                return y
        sent = self.sent(x)
        present = None if sent is None else sent.present
        whole = learning or present is None or torch.is_grad_enabled()  # folded weights have no gradients
        return self.plain(x, present) if whole else self.quickest(x, None, present)

    def _natively(self, x: Tensor) -> Tensor | None:
        """By the kernel, if that was measured to be the fastest: a second, quicker road to what `quickest` does."""
        kept, source = self._native, self.source
        if source is None or not kept.unchanged() or not x.is_cpu or x.dim() != 4:
            return None
        sent, native = source.received(), kept.filters
        present = None if sent is None else sent.present
        if native is None or present is None or present.shape[0] != x.shape[1]:
            return None
        return native.read(x, present) if self.speeds.chosen(x) == "native" else None

    def onnx_form(self) -> nn.Module:
        """With the columns picked as ONNX Runtime does it fastest."""
        return ReadingOnnx(self)


class FollowingConv2d(Convolving):
    """A depthwise convolution that a gated one is followed by: the channels that are off there are off here, too."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, c, H, W) to (B, c, H', W')."""
        sent = self.sent(x)
        if sent is None:
            raise InputError("FollowingConv2d: must run after the gated convolution before it; run the whole model.")
        if (self.learning or torch.is_grad_enabled()) and sent.present is not None:
            x, sent = _scattered(x, sent.present, sent.code), Sent(sent.logits, soft=sent.soft)
        if self.sink is not None:
            self.sink.send(sent)
        if sent.present is None:
            return self.plain(x) * over_positions(sent.code)
        y = self.quickest(x, sent.present, None)
        return y if sent.exact else y * over_positions(sent.code.index_select(1, sent.present))


def _on(code: Tensor) -> tuple[Tensor, bool]:
    """(n,) the filters that are on for some sample, one at least; and whether exactly these are on for all."""
    used = code.amax(0)
    if torch.compiler.is_exporting():
        return torch.where(used >= used.max())[0], False  # all of them if none is on
    rows = used.nonzero().flatten()
    return (rows, len(code) == 1) if len(rows) else (rows.new_zeros(1), False)


def _columns(sent: Sent, sample: int) -> tuple[Tensor | None, Tensor | None]:
    """The channels that are on for one sample, among all, and their places in a tensor that holds those present."""
    on = sent.code[sample] > 0
    place = (on if sent.present is None else on.index_select(0, sent.present)).nonzero().flatten()
    if not len(place):
        place = place.new_zeros(1)
    return (place if sent.present is None else sent.present.index_select(0, place)), place


def _scattered(y: Tensor, rows: Tensor, code: Tensor) -> Tensor:
    """(B, n, H, W) to (B, N, H, W), 0 where a filter is off."""
    batch, size = y.shape[0], code.shape[1]  # len() would fix the batch of an export
    if not torch.compiler.is_exporting():
        whole = torch.empty((batch, size, *y.shape[2:]), dtype=y.dtype, device=y.device, memory_format=layout(y))
        return whole.zero_().index_copy_(1, rows, y)
    # A gather runs faster in ONNX Runtime than a scatter.
    places = torch.full((size,), rows.shape[0], device=rows.device).scatter(0, rows, torch.arange(rows.shape[0]))
    return torch.cat((y, y.new_zeros(batch, 1, *y.shape[2:])), 1).index_select(1, places)
