"""What the features would miss: how strongly they answer to each mask, without a label."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

FIRST = 16
"""Every one of the first so many steps is looked at, so that the first decisions rest on more than one draw."""
EVERY = 4
"""Then one in so many: a look costs a pass backwards."""
DECAY = 0.95
"""Of the running mean over looks: it reaches back some twenty of them."""


class Sensitivity:
    """The running mean of ‖∂f/∂m‖² for every mask m, where f are the features of a batch.

    For random signs v, E (v · ∂f/∂m)² = ‖∂f/∂m‖² (Hutchinson 1990), so one pass backwards looks at all masks at once.
    m²‖∂f/∂m‖² is what f would miss without the entry, and to second order twice what L_data would rise by (as in
    Optimal Brain Damage, LeCun et al. 1990, with the labels' loss replaced by GAL's own). It does not change when a
    scale moves between a mask and the weights, is 0 for a channel that is always 0, and means the same for filters,
    blocks and branches.

    Attributes:
        square: (M,) the running mean, up to a factor that all entries share.

    Args:
        size: M.
        seed: Of the signs.
    """

    def __init__(self, size: int, seed: int = 0) -> None:
        self.square = torch.zeros(size)
        self._seed, self._looks = seed, 0

    def due(self, step: int) -> bool:
        """It is time to look again."""
        return step < FIRST or step % EVERY == 0

    def signs(self, step: int, start: int, features: Tensor) -> Tensor:
        """V like `features` (N, D), rows `start` to `start` + N of the update's; the same however rows are divided."""
        rows, width = features.shape
        drawn = np.random.default_rng((self._seed, step)).integers(0, 2, size=(start + rows, width), dtype=np.int32)
        return torch.from_numpy(2.0 * drawn[start:] - 1).to(features)

    def observe(self, gradient: Tensor) -> None:
        """Take in v · ∂f/∂m (M,); one that is not finite says nothing."""
        if not gradient.isfinite().all():
            return
        self._looks += 1
        # The mean over what there was, as long as that is little.
        weight = (1 - DECAY) / (1 - DECAY**self._looks)
        self.square = torch.lerp(self.square.to(gradient), gradient.square(), weight)

    def follow(self, factor: Tensor) -> None:
        """Follow a change of variables m → m / factor."""
        self.square = self.square.to(factor) * factor.square()

    def missed(self, masks: Tensor) -> Tensor:
        """(M,) what f would miss without each entry."""
        return masks.detach().square() * self.square.to(masks)

    def state_dict(self) -> dict[str, Any]:
        """The mean, and over how many looks."""
        return {"square": self.square, "looks": self._looks}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Undo `state_dict`."""
        self.square, self._looks = state["square"], state["looks"]
