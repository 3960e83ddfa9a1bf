"""Attacks on a classifier, by the gradient with respect to its input.

What is attacked is the network as it computes in eval mode: gates are hard, so gradients flow through the filters that
are on, and gates count as constants. An attacker who knows of the detector could do more.
"""

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor
from torch.nn import functional


class Logits(Protocol):
    """The network, on a batch whose inputs are changed."""

    def __call__(self, inputs: Tensor, chosen: Tensor | None = None) -> Tensor:
        """Inputs (b, ...) in the place of the chosen (b,) samples of the batch, all if None, to (b, K)."""


@dataclass(frozen=True, eq=False)
class Box:
    """Between which values inputs lie, channel by channel.

    What pixels were before they were normalised nobody says, so the range is that of inputs that were seen. Where they
    span all from black to white, a share of the range is a share of the pixel range: 8/255 is the usual 8/255.

    Attributes:
        low: Least value, of a shape that broadcasts over inputs.
        high: Largest.
    """

    low: Tensor
    high: Tensor

    @classmethod
    def of(cls, *inputs: Tensor) -> "Box":
        """The range of inputs (N, C, ...), batch by batch."""
        dims = [dim for dim in range(inputs[0].dim()) if dim != 1]
        low = torch.cat([batch.amin(dims, keepdim=True) for batch in inputs]).amin(0, keepdim=True)
        high = torch.cat([batch.amax(dims, keepdim=True) for batch in inputs]).amax(0, keepdim=True)
        return cls(low, high)

    def to(self, device: torch.device) -> "Box":
        """The same where a model lies."""
        return Box(self.low.to(device), self.high.to(device))

    def clipped(self, inputs: Tensor) -> Tensor:
        """Inputs, moved into the range."""
        return torch.minimum(torch.maximum(inputs, self.low), self.high)

    def within(self, inputs: Tensor, origin: Tensor, share: float) -> Tensor:
        """Inputs, moved into the range, and no further from an origin than a share of it."""
        far = share * (self.high - self.low)
        return self.clipped(torch.minimum(torch.maximum(inputs, origin - far), origin + far))


class Attack(Protocol):
    """Makes inputs that a network takes for something else."""

    name: ClassVar[str]

    def __call__(self, logits: Logits, inputs: Tensor, classes: Tensor, box: Box) -> Tensor:
        """Inputs like those given, in the box, which should not be seen as their classes any more.

        Args:
            logits: The network.
            inputs: (B, ...).
            classes: (B,) what they are.
            box: The range of the data.
        """


@dataclass(frozen=True)
class FGSM:
    """One step along the sign of the gradient (Goodfellow et al., ICLR 2015).

    Attributes:
        epsilon: Its size, as a share of the range of each channel.
    """

    name: ClassVar[str] = "FGSM"

    epsilon: float = 8 / 255

    def __post_init__(self) -> None:
        _require_share("FGSM", self.epsilon)

    def __call__(self, logits: Logits, inputs: Tensor, classes: Tensor, box: Box) -> Tensor:
        """See `Attack`."""
        step = self.epsilon * (box.high - box.low) * _uphill(logits, inputs, classes).sign()
        return box.clipped(inputs + step)


@dataclass(frozen=True)
class PGD:
    """Many small steps, each followed by a projection (Madry et al., ICLR 2018).

    Attributes:
        epsilon: The farthest it goes, as a share of the range of each channel.
        steps: How many.
        start: Begin at a random place no farther than that, else at the input.
    """

    name: ClassVar[str] = "PGD"

    epsilon: float = 8 / 255
    steps: int = 10
    start: bool = True

    def __post_init__(self) -> None:
        _require_share(self.name, self.epsilon)
        if self.steps < 1:
            raise ValueError(f"{self.name}: steps must be at least 1, got {self.steps}; try 10.")

    def __call__(self, logits: Logits, inputs: Tensor, classes: Tensor, box: Box) -> Tensor:
        """See `Attack`; random numbers are torch's global generator's."""
        size = box.high - box.low
        found = inputs
        if self.start:
            found = box.clipped(inputs + self.epsilon * size * (2 * torch.rand_like(inputs) - 1))
        for _ in range(self.steps):
            step = 2.5 * self.epsilon / self.steps * size * _uphill(logits, found, classes).sign()
            found = box.within(found + step, inputs, self.epsilon)
        return found


