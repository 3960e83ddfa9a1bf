"""Whatever a user gets wrong ends in one line that says what, and in an exit code."""

import json
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from torch import nn

from squeeze.errors import ExportError
from squeeze.folders import NEXT
from squeeze.weights import write_checkpoint
from squeeze_cli.main import cli
from tests.cli import networks
from tests.report.sample import report

IMAGE = ("--input-shape", "1,8,8")


@pytest.fixture
def files_of_2_kb() -> Iterator[None]:
    """What a full disk does: files end at 2 kB."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2048, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def save(model: nn.Module, path: Path) -> None:
    torch.save(model.state_dict(), path)


def prune(*arguments: str, model: str = "small.pt", arch: str = "networks.py:small") -> Result:
    given = ("prune", model, "--arch", arch, *arguments)
    method = () if "--method" in arguments else ("--method", "magnitude")
    shape = () if "--input-shape" in arguments or "--data" in arguments else IMAGE
    return CliRunner().invoke(cli, [*given, *method, *shape, "--quiet"])


def check_refused(result: Result, *words: str, code: int = 2) -> None:
    """One line on stderr that holds these words, the exit code, and nothing else."""
    assert isinstance(result.exception, SystemExit), result.exception
    assert (result.exit_code, result.stdout) == (code, "")
    lines = [line for line in result.stderr.splitlines() if not line.startswith("warning: ")]
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("error: ")
    for word in words:
        assert word.lower() in lines[0].lower()


def test_gal_needs_data(folder: Path) -> None:
    check_refused(prune("--method", "gal"), "GAL", "needs data")


def test_data_must_fit_the_model(folder: Path) -> None:
    save(networks.colour(), folder / "colour.pt")
    result = prune("--method", "gal", "--data", "digits", model="colour.pt", arch="networks.py:colour")
    check_refused(result, "shape", "1, 8, 8")


def test_the_input_shape_must_fit_the_model(folder: Path) -> None:
    check_refused(prune("--input-shape", "3,8,8"), "example_inputs", "3, 8, 8")


@pytest.mark.parametrize("shape", ["1;8;8", "1,8,0", "1,-8,8", "big"])
def test_the_input_shape_must_be_numbers(folder: Path, shape: str) -> None:
    result = prune("--input-shape", shape)
    assert result.exit_code == 2
    assert f"got {shape!r}" in result.stderr


def test_unknown_data_are_answered_with_what_there_is(folder: Path) -> None:
    check_refused(prune("--method", "gal", "--data", "digit"), "'digit'", "did you mean digits")
    check_refused(prune("--method", "gal", "--data", "faces"), "'faces'", "digits", "cifar10")


def test_missing_keys_are_named(folder: Path) -> None:
    weights = networks.small().state_dict()
    del weights["3.weight"]
    torch.save(weights, folder / "small.pt")
    check_refused(prune(), "small.pt", "3.weight")


def test_extra_keys_are_named(folder: Path) -> None:
    torch.save(networks.small().state_dict() | {"head.weight": torch.zeros(3)}, folder / "small.pt")
    check_refused(prune(), "small.pt", "head.weight")


def test_weights_of_another_shape_are_named(folder: Path) -> None:
    save(networks.colour(), folder / "small.pt")
    check_refused(prune(), "0.weight", "16, 3, 3, 3", "16, 1, 3, 3")


@pytest.mark.parametrize("content", [b"", b"hello\n", b"PK\x03\x04 not a zip", b"\x80\x02not a pickle", bytes(4096)])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_what_is_not_a_checkpoint_is_refused(folder: Path, content: bytes, suffix: str) -> None:
    path = folder / f"other{suffix}"
    path.write_bytes(content)
    check_refused(prune(model=path.name), path.name)


def test_a_truncated_checkpoint_is_refused(folder: Path) -> None:
    whole = (folder / "small.pt").read_bytes()
    (folder / "small.pt").write_bytes(whole[: len(whole) // 2])
    check_refused(prune(), "small.pt")


def test_a_missing_file_and_a_folder_are_refused(folder: Path) -> None:
    check_refused(prune(model="nowhere.pt"), "nowhere.pt")
    check_refused(prune(model=str(folder)), str(folder))


def test_a_pickled_module_is_refused_unless_trusted(folder: Path) -> None:
    torch.save(networks.small(), folder / "whole.pt")
    check_refused(prune(model="whole.pt"), "whole.pt", "--trust-pickle")


@pytest.mark.parametrize(
    ("arch", "word"),
    [
        ("nowhere.at.all:build", "nowhere"),
        ("networks.py:smal", "smal"),
        ("missing.py:small", "missing.py"),
        ("networks.py:number", "7"),
        ("networks.py:needy", "needy"),
        ("torchvision:resnet19", "resnet19"),
        ("resnet18", "resnet18"),
    ],
)
def test_an_architecture_must_be_importable_and_build_a_module(folder: Path, arch: str, word: str) -> None:
    check_refused(prune(arch=arch), word)


def test_code_that_a_file_names_does_not_run(folder: Path) -> None:
    for arch in ("networks.py:small", "os:mkdir?path=hacked"):
        write_checkpoint(folder / "named.pt", networks.small(), arch=arch, data="digits", input_shape=(1, 8, 8))
        result = CliRunner().invoke(cli, ["prune", "named.pt", "--method", "magnitude"])
        check_refused(result, "named.pt", "--arch")
    assert not (folder / "hacked").exists()


def test_an_architecture_is_needed(folder: Path) -> None:
    result = CliRunner().invoke(cli, ["prune", "small.pt", "--method", "magnitude", *IMAGE])
    check_refused(result, "small.pt", "--arch")


@pytest.mark.parametrize("share", ["0", "1", "1.5", "-0.5", "nan"])
@pytest.mark.parametrize("method", ["gal", "magnitude"])
def test_a_budget_is_a_share(folder: Path, method: str, share: str) -> None:
    result = prune("--method", method, "--data", "digits", "--macs", share)
    check_refused(result, "macs", f"{float(share):g}", "0.5")


@pytest.mark.parametrize("method", ["gal", "magnitude"])
def test_a_budget_out_of_reach_is_answered_with_the_smallest_in_reach(folder: Path, method: str) -> None:
    check_refused(prune("--method", method, "--data", "digits", "--macs", "0.001"), "at least 0.", "got 0.001")


@pytest.mark.parametrize("flag", ["--macs", "--flops", "--params"])
def test_two_budgets_are_one_too_many(folder: Path, flag: str) -> None:
    check_refused(prune("--set", "ratio=0.5", flag, "0.5"), "exactly one")


@pytest.mark.parametrize("ratio", ["1.5", "0", "-1"])
def test_a_ratio_is_a_share_and_answered_as_it_was_given(folder: Path, ratio: str) -> None:
    check_refused(prune("--set", f"ratio={ratio}"), "ratio: must", f"got {float(ratio)}")


def test_a_pass_has_a_name_and_two_methods(folder: Path) -> None:
    lines = (
        "import dataclasses",
        "@dataclasses.dataclass(frozen=True)",
        "class Half:",
        "    macs: float | None = None",
    )
    (folder / "half.py").write_text("\n".join(lines))
    check_refused(prune("--method", "half.py:Half"), "half.py:Half", "got none called name or search or objective")


def test_the_folder_must_not_lie_in_a_file(folder: Path) -> None:
    check_refused(prune("--out", "small.pt/run"), "small.pt/run")


def test_the_folder_must_be_writable(folder: Path) -> None:
    check_refused(prune("--out", "/sys/squeeze"), "/sys/squeeze")


def test_a_full_disk_leaves_nothing_half_written(folder: Path, files_of_2_kb: None) -> None:
    check_refused(prune("--out", "run"), "run")
    assert [path for path in (folder / "run").glob("model*") if path.stat().st_size >= 2048] == []


def test_an_existing_run_is_kept_unless_forced(folder: Path) -> None:
    (folder / "run").mkdir()
    (folder / "run" / "report.json").write_text("{}")
    check_refused(prune("--out", "run"), "run", "report.json", "force")
    assert (folder / "run" / "report.json").read_text() == "{}"


def test_an_existing_run_is_kept_if_the_one_that_was_to_replace_it_fails(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def disagree(*_: object) -> None:
        raise ExportError("model.onnx: must compute what PyTorch computes, got something else.")

    monkeypatch.setattr("squeeze.runs.export_onnx", disagree)
    (folder / "run").mkdir()
    (folder / "run" / "report.json").write_text("{}")
    check_refused(prune("--out", "run", "--force", "--macs", "0.0001"), "0.0001")
    assert [path.name for path in (folder / "run").iterdir()] == ["report.json"]
    check_refused(prune("--out", "run", "--force"), "must compute", code=1)
    assert (folder / "run" / "report.json").read_text() == "{}"
    assert "stopped: model.onnx: must compute" in (folder / "run" / NEXT / "log").read_text()


def test_an_existing_export_is_kept_unless_forced(folder: Path) -> None:
    (folder / "small.onnx").write_text("mine")
    given = ["export", "small.pt", "small.onnx", "--arch", "networks.py:small", *IMAGE]
    check_refused(CliRunner().invoke(cli, given), "small.onnx", "--force")
    assert (folder / "small.onnx").read_text() == "mine"


def test_a_model_with_nothing_to_remove_says_so(folder: Path) -> None:
    save(networks.rigid(), folder / "rigid.pt")
    check_refused(prune(model="rigid.pt", arch="networks.py:rigid"), "removed", "reaches the model's output", "inspect")


def test_a_model_that_fails_says_where(folder: Path) -> None:
    save(networks.broken(), folder / "broken.pt")
    wrong = "return super().forward(x) @ torch.ones(3, 3)"
    line = next(n for n, text in enumerate((folder / "networks.py").read_text().splitlines(), 1) if wrong in text)
    check_refused(prune(model="broken.pt", arch="networks.py:broken"), "networks.py", f"{line}", "mat")


def test_an_unknown_setting_is_answered_with_the_settings(folder: Path) -> None:
    check_refused(prune("--set", "round=1"), "round_to", "'round'")
    check_refused(prune("--set", "round_to=many"), "round_to", "whole number", "'many'")


def test_settings_that_a_pass_lacks_are_refused(folder: Path) -> None:
    check_refused(prune("--epochs", "3"), "epochs")


def test_an_unknown_method_is_answered_with_the_methods(folder: Path) -> None:
    check_refused(prune("--method", "gall"), "'gall'", "magnitude")


def test_a_report_needs_a_run(folder: Path) -> None:
    check_refused(CliRunner().invoke(cli, ["report", "nowhere"]), "nowhere")
    (folder / "report.json").write_text("{")
    check_refused(CliRunner().invoke(cli, ["report", "."]), "report")


def test_a_bug_keeps_its_traceback(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def bug(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("squeeze_cli.running.find_pass", bug)
    assert isinstance(prune().exception, ZeroDivisionError)


def test_a_second_run_in_the_same_folder_is_refused(folder: Path) -> None:
    lines = "import sys, time; from pathlib import Path; from squeeze.locks import locked\n"
    lines += "with locked(Path('run')): print('held', flush=True); time.sleep(600)"
    other = subprocess.Popen([sys.executable, "-c", lines], stdout=subprocess.PIPE)
    assert other.stdout is not None and other.stdout.readline()
    try:
        check_refused(prune("--out", "run"), "run", "one run at a time", str(other.pid))
        check_refused(prune("--out", "run", "--force"), "run", "one run at a time", str(other.pid))
    finally:
        other.kill()
        other.wait()
        other.stdout.close()


def test_a_report_of_other_kinds_of_things_is_refused(folder: Path) -> None:
    (folder / "run").mkdir()
    good = report().to_dict()
    for wrong in ({"notes": [1]}, {"x" * 9999: 1, "after": None}, {"schema": "\x1b[2J\n" * 999}, {"before": []}):
        (folder / "run" / "report.json").write_text(json.dumps(good | wrong))
        check_refused(CliRunner().invoke(cli, ["report", "run"]), "report")
    assert not (folder / "run" / "report.html").exists()
