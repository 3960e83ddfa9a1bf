"""Killed at any moment and resumed, a run ends where the uninterrupted one does, bit for bit."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from squeeze import checkpoint
from squeeze.training import Run
from tests.killed import PHASES

ROOT = Path(__file__).parents[1]

DEATHS = {
    ("tuned", "step:1"): 0,
    ("tuned", "step:7"): 6,
    ("tuned", "step:9"): 8,
    ("tuned", "step:18"): 17,
    ("tuned", "write:7"): 6,
    ("tuned", "write:10"): 8,
    ("tuned", "ctrl-c:8"): 8,
    ("tuned_by_a_worker", "step:9"): 8,
    ("searched", "step:17"): 8,
    ("searched", "write:10"): 8,
    ("searched", "ctrl-c:19"): 10,
}
"""Who dies of what, and how many batches its last checkpoint has seen (six an epoch, and one more write at its end)."""


def last_step(folder: Path) -> int:
    paths = list((folder / "checkpoints").glob("[!.]*.safetensors"))
    return checkpoint.load(paths[0])["at"]["total"] if paths else 0


@pytest.fixture(scope="module")
def dead(tmp_path_factory):
    """Of each run that was killed: its folder, how it ended, and how far its checkpoint is."""
    folders = {death: tmp_path_factory.mktemp("run") for death in DEATHS}
    words = [word for (phase, event), folder in folders.items() for word in (phase, str(folder), event)]
    command = [sys.executable, "-m", "tests.killed", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    ends = zip(folders.items(), done.stdout.split(), strict=True)
    return {death: (folder, end, last_step(folder)) for (death, folder), end in ends}


@pytest.fixture(scope="module")
def whole():
    """What each phase comes to if nothing happens."""
    return {name: phase(Run()) for name, phase in PHASES.items()}


@pytest.mark.parametrize("death", DEATHS, ids="-".join)
def test_resumed_run_equals_the_uninterrupted_one(dead, whole, death):
    phase, event = death
    folder, ended, reached = dead[death]
    assert ended == ("KeyboardInterrupt" if event.startswith("ctrl-c") else "SIGKILL")
    assert reached == DEATHS[death]
    result = PHASES[phase](Run(folder, resume=True))
    assert result.keys() == whole[phase].keys()
    assert [name for name, value in result.items() if not torch.equal(value, whole[phase][name])] == []
