"""The pass: train masks against the baseline, decide what goes, fold the rest."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import nn

from squeeze.copying import copied
from squeeze.masks import KINDS, USUAL, Kind, SoftMasks
from squeeze.passes.base import Found, Loss
from squeeze.passes.gal.discriminator import Discriminator, Regularizer
from squeeze.passes.gal.learner import GALLearner
from squeeze.passes.gal.sensitivity import Sensitivity
from squeeze.passes.gal.settle import settled
from squeeze.passes.gal.steering import Steering
from squeeze.passes.gal.teacher import frozen_baseline
from squeeze.randomness import randomness_kept, seed_all
from squeeze.selection import Budget, select
from squeeze.structure.groups import Structure
from squeeze.task import Task, device_of
from squeeze.training import Run, train, updates_in


@dataclass(frozen=True)
class GAL:
    """Learns, without labels, which filters, blocks and branches a network can do without (Lin et al. 2019, CVPR).

    Exactly one of `macs`, `params` and `lambda_` says how much goes. The loss has three parts: an adversarial
    one of weight 1, `mu` times the alignment of features, and λ times the L1 norm of the masks, in which an
    entry weighs what it costs, 1 on average.

    Attributes:
        macs: Share of the multiply-accumulates that stays, between 0 and 1; λ is steered towards it.
        params: The same for parameters.
        lambda_: The paper's λ, above 0: what ends at exactly 0 goes.
        structures: What gets masks: any of "filters", "blocks", "branches" and "inputs", which lets a layer read less
            of a tensor that keeps its width, by an index-select (the paper's joint variant, and DenseNet).
        epochs: Of the mask phase.
        lr_generator: Learning rate of the weights; this and the next two fall to a tenth after 85 % and 95 %.
        lr_discriminator: Learning rate of the discriminator.
        lr_mask: Step size of FISTA.
        mu: Weight of the feature alignment, 1 / 2n · Σ ‖f_b - f_g‖², features in units of the baseline's deviation.
        regularizer: Of the discriminator: adversarial "ar", or the norms "l1", "l2".
        init: Masks begin at 1 ("ones": the generator is the baseline), or as in the paper N(0, 1) ("normal").
        mask_step: Masks move every so many steps, along the mean of the gradients since.
        accumulate: So many batches make one step, as if they were one, in less memory and a third more time. Only batch
            norm sees the smaller batches.
        round_to: Widths stay multiples of this many channels where they can; 1 for any width.
        ignore: Name patterns of layers that stay as they are.
    """

    name: ClassVar[str] = "gal"

    macs: float | None = None
    params: float | None = None
    lambda_: float | None = None
    structures: tuple[Kind, ...] = USUAL
    epochs: int = 10
    lr_generator: float = 1e-2
    lr_discriminator: float = 1e-2
    lr_mask: float = 1e-1
    mu: float = 1.0
    regularizer: Regularizer = "ar"
    init: Literal["ones", "normal"] = "ones"
    mask_step: int = 1
    accumulate: int = 1
    round_to: int = 8
    ignore: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        given = {k: v for k in ("macs", "params", "lambda_") if (v := getattr(self, k)) is not None}
        if len(given) != 1:
            raise ValueError(
                f"GAL: exactly one of macs, params and lambda_ must be given, got {given or 'none'}; say macs=0.5."
            )
        for name in ("macs", "params"):
            if name in given and not 0 < given[name] < 1:
                raise ValueError(
                    f"GAL: {name} must be between 0 and 1, got {given[name]}; it is the share that stays, 0.5 for half."
                )
        for name in ("lambda_", "lr_generator", "lr_discriminator", "lr_mask"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise ValueError(f"GAL: {name} must be above 0 and finite, got {value}; pass a small positive number.")
        if not 0 <= self.mu < float("inf"):
            raise ValueError(f"GAL: mu must be at least 0 and finite, got {self.mu}; pass 1 for the paper's weight.")
        for name in ("epochs", "mask_step", "accumulate", "round_to"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"GAL: {name} must be a whole number from 1, got {value!r}; pass 1 or more.")
        _among("structures", self.structures, KINDS)
        _among("regularizer", (self.regularizer,), ("ar", "l1", "l2"))
        _among("init", (self.init,), ("ones", "normal"))

    def _budget(self) -> Budget | None:
        return None if self.lambda_ is not None else Budget(macs=self.macs, params=self.params)

    def search(self, model: nn.Module, structure: Structure, task: Task, run: Run) -> Found:
        """Train masks on a copy of the model, and decide what goes.

        Raises:
            InputError: There is no data.
            BudgetError: The budget cannot be reached, whatever the masks say.
        """
        structure = structure.ignoring(self.ignore)
        masks = SoftMasks(structure, self.structures)
        budget = self._budget()
        generator = copied(model)
        if not masks.parts:
            return Found(generator, (), history={"left_out": [list(pair) for pair in masks.left_out]})
        if budget is not None:
            # A budget out of reach fails now, not after training.
            select(structure, masks.scores(), budget, self.round_to)
        learner = self._learner(generator, masks, structure, task, run)
        epochs = train(learner, task.train_batches, self.epochs, run, self.name)
        removed = learner.steering.removed(learner.reach()) if learner.removed is None else learner.removed
        return self._found(model, learner, structure, removed, epochs)

    def objective(self, model: nn.Module, loss: Loss) -> AbstractContextManager[Loss]:
        """The loss unchanged: once removed and folded, nothing of GAL is left to be kept up."""
        return nullcontext(loss)

    def _learner(
        self, generator: nn.Module, masks: SoftMasks, structure: Structure, task: Task, run: Run
    ) -> GALLearner:
        with randomness_kept():
            seed_all(run.seed)
            batches = task.train_batches(0)
            steps = updates_in(batches, self.accumulate)
            baseline, width = frozen_baseline(generator, task, batches, self.accumulate)
        if self.init == "normal":
            with torch.no_grad():
                masks.values.normal_(generator=torch.Generator().manual_seed(run.seed))
        device = device_of(generator)
        sensitivity = Sensitivity(len(masks.values), run.seed)
        steering = Steering(masks, structure, self._budget(), sensitivity, self.round_to)
        kind = torch.float64 if any(p.dtype is torch.float64 for p in generator.parameters()) else torch.float32
        masks.to(device, kind)
        discriminator = Discriminator(width, run.seed).to(device, kind)
        return GALLearner(generator, baseline, discriminator, steering, self, steps)

    def _found(
        self,
        model: nn.Module,
        learner: GALLearner,
        structure: Structure,
        removed: np.ndarray,
        epochs: list[dict[str, float]],
    ) -> Found:
        """Fold what stays into the generator, and tell what happened."""
        masks, generator = learner.masks, learner.generator.model
        values = masks.values.detach().double().cpu().numpy()
        final = settled(masks, values, removed)
        with torch.no_grad():
            masks.values.copy_(torch.from_numpy(final))
        masks.fold(generator)
        for trained, given in zip(generator.modules(), model.modules(), strict=True):
            trained.training = given.training
        final_masks: dict[str, dict[str, list[float]]] = {}
        for part in masks.parts:
            final_masks.setdefault(part.kind, {})[part.name] = np.round(values[part.span], 6).tolist()
        left_out = [list(pair) for pair in masks.left_out]
        history = {"epochs": epochs, "masks": final_masks, "left_out": left_out, "init": self.init}
        return Found(generator, structure.edits(masks.choice(removed)), history=history)


def _among(name: str, values: tuple[str, ...], allowed: tuple[str, ...]) -> None:
    if not values or isinstance(values, str) or len(set(values)) < len(values) or not set(values) <= set(allowed):
        raise ValueError(f"GAL: {name} must be of {', '.join(allowed)}, got {values!r}; check the spelling.")
