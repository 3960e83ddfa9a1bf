"""The papers' networks cost what the papers say, and the data arrives unharmed."""

import gzip
import pickle
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.datasets import CIFAR10
from torchvision.datasets import cifar as torchvision_cifar

import squeeze
from examples.classifiers import data, model, task, train

PAPER = [
    (model.resnet56, 125.49, 0.85),
    (model.resnet110, 252.89, 1.72),
    (model.densenet40, 282.92, 1.04),
    (model.lenet, 2.29, 0.43),
]
"""Network, million MACs, million parameters of convolutions and linear layers (BN is not counted in the papers)."""


def macs(network: nn.Module) -> int:
    size = (1, 1, 28, 28) if isinstance(network, model.LeNet) else (1, 3, 32, 32)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network.eval()(torch.zeros(size))
    return counter.get_total_flops() // 2


def weights(network: nn.Module) -> int:
    layers = [m for m in network.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    return sum(p.numel() for layer in layers for p in layer.parameters())


@pytest.mark.parametrize(("build", "mega_macs", "mega_params"), PAPER)
def test_network_costs_what_the_paper_says(
    build: Callable[[], nn.Module], mega_macs: float, mega_params: float
) -> None:
    network = build()
    assert macs(network) / 1e6 == pytest.approx(mega_macs, abs=0.005)
    assert weights(network) / 1e6 == pytest.approx(mega_params, abs=0.005)


def test_vgg16_costs_what_the_paper_says_if_linear_layers_count_twice() -> None:
    """313.73 M is one operation for each MAC of a convolution and two for each of a linear layer."""
    network = model.vgg16()
    linear = sum(m.weight.numel() for m in network.modules() if isinstance(m, nn.Linear))
    assert (macs(network) + linear) / 1e6 == pytest.approx(313.73, abs=0.005)
    assert weights(network) / 1e6 == pytest.approx(14.98, abs=0.005)


def test_googlenet_costs_what_the_paper_says() -> None:
    network = model.googlenet()
    assert 1.52e9 <= macs(network) <= 1.53e9
    assert weights(network) < 6.15e6 < sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize("depth", [20, 56, 110])
def test_resnet_has_the_keys_of_published_checkpoints(depth: int) -> None:
    units = [("conv1", "bn1")]
    for stage in (1, 2, 3):
        for block in range((depth - 2) // 6):
            units += [(f"layer{stage}.{block}.conv{i}", f"layer{stage}.{block}.bn{i}") for i in (1, 2)]
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    expected = {f"{conv}.weight" for conv, _ in units} | {f"{bn}.{leaf}" for _, bn in units for leaf in norm}
    assert set(model.ResNet(depth).state_dict()) == expected | {"linear.weight", "linear.bias"}


def test_depths_that_do_not_exist_are_refused() -> None:
    with pytest.raises(ValueError, match="6n \\+ 2, got 21"):
        model.ResNet(21)
    with pytest.raises(ValueError, match="3n \\+ 4, got 41"):
        model.DenseNet(41)


def test_shortcut_takes_every_second_pixel_and_pads_channels_evenly() -> None:
    block = model.BasicBlock(4, 8, stride=2).eval()
    nn.init.zeros_(block.bn2.weight)
    x = torch.rand(2, 4, 6, 6)
    out = block(x)
    assert torch.equal(out[:, 2:6], x[:, :, ::2, ::2])
    assert not out[:, :2].any()
    assert not out[:, 6:].any()


def tiles(count: int) -> np.ndarray:
    """(count, 32, 32, 3) images of one colour each."""
    numbers = np.arange(count)
    colours = np.stack([numbers % 251, numbers // 251, numbers % 7], 1).astype(np.uint8)
    return np.broadcast_to(colours[:, None, None], (count, 32, 32, 3))


@pytest.fixture
def sheets(tmp_path: Path) -> Path:
    """A folder of WebP sheets: two for training, one for the test."""
    for name, first in (("train_0", 0), ("train_1", 5000), ("test_0", 10000)):
        grid = tiles(15000)[first : first + 5000].reshape(50, 100, 32, 32, 3).transpose(0, 2, 1, 3, 4)
        Image.fromarray(np.ascontiguousarray(grid).reshape(1600, 3200, 3)).save(
            tmp_path / f"{name}.webp", lossless=True, method=0
        )
    np.save(tmp_path / "train_labels.npy", np.arange(10000) % 10)
    np.save(tmp_path / "test_labels.npy", np.arange(5000) % 10)
    return tmp_path


def test_sheets_are_cut_into_images_in_order(sheets: Path) -> None:
    train, test = data.cifar10(sheets)
    assert (len(train), len(test)) == (10000, 5000)
    assert torch.equal(train.pixels.permute(0, 2, 3, 1), torch.from_numpy(tiles(10000).copy()))
    assert torch.equal(test.pixels[:, :, 0, 0], torch.from_numpy(tiles(15000)[10000:, 0, 0].copy()))
    assert test.labels.tolist()[:12] == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]


def test_labels_that_do_not_match_are_refused(sheets: Path) -> None:
    np.save(sheets / "test_labels.npy", np.arange(4999) % 10)
    with pytest.raises(squeeze.InputError, match="5000 images and 4999 labels"):
        data.cifar10(sheets)


def test_torchvisions_batches_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchvision_cifar, "check_integrity", lambda *args: True)
    folder = tmp_path / CIFAR10.base_folder
    folder.mkdir()
    rows = tiles(6).transpose(0, 3, 1, 2).reshape(6, -1)
    for number, (name, _) in enumerate([*CIFAR10.train_list, *CIFAR10.test_list]):
        entry = {"data": rows[number : number + 1], "labels": [number]}
        (folder / name).write_bytes(pickle.dumps(entry))
    (folder / CIFAR10.meta["filename"]).write_bytes(pickle.dumps({CIFAR10.meta["key"]: list("abcdefghij")}))
    train, test = data.cifar10(tmp_path)
    assert torch.equal(train.pixels, torch.from_numpy(tiles(5).transpose(0, 3, 1, 2).copy()))
    assert (train.labels.tolist(), test.labels.tolist()) == ([0, 1, 2, 3, 4], [5])


def write_idx(path: Path, values: np.ndarray) -> None:
    raw = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">u4").tobytes() + values.astype(np.uint8).tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)


