"""From indicators to how many kernels each input channel keeps."""

import math
from dataclasses import dataclass

import numpy as np

from squeeze.errors import BudgetError
from squeeze.passes.kse.layers import Costs, Counts, Kind, Layer

MOST_LEVELS = 16
MOST_SHIFT = 16.0
_STEPS = 40


@dataclass(frozen=True)
class Setting:
    """How importance becomes a number of kernels.

    Attributes:
        levels: G.
        shift: T; real numbers give settings in between.
        released: Exact multiples of 1 / G are one level higher, as in the authors' code.
    """

    levels: int
    shift: float
    released: bool = False

    def counts(self, layer: Layer) -> np.ndarray:
        """(C,) how many kernels each input channel of a layer keeps."""
        return layer.feasible(cluster_counts(layer.importance.indicator.double().cpu().numpy(), layer.size, self))


def cluster_counts(indicator: np.ndarray, kernels: int, setting: Setting) -> np.ndarray:
    """How many kernels each map keeps: none, all, or the N-th part of a power of two.

    q = 0 if ⌊vG⌋ = 0, N if ⌈vG⌉ = G, and ⌈N / 2^(G − ⌈vG⌉ + T)⌉ between (Li et al., CVPR 2019).

    Args:
        indicator: (C,) v, from 0 to 1.
        kernels: N, of each map.
        setting: G and T.

    Returns:
        (C,) whole numbers from 0 to N.
    """
    scaled = indicator * setting.levels
    bins = np.floor(scaled) + 1 if setting.released else np.ceil(scaled)
    # The last digits of a power of two with a real exponent must not round a count up.
    between = np.ceil(kernels / np.exp2(np.maximum(setting.levels - bins + setting.shift, 0.0)) - 1e-9)
    counts = np.where(bins >= setting.levels, kernels, np.maximum(between, 1))
    return np.where(scaled < 1, 0, counts).astype(np.int64)


def within_budget(costs: Costs, kind: Kind, target: float, levels: int | None, released: bool) -> Setting:
    """The setting whose T is nearest to the paper's 0 among those that meet a budget closely.

    Args:
        costs: Of the model.
        kind: What is limited.
        target: To how much.
        levels: G, or None to look for it.
        released: See `Setting`.

    Raises:
        BudgetError: No setting meets it; says how little is possible.
    """
    choices = range(3, MOST_LEVELS + 1) if levels is None else (levels,)
    found = [s for g in choices if (s := _smallest_shift(costs, kind, target, g, released)) is not None]
    if found:
        return min(found, key=lambda setting: (abs(setting.shift), setting.levels))
    least = min(_cost(costs, kind, Setting(g, MOST_SHIFT, released)) for g in choices)
    if kind != "size_mb":
        least, target = least / costs.dense(kind), target / costs.dense(kind)
    raise BudgetError(
        f"KSE: {kind} must be at least {math.ceil(least * 1000) / 1000:g} for this model, got {target:g}; what is not "
        "clustered stays dense (squeeze inspect shows it). Choose a larger budget."
    )


def _smallest_shift(costs: Costs, kind: Kind, target: float, levels: int, released: bool) -> Setting | None:
    """The least T that meets the budget, from one at which all but the dropped channels are dense."""
    low, high = -float(levels), MOST_SHIFT
    if _cost(costs, kind, Setting(levels, high, released)) > target:
        return None
    for _ in range(_STEPS):
        middle = (low + high) / 2
        met = _cost(costs, kind, Setting(levels, middle, released)) <= target
        low, high = (low, middle) if met else (middle, high)
    return Setting(levels, high, released)


def _cost(costs: Costs, kind: Kind, setting: Setting) -> float:
    counts: Counts = {layer.name: setting.counts(layer) for layer in costs.layers}
    return costs.of(kind, counts)
