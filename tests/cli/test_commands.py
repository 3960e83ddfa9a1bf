"""Each command does what its help says."""

import ast
import json
import shutil
import sys
from pathlib import Path

import onnxruntime
import pytest
import torch
from click.testing import CliRunner

from squeeze import load
from squeeze.errors import ExportError
from squeeze.kernels import choice
from squeeze_cli.main import cli
from tests.cli import networks
from tests.cli.conftest import Command

SMALL = ("small.pt", "--arch", "networks.py:small", "--input-shape", "1,8,8")
MAGNITUDE = ("--method", "magnitude", "--finetune-epochs", "1")
RUN_FILES = {"model.safetensors", "model.onnx", "model.pt2", "plan.json", "report.json", "report.html", "log"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run on digits."""
    place = tmp_path_factory.mktemp("finished")
    torch.save(networks.small().state_dict(), place / "small.pt")
    source = (str(place / "small.pt"), "--arch", f"{networks.__file__}:small", "--data", "digits")
    result = CliRunner().invoke(cli, ["prune", *source, *MAGNITUDE, "--out", str(place / "run"), "--quiet"])
    assert (result.exit_code, result.stdout) == (0, ""), result.stderr
    return place / "run"


@pytest.fixture
def run(finished: Path, folder: Path) -> Path:
    """A copy of that folder in the working folder."""
    return Path(shutil.copytree(finished, folder / "run"))


@pytest.mark.parametrize("command", [[], *([name] for name in cli.commands)])
def test_help_tells_what_a_command_does(command: list[str]) -> None:
    result = CliRunner().invoke(cli, [*command, "--help"])
    assert result.exit_code == 0
    assert result.stdout.startswith("Usage: ")
    assert "Example" in result.stdout


def test_the_list_of_commands_cuts_no_sentence() -> None:
    lines = CliRunner().invoke(cli, ["--help"]).stdout.split("Commands:\n")[1].split("\n\n")[0].splitlines()
    assert [line.split()[0] for line in lines] == sorted(cli.commands)
    assert [line for line in lines if line.endswith("...")] == []


def test_completion_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    result = CliRunner().invoke(cli, prog_name="squeeze", env={"_SQUEEZE_COMPLETE": "bash_source"})
    assert "_squeeze_completion" in result.stdout


def test_inspect_counts_what_can_go(squeeze: Command) -> None:
    told = json.loads(squeeze("inspect", *SMALL, "--json").stdout)
    assert [(group["name"], group["units"]) for group in told["groups"]] == [("0", 16), ("3", 16)]
    assert told["dense"] == {"macs": 64 * 16 * 9 + 64 * 16 * 16 * 9 + 160, "params": 144 + 16 + 32 + 2304 + 16 + 170}
    assert told["groups"][0]["unit"] == {"macs": 64 * 9 + 64 * 16 * 9, "params": 9 + 1 + 2 + 16 * 9}
    assert {pin["reason"] for pin in told["pinned"]} >= {"reaches the model's output"}


def test_layers_can_be_let_read_less(squeeze: Command, folder: Path) -> None:
    torch.save(networks.trunk().state_dict(), folder / "trunk.pt")
    net = ("trunk.pt", "--arch", "networks.py:trunk", "--input-shape", "1,8,8")
    told = json.loads(squeeze("inspect", *net, "--json").stdout)["inputs"]
    assert told == [{"layer": name, "inputs": size} for name, size in (("stem", 64), ("body", 16), ("head", 16))]
    assert "96 inputs of 3 layers need not be read" in squeeze("inspect", *net).stdout
    assert "need not be read" not in squeeze("inspect", *SMALL).stdout
    small = ("prune", *net, "--method", "magnitude", "--macs", "0.2", "--dry-run")
    assert squeeze(*small, "--set", "structures=filters,inputs").exit_code == 0
    refused = squeeze(*small, "--set", "structures=inputs")
    assert refused.exit_code == 2 and "macs must be at least" in refused.stderr
    settings = ("--method", "magnitude", "--macs", "0.6", "--set", "structures=inputs", "--quiet")
    result = squeeze("prune", *net, "--data", "digits", "--finetune-epochs", "1", *settings, "--out", "run")
    assert (result.exit_code, result.stdout) == (0, ""), result.stderr
    report = json.loads((folder / "run" / "report.json").read_text())
    groups = {group["name"]: (group["before"], group["after"]) for group in report["groups"]}
    assert report["after"]["macs"] <= 0.6 * report["before"]["macs"]
    assert groups["stem, inputs"][0] == 64 and groups["stem, inputs"][1] < 64
    assert load(folder / "run" / "model.safetensors", networks.trunk)(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


def test_inspect_kse_shows_how_kernels_are_judged(squeeze: Command) -> None:
    told = json.loads(squeeze("inspect", *SMALL, "--kse", "--json").stdout)
    shown = squeeze("inspect", *SMALL, "--kse").stdout
    assert told["layers"]
    for layer in told["layers"]:
        assert layer["name"] in shown
        assert {len(values) for values in layer["series"].values()} == {len(layer["series"]["kernels"])}
    for name, reason in told["left_out"]:
        assert f"{name} stays as it is: {reason}." in shown
    all_left = squeeze("inspect", *SMALL, "--kse", "--ignore", "*")
    assert all_left.exit_code == 2 and "ignored by name" in all_left.stderr


def test_a_dry_run_of_a_pass_that_does_not_choose_widths_has_no_budget_of_widths(squeeze: Command) -> None:
    assert squeeze("prune", *SMALL, "--method", "kse", "--macs", "0.001", "--dry-run").exit_code == 0


def test_inspect_shows_tables_without_what_is_ignored(squeeze: Command) -> None:
    result = squeeze("inspect", *SMALL, "--ignore", "7")
    assert result.exit_code == 0
    assert "16 units in 1 group, 0 blocks and 0 branches can go; one unit of each group stays." in result.stdout
    assert "ignored by name" in result.stdout


def test_inspect_of_what_has_nothing_to_remove(squeeze: Command, folder: Path) -> None:
    torch.save(networks.rigid().state_dict(), folder / "rigid.pt")
    result = squeeze("inspect", "rigid.pt", "--arch", "networks.py:rigid", "--input-shape", "1,8,8")
    assert "\n0 units in 0 groups, 0 blocks and 0 branches can go.\n" in result.stdout


def test_brackets_are_shown_and_not_obeyed(squeeze: Command) -> None:
    result = squeeze("prune", *SMALL, "--method", "magnitude", "--ignore", "[/a-z]*", "--ignore", "[bold]", "--dry-run")
    assert result.exit_code == 0, result.stderr
    assert "[/a-z]*" in result.stdout and "[bold]" in result.stdout


def test_methods_lists_every_pass_with_its_settings(squeeze: Command) -> None:
    told = json.loads(squeeze("methods", "--json").stdout)
    settings = {setting["name"]: setting for setting in told["magnitude"]["settings"]}
    assert settings["round_to"]["default"] == "8"
    assert all(setting["doc"] for method in told.values() for setting in method["settings"])
    shown = squeeze("methods").stdout
    assert "round_to" in shown and "finetune.lr" in shown


def test_profile_counts_and_measures(squeeze: Command) -> None:
    told = json.loads(squeeze("profile", *SMALL, "--batch", "2", "--json").stdout)
    assert told["macs"] == 64 * 16 * 9 + 64 * 16 * 16 * 9 + 160
    assert told["latency"]["batch"] == 2
    assert "total" in squeeze("profile", *SMALL, "--no-latency").stdout


def test_profile_says_how_clustered_layers_are_computed(
    squeeze: Command, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(networks.clustered().state_dict(), folder / "clustered.pt")
    arguments = ("profile", "clustered.pt", "--arch", "networks.py:clustered", "--input-shape", "1,8,8")
    for answer, word in ((True, "native"), (False, "dense: measured to be faster")):
        monkeypatch.setattr(choice, "faster", lambda one, other, answer=answer: answer)
        told = json.loads(squeeze(*arguments, "--json").stdout)
        assert list(told["ways"]) == ["3"]
        assert told["ways"]["3"].startswith(word)
        shown = " ".join(squeeze(*arguments).stdout.split())
        assert word in shown and "How layers are computed that have several ways" in shown
    assert "ways" not in json.loads(squeeze(*arguments, "--no-latency", "--json").stdout)


def test_eval_gives_the_share_of_right_answers(squeeze: Command, run: Path) -> None:
    told = json.loads(squeeze("eval", "run/model.safetensors", "--arch", "networks.py:small", "--json").stdout)
    assert told == json.loads((run / "report.json").read_text())["after"]["metrics"]


def test_eval_needs_data(squeeze: Command) -> None:
    result = squeeze("eval", *SMALL)
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert "test data" in result.stderr


def test_export_writes_what_pytorch_computes(squeeze: Command, folder: Path) -> None:
    result = squeeze("export", *SMALL, "small.onnx")
    assert (result.exit_code, result.stdout) == (0, "small.onnx\n"), result.stderr
    model = networks.small().eval()
    model.load_state_dict(torch.load(folder / "small.pt", weights_only=True))
    x = torch.randn(3, 1, 8, 8)
    (computed,) = onnxruntime.InferenceSession(folder / "small.onnx").run(None, {"input": x.numpy()})
    torch.testing.assert_close(torch.from_numpy(computed), model(x), atol=1e-5, rtol=1e-4)


def test_export_knows_its_formats(squeeze: Command, folder: Path) -> None:
    assert squeeze("export", *SMALL, "small.pt2", "--quiet").exit_code == 0
    assert torch.export.load(folder / "small.pt2").module()(torch.zeros(1, 1, 8, 8)).shape == (1, 10)
    result = squeeze("export", *SMALL, "small.tflite")
    assert (result.exit_code, ".onnx or .pt2" in result.stderr) == (2, True)


def test_a_failed_check_is_exit_code_1(squeeze: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def disagree(*_: object) -> None:
        raise ExportError("small.onnx: must compute what PyTorch computes,\ngot something else.")

    monkeypatch.setitem(sys.modules["squeeze_cli.opening"].EXPORTERS, ".onnx", disagree)
    result = squeeze("export", *SMALL, "small.onnx")
    assert result.exit_code == 1
    assert result.stderr == "error: small.onnx: must compute what PyTorch computes, got something else.\n"


def test_a_run_folder_holds_everything(run: Path) -> None:
    assert {path.name for path in run.iterdir()} >= RUN_FILES
    report = json.loads((run / "report.json").read_text())
    assert report["after"]["macs"] <= 0.5 * report["before"]["macs"]
    assert report["origin"]["command"].startswith("squeeze prune ")
    log = (run / "log").read_text().splitlines()
    assert "began: squeeze prune" in log[0]
    assert "finetune epoch 1" in log[1]
    assert "finished" in log[-1]


def test_what_a_run_wrote_can_be_pruned_again(squeeze: Command, run: Path) -> None:
    again = ("--method", "magnitude", "--macs", "0.7", "--finetune-epochs", "0", "--set", "round_to=1", "--quiet")
    arguments = ("prune", "run/model.safetensors", "--arch", "networks.py:small", *again, "--out", "again")
    result = squeeze(*arguments)
    assert result.exit_code == 0, result.stderr
    model = load(run.parent / "again" / "model.safetensors", build=networks.small)
    assert model(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


def test_a_run_ends_with_a_table_and_paths(squeeze: Command) -> None:
    result = squeeze("prune", *SMALL, "--method", "magnitude")
    assert result.exit_code == 0, result.stderr
    assert "MACs" in result.stdout
    assert result.stdout.splitlines()[-2:] == [
        "ONNX    runs/small-magnitude/model.onnx",
        "report  runs/small-magnitude/report.html",
    ]


def test_force_replaces_a_run(squeeze: Command, run: Path) -> None:
    before = (run / "model.safetensors").read_bytes()
    result = squeeze("prune", *SMALL, *MAGNITUDE, "--macs", "0.8", "--out", "run", "--force", "--quiet")
    assert result.exit_code == 0, result.stderr
    assert (run / "model.safetensors").read_bytes() != before


def test_a_dry_run_checks_and_writes_nothing(squeeze: Command, folder: Path) -> None:
    result = squeeze("prune", *SMALL, "--method", "magnitude", "--set", "round_to=1", "--dry-run")
    assert result.exit_code == 0, result.stderr
    would = "Would run magnitude with macs=0.5 scope=global structures=filters round_to=1, and write"
    assert would in " ".join(result.stdout.split())
    assert not (folder / "runs").exists()
    refused = squeeze("prune", *SMALL, "--method", "magnitude", "--macs", "0.001", "--dry-run")
    assert (refused.exit_code, "at least" in refused.stderr) == (2, True)


def test_the_report_can_be_written_again(squeeze: Command, run: Path) -> None:
    page = (run / "report.html").read_text()
    (run / "report.html").unlink()
    assert squeeze("report", "run").stdout == "run/report.html\n"
    assert (run / "report.html").read_text() == page


def test_a_pass_can_come_from_a_file(squeeze: Command, folder: Path) -> None:
    (folder / "mine.py").write_text(first_python_block("CONTRIBUTING.md"))
    arguments = ("--method", "mine.py:FirstHalf", "--ignore", "7", "--finetune-epochs", "0", "--out", "run", "--quiet")
    result = squeeze("prune", *SMALL, *arguments)
    assert result.exit_code == 0, result.stderr
    (step,) = json.loads((folder / "run" / "plan.json").read_text())["steps"]
    assert (step["method"], step["settings"]) == ("first-half", {"ignore": ["7"]})
    assert {tuple(edit["keep"][0]) for edit in step["edits"]} == {(0, 8)}


def test_ctrl_c_says_how_to_go_on(squeeze: Command, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("squeeze.compress", interrupted)
    result = squeeze("prune", *SMALL, "--method", "magnitude", "--out", "run")
    assert result.exit_code == 130
    assert "interrupted" in result.stderr
    assert "--resume" in result.stderr
    monkeypatch.undo()
    monkeypatch.chdir(folder)
    result = squeeze("prune", *SMALL, "--method", "magnitude", "--out", "run", "--resume", "--quiet")
    assert result.exit_code == 0, result.stderr


def test_a_mistake_leaves_no_folder(squeeze: Command, folder: Path) -> None:
    assert squeeze("prune", *SMALL, "--method", "gal", "--out", "run").exit_code == 2
    assert not (folder / "run").exists()


def test_the_demo_writes_a_checkpoint_that_names_its_network(
    squeeze: Command, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from squeeze import demo

    train = demo.train_demo
    monkeypatch.setattr(demo, "train_demo", lambda path, quiet: train(path, True, epochs=1))
    assert "squeeze prune --method gal" in squeeze("demo", "--out", "demo.pt").stdout
    told = json.loads(squeeze("eval", "demo.pt", "--json").stdout)
    assert 0.5 < told["accuracy"] <= 1
    assert squeeze("demo", "--out", "demo.pt").exit_code == 2


def test_the_readme_runs(folder: Path) -> None:
    code = first_python_block("README.md")
    scope: dict[str, object] = {"__name__": "readme"}
    exec(compile(ast.parse(code), "README.md", "exec"), scope)  # noqa: S102 - the document is ours
    assert (folder / "small.safetensors").exists()
    assert (folder / "small.onnx").exists()


def first_python_block(document: str) -> str:
    text = (Path(__file__).parents[2] / document).read_text()
    return text.split("```python\n", 1)[1].split("```", 1)[0]
