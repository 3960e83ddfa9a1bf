"""How long a layer takes with some of its filters and with all, measured once for each shape."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

ROUNDS = 5
"""How often each is timed, in turn; the best counts, which other load on the machine disturbs least."""
SHARES = (0.25, 0.75)
"""Of the filters: between these times grow in a straight line."""
MEMORY = 0.9
"""Of the running mean of what share of the filters was on."""

RETHINKS = 8
"""After so many calls it is seen whether another way is the fastest by now."""

ALL = "all"
"""The way that computes all filters."""
Way = Callable[[float], Callable[[], Tensor]]
"""From a share of the filters to what is timed."""


@dataclass(frozen=True)
class Line:
    """Seconds of one call: `base`, and `slope` for all of the filters."""

    base: float
    slope: float

    def at(self, share: float) -> float:
        """With a share of the filters."""
        return self.base + self.slope * share


@dataclass
class Speed:
    """What was measured of one shape.

    Attributes:
        lines: Of each way.
        share: Of the filters, a running mean of what was on: codes are known only after the first choice.
        way: The fastest with that share.
    """

    lines: Mapping[str, Line]
    share: float = 0.5
    way: str = ""
    _seen: int = 0

    def __post_init__(self) -> None:
        self.way = self.best(self.share)[0]

    def best(self, share: float) -> tuple[str, float]:
        """The fastest way with a share of the filters, and its seconds."""
        return min(((name, line.at(share)) for name, line in self.lines.items()), key=lambda pair: pair[1])

    def saw(self, share: float) -> None:
        """So many filters were on."""
        self.share = MEMORY * self.share + (1 - MEMORY) * share
        self._seen += 1
        if self._seen % RETHINKS == 0:
            self.way = self.best(self.share)[0]

    @property
    def limit(self) -> float:
        """The share of the filters up to which it is faster to compute some."""
        some = [line for name, line in self.lines.items() if name != ALL]
        dense = self.lines[ALL].base
        limits = [(dense - line.base) / line.slope if line.slope > 0 else float(dense > line.base) for line in some]
        return max(0.0, min(1.0, max(limits, default=0.0)))


class Speeds:
    """What was measured of a layer; not copied with it."""

    def __init__(self) -> None:
        self._known: dict[tuple[Any, ...], Any] = {}

    def __deepcopy__(self, memo: Any) -> "Speeds":
        return Speeds()

    def __reduce__(self) -> Any:
        return Speeds, ()

    def of(self, x: Tensor, narrow: bool, ways: Callable[[], Mapping[str, Way]]) -> Speed:
        """For inputs like this one; what comes narrow is measured at the first width that comes.

        Args:
            x: (B, c, H, W).
            narrow: It holds some of the channels.
            ways: Makes what is timed; `ALL` is among them, and takes no share.
        """
        key = _key(x, narrow)
        found = self._known.get(key)
        if found is None:
            made = ways()
            few, many = ({name: way(share) for name, way in made.items() if name != ALL} for share in SHARES)
            runs = {f"{name} {number}": run for number, runs in enumerate((few, many)) for name, run in runs.items()}
            best = _best({ALL: made[ALL](1.0), **runs})
            lines = {name: _line(best[f"{name} 0"], best[f"{name} 1"]) for name in few}
            found = self._known[key] = Speed({ALL: Line(best[ALL], 0.0), **lines})
        return found

    def known(self, x: Tensor, narrow: bool) -> Speed | None:
        """As `of`, if it was measured."""
        return self._known.get(_key(x, narrow))

    def fastest(self, x: Tensor, ways: Mapping[str, Callable[[], Tensor]]) -> str:
        """Which of several ways is the fastest for narrow inputs like this one."""
        found = self.chosen(x)
        if found is None:
            best = _best(ways)
            found = self._known[_key(x, True)] = min(best, key=lambda name: best[name])
        return found

    def chosen(self, x: Tensor) -> str | None:
        """What `fastest` found for inputs like this one; None if it was not asked."""
        found: str | None = self._known.get(_key(x, True))
        return found


def seconds(way: Callable[[], Tensor]) -> float:
    """Of one call."""
    return _best({"": way})[""]


def _key(x: Tensor, narrow: bool) -> tuple[Any, ...]:
    batch, _, height, width = x.shape
    return (batch, height, width, narrow, torch.get_num_threads(), x.dtype)


def _line(few: float, many: float) -> Line:
    slope = max(0.0, (many - few) / (SHARES[1] - SHARES[0]))
    return Line(max(0.0, few - slope * SHARES[0]), slope)


def _best(ways: Mapping[str, Callable[[], Tensor]]) -> dict[str, float]:
    best = dict.fromkeys(ways, float("inf"))
    for warm in range(ROUNDS + 1):
        for name, way in ways.items():
            begin = time.perf_counter()
            way()
            if warm:
                best[name] = min(best[name], time.perf_counter() - begin)
    return best
