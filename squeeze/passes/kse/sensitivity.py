"""A setting for each layer: a budget is spent where the outputs notice most, which is measured on data."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from accelerate.utils import send_to_device
from torch import Tensor, nn

from squeeze.copying import eval_copy
from squeeze.nn import ClusteredConv2d
from squeeze.passes.kse.layers import Costs, Kind, Layer
from squeeze.passes.kse.levels import Setting
from squeeze.randomness import randomness_kept, seed_all
from squeeze.recalibrate import NORMS
from squeeze.task import Task

PAIRS = ((4, -2), (5, -1), (4, 0), (5, 0), (6, 0), (8, 0), (8, 1))
"""(G, T) that are tried on every layer, from gentle to severe."""

SHIFTS = (-2, -1, 0, 1, 2, 4)
"""T that are tried if G is given."""


@dataclass(frozen=True, eq=False)
class Rung:
    """What one setting does to one layer.

    Attributes:
        setting: None leaves the layer dense.
        saved: Of the cost that is limited.
        harm: Mean squared change of the model's features when this layer alone is clustered.
    """

    setting: Setting | None
    saved: float
    harm: float


Ladders = Mapping[str, tuple[Rung, ...]]
"""By name of the layer: settings that save more and more at a growing price."""


def measured(model: nn.Module, task: Task, costs: Costs, kind: Kind, settings: list[Setting], seed: int) -> Ladders:
    """Cluster each layer alone, in all ways, and see how far the features move on one training batch.

    Batch norms take their statistics from the batch meanwhile, as they are re-estimated after a cut. Labels are not
    used.

    Returns:
        For every layer the rungs that no mixture of others beats; nothing if there is no data.
    """
    with torch.no_grad(), randomness_kept():
        seed_all(seed)
        batch = next(iter(task.train_batches(0)), None)
        if batch is None:
            return {}
        twin = eval_copy(model)
        batch = send_to_device(batch, next(twin.parameters()).device)
        if len(task.features(twin, batch)) > 1:
            _normalise_by_batch(twin)
        expected = task.features(twin, batch)
        found = {}
        for layer in costs.layers:
            rungs = [Rung(None, 0.0, 0.0)]
            for setting in settings:
                counts = setting.counts(layer)
                with _clustered(twin, layer, counts, seed):
                    harm = float((task.features(twin, batch) - expected).square().mean())
                rungs.append(Rung(setting, costs.saved(kind, layer, counts), harm))
            found[layer.name] = hull(rungs)
    return found


def hull(rungs: list[Rung]) -> tuple[Rung, ...]:
    """From the dense one on, those at which each saving more costs more than the one before: a convex line."""
    kept = [rung for rung in rungs if rung.setting is None]
    for rung in sorted(rungs, key=lambda r: (r.saved, r.harm)):
        if rung.saved <= kept[-1].saved:
            continue
        while len(kept) > 1 and _slope(kept[-2], rung) <= _slope(kept[-2], kept[-1]):
            kept.pop()
        kept.append(rung)
    return tuple(kept)


def chosen(ladders: Ladders, needed: float) -> dict[str, Setting]:
    """Step up where a saving does the least harm, until as much is saved as is needed; else to the top of all.

    Layers that stay dense are missing.
    """
    steps = [(_slope(a, b), name, a, b) for name, ladder in ladders.items() for a, b in pairwise(ladder)]
    settings: dict[str, Setting] = {}
    saved = 0.0
    for _, name, below, above in sorted(steps, key=lambda step: step[0]):
        if saved >= needed:
            break
        saved += above.saved - below.saved
        if above.setting is not None:
            settings[name] = above.setting
    return settings


def _slope(below: Rung, above: Rung) -> float:
    return (above.harm - below.harm) / (above.saved - below.saved)


def _normalise_by_batch(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, NORMS):
            module.train()


@contextmanager
def _clustered(model: nn.Module, layer: Layer, counts: np.ndarray, seed: int) -> Iterator[None]:
    """The model with one layer's kernels replaced by their centroids."""
    weight: Tensor = dict(model.get_submodule(layer.name).named_parameters())["weight"]
    before = weight.clone()
    weight.copy_(ClusteredConv2d.from_conv(layer.conv, counts.tolist(), seed).dense_weight())
    try:
        yield
    finally:
        weight.copy_(before)
