"""Fine-tuning: a compressed model learns again, from labels and from the model it was."""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Literal, get_args

from torch import Tensor, nn
from torch.optim import SGD

from squeeze import processes
from squeeze.distill import Distillation, Divergence, divergence
from squeeze.errors import InputError, TrainingError, quoted
from squeeze.modes import in_eval_mode
from squeeze.passes.base import Loss
from squeeze.task import Task
from squeeze.training import Run, train, updates_in
from squeeze.updates import Update

Objective = Callable[[nn.Module, Loss], AbstractContextManager[Loss]]
"""What fine-tuning must keep doing for a pass: its method `objective`."""

Schedule = Literal["cosine", "step"]

CALM = 0.1
"""An epoch may be the best one if the learning rate came down to this share of its highest. Before, weights jump about,
and the best of many such epochs is the one that was lucky with what is held out."""


@dataclass(frozen=True)
class FineTune:
    """How to fine-tune: SGD with Nesterov momentum on supervised loss + distillation.

    Attributes:
        epochs: How many; 0 for no fine-tuning.
        lr: Learning rate at its highest.
        momentum: Of SGD, at least 0 and below 1.
        weight_decay: L2, on weights of two and more dims only: not on biases, nor on the scales of normalisations.
        schedule: "cosine" falls to 0 along half a cosine; "step" to a tenth after half and after three quarters.
        warmup: The first so many steps rise to the schedule linearly, but never more than a tenth of all steps.
        distill: Weight of the divergence from the teacher's features; 0 for labels alone.
        temperature: Of the softmax in the divergence "kl".
        divergence: "kl" where features are logits, "mse" where they are anything else.
        accumulate: So many batches make one step, with the mean of their gradients: what one batch of that size gives,
            in less memory. Only batch norm sees the smaller batches.
        name: Of the phase: its checkpoint and scalars go by it.
    """

    epochs: int = 20
    lr: float = 0.02
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: Schedule = "cosine"
    warmup: int = 50
    distill: float = 1.0
    temperature: float = 2.0
    divergence: Divergence = "kl"
    accumulate: int = 1
    name: str = "finetune"

    def __post_init__(self) -> None:
        for name in ("epochs", "warmup"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise ValueError(f"FineTune: {name} must be a whole number from 0, got {value!r}; pass 0 for none.")
        if isinstance(self.accumulate, bool) or not isinstance(self.accumulate, int) or self.accumulate < 1:
            raise ValueError(
                f"FineTune: accumulate must be a whole number from 1, got {self.accumulate!r}; pass 1 for no more."
            )
        for name in ("lr", "temperature"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(
                    f"FineTune: {name} must be above 0 and finite, got {getattr(self, name)}; try 0.01 or 2."
                )
        for name in ("weight_decay", "distill"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"FineTune: {name} must be at least 0, got {getattr(self, name)}; pass 0 for none.")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"FineTune: momentum must be in [0, 1), got {self.momentum}; 0.9 is usual.")
        for name, allowed in (("schedule", get_args(Schedule)), ("divergence", get_args(Divergence))):
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"FineTune: {name} must be {' or '.join(allowed)}, got {getattr(self, name)!r}; pass one of them."
                )


def finetune(
    model: nn.Module,
    teacher: nn.Module | None,
    task: Task,
    settings: FineTune,
    objectives: Sequence[Objective],
    run: Run,
) -> tuple[nn.Module, list[dict[str, float]]]:
    """Train a compressed model in place, and leave it in eval mode in the state of its best epoch.

    Args:
        model: What is trained.
        teacher: What it imitates, on the same device; not changed. None for labels alone.
        task: Gives data and loss. The best epoch is the one whose `Task.metric` is highest on held-out training
            data, of those in which the learning rate was down to a tenth; the later of two equal ones, and the last if
            nothing is held out. The test set is not touched.
        settings: How.
        objectives: Nested around the loss, first innermost, as long as training lasts.
        run: Where.

    Returns:
        The model, and the scalars of each epoch.

    Raises:
        InputError: There is no data, or neither labels nor a teacher; the task does not report its metric.
        TrainingError: See `train`.
    """
    if settings.epochs == 0:
        return model.eval(), []
    measure = partial(divergence, kind=settings.divergence, temperature=settings.temperature)
    base = Distillation(task, teacher, settings.distill, measure)
    with ExitStack() as stack:
        if teacher is not None:
            stack.enter_context(in_eval_mode(teacher))
        loss: Loss = base
        for objective in objectives:
            loss = stack.enter_context(objective(model, loss))
        learner = _FineTuning(model, task, settings, loss, base.parts)
        history = train(learner, task.train_batches, settings.epochs, run, settings.name)
        if learner.best:
            model.load_state_dict(learner.best)
    return model.eval(), history


