"""The bound of mutual information: against codes whose information is known."""

import numpy as np
import pytest

from squeeze.gating.information import filter_information
from squeeze.paths.bound import information_bound

CLASSES = np.repeat(np.arange(4), 60)


def test_static_filters_tell_nothing() -> None:
    on = np.stack([np.ones(240, bool), np.zeros(240, bool)], 1)
    assert information_bound(on, CLASSES) == 0


def test_the_bound_is_near_all_there_is_where_codes_are_classes() -> None:
    on = CLASSES[:, None] == np.arange(4)
    found = information_bound(on, CLASSES)
    assert found is not None and 1.6 < found <= 2


def test_the_bound_joins_what_filters_tell() -> None:
    """The class in two bits: each filter tells one, the code two."""
    on = np.stack([CLASSES % 2 == 1, CLASSES // 2 == 1], 1)
    found = information_bound(on, CLASSES)
    assert filter_information(on, CLASSES) == pytest.approx([1, 1], abs=0.02)
    assert found is not None and 1.6 < found <= 2


def test_chance_is_no_information_in_the_bound() -> None:
    """Fewer samples than filters: fitted and asked on the same ones, a regression would tell them all apart."""
    generator = np.random.default_rng(0)
    assert information_bound(generator.random((90, 300)) < 0.5, np.arange(90) % 3) == pytest.approx(0, abs=0.01)


@pytest.mark.parametrize("classes", [np.zeros(20, int), np.arange(20)], ids=["one class", "as many as samples"])
def test_there_is_no_bound_without_two_classes_of_three(classes: np.ndarray) -> None:
    assert information_bound(np.random.default_rng(0).random((20, 5)) < 0.5, classes) is None


def test_classes_with_hardly_a_sample_are_left_out_of_the_bound() -> None:
    classes = np.concatenate([CLASSES, [7, 8, 8]])
    on = classes[:, None] == np.arange(4)
    assert information_bound(on, classes) == information_bound(on[:-3], CLASSES)
