"""A small residual network on real data that scikit-learn brings along: for a first try, and for tests."""

from pathlib import Path

import torch
from torch import Tensor, nn

from squeeze.datasets import load_task
from squeeze.finetune import FineTune, finetune
from squeeze.randomness import randomness_kept, seed_all
from squeeze.training import Run
from squeeze.weights import write_checkpoint


class _Residual(nn.Module):
    """Two 3×3 convolutions, and a shortcut that is projected where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(y + self.shortcut(x))


def digits_resnet() -> nn.Module:
    """(N, 1, 8, 8) → (N, 10): a stem, three stages of two residual blocks, 6.6 M MACs."""
    stages: list[nn.Module] = []
    width = 32
    for outputs, stride in ((32, 1), (64, 2), (128, 2)):
        stages += [_Residual(width, outputs, stride), _Residual(outputs, outputs, 1)]
        width = outputs
    stem = nn.Sequential(nn.Conv2d(1, 32, 3, 1, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU())
    return nn.Sequential(stem, *stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))


def train_demo(path: Path, quiet: bool = False, epochs: int = 20) -> dict[str, float]:
    """Train `digits_resnet` and write it as a checkpoint that names its own architecture and data.

    Returns:
        Its metrics on the test set.
    """
    task = load_task("digits", digits_resnet)
    with randomness_kept():
        seed_all(0)
        model = task.build()
    settings = FineTune(epochs=epochs, lr=0.05, distill=0, name="demo")
    finetune(model, None, task, settings, (), Run(quiet=quiet))
    write_checkpoint(path, model, arch="squeeze.demo:digits_resnet", data="digits", input_shape=(1, 8, 8))
    return task.evaluate(model, "test")