@pytest.mark.parametrize(("below", "ending"), [("", ".gz"), ("", ""), ("MNIST/raw", "")])
def test_idx_files_are_read(tmp_path: Path, below: str, ending: str) -> None:
    digits = np.random.default_rng(0).integers(256, size=(7, 28, 28))
    for part in ("train", "t10k"):
        write_idx(tmp_path / below / f"{part}-images-idx3-ubyte{ending}", digits)
        write_idx(tmp_path / below / f"{part}-labels-idx1-ubyte{ending}", np.arange(7))
    train, test = data.mnist(tmp_path)
    assert torch.equal(train.pixels[:, 0], torch.from_numpy(digits.astype(np.uint8)))
    assert test.labels.tolist() == list(range(7))


def test_a_cut_idx_file_is_refused(tmp_path: Path) -> None:
    write_idx(tmp_path / "train-images-idx3-ubyte", np.zeros((2, 28, 28)))
    whole = (tmp_path / "train-images-idx3-ubyte").read_bytes()
    (tmp_path / "train-images-idx3-ubyte").write_bytes(whole[:-1])
    with pytest.raises(squeeze.InputError, match="must be a whole idx file"):
        data.mnist(tmp_path)


@pytest.mark.parametrize("read", [data.cifar10, data.mnist])
def test_an_empty_folder_is_refused(tmp_path: Path, read: Callable[[Path], object]) -> None:
    with pytest.raises(squeeze.InputError, match="the folder must hold"):
        read(tmp_path)


