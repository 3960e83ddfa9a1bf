"""Convolutions that compute, for each input anew, only the filters that a gate leaves on."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from squeeze.copying import layout
from squeeze.errors import InputError
from squeeze.kernels.gated import Filters, GatedOperands, KeptFilters
from squeeze.nn.folding import Folded
from squeeze.nn.gates import Controller, Sent, Signal, Wire, asked_for, binarised, observed, tell
from squeeze.nn.speeds import ALL, Speeds, Way, seconds


class _Convolving(nn.Module):
    """A convolution, the batch norm behind it, and the wires to what lies before and behind.

    Attributes:
        conv: The convolution.
        norm: The batch norm that its output goes into, and nothing else does; None for none.
        source: From the gated convolution that made its input, if all of that is gated.
        sink: To those who read its output, if all of them know what to do with fewer channels.
    """

    def __init__(self, conv: nn.Conv2d, norm: nn.BatchNorm2d | None = None) -> None:
        super().__init__()
        self.conv, self.norm = conv, norm
        self.source: Wire | None = None
        self.sink: Wire | None = None
        self._folded, self._native, self._speeds = Folded(), KeptFilters(), Speeds()

    def filters(self, x: Tensor, rows: Tensor | None, present: Tensor | None) -> Tensor:
        """Some filters of some channels, by PyTorch, in eval mode: (B, c, H, W) to (B, n, H', W'); None for all."""
        return self._convolved(x, *self._folded.get(self.conv, self.norm), rows, present)

    def native(self, x: Tensor) -> Filters | None:
        """The native kernel for inputs like this one, if there is one."""
        conv = self.conv
        fits = x.dtype is torch.float32 and x.is_cpu and x.dim() == 4 and x.numel() and conv.padding_mode == "zeros"
        if not fits or isinstance(conv.padding, str):
            return None
        tensors = [t for part in (conv, self.norm, *self._controller()) if part is not None for t in _tensors(part)]
        return self._native.get(self._operands, tensors)

    def _operands(self) -> GatedOperands:
        conv, (weight, bias) = self.conv, self._folded.get(self.conv, self.norm)
        controller = tuple(t for part in self._controller() for t in (part.weight, part.bias))
        padding = tuple(int(side) for side in conv.padding)
        return GatedOperands(
            weight,
            bias,
            conv.stride,
            padding,
            conv.dilation,
            conv.groups,
            controller[:4] if controller else None,  # type: ignore[arg-type]
        )

    def _controller(self) -> tuple[nn.Linear, ...]:
        return ()

    def _sent(self, x: Tensor) -> Sent | None:
        """What came with the input."""
        sent = None if self.source is None else self.source.received()
        if sent is not None and sent.present is not None and not torch.compiler.is_exporting():
            if x.shape[1] != len(sent.present):
                raise InputError(
                    f"{type(self).__name__}: must read what the gated convolution before it made ({len(sent.present)} "
                    f"channels), got {x.shape[1]} channels; run the whole model."
                )
        return sent

    def _plain(self, x: Tensor, present: Tensor | None = None) -> Tensor:
        """All filters, by the modules as they are."""
        y = self.conv(x) if present is None else self._convolved(x, self.conv.weight, self.conv.bias, None, present)
        return y if self.norm is None else self.norm(y)

    def _quickest(self, x: Tensor, rows: Tensor | None, present: Tensor | None) -> Tensor:
        """As `filters`, of a narrow input: by PyTorch, or natively if that was measured to be faster."""
        free = not torch.compiler.is_exporting() and not is_in_torch_dispatch_mode() and not torch.is_grad_enabled()
        native = self.native(x) if free else None
        if native is None:
            return self.filters(x, rows, present)
        ways = {
            "PyTorch": lambda: self.filters(x, rows, present),
            "native": lambda: native.convolve(x, rows, present, scatter=False),
        }
        return ways[self._speeds.fastest(x, ways)]()

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


class GatedConv2d(_Convolving):
    """A convolution with a gate for each filter (Li et al., ECCV 2020): y = z ⊙ norm(conv(x)), z from x.

    In training, with gradients, under torch.compile, and wherever `computing("masked")` says so, all filters are
    computed, and multiplied by the code. In eval mode without gradients, those that are off need not be computed; if
    `sink` is there, the output then holds those channels only that are on for some sample. What is faster is measured,
    in the first call of a shape, for this one convolution. A code without any filter is allowed: the output is all 0.

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
        sent = self._sent(x)
        present = None if sent is None else sent.present
        exporting = torch.compiler.is_exporting()
        whole = torch.is_grad_enabled() or torch.compiler.is_compiling() or asked_for() == "masked"
        learning = self.training or (self.norm is not None and self.norm.training)
        if learning or (whole and not exporting):
            logits = self.gate(x, present)
            return self._masked(self._plain(x, present), logits, binarised(logits, self.training))
        if exporting or asked_for() != "fastest" or is_in_torch_dispatch_mode():
            code = self._told(self.gate(x, present))
            return self._apart(x, code, sent) if asked_for() == "apart" else self._narrow(x, code, present)
        return self._fastest(x, sent)

    def _told(self, logits: Tensor) -> Tensor:
        """The code of logits, in eval mode; whoever observes is told."""
        code = binarised(logits, training=False)
        if observed():
            tell(self, Signal(logits, code))
        return code

    def _masked(self, y: Tensor, logits: Tensor, code: Tensor) -> Tensor:
        """All filters (B, N, H', W'), multiplied by the code."""
        if observed():
            tell(self, Signal(logits, code, (y.relu() if self.relu else y).mean((2, 3)) if self.training else None))
        return self._sending(Sent(code, None, exact=False), y * _over_positions(code))

    def _narrow(self, x: Tensor, code: Tensor, present: Tensor | None) -> Tensor:
        """Only filters that are on for some sample."""
        rows, exact = _on(code)
        y = self.filters(x, rows, present)
        if not exact:
            y = y * _over_positions(code.index_select(1, rows))
        return _scattered(y, rows, code) if self.sink is None else self._sending(Sent(code, rows, exact), y)

    def _fastest(self, x: Tensor, sent: Sent | None) -> Tensor:
        """By the kernel if it promises most; else the code is looked at first."""
        present = None if sent is None else sent.present
        native = self.native(x)
        speed = self._speeds.of(x, present is not None, lambda: self._ways(x, present, native))
        if native is not None and speed.best(speed.share)[0] == "native":
            y, logits, rows = native.gated(x, present, scatter=self.sink is None)
            speed.saw(len(rows) / logits.shape[1])
            if self.sink is None and not observed():
                return y
            code = self._told(logits)
            exact = len(code) == 1 and (len(rows) > 1 or bool(code[0, rows[0]]))
            return self._sending(Sent(code, None if self.sink is None else rows, exact), y)
        code = self._told(self.gate(x, present) if native is None else native.logits(x, present))
        share = float(code.amax(0).mean())
        speed.saw(share)
        way, seconds = speed.best(share)
        if len(code) > 1:
            one = self._speeds.of(x[:1], present is not None, lambda: self._ways(x[:1], present, native))
            if sum(one.best(share)[1] for share in code.mean(1).tolist()) < seconds:
                return self._apart(x, code, sent)
        if way != ALL:
            return self._narrow(x, code, present)
        return self._sending(Sent(code, None, exact=False), self.filters(x, None, present) * _over_positions(code))

    def _sending(self, sent: Sent, y: Tensor) -> Tensor:
        if self.sink is not None:
            self.sink.send(sent)
        return y

    def _apart(self, x: Tensor, code: Tensor, sent: Sent | None) -> Tensor:
        """Samples of equal codes together, the others one by one: (B, N, H', W')."""
        came = code.new_ones(len(code), 0) if sent is None else sent.code
        numbers = torch.unique(torch.cat((code, came), 1), dim=0, return_inverse=True)[1]
        whole: Tensor | None = None
        for number in range(int(numbers.max()) + 1):
            samples = (numbers == number).nonzero().flatten()
            rows, _ = _on(code[samples[:1]])
            columns, place = (None, None) if sent is None else _columns(sent, int(samples[0]))
            part = x.index_select(0, samples)
            part = part if place is None else part.index_select(1, place)
            y = self.filters(part, rows, columns) * _over_positions(code[samples][:, rows])
            if whole is None:
                whole = y.new_zeros(len(x), code.shape[1], *y.shape[2:])
            whole[samples.unsqueeze(1), rows] = y
        assert whole is not None  # noqa: S101 - for the type checker
        return self._sending(Sent(code, None, exact=False), whole)

    def _ways(self, x: Tensor, present: Tensor | None, native: Filters | None) -> Mapping[str, Way]:
        """What is timed, controllers included."""
        count, code = self.conv.out_channels, x.new_ones(len(x), self.conv.out_channels)
        logits = (lambda: self.gate(x, present)) if native is None else (lambda: native.logits(x, present))

        def some(share: float) -> Callable[[], Tensor]:
            rows = torch.arange(max(1, round(share * count)), device=x.device)
            return lambda: (logits(), _scattered(self.filters(x, rows, present), rows, code))[1]

        def natively(share: float) -> Callable[[], Tensor]:
            assert native is not None  # noqa: S101 - for the type checker
            rows = torch.arange(max(1, round(share * count)))
            return lambda: (logits(), native.convolve(x, rows, present, self.sink is None))[1]

        def everything(share: float) -> Callable[[], Tensor]:
            return lambda: (logits(), self.filters(x, None, present) * _over_positions(code))[1]

        return {ALL: everything, "some": some} | ({} if native is None else {"native": natively})

    def _controller(self) -> tuple[nn.Linear, ...]:
        return self.gate.reduce, self.gate.expand

    def way(self, x: Tensor) -> str:
        """How an input like this one is computed in eval mode: up to which share of the filters some are computed."""
        sent = self._sent(x)
        present = None if sent is None else sent.present
        with torch.no_grad():
            native = self.native(x)
            speed = self._speeds.of(x, present is not None, lambda: self._ways(x, present, native))
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
        speed = self._speeds.of(x, False, lambda: self._ways(x, None, native))
        return speed.best(share)[1] / seconds(lambda: self._plain(x))

    def extra_repr(self) -> str:
        """What becomes of the output."""
        return "narrow output" if self.sink is not None else ""


class ReadingConv2d(_Convolving):
    """A convolution without a gate that reads a gated tensor: with fewer columns where fewer channels come."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, c, H, W) to (B, N, H', W')."""
        sent = self._sent(x)
        present = None if sent is None else sent.present
        return self._plain(x) if present is None else self._quickest(x, None, present)


class FollowingConv2d(_Convolving):
    """A depthwise convolution that a gated one is followed by: the channels that are off there are off here, too."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, c, H, W) to (B, c, H', W')."""
        sent = self._sent(x)
        if sent is None:
            raise InputError("FollowingConv2d: must run after the gated convolution before it; run the whole model.")
        if self.sink is not None:
            self.sink.send(sent)
        if sent.present is None:
            return self._plain(x) * _over_positions(sent.code)
        y = self._quickest(x, sent.present, None)
        return y if sent.exact else y * _over_positions(sent.code.index_select(1, sent.present))


def _tensors(part: nn.Module) -> list[Tensor | None]:
    return [*part._parameters.values(), *part._buffers.values()]


def _over_positions(code: Tensor) -> Tensor:
    return code[:, :, None, None]


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
