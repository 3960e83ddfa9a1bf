"""What --data accepts: each format is read as torchvision lays it out, and every wrong name is told."""

import gzip
import hashlib
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torchvision.datasets import CIFAR10, CIFAR100

from squeeze import datasets
from squeeze.data_task import DataTask
from squeeze.datasets import DIGITS, ImageBatches, load_task
from squeeze.errors import InputError
from squeeze.task import Task

SCALING = ((0.5,), (0.25,))


def net() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


def images(count: int, channels: int = 1, size: int = 4) -> Tensor:
    """No two images and no two pixels of an image are alike; none is black."""
    pixels = torch.arange(channels * size * size).view(1, channels, size, size)
    return (1 + pixels + 100 * (torch.arange(count) % 2).view(-1, 1, 1, 1)).to(torch.uint8)


def raw(batch: Tensor, scaling: datasets.Scaling) -> Tensor:
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in scaling)
    return ((batch * std + mean) * 255).round().long()


def test_images_are_scaled_to_mean_and_deviation() -> None:
    batches = list(ImageBatches(images(5), torch.arange(5), SCALING, batch=2))
    assert [len(labels) for _, labels in batches] == [2, 2, 1]
    assert torch.equal(torch.cat([labels for _, labels in batches]), torch.arange(5))
    everything = torch.cat([batch for batch, _ in batches])
    assert torch.allclose(everything, (images(5).float() / 255 - 0.5) / 0.25)


def test_training_images_are_crops_of_the_padded_image() -> None:
    given = images(300)
    made = ImageBatches(given, torch.arange(300), SCALING, batch=300, shift=2, flip=True)
    batch, labels = next(iter(made))
    assert sorted(labels.tolist()) == list(range(300)) != labels.tolist()
    padded = np.pad(given.numpy(), ((0, 0), (0, 0), (2, 2), (2, 2)))
    seen = set()
    for image, label in zip(raw(batch, SCALING)[:, 0].numpy(), labels.tolist(), strict=True):
        places = [
            (down, right, flip)
            for down in range(5)
            for right in range(5)
            for flip in (False, True)
            if np.array_equal(padded[label, 0, down : down + 4, right : right + 4][:, :: -1 if flip else 1], image)
        ]
        assert len(places) == 1
        seen.add(places[0])
    assert len(seen) == 50


def test_training_images_without_flip_are_never_mirrored() -> None:
    made = ImageBatches(images(64), torch.arange(64), SCALING, batch=64, shift=0)
    batch, labels = next(iter(made))
    assert torch.equal(raw(batch, SCALING), images(64)[labels].long())


def test_epochs_differ_and_repeat_with_the_seed() -> None:
    made = ImageBatches(images(64), torch.arange(64), SCALING, shift=1)
    epochs = []
    for seed in (1, 2, 1):
        torch.manual_seed(seed)
        epochs.append(next(iter(made)))
    assert torch.equal(epochs[0][0], epochs[2][0]) and torch.equal(epochs[0][1], epochs[2][1])
    assert not torch.equal(epochs[0][1], epochs[1][1])


def test_a_tenth_is_held_out_unaugmented() -> None:
    whole = ImageBatches(images(50), torch.arange(50), SCALING, shift=1, flip=True)
    (train, held), (again, held_again) = whole.split(), whole.split()
    assert sorted([*train.labels.tolist(), *held.labels.tolist()]) == list(range(50))
    assert len(held.labels) == 5
    assert torch.equal(train.labels, again.labels) and torch.equal(held.labels, held_again.labels)
    batch, labels = next(iter(held))
    assert torch.equal(raw(batch, SCALING), images(50)[labels].long())
    assert (train.shift, train.flip, len(train)) == (1, True, 1)


def test_digits_are_scikit_learns() -> None:
    task = load_task("digits", net)
    assert isinstance(task, DataTask) and isinstance(task, Task)
    parts = [task.train, task.holdout, task.test]
    counts = [sum(len(labels) for _, labels in part) for part in parts]
    assert counts == [1294, 143, 360]
    found = load_digits()
    given = torch.cat([batch for batch, _ in task.test])
    rows = torch.arange(len(found.images)) % 5 == 0
    expected = torch.from_numpy(found.images).float()[rows]
    assert torch.allclose(raw(given, DIGITS)[:, 0] * 16 / 255, expected, atol=0.04)
    assert torch.equal(torch.cat([labels for _, labels in task.test]), torch.from_numpy(found.target)[rows])
    assert (task.name, task.metric, task.example_inputs.shape) == ("digits", "accuracy", (1, 1, 8, 8))
    assert task.build()[1].out_features == 10


def test_digits_constants_are_those_of_the_training_data() -> None:
    train, _, _ = datasets.digits()
    assert isinstance(train, ImageBatches)
    pixels = train.images.double() / 255
    assert DIGITS == (
        (pytest.approx(float(pixels.mean()), abs=0.003),),
        (pytest.approx(float(pixels.std()), abs=0.003),),
    )


