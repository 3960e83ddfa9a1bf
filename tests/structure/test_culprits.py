"""Who is to blame is found exactly, in few attempts."""

import random
from collections.abc import Sequence

import pytest

from squeeze.structure.culprits import Search


class Attempts:
    """Fails if a bad item is in, or all of one of the sets that do not go together.

    Args:
        bad: Fail alone.
        apart: Sets that fail as a whole.
    """

    def __init__(self, bad: set[str], apart: Sequence[set[str]] = ()) -> None:
        self.bad, self.apart, self.made = bad, apart, list[frozenset[str]]()

    def __call__(self, items: Sequence[str]) -> str:
        self.made.append(frozenset(items))
        guilty = sorted(self.bad & set(items)) or [min(s) for s in self.apart if s <= set(items)]
        return f"{guilty[0]} is wrong @ line 1" if guilty else ""


def rows(**kinds: int) -> list[str]:
    """``rows(a=2)`` is ``["a0", "a1"]``; kinds take turns as layers of blocks do."""
    return [f"{kind}{i}" for i in range(max(kinds.values())) for kind, count in kinds.items() if i < count]


def kind(name: str) -> str:
    return name.rstrip("0123456789")


@pytest.mark.parametrize("seed", range(20))
def test_the_guilty_are_found_wherever_they_are(seed: int) -> None:
    items = rows(a=12, b=12, c=3, d=1)
    bad = set(random.Random(seed).sample(items, seed % 4))
    attempts = Attempts(bad)
    found = {failure.item for failure in Search(attempts, lambda item: item).culprits(items)}
    assert found == bad
    assert len(attempts.made) == len(set(attempts.made))


def test_a_row_of_like_places_is_told_by_its_ends() -> None:
    items = rows(attention=24, hidden=24, head=1)
    attempts = Attempts({item for item in items if kind(item) == "attention"})
    found = Search(attempts, kind).culprits(items)
    assert {failure.item for failure in found} == attempts.bad
    assert {(failure.reason, failure.where) for failure in found} == {("attention0 is wrong", "line 1")}
    assert len(attempts.made) <= 7


def test_one_in_a_row_does_not_condemn_the_others() -> None:
    items = rows(a=16)
    assert [f.item for f in Search(Attempts({"a5"}), kind).culprits(items)] == ["a5"]
    assert [f.item for f in Search(Attempts({"a0"}), kind).culprits(items)] == ["a0"]


def test_of_those_that_only_fail_together_one_stays() -> None:
    items = rows(a=4, b=4)
    attempts = Attempts(set(), [{"a1", "b3"}])
    (failure,) = Search(attempts, kind).culprits(items)
    assert failure.item in {"a1", "b3"}
    assert failure.reason.startswith("must shrink together with another layer")
    assert not attempts([item for item in items if item != failure.item])


def test_what_is_excused_is_not_tried_again_with_the_rest() -> None:
    excused: set[str] = set()

    def attempt(items: Sequence[str]) -> str:
        if list(items) == ["a0"]:
            excused.add("a0")
            return ""
        return "wrong" if {"a0", "b0"} & set(items) else ""

    assert [f.item for f in Search(attempt, kind, excused).culprits(["a0", "b0", "c0"])] == ["b0"]
