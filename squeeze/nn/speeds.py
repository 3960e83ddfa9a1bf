"""How long a layer takes with some of its filters and with all, measured once for each shape."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

ROUNDS = 5
"""How often each is timed, in turn; the best counts, which other load on the machine disturbs least."""
SHARES = (0.25, 0.75)
"""Of the filters: between these times grow in a straight line."""

Run = Callable[[Tensor, float], Callable[[], Tensor]]
"""From an input and a share of the filters to what is timed; 1 for all of them, the dense way."""


@dataclass(frozen=True)
class Speed:
    """Seconds of one call.

    Attributes:
        all: With all filters.
        base: With none, as far as the line goes.
        slope: What all of them add to that.
    """

    all: float
    base: float
    slope: float

    def some(self, share: float) -> float:
        """With a share of the filters."""
        return self.base + self.slope * share

    @property
    def limit(self) -> float:
        """The share of the filters up to which it is faster to compute some."""
        return (self.all - self.base) / self.slope if self.slope > 0 else float(self.all > self.base)


class Speeds:
    """What was measured of a layer; not copied with it."""

    def __init__(self) -> None:
        self._known: dict[tuple[Any, ...], Speed] = {}

    def __deepcopy__(self, memo: Any) -> "Speeds":
        return Speeds()

    def __reduce__(self) -> Any:
        return Speeds, ()

    def of(self, x: Tensor, present: Tensor | None, run: Run) -> Speed:
        """For inputs like this one; what comes narrow is measured at the first width that comes."""
        key = (len(x), *x.shape[2:], present is None, torch.get_num_threads(), x.dtype)
        found = self._known.get(key)
        if found is None:
            few, many, everything = _best([run(x, share) for share in (*SHARES, 1.0)])
            slope = max(0.0, (many - few) / (SHARES[1] - SHARES[0]))
            found = self._known[key] = Speed(everything, max(0.0, few - slope * SHARES[0]), slope)
        return found


def _best(ways: list[Callable[[], Tensor]]) -> list[float]:
    best = [float("inf")] * len(ways)
    for warm in range(ROUNDS + 1):
        for number, way in enumerate(ways):
            begin = time.perf_counter()
            way()
            if warm:
                best[number] = min(best[number], time.perf_counter() - begin)
    return best
