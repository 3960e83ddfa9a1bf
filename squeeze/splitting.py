"""Batches from whatever holds data, and a part of them held out of training."""

import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    TensorDataset,
)

from squeeze.errors import InputError
from squeeze.randomness import randomness_kept
from squeeze.task import Batch

HELD_OUT = 10
"""One in so many training samples (or batches) is held out."""

BATCH = 64
"""Samples a batch, where the data do not say."""


def batches_of(data: Any, shuffle: bool = False) -> Iterable[Batch]:
    """What gives batches anew each time it is iterated.

    Args:
        data: A data loader, a data set, a pair of tensors (inputs, labels), a tensor of inputs, or any collection of
            batches.
        shuffle: Of data sets and tensors; a loader has an order of its own.

    Raises:
        InputError: The data are none of these, or can be read only once.
    """
    tensors = (data,) if isinstance(data, Tensor) else data
    if isinstance(tensors, tuple) and tensors and all(isinstance(part, Tensor) for part in tensors):
        data = TensorDataset(*_of_one_length(tensors))
    if isinstance(data, Dataset):
        stream = isinstance(data, IterableDataset)
        if not stream and not isinstance(data, Sized):
            raise InputError(f"data: {type(data).__name__} must have a length, got none; define __len__.")
        data = DataLoader(data, BATCH, shuffle=shuffle and not stream)
    again = not isinstance(data, Iterator)
    if isinstance(data, str | bytes | Mapping) or not isinstance(data, Iterable) or not again:
        raise InputError(
            f"data: must be a data loader, a data set or a list of batches, got {type(data).__name__}"
            f"{'' if again else ', which cannot be read twice'}; pass such a one, or a pair of tensors."
        )
    if isinstance(data, list | tuple) and any(isinstance(part, Dataset | DataLoader) for part in data):
        raise InputError(
            f"data: must hold batches, got a {type(data).__name__} of data sets or loaders; pass the training data "
            "alone, or a squeeze.DataTask with train, holdout and test."
        )
    return data


def _of_one_length(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    lengths = {len(tensor) if tensor.dim() else 0 for tensor in tensors}
    if len(lengths) > 1:
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in tensors)
        raise InputError(f"data: inputs and labels must be equally many, got shapes {shapes}; drop what has no pair.")
    return tensors


def held_out(data: Any) -> tuple[Iterable[Batch], Iterable[Batch]]:
    """Batches to train on, and batches held out of the same data; which ones is always the same.

    Of data sets and of loaders over them a tenth of the samples is held out, whatever their sampler; other collections
    and streams lend every tenth batch, so what they give should come in the same order each time.

    Args:
        data: See `batches_of`.

    Raises:
        InputError: The data are of another kind, can be read only once, or have no end.
    """
    batches = batches_of(data, shuffle=True)
    if isinstance(batches, DataLoader) and not isinstance(batches.dataset, IterableDataset):
        return _split(batches)
    return _Every(batches, held=False), _Every(batches, held=True)


