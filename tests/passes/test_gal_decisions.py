"""GAL's decisions: how hard the penalty pushes, what goes in the end, and what the masks of the rest are."""

import numpy as np
import pytest
import torch

from squeeze.masks import SoftMasks
from squeeze.passes.gal.sensitivity import Sensitivity
from squeeze.passes.gal.settle import settled, zeros_go
from squeeze.passes.gal.steering import Steering
from squeeze.selection import Budget
from tests.passes.tiny import built, structure_of


def test_lambda_is_the_smallest_that_leaves_the_wanted_share() -> None:
    structure = structure_of(built())
    masks = SoftMasks(structure, ("filters",))
    steering = Steering(masks, structure, Budget(macs=0.5), Sensitivity(14))
    values = np.linspace(0.001, 0.08, 14)
    speeds = np.full(14, 1e-3)
    found = steering.steer(0.0, values, speeds, progress=0.7, updates=0)
    shares = [steering.share(values - speeds * lambda_ <= 1e-12) for lambda_ in (found, 0.99 * found)]
    assert shares[0] <= 0.5 < shares[1]
    assert steering.steer(0.0, values, speeds, progress=0.0, updates=10) == 0


def test_no_update_takes_more_from_a_mask_than_the_pace_allows() -> None:
    structure = structure_of(built())
    masks = SoftMasks(structure, ("filters",))
    steering = Steering(masks, structure, Budget(macs=0.5), Sensitivity(14), pace=0.2)
    speeds = np.linspace(1e-4, 1e-3, 14)
    assert 1e-3 * steering.steer(0.0, np.ones(14), speeds, 1.0, updates=1000) == pytest.approx(4 / 200)
    assert 1e-3 * steering.steer(0.0, np.ones(14), speeds, 1.0, updates=10) == pytest.approx(0.05)


def test_a_budget_pushes_harder_what_would_be_missed_less_and_the_papers_lambda_does_not() -> None:
    structure = structure_of(built())
    masks = SoftMasks(structure, ("filters",))
    sensitivity = Sensitivity(14)
    plain, budgeted = (Steering(masks, structure, budget, sensitivity) for budget in (None, Budget(macs=0.5)))
    costs = plain.costs()
    missed = torch.tensor([1.0] * 4 + [1.0, 0.5, 0.1, 0.0, 2.0] + [1.0] * 5)
    sensitivity.observe(missed * costs.sqrt())
    pushed = torch.tensor([1.0] * 4 + [1, 1.1 / 0.6, 1.1 / 0.2, 11, 1.1 / 2.1] + [1.0] * 5)
    torch.testing.assert_close(budgeted.weights() / costs, pushed)
    torch.testing.assert_close(plain.weights(), costs)
    with torch.no_grad():
        masks.values[4] = 0.5
    assert budgeted.weights()[4] == pytest.approx(costs[4].item() * 1.1 / 0.6)


def test_zeros_go_but_widths_stay_aligned_and_something_stays() -> None:
    structure = structure_of(built())
    masks = SoftMasks(structure)
    reach = np.array([0.5, -0.1, 0.2, 0.3] + [-3.0, -1.0, -2.0, -4.0, -5.0] + [0.1, 0.1] + [-1.0] * 3 + [-1, -2, -1])
    choice = zeros_go(masks, structure, reach, round_to=2)
    assert choice.units[0].tolist() == [False, False, False, False]
    assert choice.units[1].tolist() == [True, False, False, True, True]
    assert choice.units[2].tolist() == [False, False]
    assert choice.blocks == {"body"}
    assert choice.branches == {"left"}


def test_what_stays_never_has_a_mask_of_zero() -> None:
    masks = SoftMasks(structure_of(built()), ("filters",))
    values = np.array([0.5, 0.0, 0.2, 0.3] + [0.0] * 5 + [0.4, 0.0] + [1.0, 2.0, 3.0])
    removed = np.array([0, 0, 0, 1] + [0, 1, 1, 1, 1] + [0, 1] + [0, 0, 0], dtype=bool)
    expected = [0.5, 0.2, 0.2, 0.0] + [1.0, 0, 0, 0, 0] + [0.4, 0.0] + [1.0, 2.0, 3.0]
    assert settled(masks, values, removed).tolist() == expected
