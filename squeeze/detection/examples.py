"""Clean and attacked inputs of a network, as the codes that they make."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from accelerate.utils import send_to_device
from torch import Tensor, nn

from squeeze.detection.attacks import Attack, Box, Logits
from squeeze.errors import InputError
from squeeze.gating.codes import Codes, gather, require_finite
from squeeze.gating.inputs import Source, classes_of, input_of, replaced, rows, samples_from
from squeeze.modes import in_eval_mode
from squeeze.randomness import randomness_kept, seed_all
from squeeze.task import Batch, Task, device_of


@dataclass(frozen=True, eq=False)
class Examples:
    """Inputs that the network sees rightly, and what attacks made of them.

    Attributes:
        clean: Codes of those that were seen rightly before any attack.
        attacked: By name of the attack, codes of those that it made the network see as something else; None where it
            never did.
        origins: By name of the attack, (A,) the numbers of the clean inputs that those were.
        success: By name of the attack, the share of the clean inputs for which it did.
    """

    clean: Codes
    attacked: Mapping[str, Codes | None]
    origins: Mapping[str, np.ndarray]
    success: Mapping[str, float]


@dataclass(frozen=True, eq=False)
class Sides:
    """Batches to fit on, and others to judge by.

    Attributes:
        fit: Held-out training data, or training data.
        judge: Test data; held-out data or the other half of the training data where there is none.
        sources: Where each is from.
    """

    fit: list[Batch]
    judge: list[Batch]
    sources: tuple[Source, Source]

    def box(self) -> Box:
        """The range of all inputs.

        Raises:
            InputError: There is none.
        """
        found = Box.of(*(_input(batch).cpu() for batch in (*self.fit, *self.judge)))
        if not bool((found.low.isfinite() & found.high.isfinite()).all()):
            raise InputError("data: inputs must be finite numbers, got nan or infinity; leave such inputs out.")
        return found


def sides_of(task: Task, most: int) -> Sides:
    """Two parts of the data that share no input.

    Args:
        task: Of the network.
        most: Inputs of each part.

    Raises:
        InputError: There is no data, or it is of a form that cannot be attacked.
    """
    judged_by, judge = samples_from(task, ("test", "holdout", "train"), most)
    if judged_by == "train":
        _, both = samples_from(task, ("train",), 2 * most)
        fit, judge = _halves(both)
        if not (fit and judge):
            raise InputError("detect: must have two inputs, to fit on and to judge by, got one; pass more data.")
        return Sides(fit, judge, ("train", "train"))
    order: tuple[Source, ...] = ("holdout", "train") if judged_by == "test" else ("train",)
    fitted_on, fit = samples_from(task, order, most)
    return Sides(fit, judge, (fitted_on, judged_by))


def _halves(batches: Sequence[Batch]) -> tuple[list[Batch], list[Batch]]:
    """Every other input, and the inputs between."""
    halves: tuple[list[Batch], list[Batch]] = [], []
    count = 0
    for batch in batches:
        size = len(_input(batch))
        for side, half in enumerate(halves):
            first = (side + count) % 2
            if first < size:
                half.append(rows(batch, slice(first, None, 2), size))
        count += size
    return halves


def examples(
    model: nn.Module,
    task: Task,
    batches: Sequence[Batch],
    attacks: Sequence[Attack],
    box: Box,
    per_class: int | None = None,
) -> Examples:
    """Attack inputs, and gather codes before and after.

    Args:
        model: Gated; left as it is.
        task: Knows how the model is called, and may know labels; without them what the model sees counts as right.
        batches: The data.
        attacks: Each with a name of its own.
        box: The range of the data.
        per_class: So many clean inputs of each class at most.

    Raises:
        InputError: Batches cannot be attacked, or the network sees none rightly.
    """
    device = device_of(model)
    box = box.to(device)
    right = _right(model, task, [send_to_device(batch, device) for batch in batches], per_class)
    clean = require_finite(gather(model, task, [batch for batch, _ in right]))
    attacked: dict[str, Codes | None] = {}
    origins, success = {}, {}
    for attack in attacks:
        made, missed = [], []
        with randomness_kept():
            seed_all(0)
            for batch, classes in right:
                after, fooled = _attacked(model, task, batch, classes, attack, box)
                made += [rows(after, fooled, len(fooled))] if fooled.any() else []
                missed.append(fooled.cpu().numpy())
        each = np.concatenate(missed)
        attacked[attack.name] = gather(model, task, made) if made else None
        origins[attack.name], success[attack.name] = np.flatnonzero(each), float(each.mean())
    return Examples(clean, attacked, origins, success)


def _right(model: nn.Module, task: Task, batches: Sequence[Batch], per_class: int | None) -> list[tuple[Batch, Tensor]]:
    """The inputs that the network sees rightly, in their batches, with their classes."""
    found, taken = [], dict[int, int]()
    for batch in batches:
        seen = _logits(model, task, batch)
        if seen.shape[1] < 2:
            raise InputError(
                f"detect: {type(model).__name__} must tell classes apart, got {seen.shape[1]} feature an input; "
                "attacks need at least two."
            )
        predicted = seen.argmax(1)
        labels = classes_of(task, batch, seen)
        keep = torch.ones_like(predicted, dtype=torch.bool) if labels is None else predicted == labels
        if per_class is not None:
            keep &= _within(predicted, keep, per_class, taken)
        if keep.any():
            found.append((rows(batch, keep, len(keep)), predicted[keep]))
    if not found:
        raise InputError("detect: must have inputs that the network sees rightly, got none; check data and labels.")
    return found


def _within(classes: Tensor, keep: Tensor, most: int, taken: dict[int, int]) -> Tensor:
    """Which of the kept inputs are among the first so many of their class; what is taken is counted in `taken`."""
    found = torch.zeros_like(keep)
    for place in keep.nonzero().flatten().tolist():
        label = int(classes[place])
        taken[label] = taken.get(label, 0) + 1
        found[place] = taken[label] <= most
    return found


def _attacked(
    model: nn.Module, task: Task, batch: Batch, classes: Tensor, attack: Attack, box: Box
) -> tuple[Batch, Tensor]:
    """The batch after the attack, and (B,) which inputs the network then sees as something else."""
    inputs = _input(batch)
    with in_eval_mode(model):
        changed = attack(_attackable(model, task, batch), inputs, classes, box)
    after = replaced(batch, inputs, changed.detach())
    return after, _logits(model, task, after).argmax(1) != classes


def _attackable(model: nn.Module, task: Task, batch: Batch) -> Logits:
    size = len(_input(batch))

    def logits(inputs: Tensor, chosen: Tensor | None = None) -> Tensor:
        part = batch if chosen is None else rows(batch, chosen, size)
        return task.features(model, replaced(part, _input(part), inputs))

    return logits


def _logits(model: nn.Module, task: Task, batch: Batch) -> Tensor:
    with in_eval_mode(model), torch.no_grad():
        return task.features(model, batch)


def _input(batch: Batch) -> Tensor:
    found = input_of(batch)
    if found is None:
        raise InputError(
            "detect: a batch must hold one tensor of floating-point numbers, got none or several; attacks change that "
            "one."
        )
    return found