def spread(batches: Iterable[Batch], most: int) -> Iterable[Batch]:
    """So many samples at most, evenly from all of a loader that gives them in order; all else as it is.

    The first samples of what is sorted by class, as folders of images are, would be of a few classes.
    """
    if not isinstance(batches, DataLoader) or isinstance(batches.dataset, IterableDataset):
        return batches
    sampler: Any = batches.sampler
    ordered = type(sampler) is SequentialSampler or isinstance(sampler, list)
    if batches.batch_size is None or not ordered or len(sampler) <= most:
        return batches
    order = list(sampler)
    if order != sorted(order):
        return batches
    chosen = [order[place * len(order) // most] for place in range(most)]
    return _like(batches, batch_size=batches.batch_size, sampler=chosen)


@dataclass(frozen=True, eq=False)
class _Every:
    """Of a collection of batches, every tenth, or all the others."""

    batches: Iterable[Batch]
    held: bool

    def __iter__(self) -> Iterator[Batch]:
        for number, batch in enumerate(self.batches):
            if (number % HELD_OUT == HELD_OUT - 1) == self.held:
                yield batch

    def __length_hint__(self) -> int:
        total = operator.length_hint(self.batches)
        return total // HELD_OUT if self.held else total - total // HELD_OUT


def _split(loader: DataLoader[Any]) -> tuple[DataLoader[Any], DataLoader[Any]]:
    """Two loaders like the one given, over samples that do not overlap."""
    # Whoever gives a batch sampler leaves batch_size None, and torch then makes a sampler that is not used.
    listed = loader.batch_size is None and loader.batch_sampler is not None
    source: Any = loader.batch_sampler if listed else loader.sampler
    items = _items(source)
    held = _chosen(sorted({index for item in items for index in _indices(item)}), loader)
    kept = [item for item in items if any(index not in held for index in _indices(item))]
    rest = [part for item in items if (part := _part(item, held, True)) is not None]
    train = _Without(source, held, len(kept))
    if listed:
        return _like(loader, batch_sampler=train), _like(loader, batch_sampler=rest)
    size, last = loader.batch_size, loader.drop_last and len(kept) >= (loader.batch_size or 0)
    unique = rest if any(isinstance(item, Sequence) for item in rest) else sorted(held)
    return (
        _like(loader, batch_size=size, sampler=train, drop_last=last),
        _like(loader, batch_size=size, sampler=unique),
    )


def _items(source: Any) -> Sequence[Any]:
    """What a sampler gives in one epoch, without drawing random numbers where it is known."""
    if type(source) in (RandomSampler, SequentialSampler) and len(source) == len(source.data_source):
        if not getattr(source, "replacement", False):
            return range(len(source))
    length = operator.length_hint(source)
    with randomness_kept():
        found = list(islice(source, length + 1))
    if len(found) > length:
        raise InputError(
            f"data: {type(source).__name__} must say how long it is, got {length} and more items than that; define "
            "__len__, or pass a squeeze.DataTask."
        )
    return found


def _indices(item: Any) -> list[int]:
    try:
        return [operator.index(index) for index in (item if isinstance(item, Sequence) else (item,))]
    except TypeError as error:
        raise InputError(
            f"data: its sampler must give whole numbers or lists of them, got {type(item).__name__}; pass a "
            "squeeze.DataTask that says itself what is held out."
        ) from error


def _chosen(indices: Sequence[int], loader: DataLoader[Any]) -> frozenset[int]:
    order = torch.randperm(len(indices), generator=torch.Generator().manual_seed(0)).tolist()
    count, size = len(indices) // HELD_OUT, loader.batch_size or 1
    if count and size > 1 and not loader.drop_last and (len(indices) - count) % size == 1:
        count += 1  # batch norm cannot train on a last batch of one sample
    return frozenset(indices[position] for position in order[:count])


def _part(item: Any, held: frozenset[int], wanted: bool) -> Any:
    """An index, or of a list of indices those that are held out or are not; None if nothing is left."""
    left = [index for index in _indices(item) if (index in held) == wanted]
    return (left or None) if isinstance(item, Sequence) else left[0] if left else None


class _Without(Sampler[Any]):
    """What a sampler gives, without some indices."""

    def __init__(self, source: Iterable[Any], held: frozenset[int], length: int) -> None:
        self._source, self._held, self._length = source, held, length

    def __iter__(self) -> Iterator[Any]:
        for item in self._source:
            part = _part(item, self._held, False)
            if part is not None:
                yield part

    def __len__(self) -> int:
        return self._length


def _like(loader: DataLoader[Any], **batching: Any) -> DataLoader[Any]:
    processes: dict[str, Any] = {}
    if loader.num_workers:
        processes = {
            "prefetch_factor": loader.prefetch_factor,
            "multiprocessing_context": loader.multiprocessing_context,
        }
    return DataLoader(
        loader.dataset,
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory,
        timeout=loader.timeout,
        worker_init_fn=loader.worker_init_fn,
        generator=loader.generator,
        **processes,
        **batching,
    )
