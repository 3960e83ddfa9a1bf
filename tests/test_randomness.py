"""Three generators, one seed."""

import random

import numpy as np
import torch

from squeeze.randomness import random_state, randomness_kept, restore_random_state, seed_all


def draws():
    return random.random(), np.random.rand(), torch.rand(()).item()


def test_seeds_decide_everything_and_neighbours_are_unrelated():
    seen = []
    for numbers in ((0,), (1,), (0, 0), (0, 1), (1, 0), (-1,), (2**70,), (0,)):
        seed_all(*numbers)
        seen.append(draws())
    assert seen[0] == seen[-1] and len({value for entry in seen for value in entry}) == 3 * 7


def test_state_comes_back_in_the_middle_of_a_pair_of_gaussians():
    np.random.randn(), random.gauss(0, 1), torch.randn(3)
    state = random_state()
    first = np.random.randn(), random.gauss(0, 1), draws()
    restore_random_state(state)
    assert first == (np.random.randn(), random.gauss(0, 1), draws())


def test_what_is_drawn_inside_leaves_no_trace():
    seed_all(3)
    expected = draws()
    seed_all(3)
    with randomness_kept():
        seed_all(9)
        draws()
    assert draws() == expected
