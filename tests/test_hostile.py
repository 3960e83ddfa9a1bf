"""Whatever was done to a file, it is read or refused in one clear line, and does nothing else: see tests/hostile.py."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from squeeze.errors import ArtifactError, InputError, PlanError, TrainingError
from tests.hostile import SUBJECTS, Watch, attempt

ROOT = Path(__file__).parents[1]
FEW = {"artefact": 100, "plan": 100, "checkpoint": 30, "report": 20}
MANY = {
    "artefact": 3000,
    "plan": 3000,
    "gates": 1000,
    "checkpoint": 1500,
    "report": 400,
    "weights.pt": 1000,
    "old weights.pt": 500,
    "weights.safetensors": 600,
}
"""Ten thousand."""
OUTCOMES = {"read"} | {error.__name__ for error in (ArtifactError, InputError, PlanError, TrainingError)}


@pytest.mark.parametrize("name", SUBJECTS)
def test_some_mutants(tmp_path: Path, name: str) -> None:
    subject, watch = SUBJECTS[name], Watch(tmp_path)
    path = tmp_path / subject.name
    subject.make(path)
    good = path.read_bytes()

    @settings(max_examples=FEW.get(name, 60), suppress_health_check=list(HealthCheck))
    @given(st.randoms(use_true_random=False))
    def check(rng: random.Random) -> None:
        assert attempt(subject, path, subject.mutate(rng, good), watch) in OUTCOMES

    assert attempt(subject, path, good, watch) == "read"
    check()


@pytest.mark.slow
@pytest.mark.parametrize("name", SUBJECTS)
def test_ten_thousand_mutants(name: str) -> None:
    command = [sys.executable, "-W", "ignore", "-m", "tests.hostile", name, str(MANY[name])]
    # One arena of memory: with one a thread, threads that come and go look like what a file asks for.
    settled = {**os.environ, "MALLOC_ARENA_MAX": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=settled, capture_output=True, text=True, timeout=3600)
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["failures"] == []
    assert told["mutants"] == MANY[name] and set(told["outcomes"]) <= OUTCOMES
    assert min(told["outcomes"].get("read", 0), told["mutants"] - told["outcomes"].get("read", 0)) > 0
