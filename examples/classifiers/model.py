"""The networks that GAL's paper prunes, for 32 × 32 images (LeNet: 28 × 28)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

VGG16 = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
"""Widths of the convolutions between two poolings."""

INCEPTIONS = (
    ((192, 64, 96, 128, 16, 32, 32), (256, 128, 128, 192, 32, 96, 64)),
    (
        (480, 192, 96, 208, 16, 48, 64),
        (512, 160, 112, 224, 24, 64, 64),
        (512, 128, 128, 256, 24, 64, 64),
        (512, 112, 144, 288, 32, 64, 64),
        (528, 256, 160, 320, 32, 128, 128),
    ),
    ((832, 256, 160, 320, 32, 128, 128), (832, 384, 192, 384, 48, 128, 128)),
)
"""Arguments of the inception modules between two poolings."""


class BasicBlock(nn.Module):
    """Two 3 × 3 convolutions around a shortcut without parameters ("option A").

    Where the block halves the maps, the shortcut takes every second pixel and fills the new channels with zeros.

    Args:
        inputs: Channels that come in.
        width: Channels that go out.
        stride: Of the first convolution.
    """

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.stride = stride
        self.padding = (width - inputs) // 2

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.stride > 1:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.padding, self.padding))
        return F.relu(out + x)


class ResNet(nn.Module):
    """CIFAR's ResNet: three stages of 16, 32 and 64 channels (He et al., 2016, section 4.2).

    Args:
        depth: 6n + 2 for n blocks a stage.
        classes: Size of the output.
    """

    def __init__(self, depth: int, classes: int = 10) -> None:
        super().__init__()
        blocks, rest = divmod(depth - 2, 6)
        if rest or blocks < 1:
            raise ValueError(f"ResNet: depth must be 6n + 2, got {depth}; use 20, 56 or 110.")
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = self._stage(blocks, 16, 16)
        self.layer2 = self._stage(blocks, 16, 32)
        self.layer3 = self._stage(blocks, 32, 64)
        self.linear = nn.Linear(64, classes)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(module.weight)

    @staticmethod
    def _stage(blocks: int, inputs: int, width: int) -> nn.Sequential:
        first = BasicBlock(inputs, width, stride=1 if inputs == width else 2)
        return nn.Sequential(first, *(BasicBlock(width, width, stride=1) for _ in range(blocks - 1)))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean((2, 3)))


class VGG(nn.Module):
    """VGG-16 for CIFAR: thirteen convolutions and two linear layers, each but the last with BN.

    Args:
        stages: Widths of the convolutions between two poolings.
        classes: Size of the output.
    """

    def __init__(self, stages: Sequence[Sequence[int]] = VGG16, classes: int = 10) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 3
        for widths in stages:
            for width in widths:
                layers += [nn.Conv2d(inputs, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(True)]
                inputs = width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.fc1 = nn.Linear(inputs, 512)
        self.bn = nn.BatchNorm1d(512)
        self.fc2 = nn.Linear(512, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x).flatten(1)
        return self.fc2(F.relu(self.bn(self.fc1(x))))


class DenseLayer(nn.Module):
    """BN, ReLU and a 3 × 3 convolution, whose channels are appended to what came in.

    Args:
        inputs: Channels that come in.
        growth: Channels that are appended.
    """

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(inputs)
        self.conv = nn.Conv2d(inputs, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.conv(F.relu(self.bn(x)))], 1)


class Transition(nn.Module):
    """BN, ReLU, a 1 × 1 convolution and pooling between two dense blocks.

    Args:
        channels: In and out.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(channels)
        self.conv = nn.Conv2d(channels, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(self.conv(F.relu(self.bn(x))), 2)


class DenseNet(nn.Module):
    """DenseNet without bottlenecks and without compression.

    Args:
        depth: 3n + 4 for n layers a block.
        growth: Channels that each layer appends.
        classes: Size of the output.
    """

    def __init__(self, depth: int = 40, growth: int = 12, classes: int = 10) -> None:
        super().__init__()
        layers, rest = divmod(depth - 4, 3)
        if rest or layers < 1:
            raise ValueError(f"DenseNet: depth must be 3n + 4, got {depth}; use 40.")
        channels = 2 * growth
        self.conv1 = nn.Conv2d(3, channels, 3, padding=1, bias=False)
        stages: list[nn.Module] = []
        for stage in range(3):
            stages += [DenseLayer(channels + growth * i, growth) for i in range(layers)]
            channels += growth * layers
            if stage < 2:
                stages.append(Transition(channels))
        self.features = nn.Sequential(*stages)
        self.bn = nn.BatchNorm2d(channels)
        self.fc = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn(self.features(self.conv1(x))))
        return self.fc(x.mean((2, 3)))


