"""Convolutions of every kind, and channels that turn into space."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.models.case import CLASSES, Case, around, function, noise, seeded


class Shuffled(nn.Module):
    """Grouped convolutions with a channel shuffle between them, as in ShuffleNet v1."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(16, 16, 1, groups=2)
        self.second = nn.Conv2d(16, 16, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        b, c, h, w = x.shape
        x = x.view(b, 2, c // 2, h, w).transpose(1, 2).reshape(b, c, h, w)
        return self.second(x)


class UNet(nn.Module):
    """Down, up by interpolation, and a concatenation with what was there before."""

    def __init__(self) -> None:
        super().__init__()
        self.top = nn.Conv2d(3, 8, 3, padding=1)
        self.down = nn.Conv2d(8, 12, 3, stride=2, padding=1)
        self.bn = nn.BatchNorm2d(12)
        self.up = nn.Conv2d(20, 8, 3, padding=1)
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        top = torch.relu(self.top(x))
        low = torch.relu(self.bn(self.down(top)))
        low = F.interpolate(low, size=top.shape[-2:], mode="bilinear", align_corners=False)
        return self.head(torch.relu(self.up(torch.cat([top, low], 1))))


class Generator(nn.Module):
    """A linear layer whose outputs become maps, as in DCGAN.

    Args:
        channels: Written into the reshape; -1 leaves them to be computed.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.fc = nn.Linear(7, 12 * 16)
        self.bn = nn.BatchNorm2d(12)
        self.up = nn.ConvTranspose2d(12, 8, 4, stride=2, padding=1)
        self.head = nn.ConvTranspose2d(8, 3, 4, stride=2, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        x = self.fc(z).view(z.shape[0], self.channels, 4, 4)
        x = torch.relu(self.up(torch.relu(self.bn(x))))
        return torch.tanh(self.head(x))


class Line(nn.Module):
    """Conv1d over a sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(3, 16, 5, padding=2)
        self.bn1 = nn.BatchNorm1d(16)
        self.conv2 = nn.Conv1d(16, 8, 3, dilation=2)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool1d(torch.relu(self.bn1(self.conv1(x))), 2)
        return self.head(torch.relu(self.conv2(x)).amax(-1))


class Volume(nn.Module):
    """Conv3d over a clip."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(3, 10, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm3d(10)
        self.conv2 = nn.Conv3d(10, 8, (1, 3, 3))
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.avg_pool3d(torch.relu(self.bn1(self.conv1(x))), 2)
        return self.head(F.adaptive_avg_pool3d(torch.relu(self.conv2(x)), 1).flatten(1))


class Summaries(nn.Module):
    """CoaT's head: two summaries as wide as the trunk become one, in a convolution of one weight for each."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.other = nn.Conv2d(3, 10, 3), nn.Conv2d(3, 10, 1)
        self.both = nn.Conv1d(2, 1, 1)
        self.head = nn.Linear(10, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        one, two = (torch.relu(conv(x)).mean((2, 3)) for conv in (self.conv1, self.other))
        return self.head(torch.tanh(self.both(torch.stack([one, two], 1)).squeeze(1)))


def shuffle_by_hand(x: Tensor) -> Tensor:
    """Pixel shuffle where the code holds the two factors of 2 constant."""
    b, c, h, w = x.shape
    return x.view(b, c // 4, 2, 2, h, w).permute(0, 1, 4, 2, 5, 3).reshape(b, c // 4, h * 2, w * 2)


def shuffle_fixed(x: Tensor) -> Tensor:
    """Pixel shuffle where the code writes the number of channels."""
    b, _, h, w = x.shape
    return x.view(b, 4, 2, 2, h, w).permute(0, 1, 4, 2, 5, 3).reshape(b, 4, h * 2, w * 2)


def grouped_conv() -> nn.Module:
    return nn.Conv2d(16, 24, 3, padding=1, groups=4)


def grouped_transposed() -> nn.Module:
    return nn.ConvTranspose2d(16, 24, 2, stride=2, groups=4)


MIDDLE = ("conv1.weight", "middle.weight", "conv2.weight")

CONVOLUTIONS: dict[str, Case] = {
    "depthwise": around(lambda: nn.Conv2d(16, 16, 3, padding=1, groups=16), removable=MIDDLE),
    "depthwise_multiplier": around(lambda: nn.Conv2d(8, 16, 3, groups=8), width=8, out=16, removable=MIDDLE),
    "grouped_conv": around(grouped_conv, out=24, removable=MIDDLE),
    "grouped_transposed_conv": around(grouped_transposed, out=24, removable=MIDDLE),
    "depthwise_transposed_conv": around(lambda: nn.ConvTranspose2d(16, 16, 2, stride=2, groups=16), removable=MIDDLE),
    "transposed_conv": around(lambda: nn.ConvTranspose2d(16, 12, 3, stride=2), out=12, removable=MIDDLE),
    "channel_shuffle": around(Shuffled, removable=("middle.second.weight",)),
    "channel_shuffle_op": around(lambda: nn.ChannelShuffle(4)),
    "pixel_shuffle": around(lambda: nn.PixelShuffle(2), out=4),
    "pixel_shuffle_by_hand": function(shuffle_by_hand, out=4),
    "pixel_shuffle_fixed": function(
        shuffle_fixed, out=4, removable=("conv2.weight",), pinned=("conv1.weight", "head.weight")
    ),
    "pixel_unshuffle": around(lambda: nn.PixelUnshuffle(2), width=8, out=32),
    "zero_padded_channels": function(lambda x: F.pad(x, (0, 0, 0, 0, 4, 4)), out=24),
    "unet": Case(
        seeded(UNet), noise(2, 3, 8, 8), ("top.weight", "down.weight", "bn.weight", "up.weight"), ("head.weight",)
    ),
    "maps_from_linear": Case(
        seeded(lambda: Generator(-1)), noise(2, 7), ("fc.weight", "bn.weight", "up.weight"), ("head.bias",)
    ),
    "maps_from_linear_fixed": Case(
        seeded(lambda: Generator(12)), noise(2, 7), ("up.bias",), ("fc.weight", "bn.weight", "head.bias")
    ),
    "conv1d": Case(seeded(Line), noise(2, 3, 16), ("conv1.weight", "conv2.weight"), ("head.weight",)),
    "conv1d_of_summaries": Case(
        seeded(Summaries), noise(2, 3, 8, 8), ("conv1.weight", "other.weight"), ("both.weight", "head.weight")
    ),
    "conv3d": Case(seeded(Volume), noise(2, 3, 4, 8, 8), ("conv1.weight", "conv2.weight"), ("head.weight",)),
}