def write_cifar(monkeypatch: pytest.MonkeyPatch, kind: Any, folder: Path) -> Tensor:
    """Files of torchvision's layout, ten images each, with checksums of their own."""
    base = folder / kind.base_folder
    base.mkdir()
    everything = torch.randint(0, 256, (100, 3, 32, 32), dtype=torch.uint8)
    for part, name in enumerate([*(name for name, _ in kind.train_list), kind.test_list[0][0]]):
        rows = slice(10 * part, 10 * part + 10)
        labels = [row % 10 for row in range(100)][rows]
        key = "labels" if kind is CIFAR10 else "fine_labels"
        (base / name).write_bytes(pickle.dumps({"data": everything[rows].flatten(1).numpy(), key: labels}))
    (base / kind.meta["filename"]).write_bytes(pickle.dumps({kind.meta["key"]: [str(n) for n in range(10)]}))

    def signed(names: list[Any]) -> list[list[str]]:
        return [[name, hashlib.md5((base / name).read_bytes()).hexdigest()] for name, _ in names]

    meta = kind.meta | {"md5": hashlib.md5((base / kind.meta["filename"]).read_bytes()).hexdigest()}
    for attribute, value in {
        "train_list": signed(kind.train_list),
        "test_list": signed(kind.test_list),
        "meta": meta,
    }.items():
        monkeypatch.setattr(kind, attribute, value)
    return everything


