"""Which data a gated network is looked at on."""

from collections.abc import Iterable, Sequence
from typing import Any, Literal

from torch import Tensor
from torch.utils import _pytree as pytree

from squeeze.errors import InputError
from squeeze.parity import batch_of
from squeeze.randomness import randomness_kept, seed_all
from squeeze.splitting import spread
from squeeze.task import Batch, Task, evaluated_on, labels_of, tensors_of

Source = Literal["test", "holdout", "train"]


def samples_from(task: Task, order: Sequence[Source], most: int) -> tuple[Source, list[Batch]]:
    """`samples_of` a task that must have some.

    Raises:
        InputError: There is no data.
    """
    found = samples_of(task, order, most)
    if found is None:
        raise InputError(
            "data: must be there to look at what gates do, got none; add --data, or pass a task with data."
        )
    return found


def samples_of(task: Task, order: Sequence[Source], most: int) -> tuple[Source, list[Batch]] | None:
    """The first of some sources that has data, and batches of it; None if none has.

    Args:
        task: Of the network.
        order: Which data is wanted most.
        most: Samples in all.
    """
    for source in order:
        batches = limited(_batches(task, source), most)
        if batches:
            return source, batches
    return None


def limited(batches: Iterable[Batch], most: int) -> list[Batch]:
    """The first batches, the last one cut, so that there are so many samples at most; the same ones each time.

    Samples of a loader that gives them in order are spread over all: see `squeeze.splitting.spread`.
    """
    found: list[Batch] = []
    left = most
    with randomness_kept():
        seed_all(0)
        for batch in spread(batches, most):
            size = batch_of(tensors_of(batch))
            if not size:
                continue
            found.append(rows(batch, slice(left), size) if size > left else batch)
            left -= size
            if left <= 0:
                break
    return found


def rows(batch: Batch, chosen: Any, size: int) -> Batch:
    """Some samples of a batch of `size`; `chosen` indexes their first dimension."""
    return pytree.tree_map(
        lambda leaf: leaf[chosen] if isinstance(leaf, Tensor) and leaf.dim() and len(leaf) == size else leaf, batch
    )


def _batches(task: Task, source: Source) -> Iterable[Batch]:
    if source == "train":
        return task.train_batches(0)
    return evaluated_on(task, source)


def classes_of(task: Task, batch: Batch, features: Tensor) -> Tensor | None:
    """(N,) the class of each sample, below 0 for one without; None if the data has none.

    Args:
        task: May know.
        batch: N samples.
        features: (N, D) the network's of them.

    Raises:
        InputError: There are not as many, or they are none of D classes.
    """
    labels = labels_of(task, batch)
    if labels is None:
        return None
    if labels.shape != features.shape[:1]:
        raise InputError(
            f"data: labels must be one for each of {len(features)} inputs, got shape {tuple(labels.shape)}; mend the "
            "data."
        )
    wrong = labels[labels >= features.shape[1]]
    if len(wrong):
        raise InputError(
            f"data: labels must be classes from 0 to {features.shape[1] - 1}, as many as the network has features, got "
            f"{int(wrong[0])}; pass the data that the model was trained on."
        )
    return labels


def input_of(batch: Batch) -> Tensor | None:
    """The one tensor of floating-point numbers with more than one dimension that a batch holds; None if not one."""
    found = [tensor for tensor in tensors_of(batch) if tensor.is_floating_point() and tensor.dim() > 1]
    return found[0] if len(found) == 1 else None


def image_of(batch: Batch) -> Tensor | None:
    """`input_of` a batch, if it is (N, C, H, W)."""
    found = input_of(batch)
    return found if found is not None and found.dim() == 4 else None


def replaced(batch: Batch, old: Tensor, new: Tensor) -> Batch:
    """The batch with another tensor in the place of one of its own."""
    return pytree.tree_map(lambda leaf: new if leaf is old else leaf, batch)
