"""Training gates and weights together: task, mutual information, limiting of filters, sparsity."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer

from squeeze import processes
from squeeze.distill import Distillation
from squeeze.errors import InputError
from squeeze.gating.costs import Gated
from squeeze.modes import in_eval_mode
from squeeze.nn import Signal, computing, observing
from squeeze.nn.gates import Seen
from squeeze.passes.decouple.attribute import Attribute
from squeeze.passes.decouple.budget import brought_to
from squeeze.passes.decouple.losses import SideHeads, activity, limiting
from squeeze.task import Task
from squeeze.updates import Part, Update

if TYPE_CHECKING:
    from squeeze.passes.decouple.search import Decouple

HOLD = 0.6
"""The share of the schedule after which the budget is met; the network has the rest to adapt to that."""
GAIN, PULL = 4.0, 40.0
"""Of the controller that steers the weight of the budget: in proportion to what is too much, and to its sum over the
schedule."""
TRAVEL = 8.0
"""How far a logit can move until the budget is met, at the rate that gates have by default."""
MEMORY = 0.9
"""Of the running mean of what a step computes."""


class DecoupleLearner:
    """Trains a gated network.

    Args:
        gated: The network.
        base: The task's loss.
        attribute: What codes should tell of.
        settings: The pass.
        steps: Steps in an epoch, 0 if the data does not say.
        task: Evaluates, and knows what is held out.
    """

    def __init__(
        self,
        gated: Gated,
        base: Distillation,
        attribute: Attribute,
        settings: "Decouple",
        steps: int,
        task: Task,
    ) -> None:
        self.gated, self.settings = gated, settings
        self._base, self.attribute, self._task = base, attribute, task
        self.accumulate = settings.accumulate
        self._steps, self._done = steps, 0
        self._sum, self._share = 0.0, 1.0
        model = gated.model
        some = next(model.parameters())
        self.heads = SideHeads(gated.costs.filters, attribute.classes).to(some.device, some.dtype)
        self.modules: Mapping[str, nn.Module] = {"model": model, "heads": self.heads}
        controllers = {id(p): p for conv in gated.layers for p in conv.gate.parameters()}
        others = [p for p in model.parameters() if id(p) not in controllers and p.requires_grad]
        groups = [
            {"params": [p for p in others if p.dim() > 1], "weight_decay": settings.weight_decay},
            {"params": [p for p in others if p.dim() <= 1], "weight_decay": 0.0},
        ]
        groups = [group for group in groups if group["params"]]
        # The gradient of a gate is some thousandth of a weight's, and another one in every layer.
        gates = Adam([*controllers.values(), *self.heads.parameters()], lr=self._rates[1])
        self.optimizers: Mapping[str, Optimizer] = {"gates": gates}
        if groups:  # not all is frozen
            weights = SGD(groups, lr=settings.lr, momentum=0.9, nesterov=True)
            self.optimizers = {"weights": weights, "gates": gates}

    @property
    def progress(self) -> float:
        """The share of the schedule that is done; 0 while its length is unknown."""
        return self._done / (self._steps * self.settings.epochs) if self._steps else 0.0

    @property
    def wanted(self) -> float:
        """The share of the MACs that the budget leaves now: it falls in a straight line."""
        return 1 - (1 - (self.settings.macs or 1.0)) * min(1.0, self.progress / HOLD)

    @property
    def weight(self) -> float:
        """λ of the sparsity: fixed as in the paper, or as the budget wants it."""
        if self.settings.macs is None:
            return self.settings.lambda_s
        return max(0.0, GAIN * (self._share - self.wanted) + self._sum)

    @property
    def _rates(self) -> tuple[float, float]:
        """Learning rates of the weights, along half a cosine, and of the gates, likewise once the budget is met."""
        settings, late = self.settings, max(0.0, self.progress - HOLD) / (1 - HOLD)
        total = self._steps * settings.epochs or 1000
        gates = TRAVEL / (HOLD * total) if settings.lr_gates is None else settings.lr_gates
        return settings.lr * _cosine(self.progress), gates * _cosine(late)

    def start_epoch(self, epoch: int) -> None:
        """Train mode."""
        self.gated.model.train()
        self.heads.train()

    def step(self, update: Update) -> dict[str, float]:
        """One update of everything."""
        rates = dict(zip(("weights", "gates"), self._rates, strict=True))
        for name, optimizer in self.optimizers.items():
            optimizer.zero_grad()
            for group in optimizer.param_groups:
                group["lr"] = rates[name]
        scalars = []
        for part in update.parts:
            with observing() as seen:  # backward, too: what a network checkpoints runs again, and must do the same
                with update.running(part):
                    loss, logged = self._loss(part, seen)
                update.backward(loss, part)
            scalars.append(logged)
        for optimizer in self.optimizers.values():
            update.step(optimizer)
        self._done += 1
        means = update.mean(scalars)
        self._share = MEMORY * self._share + (1 - MEMORY) * means["share"]
        if self.settings.macs is not None and self._steps:
            self._sum += PULL / (self._steps * self.settings.epochs) * (self._share - self.wanted)
            self._sum = max(0.0, self._sum)
        return {**means, "lambda": self.weight}

    def _loss(self, part: Part, seen: Seen) -> tuple[Tensor, dict[str, float]]:
        settings = self.settings
        task = self._base(self.gated.model, part.batch)
        attribute = self.attribute(part.batch)
        signals = last(seen, self.gated, len(attribute))
        codes = [signal.code for signal in signals]
        information = self.heads(codes, attribute)
        limit = limiting(signals)
        share = self.gated.costs.shares(codes).mean()
        sparsity = share if settings.macs is not None else activity(codes, settings.active or 0.0, part.share)
        loss = task + settings.lambda_k * limit + settings.lambda_m * information + self.weight * sparsity
        hard = self.gated.costs.shares([(signal.logits > 0).to(signal.code.dtype) for signal in signals]).mean()
        named = {"loss": loss, "task": task, "information": information, "limiting": limit, "sparsity": sparsity}
        values = torch.stack([value.detach().double() for value in (*named.values(), hard)]).tolist()
        return loss, dict(zip((*named, "share"), values, strict=True))

    def end_epoch(self, epoch: int) -> dict[str, float]:
        """Judge the network with hard gates on what is held out; once the budget should be met, it is."""
        self._steps = self._steps or self._done
        settings = self.settings
        if settings.macs is not None and self.progress >= HOLD and epoch + 1 < settings.epochs:
            brought_to(settings.macs, self.gated, self._task)
        with in_eval_mode(self.gated.model), computing("masked"):
            metrics = processes.agreed(self._task.evaluate(self.gated.model, "holdout"))
        return {f"holdout_{name}": value for name, value in metrics.items()}

    def state_dict(self) -> dict[str, Any]:
        """Counters."""
        return {"steps": self._steps, "done": self._done, "sum": self._sum, "share": self._share}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Undo `state_dict`."""
        self._steps, self._done, self._sum, self._share = (state[key] for key in ("steps", "done", "sum", "share"))


def _cosine(progress: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def last(seen: Seen, gated: Gated, samples: int) -> list[Signal]:
    """The signals of all gated convolutions in the last call of the model.

    Raises:
        InputError: One did not run, or not once for each sample.
    """
    for conv, name in zip(gated.layers, gated.costs.names, strict=True):
        codes = len(seen[conv][-1].code) if conv in seen else 0
        if codes != samples:
            raise InputError(
                f"Decouple: {name} must have one code for each sample in each step of training, got {codes} for "
                f"{samples} samples; keep it without a gate (ignore), or switch off what skips it."
            )
    return [seen[conv][-1] for conv in gated.layers]
