"""Bringing gates to a budget: one number is added to all logits, so that held-out data costs on average what it may."""

from itertools import islice

import torch
from accelerate.utils import send_to_device
from torch import Tensor

from squeeze import processes
from squeeze.errors import BudgetError
from squeeze.gating.costs import Gated
from squeeze.modes import in_eval_mode
from squeeze.nn import computing, observing
from squeeze.task import Task, device_of

ROUNDS = 12
"""Of halving the interval."""
FARTHEST = 16.0
"""The most that is added to a logit."""
CLOSE = 0.002
"""Of the share that was asked for, as a share of it: near enough to stop."""
BATCHES = 8
"""Of training data, where nothing is held out."""


def brought_to(target: float, gated: Gated, task: Task) -> dict[str, float]:
    """Shift all gates of a model, in place, so that it computes a share of the MACs on average.

    Returns:
        The share "before" and "after", and the "shift".

    Raises:
        BudgetError: No shift reaches it.
    """
    biases = [conv.gate.expand.bias.detach().clone() for conv in gated.layers]

    def shifted(by: float) -> float:
        with torch.no_grad():
            for conv, bias in zip(gated.layers, biases, strict=True):
                conv.gate.expand.bias.copy_(bias + by)
        return float(sampled(gated, task).mean())

    before = now = shifted(0.0)
    low, high, shift = -FARTHEST, FARTHEST, 0.0
    if abs(before - target) > CLOSE * target:
        least = shifted(low)
        if least > target:
            shifted(0.0)
            raise BudgetError(
                f"Decouple: macs must be at least {least:.3f} for this model, got {target}; what has no gate costs "
                "that much. Ask for more to stay, or gate the stem, too (stem=True)."
            )
        for _ in range(ROUNDS):
            shift = (low + high) / 2 if shift or now != before else _towards(before, target)
            now = shifted(shift)
            if abs(now - target) <= CLOSE * target:
                break
            low, high = (shift, high) if now < target else (low, shift)
    return {"before": before, "after": now, "shift": shift}


def _towards(now: float, target: float) -> float:
    """A first guess on the right side: most gates are near their threshold."""
    return -0.5 if now > target else 0.5


def sampled(gated: Gated, task: Task) -> Tensor:
    """(samples,) the share of the MACs that each held-out sample costs; of training data if nothing is held out."""
    with in_eval_mode(gated.model), torch.no_grad(), computing("masked"), observing() as seen:
        processes.agreed(task.evaluate(gated.model, "holdout"))
        if not seen:
            for batch in islice(task.train_batches(0), BATCHES):
                task.features(gated.model, send_to_device(batch, device_of(gated.model)))
    codes = [torch.cat([signal.code for signal in seen[conv]]) for conv in gated.layers]
    return gated.costs.shares(codes)
