"""Whoever waits is told for what: a trace that takes long says where its time goes."""

import time
from collections import defaultdict
from collections.abc import Callable

PATIENCE = 5.0
"""Seconds after which, and between which, something is said."""

Tell = Callable[[str], None]
"""What a line is handed to."""


class Watch:
    """Adds up the time that steps take, by name.

    Args:
        tell: Is handed a line from time to time; None for nobody.
        clock: Seconds from any origin.
    """

    def __init__(self, tell: Tell | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._tell, self._clock = tell, clock
        self._begin = self._since = clock()
        self._told = self._begin
        self._spent: dict[str, float] = defaultdict(float)
        self._step = ""

    @property
    def listening(self) -> bool:
        """Somebody is told."""
        return self._tell is not None

    def step(self, name: str) -> None:
        """What runs from now on; the time up to now belongs to the step before."""
        if self._tell is None:
            return
        now = self._clock()
        if self._step:
            self._spent[self._step] += now - self._since
        self._since, self._step = now, name
        if self._spent and now - self._told >= PATIENCE:
            self._told = now
            longest, seconds = max(self._spent.items(), key=lambda item: item[1])
            self._tell(f"tracing has taken {now - self._begin:.0f} s so far, {seconds:.0f} s of them for {longest}")
