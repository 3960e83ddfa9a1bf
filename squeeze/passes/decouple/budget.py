"""Bringing gates to a budget: a number is added to their logits, so that held-out data costs on average what it may."""

from itertools import islice

import torch
from accelerate.utils import send_to_device
from torch import Tensor

from squeeze import processes
from squeeze.errors import BudgetError
from squeeze.gating.costs import Gated
from squeeze.modes import in_eval_mode
from squeeze.nn import computing, observing
from squeeze.splitting import spread
from squeeze.task import Task, device_of, evaluated_on

ROUNDS = 12
"""Of halving the interval."""
FARTHEST = 4.0**8
"""The most that is added to a logit, and more than any logit is."""
CLOSE = 0.002
"""Of the share that was asked for, as a share of it: near enough to stop."""
SAMPLES = 2000
"""Of what is held out, as far as it can be seen: at a deviation of 0.05 their mean is known to 0.001."""
BATCHES = 8
"""Of training data, where nothing is held out."""


def require_reachable(target: float, gated: Gated) -> None:
    """Make sure that closed gates leave no more than a share of the MACs; open ones leave all.

    Raises:
        BudgetError: They leave more.
    """
    least = float(gated.costs.shares([torch.zeros(1, filters) for filters in gated.costs.filters]))
    if target < least:
        raise BudgetError(
            f"Decouple: macs must be at least {least:.3f} for this model, got {target}; what has no gate costs the "
            "same for all inputs. Choose another budget, or gate the stem, too (stem=True)."
        )


def brought_to(target: float, gated: Gated, task: Task) -> dict[str, float]:
    """Shift all gates of a model, in place, so that it computes a share of the MACs on average.

    Returns:
        The share "before" and "after", and the "shift".

    Raises:
        BudgetError: See `require_reachable`.
    """
    require_reachable(target, gated)
    biases = [conv.gate.expand.bias.detach().clone() for conv in gated.layers]
    order = torch.randperm(sum(len(bias) for bias in biases), generator=torch.Generator().manual_seed(0))
    best: dict[float, Tensor] = {}

    def share(by: Tensor) -> float:
        """With a number (F,) added to each of the F logits."""
        with torch.no_grad():
            for conv, bias, part in zip(gated.layers, biases, by.split([len(b) for b in biases]), strict=True):
                conv.gate.expand.bias.copy_(bias + part.to(bias))
        found = processes.agreed({"share": float(sampled(gated, task).mean())})["share"]
        best[abs(found - target)] = by
        return found

    def all_by(shift: float) -> Tensor:
        return torch.full((len(order),), shift)

    before = share(all_by(0.0))
    if abs(before - target) <= CLOSE * target:
        return {"before": before, "after": before, "shift": 0.0}
    near, far = 0.0, 1.0 if before < target else -1.0
    while (share(all_by(far)) - target) * far < 0 and abs(far) < FARTHEST:  # not on the other side yet
        near, far = far, 4 * far
    low, high = sorted((near, far))
    for _ in range(ROUNDS):
        middle = (low + high) / 2
        low, high = (middle, high) if share(all_by(middle)) < target else (low, middle)
        if min(best) <= CLOSE * target:
            break
    few, many = 0, len(order)
    while min(best) > CLOSE * target and many - few > 1:
        # Gates that say the same of every input fall together: from `low` to `high`, some of them go first.
        count = (few + many) // 2
        mixed = all_by(low)
        mixed[order[:count]] = high
        few, many = (count, many) if share(mixed) < target else (few, count)
    chosen = best[min(best)]
    return {"before": before, "after": share(chosen), "shift": float(chosen.mean())}


def sampled(gated: Gated, task: Task) -> Tensor:
    """(samples,) the share of the MACs that each held-out sample costs; of training data if nothing is held out."""
    model, device = gated.model, device_of(gated.model)
    with in_eval_mode(model), torch.no_grad(), computing("masked"), observing() as seen:
        count = 0
        for batch in spread(evaluated_on(task, "holdout"), SAMPLES):
            count += len(task.features(model, send_to_device(batch, device)))
            if count >= SAMPLES:
                break
        if not seen:
            processes.agreed(task.evaluate(model, "holdout"))
        for batch in () if seen else islice(task.train_batches(0), BATCHES):
            task.features(model, send_to_device(batch, device))
    codes = [torch.cat([signal.code for signal in seen[conv]]) for conv in gated.layers]
    return gated.costs.shares(codes)
