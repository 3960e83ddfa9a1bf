"""What a trial cuts: unevenly, so that sizes written in the code, and shares computed in it, show."""

import numpy as np

_DRAWS = 32
_SHARES = (2, 3, 4, 6, 8)


def first_cut(size: int, number: int) -> np.ndarray:
    """(units,) What goes of the `number`-th group at first: about half of it, and mostly of its second half.

    An odd number stays, and not the same in all groups, so that widths that are equal by chance do not pass for right.
    The first unit goes and the last stays: then no slice from the beginning that is written in the code holds what it
    should.
    """
    if size < 12:
        gone = np.zeros(size, dtype=bool)
        gone[size // 2] = size > 1
        return gone
    stay = max((size // 2 - 2 * number % (size // 4) - 1) | 1, 5)
    slope = np.arange(size) / size
    slope[0], slope[-1] = np.inf, -np.inf
    return _drawn(slope, stay, number)


def second_cut(first: np.ndarray, number: int) -> np.ndarray:
    """(units,) What is gone in the end: about half of what a first cut left, and mostly of its first half."""
    if len(first) < 4:
        return first
    left = int((~first).sum())
    slope = np.where(first, np.inf, np.arange(len(first))[::-1] / len(first))
    return _drawn(slope, max(left // 2, 2), ~number & 0xFFFF)


def _drawn(slope: np.ndarray, stay: int, seed: int) -> np.ndarray:
    """True but for `stay` units, those of a small slope rather; of several draws the one with the least luck."""
    random, draws, shares = np.random.default_rng(seed), list[tuple[int, int, np.ndarray]](), _shares(len(slope), stay)
    for _ in range(_DRAWS):
        gone = np.ones(len(slope), dtype=bool)
        gone[np.argsort(random.random(len(slope)) + slope)[:stay]] = False
        draws.append((_luck(~gone, *shares), len(draws), gone))
        if draws[-1][0] == 0:
            break
    return min(draws, key=lambda draw: draw[:2])[2]


def _shares(size: int, stay: int) -> tuple[np.ndarray, np.ndarray]:
    """Where a share that is computed from a width (``width // 4``) ends: of all units, and of those that stay."""
    places = [(parts, part) for parts in _SHARES if parts <= size for part in range(1, parts)]
    parts, part = np.array(places, dtype=np.int64).reshape(-1, 2).T
    return part * (size // parts), part * (stay // parts)


def _luck(kept: np.ndarray, ends: np.ndarray, after: np.ndarray) -> int:
    """At how many places a share of what is left holds what it should."""
    before = np.concatenate([[0], kept.cumsum()])
    return int((before[ends] == after).sum())
