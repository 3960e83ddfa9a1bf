"""Data sets by name: what ``--data`` accepts."""

import difflib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

from squeeze.architectures import load_callable
from squeeze.blame import first_line
from squeeze.data_task import DataTask, as_task
from squeeze.errors import InputError
from squeeze.splitting import BATCH, batches_of, held_out
from squeeze.task import Task

Scaling = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation of each channel, of values from 0 to 1."""

CIFAR10: Scaling = ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
CIFAR100: Scaling = ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))
MNIST: Scaling = ((0.1307,), (0.3081,))
FASHION: Scaling = ((0.2860,), (0.3530,))
IMAGENET: Scaling = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
DIGITS: Scaling = ((0.3053,), (0.3762,))


@dataclass(frozen=True, eq=False)
class ImageBatches:
    """Labelled images in memory, batch by batch.

    Attributes:
        images: (N, C, H, W), uint8.
        labels: (N,).
        scaling: See `Scaling`.
        batch: Images a batch.
        shift: In training, images move by up to so many pixels; None for data that is not trained on.
        flip: In training, half of the images are mirrored.
    """

    images: Tensor
    labels: Tensor
    scaling: Scaling
    batch: int = 128
    shift: int | None = None
    flip: bool = False

    def __len__(self) -> int:
        return -(-len(self.images) // self.batch)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """All randomness is torch's global generator's."""
        training = self.shift is not None
        order = torch.randperm(len(self.images)) if training else torch.arange(len(self.images))
        mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in self.scaling)
        for rows in order.split(self.batch):
            images = self._jittered(self.images[rows]) if training else self.images[rows]
            yield (images.float() / 255 - mean) / std, self.labels[rows]

    def _jittered(self, images: Tensor) -> Tensor:
        """Crops at random places after padding with black; mirrored at random."""
        shift, (count, _, height, width) = self.shift or 0, images.shape
        padded = functional.pad(images, (shift,) * 4)
        down, right = (torch.randint(0, 2 * shift + 1, (count, 1)) for _ in range(2))
        columns = right + torch.arange(width)
        if self.flip:
            columns = torch.where(torch.rand(count, 1) < 0.5, columns.flip(1), columns)
        rows = down + torch.arange(height)
        index = torch.arange(count)[:, None, None]
        return padded.permute(0, 2, 3, 1)[index, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()

    def split(self) -> tuple["ImageBatches", "ImageBatches"]:
        """Nine tenths to train on, and a tenth, without jitter, held out."""
        order = torch.randperm(len(self.images), generator=torch.Generator().manual_seed(0))
        held, kept = order[: len(order) // 10], order[len(order) // 10 :]
        train = replace(self, images=self.images[kept], labels=self.labels[kept])
        return train, replace(self, images=self.images[held], labels=self.labels[held], shift=None, batch=500)


def load_task(spec: str, build: Callable[[], nn.Module], input_shape: tuple[int, ...] | None = None) -> Task:
    """The task that a name on the command line stands for.

    Args:
        spec: ``digits``, ``cifar10:DIR``, ``cifar100:DIR``, ``mnist:DIR``, ``fashionmnist:DIR``, ``imagefolder:DIR``
            (with the folders train and val in it), or ``file.py:callable``, which returns a `Task`, a data loader, a
            data set, or a pair (training data, test data) of these.
        build: Makes the dense model.
        input_shape: Of one sample; the data's own if None.

    Raises:
        InputError: There is no such data set, or its files are not there.
    """
    kind, _, place = spec.partition(":")
    if kind.endswith(".py"):
        return _own_task(spec, build, input_shape)
    train, holdout, test = _named(spec, kind, place)
    inputs = next(iter(test))[0][:1]
    if input_shape is not None and tuple(inputs.shape[1:]) != tuple(input_shape):
        raise InputError(
            f"data: {kind} must fit --input-shape {tuple(input_shape)}, got {tuple(inputs.shape[1:])}; leave it out."
        )
    return DataTask(build, inputs, train, holdout, test, kind)


def _named(spec: str, kind: str, place: str) -> "Splits":
    folder = Path(place).expanduser()
    if kind not in _KINDS:
        close = difflib.get_close_matches(kind.lower(), _KINDS, 1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise InputError(
            f"data: must be a known data set, got {spec!r}; {hint}There are {', '.join(_KINDS)} and file.py:callable."
        )
    if kind == "digits" and place:
        raise InputError(f"data: digits come with scikit-learn and have no folder, got {place!r}; write digits.")
    if kind != "digits" and not (place and folder.is_dir()):
        raise InputError(f"data: {kind} must be followed by its folder, got {place!r}; write {kind}:FOLDER.")
    try:
        return _KINDS[kind](folder)
    except InputError:
        raise
    except Exception as error:  # damaged files fail in as many ways as there are formats
        raise InputError(
            f"data: {place} must hold the files of {kind}, got {type(error).__name__}: {first_line(error)}; put them "
            "there as torchvision expects them."
        ) from error


Splits = tuple[Iterable[Any], Iterable[Any], Iterable[Any]]


def _splits(train: ImageBatches, test: ImageBatches) -> Splits:
    return (*train.split(), test)


def digits() -> Splits:
    """scikit-learn's 1,797 handwritten digits of 8 × 8, every fifth for testing; needs no file."""
    found = load_digits()
    images = (torch.from_numpy(found.images) * (255 / 16)).round().to(torch.uint8).unsqueeze(1)
    labels = torch.from_numpy(found.target).long()
    test = torch.arange(len(images)) % 5 == 0
    train = ImageBatches(images[~test], labels[~test], DIGITS, batch=64, shift=1)
    return _splits(train, ImageBatches(images[test], labels[test], DIGITS, batch=500))


