"""Files appear whole or not at all, and nothing of the user's is overwritten unasked."""

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from squeeze.errors import InputError

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
"""What a run writes into its folder, as patterns; `claim_folder` deletes nothing else."""

_MARK = ".squeeze-"
"""In the name of every temporary file."""


def write_atomic(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` make a file under a temporary name beside `path`, then rename it.

    Whatever happens, `path` holds the old content or all of the new, and no temporary file is left
    (one may survive a SIGKILL; `claim_folder` sweeps it up). Missing folders are made.

    Args:
        path: Where the file goes; the temporary file has the same suffix.
        write: Makes the file. A full disk is reported well if this raises OSError, as Python's own files do.

    Raises:
        InputError: The folder cannot be made or written to, the disk is full, or `path` is a folder.
    """
    temporary = path.parent / f".{path.stem}{_MARK}{os.getpid()}{path.suffix}"
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
        raise _explained(path, error) from error


def write_bytes(path: Path, content: bytes) -> None:
    """`write_atomic` of these bytes."""

    def write(temporary: Path) -> None:
        temporary.write_bytes(content)

    write_atomic(path, write)


def write_text(path: Path, content: str) -> None:
    """`write_atomic` of this text, as UTF-8."""
    write_bytes(path, content.encode())


def claim_folder(folder: Path, force: bool = False, resume: bool = False) -> None:
    """Make a folder ready for a run, before anything expensive starts.

    Args:
        folder: Made if missing.
        force: Delete what an earlier run wrote here (`RUN_FILES`); what else lies here stays.
        resume: Keep everything, to continue the run.

    Raises:
        InputError: Not a folder, not writable, or not empty and neither `force` nor `resume` was given.
    """
    if force and resume:
        raise InputError(f"{folder}: must be continued or started over, got both resume and force; give one of them.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        names = sorted(entry.name for entry in folder.iterdir() if _MARK not in entry.name)
        if names and not (force or resume):
            raise InputError(
                f"{folder}: must be new or empty, got a folder that holds {names[0]}; choose another one, "
                "or continue its run (resume) or replace its files (force)."
            )
        for stale in _matching(
            folder, (f".*{_MARK}*", f"checkpoints/.*{_MARK}*", f"pass[0-9]*/checkpoints/.*{_MARK}*")
        ):
            stale.unlink()
        for written in _matching(folder, RUN_FILES if force else ()):
            written.unlink()
        _probe(folder)
    except OSError as error:
        raise _explained(folder, error) from error


def _matching(folder: Path, patterns: tuple[str, ...]) -> Iterator[Path]:
    for pattern in patterns:
        yield from (path for path in sorted(folder.glob(pattern)) if path.is_symlink() or path.is_file())


def _probe(folder: Path) -> None:
    probe = folder / f".probe{_MARK}{os.getpid()}"
    try:
        probe.write_bytes(b"\0" * 4096)
        _sync(probe)
    finally:
        probe.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Force a file or folder to the disk, so that a power cut cannot leave an empty file under its name."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _explained(path: Path, error: OSError) -> InputError:
    what = {
        errno.ENOSPC: ("have room on its disk", "a full disk", "free some space or choose another folder"),
        errno.EDQUOT: ("have room in your quota", "a full quota", "free some space or choose another folder"),
        errno.EROFS: ("be writable", "a read-only disk", "choose another folder"),
        errno.EACCES: ("be writable", "no permission", "choose another folder or change its permissions"),
        errno.EPERM: ("be writable", "no permission", "choose another folder or change its permissions"),
        errno.ENOTDIR: ("lie in a folder", "a file on the way to it", "choose another folder"),
        errno.EEXIST: ("be a folder", "a file of that name", "choose another folder"),
        errno.EISDIR: ("be a file", "a folder of that name", "choose another name"),
    }
    reason = (error.strerror or str(error)).lower()
    must, got, remedy = what.get(error.errno or 0, ("be writable", reason, "choose another place"))
    return InputError(f"{path}: must {must}, got {got}; {remedy}.")
