"""Mutual information of codes and classes: against hand-computed cases."""

from itertools import combinations

import numpy as np
import pytest

from squeeze.gating.information import entropy, filter_information


def test_entropy_of_known_distributions() -> None:
    found = entropy(np.array([[8.0, 8.0], [1.0, 3.0], [5.0, 0.0]]))
    assert found == pytest.approx([1, 0.25 * 2 + 0.75 * np.log2(4 / 3), 0])


def test_a_filter_that_is_the_class_tells_all_of_it() -> None:
    # Plug-in: 1 bit of two even classes. By chance: about (rows - 1) (columns - 1) / 2S = 1 / 2S nats.
    classes = np.repeat([0, 1], 500)
    on = (classes == 1)[:, None]
    assert filter_information(on, classes) == pytest.approx([1 - 1 / (2000 * np.log(2))], abs=1e-5)


def test_a_filter_by_hand() -> None:
    # Of class 0 three in four, of class 1 one in four: 1 - h(1/4) bits; by chance about 1 / 2S nats.
    classes = np.repeat([0, 1], 400)
    on = np.concatenate([np.arange(400) < 300, np.arange(400) < 100])[:, None]
    plain = 1 - (0.25 * 2 + 0.75 * np.log2(4 / 3))
    assert filter_information(on, classes) == pytest.approx([plain - 1 / (1600 * np.log(2))], abs=1e-5)


def test_what_is_dealt_out_at_random_tells_nothing_on_average() -> None:
    classes = np.array([0, 0, 0, 1, 1, 2])
    every = np.array([[place in chosen for place in range(6)] for chosen in combinations(range(6), 2)]).T
    found = filter_information(every, classes)
    assert found.mean() == pytest.approx(0, abs=1e-12)
    assert found.min() < -0.1 < 0.1 < found.max()


@pytest.mark.parametrize(("inputs", "classes"), [(200, 20), (300, 100), (400, 200)])
def test_filters_that_tell_nothing_are_at_0_on_average_however_many_classes(inputs: int, classes: int) -> None:
    generator = np.random.default_rng(0)
    on, known = generator.random((inputs, 2000)) < 0.4, generator.integers(0, classes, inputs)
    assert filter_information(on, known).mean() == pytest.approx(
        0, abs=0.003
    )  # 0.07 to 0.4 bits without the correction


def test_static_filters_tell_nothing() -> None:
    on = np.stack([np.ones(240, bool), np.zeros(240, bool)], 1)
    assert filter_information(on, np.arange(240) % 4) == pytest.approx([0, 0])
