"""Files appear whole or not at all, and nothing of the user's is overwritten unasked."""

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from squeeze.errors import InputError

RUN_FILES = ("model.safetensors", "model.onnx", "model.pt2", "plan.json", "report.json", "report.html", "log*")
"""What a run writes into its folder; the patterns are names directly below it."""

RUN_FOLDERS = ("checkpoints", "tensorboard")

_TEMPORARY = ".squeeze-"


def write_atomic(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` make a file under a temporary name beside `path`, then rename it.

    Whatever happens, `path` holds the old content or all of the new one, and no temporary file is left
    (one survives a SIGKILL; `claim_folder` sweeps it up). Missing folders are made.

    Args:
        path: Where the file goes; its suffix is also the temporary file's.
        write: Makes the file. A full disk is reported well if it raises OSError, as Python's own files do.

    Raises:
        InputError: The folder cannot be made or written to, the disk is full, or `path` is a folder.
    """
    temporary = path.parent / f".{path.stem}{_TEMPORARY}{os.getpid()}{path.suffix}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            write(temporary)
            _sync(temporary)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        _sync(path.parent)
    except OSError as error:
        raise InputError(_explain(path, error)) from error


def write_bytes(path: Path, content: bytes) -> None:
    """`write_atomic` of these bytes."""
    write_atomic(path, lambda temporary: _write(temporary, content))


def write_text(path: Path, content: str) -> None:
    """`write_atomic` of this text, as UTF-8."""
    write_bytes(path, content.encode())


def claim_folder(folder: Path, force: bool = False, resume: bool = False) -> None:
    """Make a folder ready for a run, before anything expensive starts.

    Args:
        folder: Made if missing.
        force: Delete what an earlier run wrote here, by name (`RUN_FILES`, `RUN_FOLDERS`); what else lies here stays.
        resume: Keep everything and continue.

    Raises:
        InputError: Not a folder, not writable, or not empty and neither `force` nor `resume` was given.
    """
    if force and resume:
        raise InputError(f"{folder}: must be continued or started over, got both force and resume; give one of them.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        occupied = next(iter(sorted(folder.iterdir())), None)
        if occupied is not None and not (force or resume):
            raise InputError(
                f"{folder}: must be empty or new, got a folder with {occupied.name}; choose another folder, "
                "continue the run (resume), or replace its files (force)."
            )
        write_bytes(folder / "log", b"") if not (folder / "log").exists() else _check_writable(folder)
        if force:
            _clear(folder)
        for stale in folder.rglob(f".*{_TEMPORARY}*"):
            stale.unlink()
    except OSError as error:
        raise InputError(_explain(folder, error)) from error
