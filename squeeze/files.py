"""Files appear whole or not at all."""

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from squeeze.errors import InputError, SqueezeError

_NO_FILE = {errno.ENOENT: "no such file", errno.ENOTDIR: "no such file", errno.EISDIR: "a folder"}

MARK = ".squeeze-"
"""In the name of every temporary file."""


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
    (one may survive a SIGKILL; `squeeze.folders.claim_folder` sweeps it up). Missing folders are made.

    Args:
        path: Where the file goes; the temporary file has the same suffix.
        write: Makes the file. A full disk is reported well if this raises OSError, as Python's own files do.

    Raises:
        InputError: The folder cannot be made or written to, the disk is full, or `path` is a folder.
    """
    temporary = path.parent / f".{path.stem}{MARK}{os.getpid()}{path.suffix}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.unlink(missing_ok=True)  # a link of that name would lead the writing elsewhere
        try:
            write(temporary)
            sync(temporary)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        sync(path.parent)
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


def sync(path: Path) -> None:
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
