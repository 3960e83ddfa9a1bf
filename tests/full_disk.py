"""A disk that is full at a chosen write, as the system would say it: half of what is written gets there."""

import builtins
import errno
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock


class Disk:
    """Counts what is written to files.

    Attributes:
        left: Writes until it is full.
        writes: How many there were.
    """

    def __init__(self, left: int) -> None:
        self.left, self.writes = left, 0

    def fits(self, content: Any, write: Any) -> int:
        self.writes += 1
        if self.writes <= self.left:
            return write(content)
        if self.writes == self.left + 1 and len(content) > 1:
            write(bytes(content)[: len(content) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@contextmanager
def full_after(writes: int) -> Iterator[Disk]:
    """While entered, Python's files and `os.write` find the disk full after so many writes."""
    disk = Disk(writes)
    open_file, os_write = io.open, os.write

    class File(io.FileIO):
        def write(self, content: Any) -> int:
            return disk.fits(content, super().write)

    def opened(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if not set(mode) & set("wax") or "+" in mode:
            return open_file(file, mode, *args, **kwargs)
        given = (
            dict(zip(("buffering", "encoding", "errors", "newline", "closefd", "opener"), args, strict=False)) | kwargs
        )
        raw = File(file, mode.replace("t", "").replace("b", ""), given.get("closefd", True), given.get("opener"))
        buffered = io.BufferedWriter(raw)
        if "b" in mode:
            return buffered
        return io.TextIOWrapper(buffered, given.get("encoding"), given.get("errors"), given.get("newline"))

    def written(descriptor: int, content: Any) -> int:
        return (
            disk.fits(content, lambda part: os_write(descriptor, part))
            if descriptor > 2
            else os_write(descriptor, content)
        )

    with (
        mock.patch.object(io, "open", opened),
        mock.patch.object(builtins, "open", opened),
        mock.patch.object(os, "write", written),
    ):
        yield disk
