"""Codes in the plane."""

import numpy as np
import pytest

from squeeze.gating.embedding import embedded


def test_codes_in_the_plane() -> None:
    generator = np.random.default_rng(0)
    groups = np.repeat(np.eye(3, dtype=bool), 20, 0).repeat(8, 1) ^ (generator.random((60, 24)) < 0.05)
    first, again = embedded(groups), embedded(groups)
    assert first is not None and again is not None
    numbers, places = first
    assert numbers.tolist() == list(range(60)) and np.array_equal(places, again[1])
    centres = places.reshape(3, 20, 2).mean(1)
    own = np.linalg.norm(places.reshape(3, 20, 2) - centres[:, None], axis=2).mean()
    assert own < 0.5 * np.linalg.norm(centres[[0, 1, 2]] - centres[[1, 2, 0]], axis=1).min()


@pytest.mark.parametrize("on", [np.ones((20, 5), bool), np.eye(4, dtype=bool)], ids=["all the same", "few"])
def test_there_is_no_plane_of_few_or_equal_codes(on: np.ndarray) -> None:
    assert embedded(on) is None
