"""GAL's alternating updates: discriminator, generator, masks (Lin et al. 2019, CVPR, algorithm 1)."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.optim import SGD, Optimizer

from squeeze import processes
from squeeze.errors import InputError
from squeeze.passes.gal.balance import Balance
from squeeze.passes.gal.discriminator import Discriminator, discriminator_loss, realness
from squeeze.passes.gal.fista import FISTA
from squeeze.passes.gal.settle import settled
from squeeze.passes.gal.steering import Steering
from squeeze.passes.gal.teacher import Features
from squeeze.randomness import randomness_kept
from squeeze.updates import Part, Update

if TYPE_CHECKING:
    from squeeze.passes.gal.search import GAL

WEIGHT_DECAY = 2e-4
MOMENTUM = 0.9
MILESTONES = (0.85, 0.95)
"""Shares of the schedule after which all learning rates fall to a tenth."""
QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)


class GALLearner:
    """Trains masks and weights of a generator to imitate the baseline, without ever asking for a label.

    Attributes:
        removed: (M,) True for what goes, once that is decided.

    Args:
        generator: The copy of the model that is trained.
        baseline: The frozen features to imitate.
        discriminator: D.
        steering: The masks, the weight of their penalty, and what goes in the end.
        settings: The pass.
        steps: Steps in an epoch, 0 if the data does not say: then they are counted in the first.
    """

    def __init__(
        self,
        generator: nn.Module,
        baseline: Features,
        discriminator: Discriminator,
        steering: Steering,
        settings: "GAL",
        steps: int,
    ) -> None:
        self.baseline, self.steering, self.settings = baseline, steering, settings
        self.masks, self.sensitivity, self.discriminator = steering.masks, steering.sensitivity, discriminator
        self.generator = Features(generator, baseline.task, baseline.scale)
        self.modules: Mapping[str, nn.Module] = {
            "generator": generator,
            "masks": self.masks,
            "discriminator": discriminator,
        }
        self.fista = FISTA(
            [self.masks.values],
            lr=settings.lr_mask,
            l1=settings.lambda_ or 0.0,
            weights=steering.weights(),
            metric=steering.metric(),
        )
        self.balance = Balance(self.masks, generator)
        self.removed: np.ndarray | None = None
        judge = SGD(
            discriminator.parameters(),
            lr=settings.lr_discriminator,
            momentum=MOMENTUM,
            weight_decay=WEIGHT_DECAY if settings.regularizer == "ar" else 0.0,
        )
        # Decay on the scale of a normalisation or on a bias regularises nothing.
        groups = [
            {"params": [p for p in generator.parameters() if p.dim() > 1], "weight_decay": WEIGHT_DECAY},
            {"params": [p for p in generator.parameters() if p.dim() <= 1], "weight_decay": 0.0},
        ]
        weights = SGD(groups, lr=settings.lr_generator, momentum=MOMENTUM)
        self.optimizers: Mapping[str, Optimizer] = {"discriminator": judge, "generator": weights, "masks": self.fista}
        self.accumulate = settings.accumulate
        self._steps = steps
        self._done = 0
        self._gathered = 0
        self._smooth, self._norm, self._count = 0.0, 0.0, 0
        self._last: tuple[float, float] | None = None

    @property
    def progress(self) -> float:
        """The share of the schedule that is done; 0 while its length is unknown."""
        return self._done / (self._steps * self.settings.epochs) if self._steps else 0.0

    def start_epoch(self, epoch: int) -> None:
        """Train mode for what is trained; the baseline stays in eval mode."""
        for module in self.modules.values():
            module.train()

    def step(self, update: Update) -> dict[str, float]:
        """One update of the discriminator, one of the generator, and every `mask_step` steps one of the masks."""
        self._set_rates()
        if self.removed is None and self.steering.due(self.progress):
            self._decide(self.steering.removed(self.reach()))
        real = [self._imitated(part, update) for part in update.parts]
        fake = self._foreseen(update)
        judged = self._update_discriminator(real, [features.detach() for features in fake], update)
        if self.removed is None and self.steering.budget is not None and self.sensitivity.due(self._done):
            self._look(fake, update)
        logged = self._update_generator(real, fake, update)
        if self.removed is None and self._gathered == self.settings.mask_step:
            self._update_masks()
        self._done += 1
        scalars = [torch.cat((loss.reshape(1), terms)).tolist() for loss, terms in zip(judged, logged, strict=True)]
        names = ("discriminator", "adversarial", "data")
        means = update.mean([dict(zip(names, part, strict=True)) for part in scalars])
        self._smooth += means["adversarial"] + means["data"]
        self._norm += float(self._penalty())
        self._count += 1
        return means | {"lambda": self._lambda}

    def _imitated(self, part: Part, update: Update) -> Tensor:
        with update.running(part), torch.no_grad():
            return self.baseline(part.batch)

    def _foreseen(self, update: Update) -> list[Tensor]:
        """The generator's features of every part.

        Those of several parts have no graph, which would fill the memory: they are computed again when the
        discriminator has moved, and leave no trace meanwhile.
        """
        if len(update.parts) == 1:
            return [self._generated(update.parts[0], update)]
        with torch.no_grad(), self._without_trace():
            return [self._generated(part, update) for part in update.parts]

    @contextmanager
    def _without_trace(self) -> Iterator[None]:
        kept = [(buffer, buffer.clone()) for buffer in self.generator.buffers()]
        with randomness_kept():
            yield
        with torch.no_grad():
            for buffer, before in kept:
                buffer.copy_(before)

    def _look(self, fake: list[Tensor], update: Update) -> None:
        """Show the sensitivity one v · ∂f/∂m; the gradient of the masks that was gathered is kept."""
        values = self.masks.values
        gathered, values.grad = values.grad, None
        with self._without_trace() if len(update.parts) > 1 else nullcontext():
            for part, theirs in zip(update.parts, fake, strict=True):
                features = theirs if theirs.requires_grad else self._generated(part, update)
                signs = self.sensitivity.signs(self._done, part.start, features)
                with update.running(part):
                    features.backward(signs * (part.share / len(features)), retain_graph=theirs.requires_grad)
        if values.grad is not None:
            self.sensitivity.observe(processes.add_up(values.grad))
        values.grad = gathered

    def _generated(self, part: Part, update: Update) -> Tensor:
        with update.running(part):
            scaled = {f"model.{name}": value for name, value in self.masks.scaled(self.generator.model).items()}
            fake: Tensor = functional_call(self.generator, scaled, (part.batch,))
        if torch.is_grad_enabled() and not fake.requires_grad:
            raise InputError(
                "GAL: the features must be differentiable, got some without gradient; let the model compute outside of "
                "no_grad, or use a method without training (magnitude)."
            )
        return fake

    def _update_discriminator(self, real: list[Tensor], fake: list[Tensor], update: Update) -> list[Tensor]:
        optimizer, losses = self.optimizers["discriminator"], []
        optimizer.zero_grad()
        for part, ours, theirs in zip(update.parts, real, fake, strict=True):
            loss = discriminator_loss(self.discriminator, ours, theirs, self.settings.regularizer, WEIGHT_DECAY)
            update.backward(loss, part)
            losses.append(loss.detach())
        update.step(optimizer)
        return losses

    def _update_generator(self, real: list[Tensor], fake: list[Tensor], update: Update) -> list[Tensor]:
        """The weights' update; the masks' gradient is added to what was gathered."""
        gathered, self.masks.values.grad = self.masks.values.grad, None
        self.optimizers["generator"].zero_grad()
        logged = []
        for part, ours, theirs in zip(update.parts, real, fake, strict=True):
            features = theirs if theirs.requires_grad else self._generated(part, update)
            self.discriminator.requires_grad_(False)
            adversarial, data = realness(self.discriminator(features)), self.settings.mu * alignment(features, ours)
            self.discriminator.requires_grad_(True)
            update.backward(adversarial + data, part)
            logged.append(torch.stack((adversarial.detach(), data.detach())))
        update.step(self.optimizers["generator"])
        fresh = self.masks.values.grad if update.collect(self.fista) else None
        self.masks.values.grad = gathered if fresh is None else fresh if gathered is None else gathered + fresh
        self._gathered += fresh is not None
        return logged

    def _update_masks(self) -> None:
        """FISTA with the mean of the gathered gradients."""
        if self.masks.values.grad is not None:
            self.masks.values.grad /= self._gathered
        self.sensitivity.follow(self.balance.absorb(self.fista))
        self.fista.weights = self.steering.weights()
        self.fista.step(penalty=self._next_lambda)
        self.fista.zero_grad()
        self.sensitivity.follow(self.balance.level(self.fista))
        self._gathered = 0

    @torch.no_grad()
    def _decide(self, removed: np.ndarray) -> None:
        """What goes is settled: those masks are 0 from now on, the others stand still, and the weights adapt."""
        final = settled(self.masks, _array(self.masks.values), removed)
        self.masks.values.copy_(torch.from_numpy(final)).requires_grad_(False)
        self.masks.values.grad = None
        self.removed, self._gathered = removed, 0

    def _next_lambda(self, moved: Tensor, speeds: Tensor) -> float:
        updates = self._steps * self.settings.epochs // self.settings.mask_step
        if not updates and self.settings.lambda_ is None:
            return 0.0  # how long the schedule is turns out at the end of the first epoch
        return self.steering.steer(self._lambda, _array(moved), _array(speeds), self.progress, updates)

    def end_epoch(self, epoch: int) -> dict[str, float]:
        """Restart the masks' momentum if the objective rose; report the masks."""
        self._steps = self._steps or self._done
        smooth, norm = self._smooth / max(1, self._count), self._norm / max(1, self._count)
        # Both epochs are weighed with the present λ, or a λ that is steered up would look like a rise.
        if self._last is not None and smooth + self._lambda * norm > self._last[0] + self._lambda * self._last[1]:
            self.fista.restart()
        self._last = (smooth, norm)
        self._smooth, self._norm, self._count = 0.0, 0.0, 0
        values = _array(self.masks.values)
        quantiles = {f"mask_{round(100 * q)}%": float(np.quantile(values, q)) for q in QUANTILES}
        return {"share": self.steering.share(values <= 0), "zeros": float((values <= 0).mean()), **quantiles}

    def reach(self) -> np.ndarray:
        """(M,) the masks before negative values were cut off: like the masks, but zeros are ranked too."""
        state = self.fista.state[self.masks.values]
        values: Tensor = state["reach"] if "reach" in state else self.masks.values
        return _array(values)

    def state_dict(self) -> dict[str, Any]:
        """Counters, what the objective was, and the gradient that is being gathered for the masks."""
        gradient = self.masks.values.grad
        return {
            "scale": self.baseline.scale,
            "steps": self._steps,
            "done": self._done,
            "gathered": self._gathered,
            "sums": [self._smooth, self._norm, self._count],
            "last": None if self._last is None else list(self._last),
            "removed": None if self.removed is None else torch.from_numpy(self.removed),
            "gradient": torch.zeros_like(self.masks.values) if gradient is None else gradient.clone(),
            "sensitivity": self.sensitivity.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Undo `state_dict`."""
        self.baseline.scale = self.generator.scale = state["scale"]
        self._steps, self._done, self._gathered = state["steps"], state["done"], state["gathered"]
        self._smooth, self._norm, self._count = state["sums"]
        self.sensitivity.load_state_dict(state["sensitivity"])
        self._last = None if state["last"] is None else (state["last"][0], state["last"][1])
        self.masks.values.grad = state["gradient"].to(self.masks.values) if self._gathered else None
        if state["removed"] is not None:
            self._decide(state["removed"].cpu().numpy())

    @property
    def _lambda(self) -> float:
        return float(self.fista.param_groups[0]["l1"])

    def _penalty(self) -> Tensor:
        return (self.fista.weights * self.masks.values.detach().abs()).sum()

    def _set_rates(self) -> None:
        factor = 0.1 ** sum(self.progress >= milestone for milestone in MILESTONES)
        rates = {"discriminator": "lr_discriminator", "generator": "lr_generator", "masks": "lr_mask"}
        for name, optimizer in self.optimizers.items():
            for group in optimizer.param_groups:
                group["lr"] = getattr(self.settings, rates[name]) * factor


def alignment(generated: Tensor, baseline: Tensor) -> Tensor:
    """L_data = 1 / 2n · Σᵢ ‖f_b(xᵢ) - f_g(xᵢ)‖²: half the mean squared error times the width of the features."""
    return (generated - baseline).square().sum() / (2 * len(baseline))


def _array(values: Tensor) -> np.ndarray:
    return values.detach().double().cpu().numpy()
