"""CIFAR-10 and MNIST from a folder, whole in memory as bytes, and batches of them."""

import gzip
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torchvision.datasets import CIFAR10

from squeeze import InputError

TILES = 50, 100
"""Rows and columns of the images on one WebP sheet."""


@dataclass(frozen=True, eq=False)
class Images:
    """A labelled set.

    Attributes:
        pixels: (N, C, H, W) uint8.
        labels: (N,) int64.
    """

    pixels: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, part: slice) -> "Images":
        return Images(self.pixels[part], self.labels[part])


@dataclass(frozen=True)
class Scaling:
    """(x / 255 − mean) / std, channel by channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, pixels: Tensor) -> Tensor:
        """Float32 inputs from (N, C, H, W) bytes."""
        shape = 1, -1, 1, 1
        mean = torch.tensor(self.mean, device=pixels.device).view(shape)
        std = torch.tensor(self.std, device=pixels.device).view(shape)
        return (pixels.float() / 255 - mean) / std


CIFAR_SCALING = Scaling((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
IMAGENET_SCALING = Scaling((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
MNIST_SCALING = Scaling((0.1307,), (0.3081,))


@cache
def cifar10(folder: Path) -> tuple[Images, Images]:
    """The training and the test set of CIFAR-10.

    Args:
        folder: Holds what torchvision's `CIFAR10` downloads (``cifar-10-batches-py``), or lossless WebP sheets
            ``train_0.webp`` … ``test_1.webp`` of 50 × 100 images with ``train_labels.npy`` and ``test_labels.npy``.

    Raises:
        InputError: It holds neither.
    """
    if (folder / "train_0.webp").is_file():
        return _sheets(folder, "train"), _sheets(folder, "test")
    if (folder / CIFAR10.base_folder).is_dir():
        return _torchvision_cifar(folder, train=True), _torchvision_cifar(folder, train=False)
    raise InputError(
        f"CIFAR-10: the folder must hold {CIFAR10.base_folder} or train_0.webp, got {folder}; name another folder."
    )


def _sheets(folder: Path, part: str) -> Images:
    rows, columns = TILES
    tiles = []
    for path in sorted(folder.glob(f"{part}_*.webp"), key=lambda path: int(path.stem.split("_")[1])):
        with Image.open(path) as sheet:
            pixels = np.asarray(sheet.convert("RGB"))
        grid = pixels.reshape(rows, 32, columns, 32, 3).transpose(0, 2, 4, 1, 3)
        tiles.append(torch.from_numpy(np.ascontiguousarray(grid).reshape(-1, 3, 32, 32)))
    # A memory map, unlike np.load, can hold no pickle.
    labels = np.lib.format.open_memmap(folder / f"{part}_labels.npy", mode="c")
    return _checked(folder, torch.cat(tiles), torch.from_numpy(labels).long())


def _torchvision_cifar(folder: Path, train: bool) -> Images:
    found = CIFAR10(folder, train=train)
    pixels = torch.from_numpy(found.data).permute(0, 3, 1, 2).contiguous()
    return _checked(folder, pixels, torch.tensor(found.targets))


@cache
def mnist(folder: Path) -> tuple[Images, Images]:
    """The training and the test set of MNIST.

    Args:
        folder: Holds the four idx files, or torchvision's ``MNIST/raw`` with them; gzipped or not.

    Raises:
        InputError: One of them is missing or damaged.
    """
    sets = []
    for part in ("train", "t10k"):
        pixels = _idx(folder, f"{part}-images-idx3-ubyte")
        labels = _idx(folder, f"{part}-labels-idx1-ubyte")
        sets.append(_checked(folder, pixels.unsqueeze(1), labels.long()))
    return sets[0], sets[1]


def _idx(folder: Path, name: str) -> Tensor:
    places = [place / (name + end) for place in (folder, folder / "MNIST" / "raw") for end in ("", ".gz")]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise InputError(f"MNIST: the folder must hold {name} or {name}.gz, got {folder}; name another folder.")
    raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    dims = raw[3] if raw[:3] == b"\0\0\x08" else 0
    shape = np.frombuffer(raw, ">u4", dims, offset=4).tolist() if len(raw) >= 4 + 4 * dims else []
    if not dims or len(raw) != 4 + 4 * dims + int(np.prod(shape)):
        raise InputError(f"MNIST: {path} must be a whole idx file of bytes, got {len(raw)} bytes; fetch it again.")
    return torch.from_numpy(np.frombuffer(raw, np.uint8, offset=4 + 4 * dims).reshape(shape).copy())


def _checked(folder: Path, pixels: Tensor, labels: Tensor) -> Images:
    if len(pixels) != len(labels) or not len(labels):
        raise InputError(
            f"{folder}: each image must have a label, got {len(pixels)} images and {len(labels)} labels; "
            "fetch the data again."
        )
    return Images(pixels, labels)


def batches(images: Images, size: int, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """(pixels, labels) in order; the last batch may be smaller."""
    for start in range(0, len(images), size):
        part = images[start : start + size]
        yield part.pixels.to(device), part.labels.to(device)


def shuffled(images: Images, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """(pixels, labels) in a random order of torch's global generator; a remainder is left out, as BN needs company."""
    order = torch.randperm(len(images))
    for number in range(count(images, size)):
        picked = order[number * size : (number + 1) * size]
        yield images.pixels[picked], images.labels[picked]


def count(images: Images, size: int) -> int:
    """How many batches `shuffled` gives: all full ones, or a single smaller one."""
    return max(len(images) // size, 1)


def jitter(pixels: Tensor, padding: int = 4, flip: bool = True) -> Tensor:
    """Shift each image by up to `padding` pixels over zeros, and mirror every second one, at random.

    Args:
        pixels: (N, C, H, W), any type.
        padding: The largest shift.
        flip: Mirror left and right with probability 1/2.
    """
    count, _, height, width = pixels.shape
    padded = F.pad(pixels, (padding,) * 4)
    top, left = torch.randint(2 * padding + 1, (2, count, 1))
    rows, columns = top + torch.arange(height), left + torch.arange(width)
    if flip:
        mirrored = torch.rand(count, 1) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
    picked = padded.permute(0, 2, 3, 1)[torch.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]
    return picked.permute(0, 3, 1, 2).contiguous()
