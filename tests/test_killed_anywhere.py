"""Twenty runs of `squeeze prune` are killed at random moments; resumed, each ends as if nothing had happened."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RUNS = 20


@pytest.mark.slow
def test_killed_runs_end_as_the_whole_one(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "ignore", "-m", "tests.killed_anywhere", str(tmp_path), str(RUNS), "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=7200)
    assert done.returncode == 0, done.stderr[-3000:]
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(told) == RUNS
    assert [run for run in told if run["problems"]] == []
