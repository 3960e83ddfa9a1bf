"""Finding what is to blame when an attempt with many things at once fails, in few attempts."""

from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

Item = TypeVar("Item", bound=Hashable)


@dataclass(frozen=True)
class Failure(Generic[Item]):
    """Why something does not work.

    Attributes:
        item: What is to blame.
        reason: In a few words.
        where: The line of the user's code, or "".
    """

    item: Item
    reason: str
    where: str


class Search(Generic[Item]):
    """Looks for culprits by bisection: kind by kind, and within a kind one by one only if its ends do not agree.

    Args:
        attempt: Tries some items at once; returns "" or what went wrong, with `` @ where`` behind it if it is known.
        kind: Items of one kind are the same thing in a row of like places.
        excused: Items that an attempt found out not to be to blame; it may grow during the search.
    """

    def __init__(
        self,
        attempt: Callable[[Sequence[Item]], str],
        kind: Callable[[Item], str],
        excused: Collection[Item] = (),
    ) -> None:
        self._try = attempt
        self._kind = kind
        self._excused = excused
        self._known: dict[frozenset[Item], str] = {}

    def culprits(self, items: Sequence[Item]) -> list[Failure[Item]]:
        """The items that fail; without them the rest does not."""
        if not (problem := self._attempt(items)):
            return []
        parts = self._halves(items)
        if not parts:
            return [_failure(item, problem) for item in items]
        found = [failure for part in parts for failure in self.culprits(part)]
        failed = {failure.item for failure in found}
        return found + self._together([i for i in items if i not in failed and i not in self._excused])

    def _attempt(self, items: Sequence[Item]) -> str:
        """What an attempt says; the same items are tried once."""
        key = frozenset(items)
        if key and key not in self._known:
            self._known[key] = self._try(items)
        return self._known.get(key, "")

    def _halves(self, items: Sequence[Item]) -> list[list[Item]]:
        """Two parts to look at by themselves; none if all items are to blame."""
        kinds: dict[str, list[Item]] = {}
        for item in items:
            kinds.setdefault(self._kind(item), []).append(item)
        if len(kinds) > 1:
            rows = list(kinds.values())
            middle = len(rows) // 2
            return [[item for row in part for item in row] for part in (rows[:middle], rows[middle:])]
        if len(items) == 1 or self._alike(items):
            return []
        middle = len(items) // 2
        return [list(items[:middle]), list(items[middle:])]

    def _alike(self, items: Sequence[Item]) -> bool:
        """The same thing in a row of places, the first and the last of which fail: all of them do."""
        return len(items) > 2 and bool(self._attempt(items[:1])) and bool(self._attempt(items[-1:]))

    def _together(self, items: list[Item]) -> list[Failure[Item]]:
        """Items that only fail in company: the last of the shortest failing prefix goes, until none fails."""
        found: list[Failure[Item]] = []
        while problem := self._attempt(items):
            low, high = 0, len(items)
            while low + 1 < high:
                middle = (low + high) // 2
                low, high = (low, middle) if (shorter := self._attempt(items[:middle])) else (middle, high)
                problem = shorter or problem
            found.append(_failure(items.pop(high - 1), problem, "must shrink together with another layer: "))
        return found


def _failure(item: Item, problem: str, context: str = "") -> Failure[Item]:
    reason, _, where = problem.partition(" @ ")
    return Failure(item, context + reason, where)
