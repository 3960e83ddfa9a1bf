"""The folder of a run: nothing of the user's is overwritten unasked, nor an earlier run before the new one is whole."""

import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from squeeze.errors import InputError
from squeeze.files import MARK, explained, sync

RUN_FILES = (
    "model.safetensors",
    "model.onnx",
    "model.pt2",
    "plan.json",
    "report.json",
    "report.html",
    "log",
    "log.*",
    "checkpoints/**/*.safetensors",
    "tensorboard/**/events.out.tfevents.*",
    "pass[0-9]*/checkpoints/**/*.safetensors",
    "pass[0-9]*/tensorboard/**/events.out.tfevents.*",
)
"""What a run writes into its folder, as patterns; nothing else there is ever replaced or deleted."""

NEXT = f"{MARK}next"
"""The folder, in that of an earlier run, where the one that is to replace it works."""

_WHOLE, _MOVING, _GONE = f"{MARK}whole", f"{MARK}moving", f"{MARK}gone"
"""Its names when it is whole: while files of the earlier run that it lacks are deleted, and while its own move up; and
its name when it is given up."""

_SUBFOLDERS = (
    *("checkpoints", "tensorboard", "tensorboard/*"),
    *("pass[0-9]*", "pass[0-9]*/checkpoints", "pass[0-9]*/tensorboard", "pass[0-9]*/tensorboard/*"),
)
"""Folders that a run makes within its own."""


def claim_folder(folder: Path, force: bool = False, resume: bool = False) -> Path:
    """Make a folder ready for a run, before anything expensive starts.

    Whoever calls this must keep other runs out meanwhile, and until `settle`: see `squeeze.locks.locked`.

    Args:
        folder: Made if missing.
        force: Replace what an earlier run wrote here (`RUN_FILES`), in the end; what else lies here stays.
        resume: Keep everything, to continue the run: the one that was to replace an earlier one, if there are two.

    Returns:
        Where the run must work: the folder, or a hidden one in it while an earlier run is still needed.

    Raises:
        InputError: Not a folder, not writable, or not empty and neither `force` nor `resume` was given.
    """
    if force and resume:
        raise InputError(f"{folder}: must be continued or started over, got both resume and force; give one of them.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _require_own(folder)
        _take_over(folder)
        names = sorted(path.name for path in folder.iterdir() if MARK not in path.name or path.name == NEXT)
        if names and not (force or resume):
            raise InputError(
                f"{folder}: must be new or empty, got a folder that holds {names[0]}; choose another one, "
                "or continue its run (resume) or replace its files (force)."
            )
        _sweep(folder)
        place = _place(folder, force)
        _sweep(place)
        _probe(place)
    except OSError as error:
        raise explained(folder, error) from error
    return place


def require_writable(folder: Path) -> None:
    """See that files can be written to a folder, before anything expensive starts; one that is missing stays so.

    Raises:
        InputError: They cannot.
    """
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _probe(folder)
    except OSError as error:
        raise explained(folder, error) from error
    finally:
        for path in missing:
            with suppress(OSError):
                path.rmdir()


def _place(folder: Path, force: bool) -> Path:
    place, gone = folder / NEXT, folder / _GONE
    if force and place.exists():
        os.replace(place, gone)  # at once: half of its checkpoints must not be resumed from
        shutil.rmtree(gone)
    if not place.exists() and not (force and any(_matching(folder, RUN_FILES))):
        return folder
    place.mkdir(exist_ok=True)
    return place


def settle(folder: Path, place: Path) -> None:
    """Let a run that is whole take the place of the earlier one.

    Whenever it is killed, every file that both have is there, the old or the new one, and `claim_folder` does the rest.

    Args:
        folder: Of the run.
        place: Where it worked, as `claim_folder` said.

    Raises:
        InputError: A file cannot be moved; then both runs are still there.
    """
    if place == folder:
        return
    try:
        os.replace(place, folder / _WHOLE)
        _take_over(folder)
    except OSError as error:
        raise explained(folder, error) from error


def _take_over(folder: Path) -> None:
    whole, moving = folder / _WHOLE, folder / _MOVING
    if whole.is_dir():
        sync(folder)
        new = {path.relative_to(whole) for path in _matching(whole, RUN_FILES)}
        for path in _matching(folder, RUN_FILES):
            if path.relative_to(folder) not in new:
                path.unlink()
        os.replace(whole, moving)
    if moving.is_dir():
        for path in list(_matching(moving, RUN_FILES)):
            target = folder / path.relative_to(moving)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, target)
        sync(folder)
        shutil.rmtree(moving)


def unmake(folder: Path) -> None:
    """Take a folder away if a run that ended before it began anything left no more than a log in it."""
    if folder.is_dir() and {path.name for path in folder.iterdir()} <= {"log"}:
        (folder / "log").unlink(missing_ok=True)
        folder.rmdir()


def _require_own(folder: Path) -> None:
    """No link among the folders that a run makes: what it deletes and writes stays within its own."""
    within = (NEXT, _WHOLE, _MOVING, _GONE)
    for pattern in (*within, *_SUBFOLDERS, *(f"{name}/{below}" for name in within for below in _SUBFOLDERS)):
        for path in sorted(folder.glob(pattern)):
            if path.is_symlink():
                raise InputError(
                    f"{path}: must be a folder of the run's own, got a link; remove it, or choose another folder."
                )


def _sweep(folder: Path) -> None:
    """Delete what a SIGKILL left."""
    if (folder / _GONE).exists():
        shutil.rmtree(folder / _GONE)
    for path in _matching(folder, (f".*{MARK}*", f"checkpoints/.*{MARK}*", f"pass[0-9]*/checkpoints/.*{MARK}*")):
        path.unlink()


def _matching(folder: Path, patterns: tuple[str, ...]) -> Iterator[Path]:
    for pattern in patterns:
        yield from (path for path in sorted(folder.glob(pattern)) if path.is_symlink() or path.is_file())


def _probe(folder: Path) -> None:
    probe = folder / f".probe{MARK}{os.getpid()}"
    try:
        probe.write_bytes(b"\0" * 4096)
        sync(probe)
    finally:
        probe.unlink(missing_ok=True)
