"""Mutual information of codes and classes: against hand-computed cases."""

import numpy as np
import pytest

from squeeze.gating.information import entropy, filter_information


def test_entropy_of_known_distributions() -> None:
    found = entropy(np.array([[8.0, 8.0], [1.0, 3.0], [5.0, 0.0]]))
    assert found == pytest.approx([1, 0.25 * 2 + 0.75 * np.log2(4 / 3), 0])


def test_a_filter_that_is_the_class_tells_all_of_it() -> None:
    # Plug-in: 1 bit of two even classes. Miller: cells 2, states 2, classes 2: (2 - 2 - 2 + 1) / 2S = -1 / 2S nats.
    classes = np.repeat([0, 1], 50)
    on = (classes == 1)[:, None]
    assert filter_information(on, classes) == pytest.approx([1 + 1 / (200 * np.log(2))])


def test_a_filter_by_hand() -> None:
    # Of class 0 three in four, of class 1 one in four: 1 - h(1/4) bits; all cells are taken: -(4 - 2 - 2 + 1) / 2S.
    classes = np.repeat([0, 1], 40)
    on = np.concatenate([np.arange(40) < 30, np.arange(40) < 10])[:, None]
    plain = 1 - (0.25 * 2 + 0.75 * np.log2(4 / 3))
    assert filter_information(on, classes) == pytest.approx([plain - 1 / (160 * np.log(2))])


def test_filters_that_tell_nothing_are_at_0_on_average_however_many_classes() -> None:
    generator = np.random.default_rng(0)
    on, classes = generator.random((200, 2000)) < 0.5, generator.integers(0, 20, 200)
    assert filter_information(on, classes).mean() == pytest.approx(0, abs=0.01)  # 0.07 bits without the correction


def test_static_filters_tell_nothing() -> None:
    on = np.stack([np.ones(240, bool), np.zeros(240, bool)], 1)
    assert filter_information(on, np.arange(240) % 4) == pytest.approx([0, 0])
