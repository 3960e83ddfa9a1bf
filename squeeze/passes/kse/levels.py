"""From indicators to how many kernels each input channel keeps."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

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


Settings = Mapping[str, Setting]
"""By name of the convolution; one that is missing stays dense."""


def counts_of(layers: Iterable[Layer], settings: Settings) -> Counts:
    """How many kernels each input channel of every layer keeps."""
    return {
        layer.name: settings[layer.name].counts(layer)
        if layer.name in settings
        else np.full(layer.channels, layer.size)
        for layer in layers
    }


def within_budget(costs: Costs, kind: Kind, target: float, levels: int | None, released: bool) -> Settings:
    """The same for all layers: the T nearest to the paper's 0 among those that meet a budget closely.

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
    everywhere = {g: {layer.name: Setting(g, 0.0, released) for layer in costs.layers} for g in choices}
    found = [(g, t) for g in choices if (t := _smallest_shift(costs, kind, target, everywhere[g])) is not None]
    if found:
        levels, shift = min(found, key=lambda pair: (abs(pair[1]), pair[0]))
        return _shifted(everywhere[levels], shift)
    least = min(_cost(costs, kind, _shifted(everywhere[g], MOST_SHIFT)) for g in choices)
    if kind != "size_mb":
        least, target = least / costs.dense(kind), target / costs.dense(kind)
    raise BudgetError(
        f"KSE: {kind} must be at least {math.ceil(least * 1000) / 1000:g} for this model, got {target:g}; what is not "
        "clustered stays dense (squeeze inspect shows it). Choose a larger budget."
    )


def fitted(costs: Costs, kind: Kind, target: float, settings: Settings) -> Settings | None:
    """These settings, each T moved by the same, so that a budget is met closely; None if it cannot be."""
    shift = _smallest_shift(costs, kind, target, settings)
    return None if shift is None else _shifted(settings, shift)


def _smallest_shift(costs: Costs, kind: Kind, target: float, settings: Settings) -> float | None:
    """The least that all T must grow by to meet the budget, from where all but the dropped channels are dense."""
    low, high = -float(MOST_LEVELS + MOST_SHIFT), MOST_SHIFT
    if _cost(costs, kind, _shifted(settings, high)) > target:
        return None
    for _ in range(_STEPS):
        middle = (low + high) / 2
        met = _cost(costs, kind, _shifted(settings, middle)) <= target
        low, high = (low, middle) if met else (middle, high)
    return high


def _shifted(settings: Settings, shift: float) -> Settings:
    return {name: replace(setting, shift=setting.shift + shift) for name, setting in settings.items()}


def _cost(costs: Costs, kind: Kind, settings: Settings) -> float:
    return costs.of(kind, counts_of(costs.layers, settings))
