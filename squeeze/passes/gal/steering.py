"""The sparsity weight λ: fixed as in the paper, or steered so that the masks meet a budget."""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from squeeze.masks import SoftMasks
from squeeze.passes.gal.sensitivity import Sensitivity
from squeeze.passes.gal.settle import zeros_go
from squeeze.selection import Budget, select
from squeeze.structure.groups import Structure

SHARPNESS = 0.1
"""ε of the reweighted norm: what nobody would miss is pushed (1 + ε) / ε = 11 times as hard as the median."""
STRIDE = 0.05
"""The most that one update may take from a mask, so that the function changes little at a time."""


@dataclass(frozen=True, eq=False)
class Steering:
    """Weighs the penalty, λ Σ wᵢ|mᵢ|.

    With the paper's λ, wᵢ is proportional to what an entry costs, 1 on average. A λ means something only together
    with the step size, the number of updates and the initial masks. With a budget it is therefore found anew at every
    update: the smallest for which the exact zeros leave no more than a share of the cost that falls in a straight line
    from 1 to the budget, reached at `hold`. Masks thus leave one after the other, the weights have time to adapt, and
    at the end removing the zeros costs nothing. Under a budget wᵢ is divided by uᵢ + ε, too (reweighted L1: Candès,
    Wakin and Boyd 2008): a plain norm takes as much from the masks that stay as from those that go, and distorts the
    network more than the removal does. uᵢ² is what the features would miss without the entry, for what it costs; the
    median u is 1. The size of a mask alone would not do: behind a normalisation a channel that is always 0 keeps any
    mask for nothing, and what is small there means nothing elsewhere.

    Attributes:
        masks: Whose costs count.
        structure: What they were made for.
        budget: What may stay; None leaves λ alone.
        sensitivity: Of the features to the masks.
        round_to: Widths are multiples of so many channels.
        hold: The share of the schedule after which the budget is met and what goes is decided; the weights have the
            rest to adapt to that.
        pace: The share of the schedule in which small differences between masks may grow to whole ones.
    """

    masks: SoftMasks
    structure: Structure
    budget: Budget | None
    sensitivity: Sensitivity
    round_to: int = 8
    hold: float = 0.7
    pace: float = 0.2

    def due(self, progress: float) -> bool:
        """It is time to decide what goes. The paper's λ has no such time: its zeros are those at the end."""
        return self.budget is not None and progress >= self.hold

    def removed(self, reach: np.ndarray) -> np.ndarray:
        """(M,) True for what goes: within the budget on aligned widths, or whatever is 0.

        Args:
            reach: (M,) the masks before they were cut off at 0, which ranks the zeros.
        """
        if self.budget is None:
            return self.masks.removed(zeros_go(self.masks, self.structure, reach, self.round_to))
        return self.masks.removed(select(self.structure, self.masks.scores(reach), self.budget, self.round_to))

    def weights(self) -> Tensor:
        """(M,) w, for the masks as they are."""
        if self.budget is None:
            return self.costs()
        costs = self.costs()
        needed = (self.sensitivity.missed(self.masks.values) / costs).sqrt()
        some = needed[needed > 0]
        typical = some.median() if len(some) else 1.0
        return costs * (1 + SHARPNESS) / (needed / typical + SHARPNESS)

    def costs(self) -> Tensor:
        """(M,) shares of the MACs, or of the parameters if the budget is in them; 1 on average."""
        counted = self.budget is not None and self.budget.params is not None
        costs = (self.masks.params if counted else self.masks.macs).clamp(min=1.0)
        return (costs / costs.mean()).to(self.masks.values)

    def metric(self) -> Tensor:
        """(M,) the diagonal metric of FISTA: the costs, cut off below.

        In it the penalty moves all masks at the same pace and a gradient counts per cost. Without it a block, a
        hundred times as dear as a filter, would be gone before the data had a say about any filter.
        """
        return self.costs().clamp(min=0.1)

    def steer(self, lambda_: float, values: np.ndarray, speeds: np.ndarray, progress: float, updates: int) -> float:
        """The next λ.

        No update takes more than 4 / (pace · updates), or `STRIDE`, from a mask: as all start equal, all would go at
        once otherwise, before the data could tell them apart. Masks are 1 on average, so differences between them
        grow by a constant factor an update, and e⁴ brings a difference of 0.02 to 1.

        Args:
            lambda_: The present one.
            values: (M,) where the masks are before the penalty.
            speeds: (M,) how far λ = 1 moves each of them.
            progress: The share of the schedule that is done.
            updates: How often this is asked in the whole schedule.
        """
        if self.budget is None or not np.isfinite(values).all():
            return lambda_  # masks that are not finite end the run, and not here
        wanted = 1 - (1 - self.budget.target) * min(1.0, progress / self.hold)
        needed = values / speeds
        if self.share(needed <= 0) <= wanted:
            return 0.0
        levels = np.unique(needed[needed > 0])
        low, high = 0, len(levels) - 1
        while low < high:
            middle = (low + high) // 2
            if self.share(needed <= levels[middle]) <= wanted:
                high = middle
            else:
                low = middle + 1
        room = min(STRIDE, 4 / (self.pace * max(1, updates)))
        return min(float(levels[low]), room / float(speeds.max()))

    def share(self, removed: np.ndarray) -> float:
        """What stays of the budgeted cost (MACs if there is no budget) when these entries (M,) go."""
        return (self.budget or Budget(macs=0.5)).share(self.structure, self.masks.choice(removed))
