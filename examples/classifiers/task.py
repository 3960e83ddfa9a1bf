"""The networks with their data, as tasks that squeeze can compress."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from examples.classifiers import data, losses, metrics, model

Labelled = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Epoch:
    """The training batches of an epoch: shuffled, jittered and scaled; all randomness is torch's global generator's.

    They have a length, so that schedules know from the first step how many are to come.
    """

    images: data.Images
    batch: int
    transform: Callable[[Tensor], Tensor]

    def __len__(self) -> int:
        return data.count(self.images, self.batch)

    def __iter__(self) -> Iterator[Labelled]:
        for pixels, labels in data.shuffled(self.images, self.batch):
            yield self.transform(pixels), labels


@dataclass(frozen=True)
class Classification:
    """Classifying small images; `squeeze.Task` says what its methods are for.

    Attributes:
        name: Of the network and its data.
        network: Builds the dense network.
        read: Reads the training and the test set; called once data is needed.
        scaling: From bytes to inputs.
        input_shape: Of one sample.
        padding: The largest random shift in training.
        flip: Mirror images at random in training.
        batch: Samples a training batch.
        held_out: How many of the last training images checkpoints are chosen by; never more than half.
    """

    name: str
    network: Callable[[], nn.Module]
    read: Callable[[], tuple[data.Images, data.Images]]
    scaling: data.Scaling
    input_shape: tuple[int, int, int] = (3, 32, 32)
    padding: int = 4
    flip: bool = True
    batch: int = 128
    held_out: int = 5000
    metric: str = "accuracy"

    @property
    def example_inputs(self) -> Tensor:
        """One sample of zeros."""
        return torch.zeros(1, *self.input_shape)

    def build(self) -> nn.Module:
        """The dense network, untrained."""
        return self.network()

    def train_batches(self, epoch: int) -> Epoch:
        """Another order and other shifts each time."""
        return Epoch(self._sets()["train"], self.batch, lambda p: self.scaling(data.jitter(p, self.padding, self.flip)))

    def loss(self, model: nn.Module, batch: Labelled) -> Tensor:
        """Cross-entropy."""
        inputs, labels = batch
        return losses.classification(model(inputs), labels)

    def features(self, model: nn.Module, batch: Labelled | Tensor) -> Tensor:
        """The logits, (N, classes)."""
        return model(batch if isinstance(batch, Tensor) else batch[0])

    def labels(self, batch: Labelled) -> Tensor:
        """The classes, (N,)."""
        return batch[1]

    def batches(self, split: Literal["holdout", "test"]) -> Iterator[Labelled]:
        """What `evaluate` judges on."""
        for pixels, labels in data.batches(self._sets()[split], 250, torch.device("cpu")):
            yield self.scaling(pixels), labels

    def evaluate(self, model: nn.Module, split: Literal["holdout", "test"]) -> dict[str, float]:
        """Accuracy in [0, 1], in eval mode; modes are restored."""
        images = self._sets()[split]
        modes = {module: module.training for module in model.modules()}
        device = next(model.parameters()).device
        try:
            model.eval()
            with torch.no_grad():
                found = sum(
                    metrics.correct(model(self.scaling(pixels)), labels)
                    for pixels, labels in data.batches(images, 250, device)
                )
        finally:
            for module, mode in modes.items():
                module.training = mode
        return {"accuracy": found / len(images)}

    def _sets(self) -> dict[str, data.Images]:
        train, test = self.read()
        cut = len(train) - min(self.held_out, len(train) // 2)
        return {"train": train[:cut], "holdout": train[cut:], "test": test}


def _cifar10(network: Callable[[], nn.Module], folder: str, scaling: data.Scaling) -> Classification:
    return Classification(f"{network.__name__}-cifar10", network, partial(data.cifar10, Path(folder)), scaling)


def cifar10_resnet20(folder: str = "data/cifar10") -> Classification:
    """ResNet-20, with the scaling of akamaster's published weights."""
    return _cifar10(model.resnet20, folder, data.IMAGENET_SCALING)


def cifar10_resnet56(folder: str = "data/cifar10") -> Classification:
    """ResNet-56, with the scaling of akamaster's published weights."""
    return _cifar10(model.resnet56, folder, data.IMAGENET_SCALING)


def cifar10_resnet110(folder: str = "data/cifar10") -> Classification:
    """ResNet-110, with the scaling of akamaster's published weights."""
    return _cifar10(model.resnet110, folder, data.IMAGENET_SCALING)


def cifar10_vgg16(folder: str = "data/cifar10") -> Classification:
    """VGG-16."""
    return _cifar10(model.vgg16, folder, data.CIFAR_SCALING)


def cifar10_densenet40(folder: str = "data/cifar10") -> Classification:
    """DenseNet-40."""
    return _cifar10(model.densenet40, folder, data.CIFAR_SCALING)


def cifar10_googlenet(folder: str = "data/cifar10") -> Classification:
    """GoogLeNet."""
    return _cifar10(model.googlenet, folder, data.CIFAR_SCALING)


def mnist_lenet(folder: str = "data/mnist") -> Classification:
    """LeNet; digits are shifted by up to 2 pixels and never mirrored."""
    read = partial(data.mnist, Path(folder))
    return Classification("lenet-mnist", model.lenet, read, data.MNIST_SCALING, (1, 28, 28), padding=2, flip=False)
