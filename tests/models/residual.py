"""Sums, concatenations and whole blocks."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.models.case import CLASSES, Case, noise, seeded


class Basic(nn.Module):
    """ResNet's basic block.

    Args:
        inputs: Channels that come in.
        width: Channels that go out.
        stride: Of the first convolution.
        shortcut: "project" (1 × 1 convolution and BN) or "pad" (stride slice and zero-padded channels).
    """

    def __init__(self, inputs: int, width: int, stride: int = 1, shortcut: str = "project") -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut, self.stride, self.extra = shortcut, stride, width - inputs
        self.project: nn.Module | None = None
        if stride > 1 and shortcut == "project":
            self.project = nn.Sequential(nn.Conv2d(inputs, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        if self.project is not None:
            x = self.project(x)
        elif self.stride > 1:
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.extra // 2, self.extra // 2))
        return torch.relu(x + y)


class Residual(nn.Module):
    """A stem, four basic blocks of which the third halves the maps, a head."""

    def __init__(self, shortcut: str) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.blocks = nn.Sequential(Basic(8, 8), Basic(8, 8), Basic(8, 12, 2, shortcut), Basic(12, 12))
        self.head = nn.Linear(12, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


class Inverted(nn.Module):
    """MobileNet v2's block: expand, depthwise, project, add."""

    def __init__(self) -> None:
        super().__init__()
        self.expand = nn.Sequential(nn.Conv2d(8, 24, 1, bias=False), nn.BatchNorm2d(24), nn.ReLU6())
        self.depth = nn.Sequential(nn.Conv2d(24, 24, 3, 1, 1, groups=24, bias=False), nn.BatchNorm2d(24), nn.ReLU6())
        self.project = nn.Sequential(nn.Conv2d(24, 8, 1, bias=False), nn.BatchNorm2d(8))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.project(self.depth(self.expand(x)))


class Rescaled(nn.Module):
    """A residual whose body is scaled by one learnt number."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(8, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, 8, 1))
        self.alpha = nn.Parameter(torch.tensor(0.7))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.alpha * self.body(x)


class Optional(nn.Module):
    """Two bodies with a layer scale each, both of which are there if the first one is."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 1)
        self.gamma_1: nn.Parameter | None = nn.Parameter(0.5 + torch.rand(8, 1, 1))
        self.gamma_2 = nn.Parameter(torch.full((8, 1, 1), 1.001))

    def forward(self, x: Tensor) -> Tensor:
        if self.gamma_1 is None:
            x = x + self.one(x)
            return x + self.two(x)
        x = x + self.gamma_1 * self.one(x)
        return x + self.gamma_2 * self.two(x)


class Trunk(nn.Module):
    """A stem of 8 channels, a chain of residual modules that keep them, a head."""

    def __init__(self, *bodies: nn.Module) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.bodies = nn.ModuleList(bodies)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        for body in self.bodies:
            x = body(x)
        return self.head(x.mean((2, 3)))


class Inception(nn.Module):
    """Four branches concatenated, one of them pooling before it projects."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.one = nn.Sequential(nn.Conv2d(inputs, 8, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.three = nn.Sequential(nn.Conv2d(inputs, 6, 1), nn.ReLU(), nn.Conv2d(6, 8, 3, padding=1), nn.ReLU())
        self.five = nn.Sequential(nn.Conv2d(inputs, 4, 1), nn.ReLU(), nn.Conv2d(4, 6, 5, padding=2), nn.ReLU())
        self.pool = nn.Sequential(nn.MaxPool2d(3, 1, 1), nn.Conv2d(inputs, 5, 1), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.one(x), self.three(x), self.five(x), self.pool(x)], 1)


class Inceptions(nn.Module):
    """Two inception modules in a row."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.first, self.second = Inception(8), Inception(27)
        self.head = nn.Linear(27, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.first(torch.relu(self.stem(x)))).mean((2, 3)))