def test_jitter_shifts_within_the_padding_and_mirrors() -> None:
    x = torch.arange(1, 1 + 3 * 6 * 6, dtype=torch.uint8).view(1, 3, 6, 6).repeat(200, 1, 1, 1)
    padded = nn.functional.pad(x[:1], (2, 2, 2, 2))
    crops = {padded[0, :, i : i + 6, j : j + 6].numpy().tobytes() for i in range(5) for j in range(5)}
    mirrored = {padded[0, :, i : i + 6, j : j + 6].flip(-1).numpy().tobytes() for i in range(5) for j in range(5)}
    found = [image.numpy().tobytes() for image in data.jitter(x, padding=2)]
    assert set(found) <= crops | mirrored
    assert len(set(found)) > 40
    assert {image.numpy().tobytes() for image in data.jitter(x, padding=2, flip=False)} <= crops


def test_shuffled_batches_hold_each_image_once() -> None:
    images = data.Images(torch.zeros(10, 1, 2, 2, dtype=torch.uint8), torch.arange(10))
    order = [label for _, labels in data.shuffled(images, 5) for label in labels.tolist()]
    assert sorted(order) == list(range(10))
    assert order != list(range(10))
    assert [len(labels) for _, labels in data.shuffled(images, 4)] == [4, 4]
    assert [len(labels) for _, labels in data.shuffled(images, 64)] == [10]


def test_scaling_is_that_of_torchvision() -> None:
    from torchvision.transforms import functional

    pixels = torch.randint(256, (2, 3, 4, 4), dtype=torch.uint8)
    scaling = data.IMAGENET_SCALING
    expected = functional.normalize(pixels.float() / 255, scaling.mean, scaling.std)
    torch.testing.assert_close(scaling(pixels), expected)


TASKS = [
    task.cifar10_resnet20,
    task.cifar10_resnet56,
    task.cifar10_resnet110,
    task.cifar10_vgg16,
    task.cifar10_densenet40,
    task.cifar10_googlenet,
    task.mnist_lenet,
]


@pytest.mark.parametrize("make", TASKS)
def test_each_task_builds_a_network_that_takes_its_inputs(make: Callable[[], task.Classification]) -> None:
    made = make()
    assert isinstance(made, squeeze.Task)
    with torch.no_grad():
        assert made.build().eval()(made.example_inputs).shape == (1, 10)


def two_halves() -> tuple[data.Images, data.Images]:
    """Black images are class 0, white ones class 1; the last four of twelve are held out."""
    labels = torch.tensor([0, 1] * 6)
    return (images := data.Images((labels * 255).byte().view(-1, 1, 1, 1).repeat(1, 3, 32, 32), labels)), images[:3]


class Brightness(nn.Module):
    """Calls bright images class 1, which is always right, and anything else class 0."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        bright = self.scale * x.mean((1, 2, 3)) * (0 if self.training else 1)
        return torch.stack([-bright, bright], 1)


def test_task_judges_in_eval_mode_and_keeps_held_out_images_from_training() -> None:
    made = replace(task.cifar10_vgg16(), read=two_halves, held_out=4, batch=4)
    judge = Brightness().train()
    assert made.evaluate(judge, "holdout") == made.evaluate(judge, "test") == {"accuracy": 1.0}
    assert judge.training
    assert sum(len(labels) for _, labels in made.train_batches(0)) == 8
    assert len(made.train_batches(0)) == len(list(made.train_batches(0)))
    batch = next(iter(made.train_batches(0)))
    assert made.features(judge, batch).shape == (4, 2)
    assert made.loss(judge, batch).item() == pytest.approx(np.log(2), rel=1e-5)


def test_training_batches_follow_torchs_generator() -> None:
    made = replace(task.cifar10_vgg16(), read=partial(two_halves), held_out=4, batch=4)
    runs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        runs.append(torch.cat([inputs for inputs, _ in made.train_batches(0)]))
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_recipe_trains_and_writes_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    digits = np.random.default_rng(0).integers(256, size=(64, 28, 28))
    for part in ("train", "t10k"):
        write_idx(tmp_path / f"{part}-images-idx3-ubyte", digits)
        write_idx(tmp_path / f"{part}-labels-idx1-ubyte", np.arange(64) % 10)
    train.main(["mnist_lenet", str(tmp_path), str(tmp_path / "out" / "lenet.safetensors"), "--epochs", "1"])
    trained = load_file(tmp_path / "out" / "lenet.safetensors")
    model.lenet().load_state_dict(trained)
    assert "accuracy" in capsys.readouterr().out
