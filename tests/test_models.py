"""MODEL of the command line: whatever it is, it is opened whole, and no code that it names runs."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import squeeze
from squeeze.artifact import save
from squeeze.demo import digits_resnet
from squeeze.errors import ArtifactError, InputError
from squeeze.models import Opened, open_model
from squeeze.plan import Plan, Slice, Step
from squeeze.weights import write_checkpoint
from tests.artefacts import Saved, same

NETWORKS = """
from pathlib import Path
from torch import nn
import torch

Path("ran").touch()


def net():
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))


def batches():
    return [(torch.randn(4, 6), torch.randint(0, 2, (4,))) for _ in range(20)]
"""

EDITS = (
    Slice("0.weight", 0, 8, ((0, 3),)),
    Slice("0.bias", 0, 8, ((0, 3),)),
    Slice("2.weight", 1, 8, ((0, 3),)),
)
PLAN = Plan((Step("hand", {}, EDITS),))


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "networks.py").write_text(NETWORKS)
    torch.save(net().state_dict(), "weights.pt")
    return tmp_path


def checkpoint(model: nn.Module, **about: Any) -> Path:
    given = {"arch": "squeeze.demo:digits_resnet", "data": "digits", "input_shape": (1, 8, 8)} | about
    write_checkpoint("model.pt", model, **given)
    return Path("model.pt")


def check_refused(*arguments: Any, words: tuple[str, ...], **options: Any) -> None:
    with pytest.raises(InputError) as caught:
        open_model(*arguments, **options)
    assert str(caught.value).isprintable()
    for word in words:
        assert word in str(caught.value)


def ran() -> bool:
    return Path("ran").exists()


def test_the_folder_of_a_run_is_answered_with_the_file_in_it() -> None:
    Path("run").mkdir()
    Path("run/model.safetensors").touch()
    check_refused("run", words=("folder of a run", "name run/model.safetensors"))


def test_weights_with_an_architecture_and_a_shape() -> None:
    found = open_model("weights.pt", "networks.py:net", input_shape=(6,))
    assert isinstance(found, Opened)
    weights = torch.load("weights.pt", weights_only=True)
    assert all(torch.equal(found.model.state_dict()[name], weights[name]) for name in weights)
    assert found.task.example_inputs.shape == (1, 6)
    assert found.task.example_inputs.unique().numel() == 6
    assert (found.plan, found.model.training) == (Plan(), False)
    assert found.about == {"arch": "networks.py:net", "data": None, "input_shape": [6]}
    assert found.task.evaluate(found.model, "test") == {}
    assert found.task.build().state_dict().keys() == weights.keys()


def test_weights_with_data_of_the_user() -> None:
    found = open_model("weights.pt", "networks.py:net", "networks.py:batches")
    assert found.about == {"arch": "networks.py:net", "data": "networks.py:batches", "input_shape": [6]}
    assert len(list(found.task.train_batches(0))) == 18
    assert 0 <= found.task.evaluate(found.model, "holdout")["accuracy"] <= 1


def test_a_checkpoint_that_says_what_it_is_needs_nothing_else() -> None:
    model = digits_resnet()
    found = open_model(checkpoint(model))
    assert same(found.model, model)
    assert found.task.name == "digits"
    assert found.about == {"arch": "squeeze.demo:digits_resnet", "data": "digits", "input_shape": [1, 8, 8]}
    assert "accuracy" in found.task.evaluate(found.model, "test")


def test_what_is_given_goes_before_what_the_file_says() -> None:
    path = checkpoint(net(), arch="squeeze.demo:digits_resnet", input_shape=(9,))
    found = open_model(path, "networks.py:net", "networks.py:batches")
    assert found.about == {"arch": "networks.py:net", "data": "networks.py:batches", "input_shape": [6]}
    check_refused(path, words=("lacks 0.0.weight", "besides 0.weight"))


def test_an_artefact_by_its_own_word_and_by_the_users() -> None:
    save(
        Saved(digits_resnet().eval(), Plan()),
        "own.safetensors",
        {"arch": "squeeze.demo:digits_resnet", "data": "digits"},
    )
    assert open_model("own.safetensors").about["input_shape"] == [1, 8, 8]
    small = squeeze.rewrite(net(), EDITS).eval()
    save(Saved(small, PLAN), "small.safetensors", {"arch": "networks.py:net", "input_shape": [6]})
    with pytest.raises(ArtifactError, match="--arch"):
        open_model("small.safetensors")
    assert not ran()
    found = open_model("small.safetensors", "networks.py:net")
    assert same(found.model, small)
    assert found.plan.edits == EDITS
    assert found.task.build()[0].out_features == 8


def test_half_precision_gets_inputs_of_its_own() -> None:
    model = squeeze.rewrite(net(), EDITS).bfloat16()
    save(Saved(model, PLAN), "half.safetensors")
    found = open_model("half.safetensors", "networks.py:net", input_shape=(6,))
    assert found.task.example_inputs.dtype == torch.bfloat16


def test_a_damaged_artefact_is_not_taken_for_weights() -> None:
    save(Saved(net(), Plan()), "x.safetensors", {"input_shape": [6]})
    raw = bytearray(Path("x.safetensors").read_bytes())
    raw[-1] ^= 1
    Path("x.safetensors").write_bytes(raw)
    with pytest.raises(ArtifactError, match="checksum"):
        open_model("x.safetensors", "networks.py:net")


@pytest.mark.parametrize("arch", ["networks.py:net", "networks:net", "os:getcwd"])
def test_code_that_a_checkpoint_names_does_not_run(arch: str) -> None:
    check_refused(checkpoint(net(), arch=arch, data=None, input_shape=(6,)), words=(arch, "add --arch"))
    assert not ran()


def test_data_that_are_code_do_not_run_unasked() -> None:
    path = checkpoint(digits_resnet(), data="networks.py:batches")
    with pytest.warns(UserWarning, match="networks.py:batches.*add --data"):
        found = open_model(path)
    assert (found.task.name, found.about["data"], found.about["input_shape"]) == ("inputs", None, [1, 8, 8])
    assert not ran()


def test_data_that_are_gone_are_done_without() -> None:
    path = checkpoint(digits_resnet(), data="cifar10:gone")
    with pytest.warns(UserWarning, match="gone"):
        found = open_model(path)
    assert found.about["data"] is None
    check_refused(path, data="cifar10:gone", words=("gone",))


def test_a_build_that_a_checkpoint_asks_for_is_bounded() -> None:
    arch = "torchvision:resnet18?num_classes=100000000"
    check_refused(checkpoint(net(), arch=arch, data=None), words=("num_classes", "must fit its file"))


@pytest.mark.parametrize("shape", [(0,), (-1, 2), (2**20, 2**20), "big", (1.5,), (True,), ()])
def test_a_shape_that_cannot_be_is_refused(shape: Any) -> None:
    model = digits_resnet()
    path = checkpoint(model, data=None, input_shape=shape)
    check_refused(path, words=("input_shape" if shape != () else "example_inputs",))
    assert open_model(path, input_shape=(1, 8, 8)).about["input_shape"] == [1, 8, 8]


def test_what_is_missing_is_asked_for() -> None:
    check_refused("weights.pt", input_shape=(6,), words=("weights.pt", "--arch"))
    check_refused("weights.pt", "networks.py:net", words=("weights.pt", "--data", "--input-shape"))
    check_refused("weights.pt", "networks.py:net", input_shape=(5,), words=("example_inputs", "(1, 5)"))
    check_refused("weights.pt", "networks.py:net", "digit", words=("'digit'", "digits"))
    check_refused("nowhere.pt", "networks.py:net", words=("nowhere.pt", "no such file"))
    check_refused(".", "networks.py:net", words=("a folder",))


def test_pickled_modules_are_opened_for_those_who_trust_them() -> None:
    torch.save(net(), "whole.pt")
    check_refused("whole.pt", "networks.py:net", input_shape=(6,), words=("--trust-pickle",))
    found = open_model("whole.pt", "networks.py:net", input_shape=(6,), trust_pickle=True)
    assert found.model[0].weight.shape == (8, 6)
