"""One run a folder: a lock that ends with the process that holds it, however that ends."""

import errno
import fcntl
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from squeeze.errors import InputError, quoted
from squeeze.files import explained

LOCK = ".squeeze-lock"
"""The file, in the folder of a run, that a running process holds; it says which one that is."""

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


@contextmanager
def locked(folder: Path | None) -> Iterator[None]:
    """While entered, no other run enters with this folder, which is made if missing; None keeps nobody out.

    A process may enter again what it has entered. Of the processes of one run, the first has the lock for all.

    Raises:
        InputError: Another run is at work in the folder, or it cannot be written to.

    Warns:
        UserWarning: The disk knows no locks; then nobody is kept out.
    """
    if folder is None or os.environ.get("RANK", "0") != "0":
        yield
        return
    path = folder / LOCK
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = _taken(path)
    except OSError as error:
        raise explained(folder, error) from error
    if descriptor is None:
        yield
        return
    held = [descriptor]
    # A fork holds the lock, too, and may outlive the run: what loads its data, for one.
    os.register_at_fork(after_in_child=lambda: _closed(held))
    try:
        yield
    finally:
        if held:
            path.unlink(missing_ok=True)
            _closed(held)


def _closed(held: list[int]) -> None:
    while held:
        os.close(held.pop())


def _taken(path: Path) -> int | None:
    """A descriptor that holds the lock; None if this process has it, or if there is none to be had."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(descriptor, 40, 0).decode(errors="replace").strip()
            os.close(descriptor)
            if error.errno in _NO_LOCKS:
                warnings.warn(f"{path.parent}: its disk knows no locks; start no second run there.", stacklevel=4)
                return None
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
            if holder == str(os.getpid()):
                return None
            who = f"process {quoted(holder)}" if holder else "another process"
            raise InputError(
                f"{path.parent}: must belong to one run at a time, got one that is at work there ({who}); wait for its "
                "end, stop it, or choose another folder."
            ) from error
        if _is_at(descriptor, path):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, str(os.getpid()).encode(), 0)
            return descriptor
        os.close(descriptor)  # the run that had it ended meanwhile, and took the file away


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except FileNotFoundError:
        return False
