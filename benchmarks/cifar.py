"""The pretrained CIFAR-10 ResNets that benchmarks begin with."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

import squeeze
from examples.classifiers import task as tasks

NETWORKS: dict[str, tuple[Callable[[str], Any], str]] = {
    "resnet20": (tasks.cifar10_resnet20, "resnet20-12fca82f.th"),
    "resnet56": (tasks.cifar10_resnet56, "resnet56-4bfd9763.th"),
}
"""Task and file of weights (akamaster's)."""


def pretrained(network: str, data: str, weights: Path) -> tuple[Any, nn.Module]:
    """The task with its data, and the network on the CPU."""
    make, file = NETWORKS[network]
    task = make(data)
    dense = squeeze.load_into(task.build(), squeeze.read_weights(weights / file))
    return task, dense.to(memory_format=torch.channels_last).eval()


def accuracy(task: Any, model: nn.Module) -> float:
    """On the 10,000 test images."""
    return float(task.evaluate(model, "test")["accuracy"])
