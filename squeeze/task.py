"""What squeeze needs to know about a model: how to call it, feed it, and judge it."""

from collections.abc import Iterable
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from squeeze.blame import first_line, line_of
from squeeze.errors import InputError
from squeeze.modes import in_eval_mode

Inputs = Any
"""How a model is called: a tensor, a tuple of positional arguments, or a dict of keyword arguments."""

Batch = Any
"""What a data loader yields: inputs alone, or a pair ``(inputs, labels)``."""

Split = Literal["holdout", "test"]


@runtime_checkable
class Task(Protocol):
    """A model's purpose, as far as compressing it needs to know."""

    @property
    def name(self) -> str:
        """Shown in reports."""

    @property
    def example_inputs(self) -> Inputs:
        """Inputs the model accepts; see `call`."""

    @property
    def metric(self) -> str:
        """The key of `evaluate` by which checkpoints are chosen (larger is better)."""

    def build(self) -> nn.Module:
        """A fresh dense model, on which a plan can be replayed."""

    def train_batches(self, epoch: int) -> Iterable[Batch]:
        """The training data of one epoch, without what is held out; empty if there is no data.

        Give it a length (``__len__`` or ``__length_hint__``) where it is known: schedules then run from the first
        step, not from the second epoch.
        """

    def loss(self, model: nn.Module, batch: Batch) -> Tensor | None:
        """The supervised loss, a scalar; None if the data has no labels."""

    def features(self, model: nn.Module, batch: Batch) -> Tensor:
        """(N, D): what distillation aligns and GAL's discriminator sees (logits, as a rule)."""

    def evaluate(self, model: nn.Module, split: Split) -> dict[str, float]:
        """Metrics on held-out training data or on the test set; empty if there is none."""


@runtime_checkable
class HasLabels(Protocol):
    """A task that knows the class of each sample; what asks for classes takes the model's word where it is not one."""

    def labels(self, batch: Batch) -> Tensor | None:
        """(N,) int64 classes, each below the number of features; None if the data has none."""


@runtime_checkable
class HasBatches(Protocol):
    """A task that lets others see what it evaluates on."""

    def batches(self, split: Split) -> Iterable[Batch]:
        """The data of `Task.evaluate`; empty if there is none."""


def labels_of(task: Task, batch: Batch) -> Tensor | None:
    """What `HasLabels.labels` says; None without it. A task's attribute of that name may be something else."""
    return task.labels(batch) if isinstance(task, HasLabels) and callable(task.labels) else None


def evaluated_on(task: Task, split: Split) -> Iterable[Batch]:
    """What `HasBatches.batches` gives; nothing without it. A task's attribute of that name may be something else."""
    return task.batches(split) if isinstance(task, HasBatches) and callable(task.batches) else ()


def call(model: nn.Module, inputs: Inputs) -> Any:
    """Run a model on example inputs: ``model(x)``, ``model(*tuple)`` or ``model(**dict)``."""
    if isinstance(inputs, dict):
        return model(**inputs)
    if isinstance(inputs, tuple | list):
        return model(*inputs)
    return model(inputs)


def tensors_of(tree: Any) -> list[Tensor]:
    """All tensors of a nested structure (tuples, lists, dicts, dataclasses), in order."""
    leaves: list[Tensor] = []
    for leaf in pytree.tree_leaves(tree):
        if isinstance(leaf, Tensor):
            leaves.append(leaf)
        elif hasattr(leaf, "__dataclass_fields__"):
            leaves.extend(tensors_of([getattr(leaf, name) for name in leaf.__dataclass_fields__]))
    return leaves


def device_of(model: nn.Module) -> torch.device:
    """Where a model lies; one without parameters on the CPU."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


def widened(tensor: Tensor) -> Tensor:
    """The same numbers in float32, or in float64 if they are: what sums are made in, whatever a model computes in."""
    return tensor if tensor.dtype is torch.float64 else tensor.float()


def check_inputs(model: nn.Module, inputs: Inputs) -> None:
    """Run the model once in eval mode.

    Raises:
        InputError: The model does not accept these inputs.
    """
    try:
        with in_eval_mode(model), torch.no_grad():
            call(model, inputs)
    except Exception as error:
        shapes = ", ".join(str(tuple(t.shape)) for t in tensors_of(inputs)) or "no tensor"
        where = f" at {line}" if (line := line_of(error)) else ""
        raise InputError(
            f"example_inputs: {type(model).__name__} must accept them, got inputs of shape {shapes} "
            f"and {type(error).__name__}: {first_line(error)}{where}; pass inputs of the shape the model was made for, "
            "or mend that line."
        ) from error
