"""Ctrl-C, held back while something must not be torn."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from squeeze.errors import ProcessError
from squeeze.processes import end_by_launcher, ignore_launcher


class Interrupts:
    """While entered, Ctrl-C waits for the end of a `whole` block; a second Ctrl-C does not wait.

    One of several processes must not stop alone: there, Ctrl-C and the launcher's SIGTERM only make `asked` true,
    and whoever entered this asks the others and stops together with them.

    Args:
        shared: This is one of several processes.

    Attributes:
        torn: A `whole` block was left before its end.
        asked: Someone wants this to stop.
    """

    def __init__(self, shared: bool = False) -> None:
        self.torn = False
        self.asked = False
        self._shared = shared
        self._inside = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Interrupts":
        # A handler of the user's own, or none in another thread, stays in charge.
        if threading.current_thread() is threading.main_thread():
            self._take(signal.SIGINT, signal.default_int_handler)
            if self._shared:
                self._take(signal.SIGTERM, signal.SIG_DFL, end_by_launcher)
        return self

    def _take(self, number: int, *ours: Any) -> None:
        before = signal.getsignal(number)
        if before in ours:
            self._before[number] = before
            signal.signal(number, self._on_signal)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if kind is not None and issubclass(kind, ProcessError):
            ignore_launcher()

    @contextmanager
    def whole(self) -> Iterator[None]:
        """A block that a first Ctrl-C does not tear; it is raised at the end as KeyboardInterrupt."""
        self._inside = self.torn = True
        try:
            yield
            self.torn = False
        finally:
            self._inside = False
        if self.asked and not self._shared:
            raise KeyboardInterrupt

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if (self._inside or self._shared) and not self.asked:
            self.asked = True
        else:
            raise KeyboardInterrupt
