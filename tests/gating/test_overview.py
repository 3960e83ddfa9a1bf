"""What of codes is kept for a page: against networks whose codes are known."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from squeeze.gating.codes import Codes, gather
from squeeze.gating.overview import MOST_CLASSES, MOST_FILTERS, Overview, overview
from tests.gated_nets import telling_net, telling_task


def made(on: np.ndarray, classes: np.ndarray, filters: tuple[int, ...]) -> Codes:
    count = len(on)
    layers = tuple("abc"[: len(filters)])
    numbers, ones = on.astype("f4"), np.ones(count, "f4")
    return Codes(layers, filters, on, numbers, classes, classes, np.zeros((count, 2), "f4"), ones)


def test_a_network_whose_codes_are_classes() -> None:
    task = telling_task()
    found = overview(gather(telling_net(), task, task.test))
    assert (found.labelled, found.classes, found.inputs, found.varying) == (True, (0, 1, 2, 3), (12,) * 4, 4)
    assert found.filters == {"0": (0, 1, 2, 3)}
    assert np.array_equal(found.rates, np.eye(4))
    assert np.array_equal(found.apart, 0.5 * (1 - np.eye(4)))  # two of four filters differ
    assert found.rows == tuple((np.arange(48) // 2 % 4).tolist())
    places = np.array([found.x, found.y])
    assert places.shape == (2, 48) and places.min() == 0 and places.max() == 1
    assert found.problem() == ""


def test_without_labels_that_is_kept() -> None:
    task = telling_task(labelled=False)
    found = overview(gather(telling_net(), task, task.test))
    assert not found.labelled and found.classes == (0, 1, 2, 3)


def test_filters_that_are_always_or_never_on_are_left_out_and_others_stand_by_class() -> None:
    classes = np.arange(40) % 2
    first, second = classes == 0, classes == 1
    always, never = np.ones(40, bool), np.zeros(40, bool)
    found = overview(made(np.stack([always, second, first, never, second], 1), classes, (3, 2)))
    assert found.filters == {"a": (2, 1), "b": (1,)}
    assert np.array_equal(found.rates, [[1, 0, 0], [0, 1, 1]])
    assert found.apart[0][1] == 0.6  # three of all five differ


def test_many_classes_and_filters_are_cut_to_what_can_be_seen() -> None:
    generator = np.random.default_rng(0)
    classes = np.repeat(np.arange(30), 3)
    classes[:2] = 29  # the largest
    found = overview(made(generator.random((90, 2000)) < 0.5, classes, (1500, 500)))
    assert len(found.classes) == MOST_CLASSES and 29 in found.classes and 0 not in found.classes
    assert found.varying == 2000 and [len(numbers) for numbers in found.filters.values()] == [1125, 375]
    assert sum(map(len, found.filters.values())) == MOST_FILTERS
    assert found.rows[0] == found.classes.index(29) and found.rows.count(-1) == 27 + 1
    assert found.problem() == ""


def test_one_class_one_input_and_static_gates_are_no_hindrance() -> None:
    alone = overview(made(np.ones((1, 3), bool), np.zeros(1, dtype=int), (3,)))
    assert (alone.filters, alone.rates, alone.apart, alone.x, alone.rows) == ({}, ((),), ((0.0,),), (), ())
    assert alone.problem() == ""
    of_one = overview(made(np.eye(6, dtype=bool), np.zeros(6, dtype=int), (6,)))
    assert of_one.filters == {"a": tuple(range(6))} and of_one.problem() == ""


GOOD = Overview(True, (3, 7), (5, 4), {"a": (1,)}, 1, ((0.5,), (1.0,)), ((0.0, 0.5), (0.5, 0.0)), (0.0,), (1.0,), (-1,))


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({}, ""),
        ({"classes": (), "inputs": (), "rates": (), "apart": ()}, "or of none"),
        ({"classes": tuple(range(21))}, "more than 20 classes"),
        ({"filters": {"a": tuple(range(2000))}}, "1500 filters"),
        ({"filters": {"a": (1,), "b": ()}}, "or of none"),
        ({"rates": ((0.5,),)}, "do not fit their classes"),
        ({"rates": ((0.5,), (1.0, 0.5))}, "do not fit their classes"),
        ({"inputs": (1,)}, "do not fit their classes"),
        ({"apart": ((0.0, 0.5),)}, "do not fit their classes"),
        ({"x": ()}, "do not fit them"),
        ({"x": (0.0,) * 1001, "y": (0.0,) * 1001, "rows": (0,) * 1001}, "more than 1000 inputs"),
        ({"rows": (2,)}, "classes that are not shown"),
        ({"rates": ((0.5,), (1.5,))}, "shares beyond 0 and 1"),
        ({"x": (-1e308,)}, "shares beyond 0 and 1"),
    ],
)
def test_what_no_codes_give_is_a_problem(changed: dict[str, Any], problem: str) -> None:
    found = replace(GOOD, **changed).problem()
    assert problem in found and bool(problem) == bool(found)
