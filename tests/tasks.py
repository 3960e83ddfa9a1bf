"""Tiny tasks that need no file: a net with batch norm and dropout, on noise or on scikit-learn's digits."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional


def tiny_net(channels: int = 8, dropout: float = 0.2) -> nn.Module:
    """Convolution, batch norm, dropout; (N, 1, 8, 8) to 10 logits."""
    return nn.Sequential(
        *(nn.Conv2d(1, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()),
        *(nn.Conv2d(channels, channels, 3, padding=1, stride=2), nn.BatchNorm2d(channels), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Dropout(dropout), nn.Linear(4 * channels, 10)),
    )


@dataclass
class ToyTask:
    """Classification of images held in memory; the last fifth is held out, and no test set.

    Attributes:
        images: (N, 1, 8, 8).
        labels: (N,), or None: then batches are inputs alone.
        batch: Images a batch.
        augment: Shuffle, shift and add noise, drawn from torch's global generator.
    """

    images: Tensor
    labels: Tensor | None
    batch: int = 32
    augment: bool = True
    name: str = "toy"
    metric: str = "accuracy"

    @property
    def example_inputs(self) -> Tensor:
        return self.images[:2]

    def build(self) -> nn.Module:
        return tiny_net()

    def train_batches(self, epoch: int) -> Iterator[object]:
        size = len(self.images) * 4 // 5
        order = torch.randperm(size) if self.augment else torch.arange(size)
        for rows in order.split(self.batch):
            images = self.images[rows]
            if self.augment:
                images = images.roll(int(torch.randint(-1, 2, ())), dims=3) + 0.05 * torch.randn(images.shape)
            yield images if self.labels is None else (images, self.labels[rows])

    def loss(self, model: nn.Module, batch: object) -> Tensor | None:
        return None if self.labels is None else functional.cross_entropy(model(batch[0]), batch[1])

    def features(self, model: nn.Module, batch: object) -> Tensor:
        return model(batch if self.labels is None else batch[0])

    def evaluate(self, model: nn.Module, split: str) -> dict[str, float]:
        if self.labels is None or split == "test":
            return {}
        rows = slice(len(self.images) * 4 // 5, None)
        with torch.no_grad():
            right = model(self.images[rows]).argmax(1) == self.labels[rows]
        return {"accuracy": right.double().mean().item()}


def noise_task(size: int = 160, labelled: bool = True) -> ToyTask:
    """Random images and labels."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(size, 1, 8, 8, generator=generator)
    return ToyTask(images, torch.randint(0, 10, (size,), generator=generator) if labelled else None)


@cache
def _digits() -> tuple[Tensor, Tensor]:
    digits = load_digits()
    return torch.tensor(digits.images[:, None] / 16, dtype=torch.float32), torch.tensor(digits.target)


def digits_task(size: int = 1000, labelled: bool = True) -> ToyTask:
    """The first images of scikit-learn's digits."""
    images, labels = _digits()
    return ToyTask(images[:size], labels[:size] if labelled else None, batch=64)
