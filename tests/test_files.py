"""Whole files or none, and the user's files stay."""

import errno
import os
from pathlib import Path

import pytest

from squeeze import files
from squeeze.errors import ArtifactError, InputError


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_write_makes_missing_folders_and_leaves_nothing_else(tmp_path):
    files.write_text(tmp_path / "a" / "b" / "plan.json", "grüß")
    assert (tmp_path / "a/b/plan.json").read_bytes() == "grüß".encode()
    assert names(tmp_path) == {"a/b/plan.json"}


def test_temporary_file_lies_beside_with_the_same_suffix(tmp_path):
    seen = []

    def write(path: Path) -> None:
        seen.append(path)
        path.write_bytes(b"x")

    files.write_atomic(tmp_path / "model.onnx", write)
    assert (seen[0].parent, seen[0].suffix) == (tmp_path, ".onnx") and seen[0].name != "model.onnx"


@pytest.mark.parametrize("failure", [ValueError("inside"), KeyboardInterrupt()])
def test_failed_write_keeps_the_old_file(tmp_path, failure):
    files.write_bytes(tmp_path / "model.pt2", b"old")

    def write(path: Path) -> None:
        path.write_bytes(b"half of the n")
        raise failure

    with pytest.raises(type(failure)):
        files.write_atomic(tmp_path / "model.pt2", write)
    assert (tmp_path / "model.pt2").read_bytes() == b"old"
    assert names(tmp_path) == {"model.pt2"}


@pytest.mark.parametrize(
    ("code", "words"), [(errno.ENOSPC, "full disk"), (errno.EROFS, "read-only"), (errno.EACCES, "permission")]
)
def test_the_disk_s_refusal_is_one_line(tmp_path, code, words):
    def write(path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(code, os.strerror(code))

    with pytest.raises(InputError, match=words) as caught:
        files.write_atomic(tmp_path / "report.html", write)
    assert "\n" not in str(caught.value) and str(tmp_path / "report.html") in str(caught.value)
    assert names(tmp_path) == set()


def test_a_file_in_the_way_of_a_folder(tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(InputError, match="file"):
        files.write_bytes(tmp_path / "taken" / "model.onnx", b"")


def test_a_folder_in_the_way_of_a_file(tmp_path):
    (tmp_path / "model.onnx").mkdir()
    with pytest.raises(InputError, match="folder"):
        files.write_bytes(tmp_path / "model.onnx", b"")
    assert names(tmp_path) == set()


def test_a_pipe_and_a_device_are_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(ArtifactError, match="must be a plan, got a pipe or a device"):
            files.read_bytes(path, "a plan", ArtifactError)


@pytest.mark.parametrize(("name", "words"), [("", "a folder"), ("none", "no such file"), ("x" * 300, "too long")])
def test_what_cannot_be_read_is_told(tmp_path, name, words):
    with pytest.raises(InputError, match=f"must be a plan, got .*{words}"):
        files.read_bytes(tmp_path / name, "a plan")


def test_a_link_in_the_place_of_the_temporary_file_is_not_followed(tmp_path):
    (tmp_path / "mine").write_text("mine")
    (tmp_path / f".plan.squeeze-{os.getpid()}.json").symlink_to(tmp_path / "mine")
    files.write_text(tmp_path / "plan.json", "new")
    assert (tmp_path / "mine").read_text() == "mine" and (tmp_path / "plan.json").read_text() == "new"


def test_lines_are_added_to_the_file_itself(tmp_path):
    for line in ("one", "two \ud800"):
        files.append_line(tmp_path / "log", line)
    assert (tmp_path / "log").read_text() == "one\ntwo \\ud800\n"
    (tmp_path / "link").symlink_to(tmp_path / "mine")
    with pytest.raises(InputError, match="a link"):
        files.append_line(tmp_path / "link", "one")
    with pytest.raises(InputError, match="full disk"):
        files.append_line(Path("/dev/full"), "one")
