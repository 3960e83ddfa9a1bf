"""Weights that are computed, shared, frozen, bare or unused."""

import warnings

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from tests.models.case import CLASSES, Case, around, noise, seeded, tokens


def old_weight_norm() -> nn.Module:
    """The hook that `torch.nn.utils.parametrizations` replaced, still found in vocoders."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return nn.utils.weight_norm(nn.Conv2d(16, 12, 3, padding=1))


class Reused(nn.Module):
    """One layer, run twice on its own output."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Conv2d(16, 16, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.shared(torch.relu(self.shared(x))))


class Siamese(nn.Module):
    """One trunk for two inputs; the shared layers run twice a pass."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 12, 3)
        self.bn1 = nn.BatchNorm2d(12)
        self.head = nn.Linear(12, CLASSES)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        a, b = (torch.relu(self.bn1(self.conv1(x))).mean((2, 3)) for x in (a, b))
        return self.head((a - b).abs())


class Tied(nn.Module):
    """A language model whose head is its embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 12)
        self.fc1 = nn.Linear(12, 16)
        self.fc2 = nn.Linear(16, 12)
        self.head = nn.Linear(12, 20, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.fc2(torch.relu(self.fc1(self.embed(x)))))


class Embedded(nn.Module):
    """A bag of tokens: an embedding, a mean, two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 12)
        self.fc1 = nn.Linear(12, 16)
        self.head = nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.fc1(self.embed(x).mean(1))))


class Functional(nn.Module):
    """Convolution and linear map by bare parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(16, 3, 3, 3) * 0.3)
        self.b = nn.Parameter(torch.randn(16))
        self.v = nn.Parameter(torch.randn(16, 12) * 0.3)
        self.head = nn.Linear(12, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(F.conv2d(x, self.w, self.b, padding=1)).mean((2, 3))
        return self.head(torch.relu(x @ self.v))


class Summation(nn.Module):
    """A 1 × 1 convolution written as an einsum."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(12, 16) * 0.3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("bchw,oc->bohw", x, self.w)


class Standardised(nn.Conv2d):
    """A convolution whose kernels are normalised by a batch norm in training mode (BiT's and NFNet's).

    Args:
        gained: With a learnt factor for each of them.
    """

    def __init__(self, gained: bool) -> None:
        super().__init__(16, 12, 3, padding=1)
        self.gain = nn.Parameter(torch.rand(12, 1, 1, 1) + 0.5) if gained else None

    def forward(self, x: Tensor) -> Tensor:
        gain = None if self.gain is None else (self.gain * 0.5).view(-1)
        rows = self.weight.reshape(1, self.out_channels, -1)
        kernels = F.batch_norm(rows, None, None, gain, training=True, momentum=0.0).reshape_as(self.weight)
        return F.conv2d(x, kernels, self.bias, padding=1)


class TwoForms(nn.Module):
    """nn.Bilinear between two vectors."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Linear(6, 8)
        self.right = nn.Linear(6, 10)
        self.both = nn.Bilinear(8, 10, 12)
        self.fc = nn.Linear(12, 9)
        self.head = nn.Linear(9, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.both(torch.tanh(self.left(x)), torch.tanh(self.right(x))))
        return self.head(torch.relu(self.fc(x)))


class Backbone(nn.Module):
    """A backbone that does not learn, by flag or by context.

    Args:
        frozen: ``requires_grad=False`` on it.
        no_grad: It runs under ``torch.no_grad``.
    """

    def __init__(self, frozen: bool = False, no_grad: bool = False) -> None:
        super().__init__()
        self.no_grad = no_grad
        self.backbone = nn.Sequential(
            nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 12, 3), nn.ReLU()
        )
        self.head = nn.Linear(12, CLASSES)
        if frozen:
            self.backbone.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.no_grad):
            x = self.backbone(x)
        return self.head(x.mean((2, 3)))


class Unused(nn.Module):
    """A module that never runs, a parameter that nobody reads, a branch that the data does not choose."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3)
        self.a = nn.Conv2d(16, 16, 1)
        self.b = nn.Conv2d(16, 16, 1)
        self.unused = nn.Linear(16, 16)
        self.bare = nn.Parameter(torch.ones(16))
        self.head = nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        positive = bool(x.mean() > -10)
        x = torch.relu(self.conv1(x))
        x = self.a(x) if positive else self.b(x)
        return self.head(torch.relu(x).mean((2, 3)))


BACKBONE = ("backbone.0.weight", "backbone.1.weight", "backbone.3.weight")
UNSEEN = ("b.weight", "unused.weight", "bare", "head.weight")


def backbone(frozen: bool = False, no_grad: bool = False) -> Case:
    return Case(seeded(lambda: Backbone(frozen, no_grad)), noise(2, 3, 8, 8), BACKBONE, ("head.weight",))


WEIGHTS: dict[str, Case] = {
    "weight_norm": around(
        lambda: parametrizations.weight_norm(nn.Conv2d(16, 12, 3, padding=1)),
        out=12,
        removable=("conv1.weight", "middle.parametrizations.weight.original1"),
    ),
    "weight_norm_hook": around(old_weight_norm, out=12, removable=("conv1.weight", "middle.weight_v")),
    "spectral_norm": around(
        lambda: parametrizations.spectral_norm(nn.Conv2d(16, 12, 3, padding=1)), out=12, removable=("conv2.weight",)
    ),
    "standardised": around(
        lambda: Standardised(False), out=12, removable=("conv1.weight", "middle.weight"), exact=False
    ),
    "standardised_gained": around(
        lambda: Standardised(True), out=12, removable=("conv1.weight", "middle.weight", "middle.gain"), exact=False
    ),
    "reused": around(Reused, removable=("conv1.weight", "middle.shared.weight", "conv2.weight")),
    "siamese": Case(
        seeded(Siamese),
        lambda: (noise(2, 3, 8, 8)(), noise(2, 3, 8, 8, seed=3)()),
        ("conv1.weight", "bn1.weight"),
        ("head.weight",),
    ),
    "tied": Case(seeded(Tied), tokens(2, 7, vocabulary=20), ("fc1.weight", "fc2.weight"), ("embed.weight",)),
    "embedding": Case(seeded(Embedded), tokens(2, 7, vocabulary=20), ("fc1.weight",), ("embed.weight", "head.weight")),
    "functional": Case(seeded(Functional), noise(2, 3, 8, 8), ("w", "b", "v"), ("head.weight",)),
    "einsum_conv": around(Summation, out=12, removable=("conv1.weight", "middle.w", "conv2.weight")),
    "bilinear": Case(seeded(TwoForms), noise(2, 6), ("fc.weight",), ("head.weight",)),
    "frozen_backbone": backbone(frozen=True),
    "no_grad_backbone": backbone(no_grad=True),
    "unused": Case(seeded(Unused), noise(2, 3, 8, 8), (), UNSEEN),
}
