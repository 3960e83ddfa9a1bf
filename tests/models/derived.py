"""Sizes that the code computes from others: what they count must shrink together."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.models.case import CLASSES, Case, around, noise, seeded


class Cosine(nn.Module):
    """Swin v2's attention: the width of a head is the trunk's over the number of heads; a small network says where."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = 3
        self.qkv, self.out, self.bias = nn.Linear(12, 36), nn.Linear(12, 12), nn.Linear(2, 3)
        self.scale = nn.Parameter(torch.rand(3) + 0.5)
        self.register_buffer("places", torch.rand(16, 2))

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        scores = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1)
        scores = scores * self.scale.view(-1, 1, 1) + self.bias(self.places).t().reshape(self.heads, n, n)
        return self.out((scores.softmax(-1) @ v).transpose(1, 2).reshape(b, n, -1))


class Windows(nn.Module):
    """Attention in windows of 2 × 2 positions, then 2 × 2 neighbours merged."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.attention = nn.Conv2d(3, 12, 1), Cosine()
        self.merge, self.head = nn.Linear(48, 8), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.conv(x)).permute(0, 2, 3, 1)
        b, h, w, c = x.shape
        windows = x.view(b, h // 2, 2, w // 2, 2, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, c)
        y = self.attention(windows).view(-1, h // 2, w // 2, 2, 2, c).permute(0, 1, 3, 2, 4, 5).reshape(x.shape)
        x = (x + y).reshape(b, h // 2, 2, w // 2, 2, c).permute(0, 1, 3, 4, 2, 5).flatten(3)
        return self.head(torch.relu(self.merge(x)).mean((1, 2)))


class Covariance(nn.Module):
    """EdgeNeXt's: half of the channels is convolved, then channels attend to channels of their head."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = 4
        self.conv = nn.Conv2d(12, 12, 3, padding=1, groups=12)
        self.qkv, self.out = nn.Linear(24, 72), nn.Linear(24, 24)
        self.temperature = nn.Parameter(torch.rand(4, 1, 1) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        one, other = x.chunk(2, 1)
        x = torch.cat([self.conv(one), other], 1)
        b, c, h, w = x.shape
        y = x.reshape(b, c, -1).transpose(1, 2)
        q, k, v = self.qkv(y).reshape(b, h * w, 3, self.heads, -1).permute(2, 0, 3, 4, 1)
        y = ((q @ k.transpose(-2, -1) * self.temperature).softmax(-1) @ v).permute(0, 3, 1, 2)
        return x + self.out(y.reshape(b, h * w, c)).transpose(1, 2).reshape(b, c, h, w)


class Gated(nn.Module):
    """MambaOut's block: one layer's output is split in three, of which two together fit the first."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = (15, 9, 6)
        self.fc1, self.conv, self.fc2 = (
            nn.Conv2d(16, 30, 1),
            nn.Conv2d(6, 6, 3, padding=1, groups=6),
            nn.Conv2d(15, 16, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        gate, plain, convolved = self.fc1(x).split(self.parts, 1)
        return x + self.fc2(torch.tanh(gate) * torch.cat([plain, self.conv(convolved)], 1))


class Partly(nn.Module):
    """SHViT's block: one head attends to the first channels, as many as its values have; the others pass."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.inner, self.dim, self.some = 0.5, 4, 16, 6
        self.norm, self.qkv = nn.BatchNorm2d(6), nn.Conv2d(6, 14, 1)
        self.out = nn.Conv2d(16, 16, 1)

    def forward(self, x: Tensor) -> Tensor:
        b, _, h, w = x.shape
        one, other = x.split([self.some, self.dim - self.some], 1)
        q, k, v = (part.flatten(2) for part in self.qkv(self.norm(one)).split([self.inner, self.inner, self.some], 1))
        scores = (q.transpose(1, 2) @ k * self.scale).softmax(-1)
        one = (v @ scores.transpose(1, 2)).reshape(b, self.some, h, w)
        return x + self.out(torch.relu(torch.cat([one, other], 1)))


DERIVED: dict[str, Case] = {
    "width_of_heads_of_a_trunk": Case(
        seeded(Windows),
        noise(2, 3, 8, 8),
        ("conv.weight", "attention.qkv.weight", "attention.out.weight", "attention.bias.weight", "merge.weight"),
        ("head.weight",),
    ),
    "width_of_heads_of_halves": around(
        Covariance,
        width=24,
        removable=("conv1.weight", "middle.conv.weight", "middle.qkv.weight", "middle.out.weight", "conv2.weight"),
        exact=False,
    ),
    "sizes_of_two_groups": around(
        lambda: nn.Sequential(Gated(), Gated()),
        removable=("conv1.weight", *(f"middle.{i}.{name}.weight" for i in (0, 1) for name in ("fc1", "conv", "fc2"))),
    ),
    "some_of_the_channels": around(
        lambda: nn.Sequential(Partly(), Partly()),
        removable=("conv1.weight", *(f"middle.{i}.{name}.weight" for i in (0, 1) for name in ("qkv", "out"))),
    ),
}
