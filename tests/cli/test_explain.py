"""`squeeze paths` and `squeeze detect`, and what `squeeze profile` says of inputs."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from safetensors.numpy import load, save
from torch import nn

import squeeze as library
from squeeze.gating.codes import load_codes
from squeeze.nn import GatedConv2d
from squeeze.plan import Gate, Plan, Step
from squeeze_cli import explaining
from tests.cli import networks
from tests.cli.conftest import Command
from tests.cli.test_bad_input import check_refused

NET = ("gated.safetensors", "--arch", "networks.py:small", "--data", "digits")
FEW = ("--most", "60")


@dataclass(frozen=True)
class Made:
    """What `squeeze.save` asks for."""

    model: nn.Module
    plan: Plan


@pytest.fixture(autouse=True)
def gated(folder: Path) -> None:
    """gated.safetensors: networks.small with two gates near their thresholds, and a head that is easily moved."""
    torch.manual_seed(0)
    gates = (Gate("0", "1", 4), Gate("3", "", 4))
    model = library.rewrite(networks.small(), gates)
    for module in model.modules():
        if isinstance(module, GatedConv2d):
            nn.init.normal_(module.gate.expand.bias, std=0.3)
            nn.init.normal_(module.gate.reduce.weight, std=3)
    nn.init.normal_(model.get_submodule("7").weight, std=50)
    library.save(Made(model, Plan((Step("decouple", {}, gates),))), folder / "gated.safetensors")


def test_paths_shows_tables_and_writes_nothing_unasked(squeeze: Command, folder: Path) -> None:
    before = sorted(folder.iterdir())
    result = squeeze("paths", *NET, *FEW, "--sample", "2")
    assert result.exit_code == 0, result.stderr
    for words in ("Gates on 60 inputs (test)", "MACs of an input", "Filters most tied", "at random", "Input 2: class"):
        assert words in result.stdout
    assert sorted(folder.iterdir()) == before


def test_paths_writes_codes_figures_and_a_page(squeeze: Command, folder: Path) -> None:
    result = squeeze("paths", *NET, *FEW, "--out", "new/out", "--silence", "0", "--json")
    told, out = json.loads(result.stdout), folder / "new" / "out"
    assert told["silencing"] is None and told["inputs"] == 60
    assert {path.name for path in out.iterdir()} == {"codes.safetensors", "paths.json", "paths.html"}
    assert json.loads((out / "paths.json").read_text()) == told
    assert "networks.py:small" in (out / "paths.html").read_text()
    codes = load_codes(out / "codes.safetensors", library.load(folder / "gated.safetensors", networks.small))
    assert told["macs"]["mean"] == pytest.approx(codes.share.mean() * told["macs"]["dense"], rel=1e-5)
    again = json.loads(squeeze("paths", *NET, "--codes", "new/out/codes.safetensors", "--json").stdout)
    assert (again["layers"], again["source"]) == (told["layers"], "file of codes")


def test_what_is_there_is_overwritten_only_with_force(squeeze: Command, folder: Path) -> None:
    for command, name in (("paths", "codes.safetensors"), ("detect", "detector.safetensors")):
        (folder / name).write_text("mine")
        given = (command, *NET, *FEW, "--out", ".")
        check_refused(squeeze(*given), name, "one that exists", "--force")
        assert (folder / name).read_text() == "mine"
    assert squeeze("paths", *NET, *FEW, "--out", ".", "--force").exit_code == 0
    assert load_codes(folder / "codes.safetensors").layers == ("0", "3")


@pytest.mark.parametrize("command", ["paths", "detect"])
def test_the_folder_must_be_writable_before_anything_is_computed(
    command: str, squeeze: Command, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sorted(folder.iterdir())
    check_refused(squeeze(command, *NET, *FEW, "--out", "gated.safetensors/out"), "gated.safetensors/out")
    monkeypatch.setattr("squeeze_cli.explaining.opened", lambda source: pytest.fail("it was too late"))
    check_refused(squeeze(command, *NET, *FEW, "--out", "/sys/squeeze"), "/sys/squeeze")
    assert sorted(folder.iterdir()) == before


def test_no_detector_of_an_earlier_time_stays_beside_what_is_new(
    squeeze: Command, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = explaining.judge
    monkeypatch.setattr(explaining, "judge", lambda *given: replace(judge(*given), detector=None))  # no attack succeeds
    (folder / "detector.safetensors").write_text("of an earlier time")
    assert squeeze("detect", *NET, *FEW, "--out", ".", "--force").exit_code == 0
    assert (folder / "detection.json").exists() and not (folder / "detector.safetensors").exists()


def test_detect_judges_and_keeps_a_detector_that_can_be_used(squeeze: Command, folder: Path) -> None:
    result = squeeze("detect", *NET, *FEW, "--epsilon", "0.1", "--out", "out")
    assert result.exit_code == 0, result.stderr
    for words in ("FGSM", "DeepFool", "random forest", "largest softmax, no codes", "clean inputs"):
        assert words in result.stdout
    told = json.loads((folder / "out" / "detection.json").read_text())
    assert [verdict["attack"] for verdict in told["verdicts"]] == ["FGSM", "BIM", "PGD", "DeepFool"]
    kept = ("--detector", "out/detector.safetensors")
    flagged = json.loads(squeeze("detect", *NET, *FEW, *kept, "--json").stdout)
    assert flagged["inputs"] == 60 and 0 <= len(flagged["flagged"]) < 60
    assert f"{len(flagged['flagged'])} of 60 inputs (test) look attacked" in squeeze("detect", *NET, *FEW, *kept).stdout
    check_refused(squeeze("detect", *NET, *kept, "--out", "other"), "--out", "--detector")
    other = ("gated.safetensors", "--arch", "networks.py:small", "--data", "digits", "--detector", "gated.safetensors")
    check_refused(squeeze("detect", *other), "gated.safetensors", "must be a detector of attacks")


def test_profile_says_what_single_inputs_cost(squeeze: Command) -> None:
    found = json.loads(squeeze("profile", *NET, "--no-latency", "--json").stdout)["macs_by_input"]
    assert found["dense"] == 64 * 16 * 9 + 64 * 16 * 16 * 9 + 160
    assert found["quartiles"][0] <= found["mean"] <= found["quartiles"][4]
    assert sum(found["histogram"]["counts"]) == 360
    shown = squeeze("profile", *NET, "--no-latency").stdout
    assert "MACs of an input" in shown and "Inputs by what they cost" in shown
    dense = squeeze("profile", "small.pt", "--arch", "networks.py:small", "--data", "digits", "--no-latency", "--json")
    assert "macs_by_input" not in json.loads(dense.stdout)
    shape = ("gated.safetensors", "--arch", "networks.py:small", "--input-shape", "1,8,8", "--no-latency", "--json")
    assert "macs_by_input" not in json.loads(squeeze("profile", *shape).stdout)  # there is no data


def test_gates_of_another_architecture_or_of_other_weights_are_refused(squeeze: Command, folder: Path) -> None:
    other = ("gated.safetensors", "--arch", "networks.py:trunk", "--data", "digits")
    check_refused(squeeze("paths", *other, *FEW), "gated.safetensors", "must")
    squeeze("paths", *NET, *FEW, "--out", ".", "--silence", "0")
    arrays = load((folder / "codes.safetensors").read_bytes())
    said = {"squeeze": "file of codes", "layers": "0\n3", "checksum": "0" * 64}
    (folder / "codes.safetensors").write_bytes(save(arrays, said))
    check_refused(squeeze("paths", *NET, "--codes", "codes.safetensors"), "codes.safetensors", "those of others")


@pytest.mark.parametrize("command", ["paths", "detect"])
def test_without_gates_or_data_nothing_is_looked_at(squeeze: Command, command: str) -> None:
    dense = squeeze(command, "small.pt", "--arch", "networks.py:small", "--data", "digits")
    check_refused(dense, "must have gates, got none", "decouple")
    check_refused(squeeze(command, *NET[:3], "--input-shape", "1,8,8"), "data: must be there", "--data")


def test_codes_that_are_damaged_or_of_another_architecture_are_refused(squeeze: Command, folder: Path) -> None:
    squeeze("paths", *NET, *FEW, "--out", ".", "--silence", "0")
    raw = (folder / "codes.safetensors").read_bytes()
    given = ("paths", *NET, "--codes", "other.safetensors")
    check_refused(squeeze(*given), "other.safetensors", "no such file")
    (folder / "other.safetensors").write_bytes(raw[:-100])
    check_refused(squeeze(*given), "other.safetensors", "file of codes", "damaged")
    arrays = load(raw)
    (folder / "other.safetensors").write_bytes(save(arrays, {"squeeze": "file of codes", "layers": "0\n4"}))
    check_refused(squeeze(*given), "other.safetensors", "another architecture")
    arrays["on"] = arrays["on"][:5].copy()
    (folder / "other.safetensors").write_bytes(save(arrays, {"squeeze": "file of codes", "layers": "0\n3"}))
    check_refused(squeeze(*given), "other.safetensors", "whole file of codes", "gather them again")


def test_data_without_labels_are_taken_at_the_networks_word_and_that_is_said(squeeze: Command, folder: Path) -> None:
    (folder / "unlabelled.py").write_text(
        "import torch\n\n\ndef images():\n    torch.manual_seed(0)\n    return torch.randn(400, 1, 8, 8)\n"
    )
    for command in ("paths", "detect"):
        result = squeeze(command, *NET[:3], "--data", "unlabelled.py:images", *FEW)
        assert result.exit_code == 0, result.stderr
        assert "The data has no labels" in result.stderr


def test_a_sample_that_is_not_there_is_refused(squeeze: Command) -> None:
    check_refused(squeeze("paths", *NET, *FEW, "--sample", "60"), "sample: must be from 0 to 59, got 60")
