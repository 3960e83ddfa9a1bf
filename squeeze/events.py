"""Scalars in TensorBoard's format, written at once by the thread that has them: a full disk is told where it is met."""

import io
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard.summary import scalar

from squeeze.files import append, explained

_VERSION = "brain.Event:2"


class Events:
    """One file of events.

    Args:
        folder: Of the file; made if missing.
        total: Steps already made; what earlier files of the folder tell beyond them is hidden.

    Raises:
        InputError: The folder cannot be written to.
    """

    def __init__(self, folder: Path, total: int = 0) -> None:
        now, process = time.time_ns(), f"{socket.gethostname()}.{os.getpid()}"
        self._path = folder / f"events.out.tfevents.{now // 10**9:010d}.{process}.{now % 10**9:09d}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise explained(folder, error) from error
        start = [Event(step=total + 1, session_log=SessionLog(status=SessionLog.START))] if total else []
        self._append(Event(file_version=_VERSION), *start)

    def add(self, scalars: Mapping[str, float], step: int) -> None:
        """Write scalars by name, of one step.

        Raises:
            InputError: The disk is full.
        """
        self._append(*(Event(step=step, summary=scalar(name, value)) for name, value in scalars.items()))

    def _append(self, *events: Any) -> None:
        content = io.BytesIO()
        records = RecordWriter(content)
        for event in events:
            event.wall_time = time.time()
            records.write(event.SerializeToString())
        append(self._path, content.getvalue())