@pytest.mark.parametrize(
    ("name", "kind", "scaling"), [("cifar10", CIFAR10, datasets.CIFAR10), ("cifar100", CIFAR100, datasets.CIFAR100)]
)
def test_cifar(name: str, kind: Any, scaling: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = 5 if kind is CIFAR10 else 1
    everything = write_cifar(monkeypatch, kind, tmp_path)
    task = load_task(f"{name}:{tmp_path}", net)
    assert isinstance(task, DataTask)
    (batch, labels), *rest = task.test
    assert not rest and labels.tolist() == list(range(10))
    assert torch.equal(raw(batch, scaling), everything[10 * files : 10 * files + 10].long())
    train = task.train
    assert isinstance(train, ImageBatches)
    assert (len(train.images), train.shift, train.flip, train.batch) == (9 * files, 4, True, 128)
    assert {tuple(image.flatten().tolist()) for image in train.images} < {
        tuple(image.flatten().tolist()) for image in everything
    }
    assert (task.name, task.example_inputs.shape) == (name, (1, 3, 32, 32))


@pytest.mark.parametrize(("name", "kind"), [("mnist", "MNIST"), ("fashionmnist", "FashionMNIST")])
@pytest.mark.parametrize("zipped", [False, True])
def test_mnist(name: str, kind: str, zipped: bool, tmp_path: Path) -> None:
    base = tmp_path / kind / "raw"
    base.mkdir(parents=True)
    given = {"train": images(20, size=28), "t10k": images(5, size=28)}
    for part, pictures in given.items():
        labels = bytes(range(len(pictures)))
        body = pictures.numpy().tobytes()
        for file, content in {
            f"{part}-images-idx3-ubyte": struct.pack(">iiii", 2051, len(pictures), 28, 28) + body,
            f"{part}-labels-idx1-ubyte": struct.pack(">ii", 2049, len(pictures)) + labels,
        }.items():
            (base / file).write_bytes(content)
            if zipped:
                (base / f"{file}.gz").write_bytes(gzip.compress(content))
    task = load_task(f"{name}:{tmp_path}", net)
    assert isinstance(task, DataTask)
    ((batch, labels),) = task.test
    scaling = datasets.MNIST if name == "mnist" else datasets.FASHION
    assert torch.equal(raw(batch, scaling), given["t10k"].long()) and labels.tolist() == [0, 1, 2, 3, 4]
    assert isinstance(task.train, ImageBatches) and (task.train.shift, task.train.flip) == (2, False)
    (base / "t10k-images-idx3-ubyte").write_bytes(b"\0\0\10\3\0\0")
    check_refused(f"{name}:{tmp_path}", str(tmp_path), name)


def write_folder(root: Path, classes: dict[str, list[str]]) -> None:
    for part, names in classes.items():
        for number, name in enumerate(names):
            place = root / part / name
            place.mkdir(parents=True)
            for copy in range(10):
                Image.new("RGB", (260, 300), (40 * number, 10 * copy, 0)).save(place / f"{copy}.png")


def test_image_folders(tmp_path: Path) -> None:
    write_folder(tmp_path, {"train": ["cat", "dog"], "val": ["cat", "dog"]})
    task = load_task(f"imagefolder:{tmp_path}", net)
    assert isinstance(task, DataTask)
    ((batch, labels),) = task.test
    assert batch.shape == (20, 3, 224, 224) and labels.tolist() == [0] * 10 + [1] * 10
    assert torch.equal(raw(batch, datasets.IMAGENET)[:, 0].amax((1, 2)), torch.tensor([0] * 10 + [40] * 10))
    held = raw(torch.cat([x for x, _ in task.holdout]), datasets.IMAGENET)
    trained = raw(torch.cat([x for x, _ in task.train]), datasets.IMAGENET)
    marks = [[tuple(image[:, 112, 112].tolist()) for image in part] for part in (held, trained)]
    assert len(set(marks[0])) == 2 and len(set(marks[1])) == 18 and not {*marks[0]} & {*marks[1]}
    (tmp_path / "val" / "dog" / "0.png").write_bytes(b"no picture")
    with pytest.raises(Exception, match="cannot identify"):
        list(task.test)


def test_image_folders_of_other_classes_are_refused(tmp_path: Path) -> None:
    write_folder(tmp_path, {"train": ["cat", "dog"], "val": ["dog"]})
    check_refused(f"imagefolder:{tmp_path}", "same classes", "'cat'")
    check_refused(f"imagefolder:{tmp_path / 'val'}", "imagefolder", "FileNotFoundError")


OWN = """
import torch
from torch.utils.data import DataLoader, TensorDataset
from squeeze import DataTask

X, Y = torch.randn(50, 6), torch.arange(50) % 2


def pair():
    return X, Y


def loader():
    return DataLoader(TensorDataset(X, Y), batch_size=5)


def data_sets():
    return TensorDataset(X, Y), TensorDataset(X[:7], Y[:7])


def loaders():
    return loader(), DataLoader(TensorDataset(X[:7], Y[:7]), batch_size=2)


def pairs():
    return (X, Y), (X[:7], Y[:7])


def lists():
    return [(X, Y)] * 10, [(X[:7], Y[:7])]


def task():
    return DataTask(lambda: torch.nn.Linear(6, 3), X[:1], name="mine")


def once():
    return loader(), iter([(X, Y)])


def broken():
    return 1 / 0


def nothing():
    return None
"""


def linear() -> nn.Module:
    return nn.Linear(6, 2)


@pytest.fixture
def own(tmp_path: Path) -> Callable[[str], str]:
    path = tmp_path / "own.py"
    path.write_text(OWN)
    return lambda name: f"{path}:{name}"


@pytest.mark.parametrize("name", ["pair", "loader"])
def test_a_file_of_the_users_gives_training_data(name: str, own: Callable[[str], str]) -> None:
    task = load_task(own(name), linear)
    assert sum(len(x) for x, _ in task.train_batches(0)) == 45
    assert set(task.evaluate(linear(), "holdout")) == {"accuracy"}
    assert task.evaluate(linear(), "test") == {}
    assert (task.name, task.example_inputs.shape) == (name, (1, 6))


@pytest.mark.parametrize("name", ["data_sets", "loaders", "pairs", "lists"])
def test_a_file_of_the_users_gives_test_data_too(name: str, own: Callable[[str], str]) -> None:
    task = load_task(own(name), linear)
    assert isinstance(task, DataTask)
    assert sum(len(x) for x, _ in task.test) == 7
    always = nn.Sequential(linear())
    nn.init.zeros_(always[0].weight)
    with torch.no_grad():
        always[0].bias.copy_(torch.tensor([1.0, 0.0]))
    assert task.evaluate(always, "test") == {"accuracy": pytest.approx(4 / 7)}


def test_a_file_of_the_users_gives_a_task(own: Callable[[str], str]) -> None:
    task = load_task(own("task"), linear)
    assert (task.name, task.build().out_features) == ("mine", 3)


def check_refused(spec: str, *words: str, shape: tuple[int, ...] | None = None) -> None:
    with pytest.raises(InputError) as caught:
        load_task(spec, linear, shape)
    message = str(caught.value)
    assert message.startswith("data: ") and message.isprintable() and len(message) < 600
    for word in words:
        assert word in message


def test_wrong_files_of_the_user_are_told(own: Callable[[str], str]) -> None:
    check_refused(own("once"), "cannot be read twice")
    check_refused(own("broken"), "ZeroDivisionError", "own.py:")
    check_refused(own("nothing"), "nothing", "None")
    check_refused(own("loder"), "did you mean loader")


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("digit", ("did you mean digits?", "cifar10", "file.py:callable")),
        ("CIFAR10:x", ("did you mean cifar10?",)),
        ("imagenet:x", ("imagefolder",)),
        ("", ("digits", "file.py:callable")),
        ("cifar10", ("cifar10:FOLDER", "''")),
        ("mnist:nowhere", ("'nowhere'", "mnist:FOLDER")),
        ("digits:here", ("'here'", "write digits")),
    ],
)
def test_wrong_names_are_told(spec: str, words: tuple[str, ...]) -> None:
    check_refused(spec, *words)


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "mnist", "fashionmnist", "imagefolder"])
def test_an_empty_folder_is_told(name: str, tmp_path: Path) -> None:
    check_refused(f"{name}:{tmp_path}", str(tmp_path), f"files of {name}")


def test_a_folder_may_be_in_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "pictures").mkdir()
    check_refused("mnist:~/pictures", "files of mnist")


def test_an_input_shape_must_be_the_datas() -> None:
    assert load_task("digits", net, (1, 8, 8)).example_inputs.shape == (1, 1, 8, 8)
    check_refused("digits", "(3, 8, 8)", "(1, 8, 8)", shape=(3, 8, 8))
