"""What decides, for each input anew, which filters of a convolution are computed; and who may know."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

OPEN = 2.0
"""The logit around which gates begin: most are on, so that a pretrained network goes on almost as it was."""

Computing = Literal["fastest", "conditional", "apart", "masked"]


class Controller(nn.Module):
    """The architecture controlling module of one convolution (Li et al., ECCV 2020, section 3.1).

    Global average pooling, a bottleneck with ReLU, a logit for each filter. A filter is on where its logit is above 0.

    Args:
        inputs: Channels that the convolution reads, C.
        outputs: Its filters, N.
        hidden: Width of the bottleneck.
    """

    def __init__(self, inputs: int, outputs: int, hidden: int) -> None:
        super().__init__()
        self.reduce = nn.Linear(inputs, hidden)
        self.expand = nn.Linear(hidden, outputs)
        nn.init.kaiming_normal_(self.reduce.weight, nonlinearity="relu")
        nn.init.kaiming_normal_(self.expand.weight, nonlinearity="relu")
        nn.init.zeros_(self.reduce.bias)
        nn.init.constant_(self.expand.bias, OPEN)

    def forward(self, x: Tensor, present: Tensor | None = None) -> Tensor:
        """(B, C, H, W) to logits (B, N).

        Args:
            x: What the convolution reads.
            present: (c,) which of the C channels x holds, the others being 0; None for all.
        """
        weight = self.reduce.weight if present is None else self.reduce.weight.index_select(1, present)
        hidden = functional.linear(x.mean((2, 3)), weight, self.reduce.bias).relu()
        logits: Tensor = self.expand(hidden)
        return logits


def binarised(logits: Tensor, training: bool) -> Tensor:
    """Codes (B, N) of logits: 0 or 1, or in training for half of the samples a number between (Improved SemHash).

    In training noise of deviation 1 is added to y, and v = clip(1.2 σ(y) - 0.1, 0, 1) (Kaiser and Bengio 2018). A fair
    coin for each sample says whether v is used, or 1[y > 0]; the gradient is that of v in both cases.
    """
    hard = (logits > 0).to(logits.dtype)
    if not training or _SETTLED.get():
        return hard
    noisy = logits + torch.randn_like(logits)
    soft = (1.2 * noisy.sigmoid() - 0.1).clamp(0, 1)
    hard = (noisy > 0).to(soft.dtype)
    coin = torch.rand(len(logits), *[1] * (logits.dim() - 1), device=logits.device) < 0.5
    return torch.where(coin, hard, soft).detach() + (soft - soft.detach())


def over_positions(code: Tensor) -> Tensor:
    """(B, N) to (B, N, 1, 1): what a feature map (B, N, H, W) is multiplied by."""
    return code[:, :, None, None]


@dataclass(frozen=True, eq=False)
class Signal:
    """What one gated convolution did in one call.

    Attributes:
        logits: (B, N).
        code: (B, N): 0 or 1, in training also between.
        response: (B, N) means over the positions of what the filters gave before they were gated; in training only.
    """

    logits: Tensor
    code: Tensor
    response: Tensor | None = None


Seen = dict[nn.Module, list[Signal]]
"""The signals of each gated convolution, call by call."""

_OBSERVERS: ContextVar[tuple[Seen, ...]] = ContextVar("observers", default=())
_SETTLED: ContextVar[bool] = ContextVar("settled", default=False)
_COMPUTING: ContextVar[Computing] = ContextVar("computing", default="fastest")


@contextmanager
def observing() -> Iterator[Seen]:
    """Collect the signals of every gated convolution that is called inside."""
    seen: Seen = {}
    token = _OBSERVERS.set((*_OBSERVERS.get(), seen))
    try:
        yield seen
    finally:
        _OBSERVERS.reset(token)


def tell(module: nn.Module, signal: Signal) -> None:
    """Show whoever observes what a gated convolution did."""
    for seen in _OBSERVERS.get():
        seen.setdefault(module, []).append(signal)


def observed() -> bool:
    """Somebody observes."""
    return bool(_OBSERVERS.get())


@contextmanager
def settled() -> Iterator[None]:
    """Gates are hard and without noise inside, in training, too: for weights that adapt to gates as they are."""
    token = _SETTLED.set(True)
    try:
        yield
    finally:
        _SETTLED.reset(token)


@contextmanager
def computing(how: Computing) -> Iterator[None]:
    """How gated convolutions are computed inside, without gradients: see `squeeze.nn.GatedConv2d`.

    Args:
        how: "masked": everything is computed, then multiplied by the code; "conditional": only what is on
            for some sample; "apart": only what is on for each sample; "fastest": whichever was measured to be faster.
    """
    token = _COMPUTING.set(how)
    try:
        yield
    finally:
        _COMPUTING.reset(token)


def asked_for() -> Computing:
    """What `computing` says here."""
    return _COMPUTING.get()


@dataclass(eq=False, slots=True)
class Sent:
    """What came with a gated tensor.

    Attributes:
        logits: (B, N) of all of its channels.
        present: (n,) which of them the tensor holds; None for all.
        exact: Exactly these are on, for all samples: nothing is left to be multiplied by 0.
        soft: (B, N) the code in training, where it is more than the signs of logits.
    """

    logits: Tensor
    present: Tensor | None = None
    exact: bool = False
    soft: Tensor | None = None

    @property
    def code(self) -> Tensor:
        """(B, N) of all of its channels."""
        return binarised(self.logits, training=False) if self.soft is None else self.soft


class Wire:
    """Tells those who read a gated tensor which channels are on, from the convolution that made it.

    Between the two lies the user's code, which sees a tensor, maybe with fewer channels. Each thread has its own;
    copies of a model have wires of their own, and nothing on them.

    Args:
        depthwise: A depthwise convolution lies between. ONNX wants to know in advance how many groups it has.

    Attributes:
        reading: How many filters each of those who read has, and how many positions one of these.
    """

    def __init__(self, depthwise: bool = False, reading: tuple[tuple[int, int], ...] = ()) -> None:
        self.depthwise = depthwise
        self.reading = reading
        self._held = threading.local()

    def __deepcopy__(self, memo: Any) -> "Wire":
        return Wire(self.depthwise, self.reading)

    def __reduce__(self) -> Any:
        return Wire, (self.depthwise, self.reading)

    def send(self, sent: Sent) -> None:
        """From the convolution, for each call anew."""
        self._held.sent = sent

    def received(self) -> Sent | None:
        """By a reader."""
        return getattr(self._held, "sent", None)