class Dense(nn.Module):
    """DenseNet: every layer reads all before it, through its own BN; then a transition."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(8 + 6 * i) for i in range(3))
        self.convs = nn.ModuleList(nn.Conv2d(8 + 6 * i, 6, 3, padding=1, bias=False) for i in range(3))
        self.transition = nn.Sequential(nn.BatchNorm2d(26), nn.ReLU(), nn.Conv2d(26, 12, 1), nn.AvgPool2d(2))
        self.head = nn.Linear(12, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for norm, conv in zip(self.norms, self.convs, strict=True):
            x = torch.cat([x, conv(torch.relu(norm(x)))], 1)
        return self.head(torch.relu(self.transition(x)).mean((2, 3)))


class ConvNext(nn.Module):
    """ConvNeXt's block: depthwise, LayerNorm in channels-last, two linear layers, layer scale."""

    def __init__(self) -> None:
        super().__init__()
        self.depth = nn.Conv2d(8, 8, 5, padding=2, groups=8)
        self.norm = nn.LayerNorm(8)
        self.up = nn.Linear(8, 24)
        self.down = nn.Linear(24, 8)
        self.gamma = nn.Parameter(torch.rand(8))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.depth(x).permute(0, 2, 3, 1))
        y = self.gamma * self.down(F.gelu(self.up(y)))
        return x + y.permute(0, 3, 1, 2)


IMAGE = noise(2, 3, 8, 8)
HEAD = ("head.weight",)
LAST_NORMS = tuple(f"blocks.{i}.bn2" for i in range(4))
BRANCH_ENDS = tuple(f"{m}.{end}" for m in ("first", "second") for end in ("one.1", "three.2", "five.2", "pool.1"))

RESIDUAL: dict[str, Case] = {
    "residual": Case(
        seeded(lambda: Residual("project")),
        IMAGE,
        ("stem.0.weight", "blocks.0.conv1.weight", "blocks.2.conv2.weight", "blocks.2.project.0.weight"),
        HEAD,
        blocks=LAST_NORMS,
    ),
    "option_a": Case(
        seeded(lambda: Residual("pad")),
        IMAGE,
        ("stem.0.weight", "blocks.0.conv1.weight", "blocks.2.conv1.weight", "blocks.3.conv1.weight"),
        HEAD,
        blocks=LAST_NORMS,
    ),
    "inverted_residual": Case(
        seeded(lambda: Trunk(Inverted(), Inverted())),
        IMAGE,
        ("stem.weight", "bodies.0.expand.0.weight", "bodies.0.depth.0.weight"),
        HEAD,
        blocks=("bodies.0.project.1", "bodies.1.project.1"),
    ),
    "residual_scale": Case(
        seeded(lambda: Trunk(Rescaled(), Rescaled())),
        IMAGE,
        ("stem.weight", "bodies.0.body.0.weight"),
        HEAD,
        blocks=("bodies.0.alpha", "bodies.1.alpha"),
    ),
    "optional_scale": Case(
        seeded(lambda: Trunk(Optional(), Optional())),
        IMAGE,
        ("stem.weight",),
        HEAD,
        blocks=("bodies.0.gamma_1", "bodies.0.gamma_2", "bodies.1.gamma_1", "bodies.1.gamma_2"),
    ),
    "convnext": Case(
        seeded(lambda: Trunk(ConvNext(), ConvNext())),
        IMAGE,
        ("bodies.0.up.weight", "bodies.1.up.weight"),
        HEAD,
        exact=False,
        blocks=("bodies.0.down", "bodies.1.down"),
    ),
    "inception": Case(
        seeded(Inceptions),
        IMAGE,
        ("stem.weight", "first.one.0.weight", "first.three.0.weight", "second.pool.1.weight"),
        HEAD,
        branches=BRANCH_ENDS,
    ),
    "dense": Case(seeded(Dense), IMAGE, ("stem.weight", "convs.0.weight", "transition.2.weight"), HEAD),
}
