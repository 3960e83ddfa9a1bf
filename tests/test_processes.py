"""Two processes end where one does; whatever happens to one of them ends both, with one line."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from squeeze import processes
from squeeze.errors import InputError, ProcessError
from squeeze.training import Run
from tests.many import SCENARIOS, carried_out

ROOT = Path(__file__).parents[1]
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


@pytest.fixture(autouse=True)
def sigterm():
    """Ends this process again after the test."""
    yield
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """The folder of all scenarios, and for each what the processes printed and how they ended."""
    out = tmp_path_factory.mktemp("two")
    command = [sys.executable, "-m", "tests.many", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=3600)
    assert done.returncode == 0, done.stderr
    told, name = {}, ""
    for line in done.stdout.splitlines():
        if line.removesuffix(":") in SCENARIOS:
            name = line.removesuffix(":")
        told.setdefault(name, []).append(line)
    return out, {name: (lines[1:-1], lines[-1]) for name, lines in told.items()}


def reached(folder, phase):
    """What the processes came to, which must be the same bits in both."""
    first, second = (load_file(folder / f"{phase}-{rank}.safetensors") for rank in (0, 1))
    check_equal(first, second)
    return first


def check_equal(ours, theirs):
    assert ours.keys() == theirs.keys()
    assert [name for name, value in ours.items() if not torch.equal(value, theirs[name])] == []


def check_close(ours, theirs, tolerance=1e-4):
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        near = {"rtol": tolerance, "atol": tolerance / 10}
        torch.testing.assert_close(value, theirs[name], **near, msg=lambda text, name=name: name + text)


@pytest.mark.parametrize("phase", SCENARIOS["whole"])
def test_two_processes_come_to_what_one_does(two, phase):
    out, told = two
    assert told["whole"] == ([], "0 0")
    # In float64 rounding has no room to grow in, so that nothing else can hide behind it.
    tolerance = {"tolerance": 1e-10} if phase.endswith("precise") else {}
    check_close(reached(out / "whole", phase), carried_out(phase, Run()), **tolerance)


def test_gates_with_noise_are_the_same_in_both_and_within_the_budget(two):
    out, told = two
    assert told["random"] == ([], "0 0")
    assert float(reached(out / "random", "decoupled")["share"]) == pytest.approx(0.7, rel=0.02)


def test_the_first_process_alone_writes(two):
    assert len(list((two[0] / "whole" / "tuned" / "tensorboard" / "finetune").iterdir())) == 1


@pytest.mark.parametrize(("dead", "ends"), [("first", "-9 1"), ("second", "1 -9")])
def test_a_death_ends_all_and_the_run_resumes_bit_for_bit(two, dead, ends):
    out, told = two
    (line,), ended = told[dead]
    assert ended == ends
    assert line.startswith("ProcessError: finetune, epoch 1: processes: all 2 must run to the end, got one that ended")
    assert line.endswith(f"(the last good checkpoint is {out / dead / 'tuned/checkpoints/finetune.safetensors'}).")
    assert told[f"{dead} resumed"] == ([], "0 0")
    check_equal(reached(out / dead, "tuned"), reached(out / "whole", "tuned"))


def test_ctrl_c_stops_both_after_the_same_step_and_one_may_go_on(two):
    out, told = two
    (line,), ended = told["ctrl-c"]
    assert ended == "1 1"
    assert line.startswith("KeyboardInterrupt: gal: stopped in epoch 1 after step 7; saved to ")
    check_close(carried_out("searched", Run(out / "ctrl-c" / "searched", resume=True)), carried_out("searched", Run()))


@pytest.mark.parametrize(
    ("scenario", "start"),
    [
        ("unlucky", "InputError: unlucky: must work, got bad luck; try again."),
        ("disunited", "TrainingError: finetune: batch 1 of epoch 1 must be the same in all 2 processes, got different"),
    ],
)
def test_an_error_is_told_once_by_a_process_that_has_it(two, scenario, start):
    (line,), ended = two[1][scenario]
    # The launcher ends one that is on its way out when the other has told the error and is gone.
    assert ended in ("1 1", "1 -15", "-15 1")
    assert line.startswith(start)


def test_alone_everything_is_said_by_oneself():
    numbers = torch.arange(3.0)
    assert (processes.count(), processes.rank(), processes.is_first(), processes.speaks()) == (1, 0, True, True)
    assert torch.equal(processes.add_up(numbers), torch.arange(3.0))
    assert processes.gathered([1, 2]) == [[1, 2]]
    assert processes.from_first(lambda: {"a": 1}) == {"a": 1}
    processes.same("anything", "a", "")


@pytest.mark.parametrize("environment", [{"WORLD_SIZE": "2"}, {"WORLD_SIZE": "two"}, {"WORLD_SIZE": "2", "RANK": "-1"}])
def test_an_environment_that_is_not_torchruns(monkeypatch, environment):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match="processes: (RANK|WORLD_SIZE) must be a whole number, got"):
        processes.is_first()


def test_nobody_to_meet(monkeypatch):
    for name, value in {"WORLD_SIZE": "2", "RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match="processes: all 2 must find each other, got .*MASTER_ADDR"):
        processes.gathered([1])
    assert processes.speaks()


def test_the_launchers_signal_is_an_error(monkeypatch):
    for name, value in {"WORLD_SIZE": "2", "RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    with processes.ended_by_launcher():
        pass
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    with pytest.raises(ProcessError, match="got SIGTERM"), processes.ended_by_launcher():
        os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGTERM)  # the next one, while the error is told


@pytest.mark.slow
def test_torchrun_ends_a_run_that_lost_a_process_and_resumes_it(two, tmp_path):
    def run(*words):
        command = [*TORCHRUN, "-m", "tests.many", str(tmp_path), *words, "tuned"]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)

    killed = run("kill=1:step:7")
    assert killed.returncode != 0 and "SIGKILL" in killed.stderr
    assert killed.stdout.startswith("ProcessError: finetune, epoch 1: ") and killed.stdout.count("\n") == 1
    assert run("resume").returncode == 0
    check_equal(reached(tmp_path, "tuned"), reached(two[0] / "whole", "tuned"))
