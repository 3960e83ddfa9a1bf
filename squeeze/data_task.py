"""A task for whoever has a model and some data, or only a model and inputs."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from accelerate.utils import send_to_device
from torch import Tensor, nn
from torch.nn import functional
from torch.utils import _pytree as pytree

from squeeze.blame import first_line, line_of
from squeeze.copying import copied
from squeeze.errors import InputError, SqueezeError
from squeeze.modes import in_eval_mode
from squeeze.randomness import randomness_kept, seed_all
from squeeze.splitting import held_out
from squeeze.task import Batch, Inputs, Split, Task, call, device_of, tensors_of


@dataclass(frozen=True, eq=False)
class DataTask:
    """Batches of inputs, with or without labels, for any model.

    A batch is inputs alone, a pair (inputs, labels), or a dict of keyword arguments in which the key
    ``labels`` may stand besides. Whole numbers as labels mean classes (cross-entropy, accuracy), other
    numbers mean regression (mean squared error, whose negative is the metric). The model's first output counts.

    Attributes:
        builder: Makes a fresh dense model.
        example_inputs: See `squeeze.task.call`.
        train: Batches, anew each time it is iterated.
        holdout: Training data that is not trained on.
        test: What results are reported on.
        name: Shown in reports.
    """

    builder: Callable[[], nn.Module]
    example_inputs: Inputs
    train: Iterable[Batch] = ()
    holdout: Iterable[Batch] = ()
    test: Iterable[Batch] = ()
    name: str = "data"

    @cached_property
    def metric(self) -> str:
        """Accuracy for classes, "negative_error" for other numbers."""
        with randomness_kept():
            for batches in (self.holdout, self.test, self.train):
                first = next(iter(batches), None)
                labels = None if first is None else split_batch(first)[1]
                if labels is not None:
                    return "negative_error" if labels.is_floating_point() else "accuracy"
        return "accuracy"

    def build(self) -> nn.Module:
        """A fresh dense model."""
        return self.builder()

    def train_batches(self, epoch: int) -> Iterable[Batch]:
        """The training data; shuffled by torch's global generator, if at all."""
        return self.train

    def loss(self, model: nn.Module, batch: Batch) -> Tensor | None:
        """Cross-entropy or mean squared error; None without labels.

        Raises:
            InputError: The batch does not fit the model.
        """
        inputs, labels = split_batch(batch)
        if labels is None:
            return None
        output = _output(model, inputs)
        labels = _fitting(labels, output)
        if labels.is_floating_point():
            return functional.mse_loss(output, labels)
        return functional.cross_entropy(output, labels)

    def batches(self, split: Split) -> Iterable[Batch]:
        """What is held out, or the test set."""
        return self.holdout if split == "holdout" else self.test

    def labels(self, batch: Batch) -> Tensor | None:
        """(N,) the class of each sample; None where labels are no such thing."""
        labels = split_batch(batch)[1]
        return None if labels is None or labels.is_floating_point() or labels.dim() != 1 else labels.long()

    def features(self, model: nn.Module, batch: Batch) -> Tensor:
        """(N, D): the model's first output, flattened.

        Raises:
            InputError: The batch does not fit the model.
        """
        output = _output(model, split_batch(batch)[0])
        return output.flatten(1) if output.dim() > 1 else output.unsqueeze(1)

    def evaluate(self, model: nn.Module, split: Split) -> dict[str, float]:
        """Accuracy, or the negative mean squared error, in eval mode.

        Raises:
            InputError: The data do not fit the model.
        """
        device, total, count, name = device_of(model), 0.0, 0, "accuracy"
        with in_eval_mode(model), torch.no_grad():
            for batch in self.batches(split):
                inputs, labels = split_batch(send_to_device(batch, device))
                if labels is None:
                    break
                name, scores = _scored(_output(model, inputs), labels)
                total, count = total + float(scores.sum()), count + len(scores)
        return {name: total / count} if count else {}


