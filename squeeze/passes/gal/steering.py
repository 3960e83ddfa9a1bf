"""The sparsity weight λ: fixed as in the paper, or steered so that the masks meet a budget."""

import math
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from squeeze.masks import SoftMasks
from squeeze.selection import Budget
from squeeze.structure.groups import Structure

GAIN = 40.0
"""How fast λ answers: over a whole schedule an error of 0.1 changes it by a factor of e⁴."""


@dataclass(frozen=True, eq=False)
class Steering:
    """Weighs the penalty, λ Σ wᵢ|mᵢ| with w proportional to what an entry costs and 1 on average.

    A λ means something only together with the learning rate, the number of updates and the initial masks.
    With a budget it is therefore steered: θ, the mask value up to which everything must go to meet the
    budget, is to fall from 1 to 0 in a straight line until `hold`. From then on the exact zeros alone meet
    the budget, and removing them costs nothing.

    Attributes:
        masks: Whose costs count.
        structure: What they were made for.
        budget: What may stay; None leaves λ alone.
        hold: The share of the schedule after which θ is kept at 0.
    """

    masks: SoftMasks
    structure: Structure
    budget: Budget | None
    hold: float = 0.7

    def weights(self) -> Tensor:
        """(M,) w."""
        costs = self.masks.params if self.budget is not None and self.budget.params is not None else self.masks.macs
        costs = costs.clamp(min=1.0)
        import os
        costs = costs ** float(os.environ.get("P","1"))
        return (costs / costs.mean()).to(self.masks.values.dtype)

    def start(self, lr: float, updates: int) -> float:
        """A first λ: a mask that the penalty alone moves, without momentum, is halfway to 0 when the hold begins."""
        return 0.5 / (lr * max(1.0, self.hold * updates))

    def steer(self, lambda_: float, values: np.ndarray, progress: float, updates: int) -> float:
        """The next λ.

        Args:
            lambda_: The present one.
            values: (M,) the masks.
            progress: The share of the schedule that is done.
            updates: How often this is asked in the whole schedule.
        """
        if self.budget is None:
            return lambda_
        error = self.threshold(values) - max(0.0, 1 - progress / self.hold)
        return lambda_ * math.exp(GAIN / max(1, updates) * max(-1.0, min(1.0, error)))

    def threshold(self, values: np.ndarray) -> float:
        """θ, at least 0; where the zeros alone overshoot the budget, minus the share by which they do."""
        if self.budget is None:
            return 0.0
        target = self.budget.macs if self.budget.params is None else self.budget.params
        levels = np.unique(values)
        low, high = 0, len(levels) - 1
        while low < high:
            middle = (low + high) // 2
            if self.share(values <= levels[middle]) <= (target or 0.0):
                high = middle
            else:
                low = middle + 1
        return float(levels[low]) if levels[low] > 0 else self.share(values <= 0) - (target or 0.0)

    def share(self, removed: np.ndarray) -> float:
        """The share of the dense cost that stays when these entries (M,) go: of the parameters if the budget is in them, else of the MACs."""
        dense, left = self.structure.cost(), self.structure.cost(self.masks.choice(removed))
        if self.budget is not None and self.budget.params is not None:
            return left.params / max(1, dense.params)
        return left.macs / max(1, dense.macs)
