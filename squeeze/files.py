"""Files appear whole or not at all, and nothing of the user's is overwritten unasked."""

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from squeeze.errors import InputError, SqueezeError

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

_NO_FILE = {errno.ENOENT: "no such file", errno.ENOTDIR: "no such file", errno.EISDIR: "a folder"}

_MARK = ".squeeze-"
"""In the name of every temporary file."""

_SUBFOLDERS = (
    *("checkpoints", "tensorboard", "tensorboard/*"),
    *("pass[0-9]*", "pass[0-9]*/checkpoints", "pass[0-9]*/tensorboard", "pass[0-9]*/tensorboard/*"),
)
"""Folders that a run makes within its own."""


@contextmanager
def opened(path: Path, kind: str, refusal: type[SqueezeError] = InputError) -> Iterator[IO[bytes]]:
    """A file to be read, which must be an ordinary one: pipes are not waited for, devices not read.

    Args:
        path: Of the file.
        kind: What it must be, for messages.
        refusal: What is raised.

    Raises:
        SqueezeError: There is no such file, or it cannot be read.
    """
    try:
        with open(path, "rb", opener=_open_ordinary) as file:
            yield file
    except OSError as error:
        got = _NO_FILE.get(error.errno or 0, (error.strerror or str(error)).lower())
        raise refusal(f"{path}: must be {kind}, got {got}; check the path and its permissions.") from error


def _open_ordinary(path: str, flags: int) -> int:
    descriptor = os.open(path, flags | os.O_NONBLOCK)
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):  # of folders Python itself says so
        return descriptor
    os.close(descriptor)
    raise OSError(errno.EINVAL, "a pipe or a device")


def read_bytes(path: Path, kind: str, refusal: type[SqueezeError] = InputError) -> bytes:
    """All of a file; see `opened`."""
    with opened(path, kind, refusal) as file:
        return file.read()


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
        temporary.unlink(missing_ok=True)  # a link of that name would lead the writing elsewhere
        try:
            write(temporary)
            _sync(temporary)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        _sync(path.parent)
    except OSError as error:
        raise explained(path, error) from error


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
        _require_own(folder)
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
        raise explained(folder, error) from error


def _require_own(folder: Path) -> None:
    """No link among the folders that a run makes: what it deletes and writes stays within its own."""
    for pattern in _SUBFOLDERS:
        for path in sorted(folder.glob(pattern)):
            if path.is_symlink():
                raise InputError(
                    f"{path}: must be a folder of the run's own, got a link; remove it, or choose another folder."
                )


def append_line(path: Path, line: str) -> None:
    """`append` of a line of text, as UTF-8."""
    append(path, f"{line}\n".encode(errors="backslashreplace"))


def append(path: Path, content: bytes) -> None:
    """Add to a file at once; it is made if missing, and no link is followed.

    Raises:
        InputError: The disk is full, or the file cannot be written to.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
        try:
            if os.write(descriptor, content) < len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        finally:
            os.close(descriptor)
    except OSError as error:
        raise explained(path, error) from error


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


def explained(path: Path, error: OSError) -> InputError:
    """What a file's or folder's refusal to be written means to the user."""
    what = {
        errno.ENOSPC: ("have room on its disk", "a full disk", "free some space or choose another folder"),
        errno.EDQUOT: ("have room in your quota", "a full quota", "free some space or choose another folder"),
        errno.EFBIG: ("have room on its disk", "a file too large for it", "choose another folder"),
        errno.EROFS: ("be writable", "a read-only disk", "choose another folder"),
        errno.EACCES: ("be writable", "no permission", "choose another folder or change its permissions"),
        errno.EPERM: ("be writable", "no permission", "choose another folder or change its permissions"),
        errno.ELOOP: ("be a file of its own", "a link", "remove it, or choose another folder"),
        errno.ENOTDIR: ("lie in a folder", "a file on the way to it", "choose another folder"),
        errno.EEXIST: ("be a folder", "a file of that name", "choose another folder"),
        errno.EISDIR: ("be a file", "a folder of that name", "choose another name"),
    }
    reason = (error.strerror or str(error)).lower()
    must, got, remedy = what.get(error.errno or 0, ("be writable", reason, "choose another place"))
    return InputError(f"{path}: must {must}, got {got}; {remedy}.")
