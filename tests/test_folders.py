"""The folder of a run: the user's files stay, and an earlier run until the new one is whole."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from squeeze import folders
from squeeze.errors import InputError
from squeeze.folders import NEXT, claim_folder, settle

OURS = {
    "model.safetensors",
    "plan.json",
    "log",
    "checkpoints/gal.safetensors",
    "tensorboard/gal/events.out.tfevents.1",
    "pass2/checkpoints/kse.safetensors",
}
THEIRS = {
    "model.pt",
    "notes.txt",
    "logbook.txt",
    "checkpoints/mine.pt",
    "data/model.safetensors",
    "tensorboard/x.csv",
}
LEFT = {".model.squeeze-1.onnx", "checkpoints/.gal.squeeze-1.safetensors", "pass2/checkpoints/.x.squeeze-1.safetensors"}
"""By a SIGKILL."""
NEW = {"model.safetensors", "model.onnx", "plan.json", "log", "checkpoints/finetune.safetensors"}
"""Of a run that replaces the earlier one: some names are the same, some are missing, some are new."""


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def fill(folder: Path, paths: set[str], content: str) -> None:
    for name in paths:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)


def contents(folder: Path) -> dict[str, str]:
    return {name: (folder / name).read_text() for name in names(folder)}


def check_replaced(folder: Path) -> None:
    """All of the new run is there, nothing of the earlier one, and what was the user's."""
    assert contents(folder) == dict.fromkeys(THEIRS, "mine") | dict.fromkeys(NEW, "new")
    assert not list(folder.glob(".squeeze-*"))


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    """A folder with a run in it, and files of the user's."""
    fill(tmp_path / "run", OURS, "old")
    fill(tmp_path / "run", THEIRS, "mine")
    return tmp_path / "run"


def test_claim_refuses_what_is_not_empty(tmp_path: Path) -> None:
    assert claim_folder(tmp_path / "run") == claim_folder(tmp_path / "run") == tmp_path / "run"
    (tmp_path / "run" / "plan.json").write_text("{}")
    with pytest.raises(InputError, match=r"plan\.json"):
        claim_folder(tmp_path / "run")
    with pytest.raises(InputError, match="both"):
        claim_folder(tmp_path / "run", force=True, resume=True)


def test_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(InputError, match="file"):
        claim_folder(tmp_path / "taken")


def test_force_keeps_the_earlier_run_until_the_new_one_is_whole(earlier: Path) -> None:
    before = contents(earlier)
    place = claim_folder(earlier, force=True)
    assert contents(earlier) == before and names(place) == set()
    fill(place, NEW, "new")
    assert {name: (earlier / name).read_text() for name in before} == before
    settle(earlier, place)
    check_replaced(earlier)


