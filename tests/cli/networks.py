"""Networks that the tests name on the command line as networks.py:NAME."""

import os
import signal

import torch
from torch import nn


def small(channels: int = 1) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(channels, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 10),
    )


def clustered() -> nn.Module:
    from squeeze.nn import ClusteredConv2d

    net = small()
    net[3] = ClusteredConv2d(net[3], [4] * 16)
    return net


def colour() -> nn.Module:
    return small(3)


class Trunk(nn.Module):
    """Two layers read what a third one makes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body, self.head = nn.Linear(64, 16), nn.Linear(16, 16), nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x.flatten(1)).relu()
        return self.head(x + self.body(x).relu())


def trunk() -> nn.Module:
    return Trunk()


def rigid() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


class Broken(nn.Sequential):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) @ torch.ones(3, 3)


def broken() -> nn.Module:
    return Broken(*small())


def needy(width: int) -> nn.Module:
    return nn.Linear(width, width)


number = 7


class Doomed(nn.Sequential):
    """Computes in float64; the second process dies in the step of training that DOOM says."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.steps = getattr(self, "steps", 0) + self.training
        if self.training and (os.environ.get("RANK"), os.environ.get("DOOM")) == ("1", str(self.steps)):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(x.double())


def doomed() -> nn.Module:
    layers = (nn.Flatten(), nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU())
    return Doomed(*layers, nn.Linear(16, 10)).double()
