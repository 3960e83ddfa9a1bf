"""Gated networks whose codes are known, or that are at least quick."""

from typing import Any

import torch
from torch import Tensor, nn

import squeeze
from squeeze.nn import GatedConv2d


def telling_net(classes: int = 4) -> nn.Module:
    """(N, K, 4, 4) to K: filter k is on where the mean of channel k is above one half; the last class is the default.

    An input whose channel k is 1 and whose others are 0 has the code that is 1 at k alone, and features that are 1 at
    k, but for 0.1 more at the last class.
    """
    conv = nn.Conv2d(classes, classes, 1, bias=False)
    gated = GatedConv2d(conv, None, hidden=classes)
    head = nn.Linear(classes, classes)
    with torch.no_grad():
        conv.weight.copy_(torch.eye(classes)[:, :, None, None])
        gated.gate.reduce.weight.copy_(torch.eye(classes))
        gated.gate.reduce.bias.zero_()
        gated.gate.expand.weight.copy_(2 * torch.eye(classes))
        gated.gate.expand.bias.fill_(-1)
        head.weight.copy_(torch.eye(classes))
        head.bias.zero_()[-1] = 0.1
    return nn.Sequential(gated, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head).eval()


def telling_inputs(labels: Tensor, classes: int = 4) -> Tensor:
    """Inputs of these classes for `telling_net`."""
    return nn.functional.one_hot(labels, classes).float()[:, :, None, None].expand(-1, -1, 4, 4).contiguous()


def telling_task(count: int = 48, classes: int = 4, labelled: bool = True) -> squeeze.DataTask:
    """As many inputs of each class, in three batches; the test set alone."""
    labels = torch.arange(count) // 2 % classes  # so that every other input still is of every class
    inputs = telling_inputs(labels, classes)
    parts = [(inputs[rows], labels[rows]) if labelled else inputs[rows] for rows in torch.arange(count).split(16)]
    return squeeze.DataTask(lambda: telling_net(classes), inputs[:1], test=parts)


def quick_net() -> nn.Module:
    """(N, 1, 8, 8) to 10: two gated convolutions of random weights whose gates are near their thresholds."""
    torch.manual_seed(0)
    gated = [
        GatedConv2d(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), hidden=4),
        GatedConv2d(nn.Conv2d(8, 16, 3, padding=1, stride=2), nn.BatchNorm2d(16), hidden=4),
    ]
    net = nn.Sequential(gated[0], nn.ReLU(), gated[1], nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten())
    for layer in gated:
        nn.init.normal_(layer.gate.reduce.weight, std=3)
        nn.init.normal_(layer.gate.expand.bias, std=0.3)
    return nn.Sequential(*net, nn.Linear(64, 10)).eval()


def quick_task(count: int = 60, **parts: Any) -> squeeze.DataTask:
    """Noise without labels: so much held out, and as much for testing."""
    images = torch.randn(2 * count, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    given = {"holdout": list(images[:count].split(32)), "test": list(images[count:].split(32)), **parts}
    return squeeze.DataTask(quick_net, images[:1], **given)