def test_force_works_in_the_folder_itself_where_no_run_was(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    assert claim_folder(tmp_path, force=True) == tmp_path
    settle(tmp_path, tmp_path)
    assert names(tmp_path) == {"notes.txt"}


def test_resume_goes_on_with_the_new_run_and_force_begins_it_again(earlier: Path) -> None:
    place = claim_folder(earlier, force=True)
    fill(place, {"checkpoints/gal.safetensors"}, "new")
    assert claim_folder(earlier, resume=True) == place
    assert names(place) == {"checkpoints/gal.safetensors"}
    assert claim_folder(earlier, force=True) == place
    assert names(place) == set()
    assert {name for name, text in contents(earlier).items() if text == "old"} == OURS


def test_an_unfinished_run_alone_is_not_overwritten(tmp_path: Path) -> None:
    fill(tmp_path / NEXT, {"checkpoints/gal.safetensors"}, "new")
    with pytest.raises(InputError, match="must be new or empty"):
        claim_folder(tmp_path)


class Killed(BaseException):
    """No handler of errors sees it."""


def deadly(monkeypatch: pytest.MonkeyPatch, after: int) -> list[int]:
    """Whatever changes the disk dies instead, after so many changes; returns the count."""
    count = [0]

    def counted(change: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            if count[0] >= after:
                raise Killed
            count[0] += 1
            return change(*args, **kwargs)

        return wrapper

    for owner, name in ((os, "replace"), (os, "unlink"), (os, "rmdir"), (os, "mkdir")):
        monkeypatch.setattr(owner, name, counted(getattr(owner, name)))
    return count


def test_killed_at_any_change_nothing_is_lost_and_the_next_run_finds_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    after = 0
    while True:
        folder = tmp_path / str(after)
        fill(folder, OURS, "old")
        fill(folder, THEIRS, "mine")
        place = claim_folder(folder, force=True)
        fill(place, NEW, "new")
        with monkeypatch.context() as patched:
            count = deadly(patched, after)
            try:
                settle(folder, place)
                break
            except Killed:
                pass
        assert all((folder / name).read_text() in ("old", "new") for name in OURS & NEW)
        assert len([text for text in contents(folder).values() if text == "new"]) == len(NEW)
        place = claim_folder(folder, resume=True)
        settle(folder, place)
        check_replaced(folder)
        after += 1
    check_replaced(folder)
    assert after == count[0] > len(NEW)


def test_killed_while_a_run_is_given_up_none_of_it_is_resumed(earlier: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for after in range(20):
        fill(claim_folder(earlier, force=True), NEW, "new")
        with monkeypatch.context() as patched:
            deadly(patched, after)
            try:
                claim_folder(earlier, force=True)
                break
            except Killed:
                pass
        place = claim_folder(earlier, resume=True)
        assert (place == earlier / NEXT and names(place) == NEW) or "new" not in contents(earlier).values()
        assert {name for name, text in contents(earlier).items() if text == "old"} == OURS
    assert 3 < after < 19


def test_a_run_that_cannot_take_the_place_keeps_both(earlier: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    place = claim_folder(earlier, force=True)
    fill(place, NEW, "new")
    monkeypatch.setattr(os, "replace", refused)
    with pytest.raises(InputError, match="a read-only disk"):
        settle(earlier, place)
    assert sorted(contents(earlier).values()).count("old") == len(OURS)
    assert sorted(contents(earlier).values()).count("new") == len(NEW)


def test_force_does_not_follow_links(tmp_path: Path) -> None:
    (tmp_path / "elsewhere.safetensors").write_text("mine")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "model.safetensors").symlink_to(tmp_path / "elsewhere.safetensors")
    place = claim_folder(tmp_path / "run", force=True)
    fill(place, {"model.safetensors"}, "new")
    settle(tmp_path / "run", place)
    assert contents(tmp_path) == {"elsewhere.safetensors": "mine", "run/model.safetensors": "new"}
    assert not (tmp_path / "run" / "model.safetensors").is_symlink()


def test_resume_deletes_only_leftovers(earlier: Path) -> None:
    fill(earlier, LEFT, "left")
    assert claim_folder(earlier, resume=True) == earlier
    assert names(earlier) == OURS | THEIRS


def test_claim_finds_out_up_front_that_nothing_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, content: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(InputError, match="full disk"):
        claim_folder(tmp_path / "run")


def test_a_place_where_nobody_may_write() -> None:
    with pytest.raises(InputError, match="/proc/squeeze: must be writable"):
        claim_folder(Path("/proc/squeeze"))


@pytest.mark.parametrize(
    "name",
    [
        *("checkpoints", "tensorboard", "tensorboard/gal", "pass2", "pass2/checkpoints"),
        *(NEXT, f"{NEXT}/checkpoints", ".squeeze-whole", ".squeeze-moving", ".squeeze-moving/tensorboard"),
    ],
)
def test_a_folder_within_that_leads_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "gal.safetensors").write_text("mine")
    (tmp_path / "run" / name).parent.mkdir(parents=True)
    (tmp_path / "run" / name).symlink_to(tmp_path / "elsewhere")
    for force in (True, False):
        with pytest.raises(InputError, match="got a link"):
            claim_folder(tmp_path / "run", force=force, resume=not force)
    assert names(tmp_path / "elsewhere") == {"gal.safetensors"}


def test_a_log_alone_is_taken_away(tmp_path: Path) -> None:
    fill(tmp_path / "made", {"log"}, "began")
    fill(tmp_path / "used", {"log", "checkpoints/gal.safetensors"}, "began")
    for name in ("made", "used", "none"):
        folders.unmake(tmp_path / name)
    assert {path.name for path in tmp_path.iterdir()} == {"used"}