def as_task(model: nn.Module, data: Any = None, example_inputs: Inputs = None) -> Task:
    """The task that data amounts to.

    Args:
        model: What is to be compressed; copies of it are the dense models of the task.
        data: A `Task`, a data loader, a data set, a pair of tensors (inputs, labels), a tensor of inputs, or any
            collection of batches. A tenth is held out, see `squeeze.splitting.held_out`. None for no data.
        example_inputs: If left out, the first sample of the data.

    Raises:
        InputError: There are neither data nor inputs, or the data can be read only once.
    """
    if isinstance(data, Task):
        return data
    train, holdout = held_out(data) if data is not None else ((), ())
    if example_inputs is None:
        first = _first_batch(train)
        if first is None:
            raise InputError(
                "example_inputs: must be given where there is no data, got none; pass inputs of one sample."
            )
        example_inputs = send_to_device(pytree.tree_map(_first_sample, split_batch(first)[0]), device_of(model))
    dense = copied(model)
    return DataTask(lambda: copied(dense), example_inputs, train, holdout)


def _first_batch(batches: Iterable[Batch]) -> Batch | None:
    """Always the same one, also where the data are shuffled or augmented."""
    with randomness_kept():
        seed_all(0)
        return next(iter(batches), None)


def _first_sample(leaf: Any) -> Any:
    return leaf[:1] if isinstance(leaf, Tensor) and leaf.dim() else leaf


def split_batch(batch: Batch) -> tuple[Inputs, Tensor | None]:
    """Inputs and labels of a batch; None where there are none.

    Raises:
        InputError: The labels are no tensor, or the batch has more than two parts.
    """
    labels: Any = None
    inputs = batch
    if isinstance(batch, Mapping):
        inputs, labels = {name: value for name, value in batch.items() if name != "labels"}, batch.get("labels")
    elif isinstance(batch, tuple | list):
        if not 1 <= len(batch) <= 2:
            raise InputError(
                f"data: a batch must be inputs, a pair (inputs, labels) or a dict, got {len(batch)} parts; put several "
                "inputs into a tuple or dict of their own."
            )
        inputs, labels = batch if len(batch) == 2 else (batch[0], None)
    if labels is not None and not isinstance(labels, Tensor):
        raise InputError(
            f"data: labels must be a tensor, got {type(labels).__name__}; for any other loss write a squeeze.Task."
        )
    return inputs, labels


def _output(model: nn.Module, inputs: Inputs) -> Tensor:
    """The model's first output; if there is none, the data is to blame."""
    try:
        outputs = tensors_of(call(model, inputs))
    except (SqueezeError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        where = f" at {line}" if (line := line_of(error)) else ""
        raise InputError(
            f"data: batches must fit {type(model).__name__}, got inputs of shape {_shapes(inputs)} and "
            f"{type(error).__name__}: {first_line(error)}{where}; pass data of the shape the model was made for."
        ) from error
    if not outputs or not outputs[0].dim():
        got = "a single number" if outputs else "no tensor"
        raise InputError(f"data: {type(model).__name__} must return a row a sample, got {got}; write a squeeze.Task.")
    return outputs[0]


def _shapes(inputs: Inputs) -> str:
    return ", ".join(str(tuple(tensor.shape)) for tensor in tensors_of(inputs)) or "no tensor"


def _fitting(labels: Tensor, output: Tensor) -> Tensor:
    """Labels in the shape and type that the loss wants."""
    got = f"got {tuple(labels.shape)} for an output of shape {tuple(output.shape)}"
    if labels.is_floating_point():
        # (N,) and (N, 1) are the same numbers; left alone, the loss would broadcast them into (N, N).
        if [size for size in labels.shape if size > 1] != [size for size in output.shape if size > 1]:
            raise InputError(f"data: numbers as labels must have the output's shape, {got}; reshape them.")
        return labels.to(output.dtype).view_as(output)
    if output.dim() < 2 or labels.shape != (len(output), *output.shape[2:]):
        raise InputError(
            f"data: classes as labels must be (N, ...) for an output of shape (N, classes, ...), {got}; reshape them, "
            "or write a squeeze.Task."
        )
    labels, classes = labels.long(), output.shape[1]
    if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        wrong = int(labels.min()) if int(labels.min()) < 0 else int(labels.max())
        raise InputError(
            f"data: labels must be classes from 0 to {classes - 1}, as many as the model has outputs, got {wrong}; "
            "pass the data that the model was trained on."
        )
    return labels


def _scored(output: Tensor, labels: Tensor) -> tuple[str, Tensor]:
    """The metric's name, and its value for each sample, (N,)."""
    labels = _fitting(labels, output)
    if labels.is_floating_point():
        squares = (output - labels).double().square()
        return "negative_error", -(squares.flatten(1).mean(1) if squares.dim() > 1 else squares)
    right = (output.argmax(1) == labels).double()
    return "accuracy", right.flatten(1).mean(1) if right.dim() > 1 else right
