"""An artefact gives back the very model; every altered byte and every wrong architecture ends in one line."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

import squeeze
from squeeze.architectures import builder
from squeeze.artifact import is_artifact, read
from squeeze.errors import ArtifactError, InputError
from squeeze.plan import Plan, Slice, Step
from tests.artefacts import EDITS, PLAN, Net, Saved, check_refused, same, small


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return squeeze.save(Saved(small(), PLAN), tmp_path / "small.safetensors", {"arch": "net.py:Net"})


def test_the_model_comes_back_bit_for_bit(path: Path) -> None:
    model, x = small(), torch.randn(4, 6)
    loaded = squeeze.load(path, Net)
    assert same(loaded, model)
    assert torch.equal(loaded(x), model(x))
    assert not loaded.training
    assert loaded.again.weight is loaded.second.weight
    assert (loaded.first.out_features, loaded.bn.num_features, loaded.second.in_features) == (5, 5, 5)


def test_the_plan_comes_back(path: Path) -> None:
    found = read(path)
    assert found.plan.edits == EDITS
    assert found.plan.to_json() == PLAN.to_json()
    assert dict(found.about) == {"arch": "net.py:Net"}


def test_it_is_a_safetensors_file_and_the_same_each_time(path: Path, tmp_path: Path) -> None:
    again = squeeze.save(Saved(small(), PLAN), tmp_path / "again.safetensors", {"arch": "net.py:Net"})
    assert again.read_bytes() == path.read_bytes()
    with safe_open(path, "pt") as file:
        assert torch.equal(file.get_tensor("first.weight"), small().first.weight)
        assert "again.weight" not in file.keys()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_come_back(tmp_path: Path, dtype: torch.dtype) -> None:
    model, x = small().to(dtype), torch.randn(4, 6, dtype=dtype)
    loaded = squeeze.load(squeeze.save(Saved(model, PLAN), tmp_path / "x.safetensors"), Net)
    assert same(loaded, model)
    assert torch.equal(loaded(x), model(x))


def test_mixed_precision_comes_back(tmp_path: Path) -> None:
    model = small()
    model.first.half()
    assert same(squeeze.load(squeeze.save(Saved(model, PLAN), tmp_path / "x.safetensors"), Net), model)


def test_layouts_special_values_and_views_come_back(tmp_path: Path) -> None:
    def build() -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 4, 3), weight_norm(nn.Linear(3, 2)), nn.Linear(3, 3), nn.BatchNorm2d(0))

    model = build()
    model[0].to(memory_format=torch.channels_last)
    shared = torch.randn(12)
    with torch.no_grad():
        model[0].bias[:3] = torch.tensor([float("nan"), float("inf"), -0.0])
    model[2].weight.data, model[2].bias.data = shared[:9].view(3, 3).t(), shared[7:10]
    loaded = squeeze.load(squeeze.save(Saved(model, Plan()), tmp_path / "x.safetensors"), build)
    assert same(loaded, model)


DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int8, torch.uint8, torch.int64, torch.bool)


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    shape = draw(st.lists(st.integers(0, 4), max_size=3))
    made = (torch.randn(shape) * 100).to(draw(st.sampled_from(DTYPES)))
    return made.movedim(0, -1) if len(shape) > 1 and draw(st.booleans()) else made


@given(st.lists(tensors(), min_size=1, max_size=5), st.data())
def test_any_buffers_come_back(
    tmp_path_factory: pytest.TempPathFactory, values: list[Tensor], data: st.DataObject
) -> None:
    values += data.draw(st.lists(st.sampled_from(values), max_size=2))

    def build() -> nn.Module:
        module = nn.Module()
        twins = {id(value): torch.zeros_like(value) for value in values}
        for number, value in enumerate(values):
            module.register_buffer(f"b{number}", twins[id(value)])
        return module

    model = build()
    for number, value in enumerate(values):
        model.get_buffer(f"b{number}").copy_(value)
    path = tmp_path_factory.mktemp("any") / "x.safetensors"
    assert same(squeeze.load(squeeze.save(Saved(model, Plan()), path), build), model)


def test_saving_leaves_the_model_alone(tmp_path: Path) -> None:
    model = small()
    before = copy.deepcopy(model)
    squeeze.save(Saved(model, PLAN), tmp_path / "x.safetensors")
    assert same(model, before)
    assert model.again.weight is model.second.weight


def test_what_no_file_can_hold_is_refused(tmp_path: Path) -> None:
    class Extra(nn.Linear):
        def get_extra_state(self) -> Any:
            return {"a": 1}

    sparse = nn.Module()
    sparse.register_buffer("s", torch.eye(2).to_sparse())
    for model, name in ((nn.Sequential(Extra(1, 1)), "0._extra_state"), (sparse, "s must be a dense")):
        with pytest.raises(InputError, match=name):
            squeeze.save(Saved(model, Plan()), tmp_path / "x.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_an_architecture_of_ours_needs_no_build(tmp_path: Path) -> None:
    for arch in ("squeeze.demo:digits_resnet", "torchvision:squeezenet1_1?num_classes=2"):
        model = builder(arch)().eval()
        path = squeeze.save(Saved(model, Plan()), tmp_path / "x.safetensors", {"arch": arch})
        assert same(squeeze.load(path), model)


@pytest.mark.parametrize("arch", ["trap.py:build", "trap:build", "squeeze.demo:train_demo?path=gone", None, 3, ["x"]])
def test_code_that_a_file_names_does_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "trap.py").write_text("open('ran', 'w')\ndef build(): pass\n")
    squeeze.save(Saved(small(), PLAN), tmp_path / "x.safetensors", {"arch": arch})
    check_refused(tmp_path / "x.safetensors", "build=", build=None)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["trap.py", "x.safetensors"]


@pytest.mark.parametrize(
    "arch",
    ["torchvision:resnet18?num_classes=100000000", "torchvision:resnet19", "torchvision:resnet18?weights=DEFAULT"],
)
def test_an_architecture_that_cannot_be_is_refused(tmp_path: Path, arch: str) -> None:
    squeeze.save(Saved(small(), PLAN), tmp_path / "x.safetensors", {"arch": arch})
    check_refused(tmp_path / "x.safetensors", arch.partition("?")[0].partition(":")[2], build=None)


def test_every_flipped_byte_is_found(tmp_path: Path) -> None:
    plan = Plan((Step("hand", {}, (Slice("weight", 0, 3, ((0, 1), (2, 3))), Slice("bias", 0, 3, ((0, 1), (2, 3))))),))
    model = squeeze.rewrite(nn.Linear(1, 3), plan.edits)
    path = squeeze.save(Saved(model, plan), tmp_path / "x.safetensors", {"arch": "net.py:Net"})
    raw = bytearray(path.read_bytes())
    for place in range(len(raw)):
        raw[place] ^= 1 << (place % 8)
        path.write_bytes(raw)
        with pytest.raises(ArtifactError):
            read(path)
        assert is_artifact(path)
        raw[place] ^= 1 << (place % 8)


def test_every_truncation_and_what_is_appended_are_found(path: Path) -> None:
    raw = path.read_bytes()
    for length in [*range(0, len(raw), 31), len(raw) - 1]:
        path.write_bytes(raw[:length])
        with pytest.raises(ArtifactError):
            read(path)
    path.write_bytes(raw + b"\0")
    check_refused(path, "as it was written")


@pytest.mark.parametrize("content", [b"", b"hello", bytes(4096), b"\xff" * 4096, b"PK\x03\x04"])
def test_what_is_no_artefact_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    assert not is_artifact(path)
    check_refused(path, "must be a squeeze artefact")


def test_weights_alone_a_folder_and_nothing_are_refused(tmp_path: Path) -> None:
    save_file({"w": torch.ones(1)}, tmp_path / "w.safetensors", {"format": "pt"})
    check_refused(tmp_path / "w.safetensors", "--arch")
    check_refused(tmp_path, "a folder")
    check_refused(tmp_path / "nowhere.safetensors", "no such file")
    assert not is_artifact(tmp_path)


def test_another_architecture_is_refused(path: Path) -> None:
    class Untied(Net):
        def __init__(self) -> None:
            super().__init__()
            self.again.weight = nn.Parameter(torch.zeros(6, 8))

    class Tied(Net):
        def __init__(self) -> None:
            super().__init__()
            self.bn.bias = self.first.bias

    class More(Net):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(2, 2)

    class Whole(Net):
        def __init__(self) -> None:
            super().__init__()
            self.steps = torch.zeros(3)

    check_refused(path, "block", build=lambda: nn.Linear(2, 2))
    check_refused(path, "again.weight", build=Untied)
    check_refused(path, "bias", build=Tied)
    check_refused(path, "More", "head.bias", build=More)
    check_refused(path, "Whole", "steps", build=Whole)