class ConvUnit(nn.Sequential):
    """Convolution, BN, ReLU.

    Args:
        inputs: Channels that come in.
        width: Channels that go out.
        size: Of the kernel.
    """

    def __init__(self, inputs: int, width: int, size: int) -> None:
        super().__init__(
            nn.Conv2d(inputs, width, size, padding=size // 2, bias=False), nn.BatchNorm2d(width), nn.ReLU(True)
        )


class Inception(nn.Module):
    """Four branches, concatenated; the third is two 3 × 3 convolutions in place of one 5 × 5.

    Args:
        inputs: Channels that come in.
        one: Of the 1 × 1 branch.
        three_in: Of the 3 × 3 branch before the 3 × 3 convolution.
        three: After it.
        five_in: Of the third branch before its 3 × 3 convolutions.
        five: After them.
        pool: Of the pooling branch.
    """

    def __init__(  # noqa: PLR0913 - the seven columns of the paper's table
        self, inputs: int, one: int, three_in: int, three: int, five_in: int, five: int, pool: int
    ) -> None:
        super().__init__()
        self.branch1 = ConvUnit(inputs, one, 1)
        self.branch2 = nn.Sequential(ConvUnit(inputs, three_in, 1), ConvUnit(three_in, three, 3))
        self.branch3 = nn.Sequential(ConvUnit(inputs, five_in, 1), ConvUnit(five_in, five, 3), ConvUnit(five, five, 3))
        self.branch4 = nn.Sequential(nn.MaxPool2d(3, stride=1, padding=1), ConvUnit(inputs, pool, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], 1)


class GoogLeNet(nn.Module):
    """GoogLeNet for CIFAR: a 3 × 3 stem of 192 channels and nine inception modules, without auxiliary heads.

    Args:
        classes: Size of the output.
    """

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.stem = ConvUnit(3, 192, 3)
        self.stages = nn.ModuleList(nn.Sequential(*(Inception(*row) for row in stage)) for stage in INCEPTIONS)
        self.fc = nn.Linear(1024, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for number, stage in enumerate(self.stages):
            x = stage(F.max_pool2d(x, 3, stride=2, padding=1) if number else x)
        return self.fc(x.mean((2, 3)))


class LeNet(nn.Module):
    """LeNet with 20 and 50 filters and 500 hidden units, for 28 × 28 grey images.

    Args:
        classes: Size of the output.
    """

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 20, 5)
        self.conv2 = nn.Conv2d(20, 50, 5)
        self.fc1 = nn.Linear(800, 500)
        self.fc2 = nn.Linear(500, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.conv1(x), 2)
        x = F.max_pool2d(self.conv2(x), 2)
        return self.fc2(F.relu(self.fc1(x.flatten(1))))


def resnet20() -> ResNet:
    """ResNet-20."""
    return ResNet(20)


def resnet56() -> ResNet:
    """ResNet-56."""
    return ResNet(56)


def resnet110() -> ResNet:
    """ResNet-110."""
    return ResNet(110)


def vgg16() -> VGG:
    """VGG-16."""
    return VGG()


def densenet40() -> DenseNet:
    """DenseNet-40, growth 12."""
    return DenseNet()


def googlenet() -> GoogLeNet:
    """GoogLeNet."""
    return GoogLeNet()


def lenet() -> LeNet:
    """LeNet, for MNIST."""
    return LeNet()