class _FineTuning:
    """The learner.

    Attributes:
        best: The weights of the best epoch so far; empty if none was judged.
    """

    def __init__(
        self, model: nn.Module, task: Task, settings: FineTune, loss: Loss, parts: Mapping[str, float]
    ) -> None:
        self._model, self._task, self._settings, self._loss, self._parts = model, task, settings, loss, parts
        trained = [p for p in model.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in trained if p.dim() > 1], "weight_decay": settings.weight_decay},
            {"params": [p for p in trained if p.dim() <= 1], "weight_decay": 0.0},
        ]
        groups = [group for group in groups if group["params"]]
        if not groups:
            raise InputError("finetune: needs a parameter to train, got a model without; set requires_grad on some.")
        self._sgd = SGD(groups, settings.lr, settings.momentum, nesterov=settings.momentum > 0)
        self.modules: Mapping[str, nn.Module] = {"model": model}
        self.optimizers = {"sgd": self._sgd}
        self.accumulate = settings.accumulate
        self.best: dict[str, Tensor] = {}
        self._score = -math.inf
        self._epoch = self._step = self._done = 0
        self._steps = updates_in(task.train_batches(0), settings.accumulate)

    def start_epoch(self, epoch: int) -> None:
        """Train mode, and the first step of an epoch."""
        self._model.train()
        self._epoch, self._step = epoch, 0

    def step(self, update: Update) -> dict[str, float]:
        """One step of SGD."""
        lr = self._learning_rate()
        for group in self._sgd.param_groups:
            group["lr"] = lr
        self._sgd.zero_grad()
        scalars = []
        for part in update.parts:
            with update.running(part):
                loss = self._loss(self._model, part.batch)
            update.backward(loss, part)
            scalars.append({"loss": loss.item(), **self._parts})
        update.step(self._sgd)
        self._step, self._done = self._step + 1, self._done + 1
        return {**update.mean(scalars), "lr": lr}

    def end_epoch(self, epoch: int) -> dict[str, float]:
        """Judge the model on what is held out, and keep it if it is the best so far."""
        self._steps = self._step
        with in_eval_mode(self._model):
            metrics = processes.agreed(self._task.evaluate(self._model, "holdout"))
        if metrics:
            if self._task.metric not in metrics:
                raise InputError(
                    f"task {self._task.name}: evaluate must report its metric {self._task.metric!r}, got "
                    f"{sorted(metrics)}; name one of these as the metric."
                )
            if self._calm(epoch) and metrics[self._task.metric] >= self._score:
                self._score = float(metrics[self._task.metric])
                self.best = {name: value.detach().clone() for name, value in self._model.state_dict().items()}
        return {f"holdout_{name}": value for name, value in metrics.items()}

    def state_dict(self) -> dict[str, Any]:
        """Counters, settings, and the best epoch's weights."""
        counters = (self._done, self._epoch, self._step, self._steps)
        return {"settings": asdict(self._settings), "best": self.best, "score": self._score, "counters": counters}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Undo `state_dict`.

        Raises:
            TrainingError: The settings are others.
        """
        theirs, ours = state["settings"], asdict(self._settings)
        for name in sorted({*theirs, *ours}):
            if theirs.get(name) != ours.get(name):
                raise TrainingError(
                    f"{self._settings.name}: {quoted(name)} must be {quoted(repr(theirs.get(name)))} as when the run "
                    f"began, got {ours.get(name)!r}; go back to it, or start over (force)."
                )
        self.best, self._score = dict(state["best"]), state["score"]
        self._done, self._epoch, self._step, self._steps = state["counters"]

    def _learning_rate(self) -> float:
        settings = self._settings
        warmup = min(settings.warmup, self._steps * settings.epochs // 10) if self._steps else settings.warmup
        rising = min(1.0, (self._done + 1) / (warmup + 1))
        return settings.lr * rising * self._falling(self._step)

    def _falling(self, step: int) -> float:
        """What the schedule leaves of the highest rate in a step of this epoch."""
        within = min(step / self._steps, 1.0) if self._steps else 0.0
        progress = (self._epoch + within) / self._settings.epochs
        if self._settings.schedule == "cosine":
            return 0.5 * (1 + math.cos(math.pi * progress))
        return 0.1 ** (int(progress >= 0.5) + int(progress >= 0.75))

    def _calm(self, epoch: int) -> bool:
        return epoch + 1 == self._settings.epochs or self._falling(self._step - 1) <= CALM
