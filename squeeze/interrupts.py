"""Ctrl-C, held back while something must not be torn."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupts:
    """While entered, Ctrl-C waits for the end of a `whole` block; a second Ctrl-C does not wait.

    Attributes:
        torn: A `whole` block was left before its end.
    """

    def __init__(self) -> None:
        self.torn = False
        self._inside = False
        self._asked = False
        self._installed = False

    def __enter__(self) -> "Interrupts":
        # A handler of the user's own, or none in another thread, stays in charge.
        ours = threading.current_thread() is threading.main_thread()
        if ours and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._on_signal)
            self._installed = True
        return self

    def __exit__(self, *_: object) -> None:
        if self._installed:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    @contextmanager
    def whole(self) -> Iterator[None]:
        """A block that a first Ctrl-C does not tear; it is raised at the end as KeyboardInterrupt."""
        self._inside = self.torn = True
        try:
            yield
            self.torn = False
        finally:
            self._inside = False
        if self._asked:
            raise KeyboardInterrupt

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._inside and not self._asked:
            self._asked = True
        else:
            raise KeyboardInterrupt
