"""`squeeze prune` under torchrun, as a user runs it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

ROOT = Path(__file__).parents[2]
PRUNE = ("prune", "doomed.pt", "--arch", "networks.py:doomed", "--data", "digits", "--method", "gal")
SHORT = ("--epochs", "2", "--finetune-epochs", "1", "--macs", "0.6", "--set", "round_to=1")


def run(folder: Path, processes: int, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command in processes of its own."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [sys.executable, *(torchrun if processes > 1 else ()), "-m", "squeeze_cli.main", *words]
    variables = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, timeout=600)


def steps(folder: Path) -> list[Any]:
    return json.loads((folder / "plan.json").read_text())["steps"]


def errors(done: subprocess.CompletedProcess[str]) -> list[str]:
    return [line for line in done.stderr.splitlines() if line.startswith("error:")]


@pytest.mark.slow
def test_two_processes_prune_as_one_does_even_if_one_dies(folder: Path) -> None:
    one = run(folder, 1, *PRUNE, *SHORT, "--out", "one")
    assert one.returncode == 0, one.stderr
    killed = run(folder, 2, *PRUNE, *SHORT, "--out", "two", DOOM="30")
    assert killed.returncode != 0 and "SIGKILL" in killed.stderr
    (line,) = errors(killed)
    assert "gal, epoch 2: processes: all 2 must run to the end" in line
    assert "the last good checkpoint is two/checkpoints/gal.safetensors" in line
    two = run(folder, 2, *PRUNE, *SHORT, "--out", "two", "--resume")
    assert two.returncode == 0, two.stderr
    assert two.stdout.count("model.safetensors") == 1
    assert {path.name for path in (folder / "one").iterdir()} == {path.name for path in (folder / "two").iterdir()}
    assert steps(folder / "one") == steps(folder / "two")
    ours, theirs = (load_file(folder / name / "model.safetensors") for name in ("one", "two"))
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], rtol=1e-10, atol=1e-11, msg=lambda text, name=name: name + text)


@pytest.mark.slow
def test_two_processes_put_gates_in_within_the_budget(folder: Path) -> None:
    gates = ("prune", "small.pt", "--arch", "networks.py:small", "--data", "digits", "--method", "decouple")
    done = run(folder, 2, *gates, "--macs", "0.7", "--epochs", "2", "--finetune-epochs", "2", "--out", "two")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("model.safetensors") == 1
    report = json.loads((folder / "two" / "report.json").read_text())
    assert report["after"]["by_input"]["source"] == "holdout"
    assert report["after"]["by_input"]["mean"] == pytest.approx(0.7 * report["before"]["macs"], rel=0.02)


@pytest.mark.slow
def test_what_is_wrong_everywhere_is_told_once(folder: Path) -> None:
    done = run(folder, 2, *PRUNE, "--macs", "0.0001")
    (line,) = errors(done)
    assert done.returncode != 0 and "0.0001" in line
    assert not (folder / "runs" / "doomed-gal").exists()