@dataclass(frozen=True)
class BIM(PGD):
    """PGD that begins at the input (Kurakin et al., ICLR 2017)."""

    name: ClassVar[str] = "BIM"

    start: bool = False


@dataclass(frozen=True)
class DeepFool:
    """The shortest way, in the L2 norm, across the nearest boundary (Moosavi-Dezfooli et al., CVPR 2016).

    Attributes:
        steps: Of following the boundaries' tangents, at most.
        overshoot: How much farther it goes than to the boundary, as a share of the way.
        rivals: Only the boundaries with so many other classes are looked at, those with the largest logits.
    """

    name: ClassVar[str] = "DeepFool"

    steps: int = 20
    overshoot: float = 0.02
    rivals: int = 9

    def __post_init__(self) -> None:
        if self.steps < 1 or self.rivals < 1 or not 0 <= self.overshoot < float("inf"):
            raise ValueError(
                f"DeepFool: steps and rivals must be at least 1 and overshoot at least 0, got {self.steps}, "
                f"{self.rivals} and {self.overshoot}; leave them out for the paper's."
            )

    def __call__(self, logits: Logits, inputs: Tensor, classes: Tensor, box: Box) -> Tensor:
        """See `Attack`."""
        with torch.no_grad():
            seen = logits(inputs)
        rivals = _rivals(seen, classes, self.rivals)
        way, found = torch.zeros_like(inputs), inputs.clone()
        left = torch.arange(len(inputs), device=inputs.device)
        for _ in range(self.steps):
            values, slopes = _differences(logits, found[left], left, classes[left], rivals[left])
            held = (values > 0).all(1)
            if not held.any():
                break
            left, values, slopes = left[held], values[held], slopes[held]
            norms = slopes.flatten(2).square().sum(2).clamp_min(1e-12)
            nearest = (values / norms.sqrt()).argmin(1)
            rows = torch.arange(len(left), device=inputs.device)
            # A little farther than the tangent says: on the boundary itself nothing would be won.
            scale = (values[rows, nearest] + 1e-4) / norms[rows, nearest]
            way[left] -= slopes[rows, nearest] * _wide(scale, inputs)
            found[left] = box.clipped(inputs[left] + (1 + self.overshoot) * way[left])
        return found


def _rivals(logits: Tensor, classes: Tensor, count: int) -> Tensor:
    """(B, R) the other classes with the largest logits."""
    others = logits.scatter(1, classes[:, None], -torch.inf)
    return others.topk(min(count, logits.shape[1] - 1)).indices


def _differences(
    logits: Logits, inputs: Tensor, chosen: Tensor, classes: Tensor, rivals: Tensor
) -> tuple[Tensor, Tensor]:
    """(B, R) by how much the class is ahead of its rivals, and (B, R, ...) the gradients of that."""
    with torch.enable_grad():
        given = inputs.detach().requires_grad_()
        seen = logits(given, chosen)
        values = seen.gather(1, classes[:, None]) - seen.gather(1, rivals)
        count = values.shape[1]
        slopes = [
            torch.autograd.grad(values[:, place].sum(), given, retain_graph=place + 1 < count)[0]
            for place in range(count)
        ]
    return values.detach(), torch.stack(slopes, 1)


def _uphill(logits: Logits, inputs: Tensor, classes: Tensor) -> Tensor:
    """The gradient of the loss with respect to the inputs."""
    with torch.enable_grad():
        given = inputs.detach().requires_grad_()
        loss = functional.cross_entropy(logits(given), classes, reduction="sum")
        return torch.autograd.grad(loss, given)[0]


def _wide(rows: Tensor, inputs: Tensor) -> Tensor:
    """(B,) in a shape that broadcasts over inputs."""
    return rows.view(-1, *[1] * (inputs.dim() - 1))


def _require_share(name: str, epsilon: float) -> None:
    if not 0 < epsilon <= 1:
        raise ValueError(
            f"{name}: epsilon must be above 0 and at most 1, got {epsilon}; it is a share of the range of the data, "
            "0.03 say."
        )
