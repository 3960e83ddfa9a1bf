"""A task for whoever has a model and some data, or only a model and inputs."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, RandomSampler, SequentialSampler, Subset, TensorDataset

from squeeze.copying import copied
from squeeze.errors import InputError
from squeeze.task import Batch, Inputs, Split, Task, call, tensors_of

HELD_OUT = 10
"""One in so many training samples (or batches) is held out."""


@dataclass(frozen=True, eq=False)
class DataTask:
    """Batches of inputs, with or without labels, for any model.

    A batch is inputs alone, a pair (inputs, labels), or a dict of keyword arguments in which the key
    ``labels`` may stand besides. Whole numbers as labels mean classes (cross-entropy, accuracy), other
    numbers mean regression (mean squared error, whose negative is the metric).

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

    @property
    def metric(self) -> str:
        """Accuracy for classes, "negative_error" for other numbers."""
        first = next(iter(self.holdout), next(iter(self.test), None))
        labels = None if first is None else split_batch(first)[1]
        return "accuracy" if labels is None or not labels.is_floating_point() else "negative_error"

    def build(self) -> nn.Module:
        """A fresh dense model."""
        return self.builder()

    def train_batches(self, epoch: int) -> Iterable[Batch]:
        """The training data; shuffled by torch's global generator, if at all."""
        return self.train

    def loss(self, model: nn.Module, batch: Batch) -> Tensor | None:
        """Cross-entropy or mean squared error; None without labels."""
        inputs, labels = split_batch(batch)
        if labels is None:
            return None
        output = tensors_of(_called(model, inputs))[0]
        if labels.is_floating_point():
            return functional.mse_loss(output, labels.view_as(output))
        return functional.cross_entropy(output, labels)

    def features(self, model: nn.Module, batch: Batch) -> Tensor:
        """(N, D): the model's first output, flattened."""
        return tensors_of(_called(model, split_batch(batch)[0]))[0].flatten(1)

    def evaluate(self, model: nn.Module, split: Split) -> dict[str, float]:
        """Accuracy, or the negative mean squared error, in eval mode."""
        modes = {module: module.training for module in model.modules()}
        device = next((p.device for p in model.parameters()), torch.device("cpu"))
        total, count, name = 0.0, 0, "accuracy"
        model.eval()
        with torch.no_grad():
            for batch in self.holdout if split == "holdout" else self.test:
                inputs, labels = split_batch(batch)
                if labels is None:
                    break
                output, labels = tensors_of(_called(model, _moved(inputs, device)))[0], labels.to(device)
                if labels.is_floating_point():
                    name, score = "negative_error", -(output - labels.view_as(output)).square().flatten(1).mean(1)
                else:
                    score = (output.argmax(1) == labels).double().view(len(labels), -1).mean(1)
                total, count = total + float(score.double().sum()), count + len(labels)
        for module, mode in modes.items():
            module.training = mode
        return {name: total / count} if count else {}


def as_task(model: nn.Module, data: Any = None, example_inputs: Inputs = None) -> Task:
    """The task that data amounts to.

    Args:
        model: What is to be compressed; copies of it are the dense models of the task.
        data: A `Task`, a data loader, a data set, a pair of tensors (inputs, labels), a tensor of inputs, or any
            collection of batches. A tenth is held out. None for no data.
        example_inputs: If left out, the first sample of the data.

    Raises:
        InputError: There are neither data nor inputs, or the data can be read only once.
    """
    if isinstance(data, Task):
        return data
    train, holdout = held_out(data) if data is not None else ((), ())
    if example_inputs is None:
        first = next(iter(train), None)
        if first is None:
            raise InputError(
                "example_inputs: must be given where there is no data, got none; pass inputs of one sample."
            )
        example_inputs = torch.utils._pytree.tree_map(_first_sample, split_batch(first)[0])
    dense = copied(model)
    return DataTask(lambda: copied(dense), example_inputs, train, holdout)


def held_out(data: Any) -> tuple[Iterable[Batch], Iterable[Batch]]:
    """Batches to train on, and batches held out of the same data; which ones is always the same.

    Raises:
        InputError: The data can be read only once.
    """
    if isinstance(data, Tensor):
        data = TensorDataset(data)
    if isinstance(data, tuple) and all(isinstance(part, Tensor) for part in data):
        data = TensorDataset(*data)
    if isinstance(data, Dataset):
        data = DataLoader(data, batch_size=64, shuffle=True)
    if isinstance(data, DataLoader) and isinstance(data.sampler, RandomSampler | SequentialSampler):
        return _split_loader(data)
    if isinstance(data, Iterator) or not isinstance(data, Iterable):
        raise InputError(
            f"data: must be a data loader, a data set or a list of batches, got {type(data).__name__}, which cannot be "
            "read twice; pass the loader itself, or a list."
        )
    return _Every(data, held=False), _Every(data, held=True)


def _split_loader(loader: DataLoader[Any]) -> tuple[DataLoader[Any], DataLoader[Any]]:
    dataset: Any = loader.dataset
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(0)).tolist()
    held = len(order) // HELD_OUT
    shared: dict[str, Any] = {"num_workers": loader.num_workers, "collate_fn": loader.collate_fn}
    shared["batch_size"] = loader.batch_size
    shuffled = isinstance(loader.sampler, RandomSampler)
    train = DataLoader(Subset(dataset, sorted(order[held:])), shuffle=shuffled, drop_last=loader.drop_last, **shared)
    return train, DataLoader(Subset(dataset, sorted(order[:held])), **shared)


@dataclass(frozen=True, eq=False)
class _Every:
    """Of a collection of batches, every tenth, or all the others."""

    batches: Iterable[Batch]
    held: bool

    def __iter__(self) -> Iterator[Batch]:
        for number, batch in enumerate(self.batches):
            if (number % HELD_OUT == HELD_OUT - 1) == self.held:
                yield batch


def split_batch(batch: Batch) -> tuple[Inputs, Tensor | None]:
    """Inputs and labels of a batch; None where there are none."""
    if isinstance(batch, dict):
        return {name: value for name, value in batch.items() if name != "labels"}, batch.get("labels")
    if isinstance(batch, tuple | list):
        return (batch[0], batch[1]) if len(batch) > 1 else (batch[0], None)
    return batch, None


def _called(model: nn.Module, inputs: Inputs) -> Any:
    """Run the model, and blame the data if its shape does not fit."""
    try:
        return call(model, inputs)
    except RuntimeError as error:
        shapes = ", ".join(str(tuple(t.shape)) for t in tensors_of(inputs))
        raise InputError(
            f"data: batches must fit {type(model).__name__}, got inputs of shape {shapes} and "
            f"{str(error).splitlines()[0]}; pass data of the shape the model was made for."
        ) from error


def _moved(inputs: Inputs, device: torch.device) -> Inputs:
    return torch.utils._pytree.tree_map(lambda leaf: leaf.to(device) if isinstance(leaf, Tensor) else leaf, inputs)


def _first_sample(leaf: Any) -> Any:
    return leaf[:1] if isinstance(leaf, Tensor) and leaf.dim() else leaf
