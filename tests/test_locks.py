"""One run a folder; the lock ends with its process, whatever ends that."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from squeeze.errors import InputError
from squeeze.locks import LOCK, locked

ROOT = Path(__file__).parents[1]
HOLD = """
import sys, time
from pathlib import Path
from squeeze.locks import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that is at work in the folder."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_second_run_is_told_who_is_at_work(tmp_path, holder):
    with pytest.raises(InputError, match=f"one run at a time.*process {holder.pid}") as caught, locked(tmp_path):
        pass
    assert str(caught.value).isprintable() and str(tmp_path) in str(caught.value)


def test_a_killed_run_holds_nothing(tmp_path, holder):
    holder.kill()
    holder.wait()
    assert (tmp_path / LOCK).read_text() == str(holder.pid)
    with locked(tmp_path):
        assert (tmp_path / LOCK).read_text() == str(os.getpid())
    assert list(tmp_path.iterdir()) == []


def test_a_process_may_enter_again(tmp_path):
    with locked(tmp_path / "run"):
        with locked(tmp_path / "run"):
            pass
        assert (tmp_path / "run" / LOCK).exists()
    with locked(None):
        assert not (tmp_path / "run" / LOCK).exists()


def test_a_child_does_not_hold_what_its_parent_held(tmp_path):
    with locked(tmp_path):
        child = os.fork()
        if child == 0:
            signal.pause()
            os._exit(0)
    try:
        with locked(tmp_path):
            assert (tmp_path / LOCK).exists()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_an_orphan_of_a_killed_run_holds_nothing(tmp_path):
    # One write each: two processes that print into one pipe may tear each other's lines.
    lines = HOLD.replace('print("held", flush=True)', 'import os; os.write(1, b"%d\\n" % os.fork())')
    run = subprocess.Popen([sys.executable, "-c", lines, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE)
    assert run.stdout is not None
    words = {run.stdout.readline().strip(), run.stdout.readline().strip()} - {b"0"}
    run.kill()
    run.wait()
    try:
        with locked(tmp_path):
            assert (tmp_path / LOCK).read_text() == str(os.getpid())
    finally:
        os.kill(int(words.pop()), signal.SIGKILL)
        run.stdout.close()


def test_the_other_processes_of_a_run_need_no_lock(tmp_path, holder, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    with locked(tmp_path):
        assert (tmp_path / LOCK).read_text() == str(holder.pid)


def test_a_link_in_the_place_of_the_lock_is_not_followed(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / LOCK).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="a link"), locked(tmp_path / "run"):
        pass
    assert not (tmp_path / "elsewhere").exists()


def test_a_disk_without_locks_keeps_nobody_out(tmp_path, monkeypatch):
    def no_locks(*_: object) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", no_locks)
    with pytest.warns(UserWarning, match="no locks"), locked(tmp_path):
        pass