def _cifar(kind: Any, scaling: Scaling) -> Callable[[Path], Splits]:
    def load(folder: Path) -> Splits:
        parts = []
        for train in (True, False):
            found = kind(folder, train=train, download=False)
            images = torch.from_numpy(found.data).permute(0, 3, 1, 2).contiguous()
            labels = torch.tensor(found.targets)
            parts.append(ImageBatches(images, labels, scaling, 128 if train else 500, 4 if train else None, train))
        return _splits(*parts)

    return load


def _mnist(kind: Any, scaling: Scaling) -> Callable[[Path], Splits]:
    def load(folder: Path) -> Splits:
        parts = []
        for train in (True, False):
            found = kind(folder, train=train, download=False)
            images = found.data.unsqueeze(1)
            parts.append(ImageBatches(images, found.targets, scaling, 128 if train else 500, 2 if train else None))
        return _splits(*parts)

    return load


def _image_folder(folder: Path) -> Splits:
    scale = [transforms.ToTensor(), transforms.Normalize(*IMAGENET)]
    jitter = transforms.Compose([transforms.RandomResizedCrop(224), transforms.RandomHorizontalFlip(), *scale])
    plain = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224), *scale])
    judged = next((folder / name for name in ("val", "test") if (folder / name).is_dir()), folder / "val")
    jittered, unchanged = (datasets.ImageFolder(folder / "train", transform) for transform in (jitter, plain))
    test = datasets.ImageFolder(judged, plain)
    if jittered.classes != test.classes:
        other = sorted({*jittered.classes} ^ {*test.classes})
        raise InputError(
            f"data: {folder} must hold the same classes in train and {judged.name}, got {other[0]!r} in one of them "
            "only; classes are numbered by the names of their folders."
        )
    train, _ = held_out(DataLoader(jittered, BATCH, shuffle=True))
    _, holdout = held_out(DataLoader(unchanged, BATCH))
    return train, holdout, DataLoader(test, BATCH)


def _own_task(spec: str, build: Callable[[], nn.Module], input_shape: tuple[int, ...] | None) -> Task:
    made = load_callable(spec)()
    if isinstance(made, Task):
        return made
    if made is None:
        raise InputError(f"data: {spec} must return a Task or data, got None; add a return.")
    inputs = None if input_shape is None else torch.zeros(1, *input_shape)
    pair = isinstance(made, tuple) and len(made) == 2 and not all(isinstance(part, Tensor) for part in made)
    train, test = made if pair else (made, ())
    task = as_task(build(), train, inputs)
    name = spec.rpartition(":")[2]
    return replace(task, builder=build, test=batches_of(test), name=name) if isinstance(task, DataTask) else task


_KINDS: dict[str, Callable[[Path], Splits]] = {
    "digits": lambda folder: digits(),
    "cifar10": _cifar(datasets.CIFAR10, CIFAR10),
    "cifar100": _cifar(datasets.CIFAR100, CIFAR100),
    "mnist": _mnist(datasets.MNIST, MNIST),
    "fashionmnist": _mnist(datasets.FashionMNIST, FASHION),
    "imagefolder": _image_folder,
}
