"""Samples held out are never trained on, whatever the loader's sampler, and the loader stays what it was."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Sampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from squeeze.data_task import as_task
from squeeze.errors import InputError
from squeeze.splitting import batches_of, held_out

SAMPLES = TensorDataset(torch.arange(100))
"""Sample i is the number i."""


def numbers(batches: Iterable[Any]) -> list[int]:
    return [int(number) for (batch,) in batches for number in torch.atleast_1d(batch)]


class Rows(Dataset):
    """Reads a whole list of samples at once, as data on disk do."""

    def __getitem__(self, rows: list[int]) -> tuple[Tensor]:
        return (torch.tensor(rows),)

    def __len__(self) -> int:
        return 100


SAMPLERS = {
    "shuffled": lambda: DataLoader(SAMPLES, 8, shuffle=True),
    "in order": lambda: DataLoader(SAMPLES, 8),
    "a part": lambda: DataLoader(SAMPLES, 8, sampler=SubsetRandomSampler(range(30, 90))),
    "a part, by numpy": lambda: DataLoader(SAMPLES, 8, sampler=SubsetRandomSampler(np.arange(30, 90))),
    "a part, by tensor": lambda: DataLoader(SAMPLES, 8, sampler=SubsetRandomSampler(torch.arange(30, 90))),
    "a list": lambda: DataLoader(SAMPLES, 8, sampler=list(range(30, 90))),
    "with replacement": lambda: DataLoader(SAMPLES, 8, sampler=RandomSampler(SAMPLES, True, 150)),
    "weighted": lambda: DataLoader(SAMPLES, 8, sampler=WeightedRandomSampler([1.0] * 50 + [9.0] * 50, 200)),
    "batch sampler": lambda: DataLoader(SAMPLES, batch_sampler=BatchSampler(RandomSampler(SAMPLES), 8, False)),
    "one by one": lambda: DataLoader(SAMPLES, None, shuffle=True),
    "lists of rows": lambda: DataLoader(Rows(), None, sampler=BatchSampler(RandomSampler(Rows()), 8, False)),
    "generator": lambda: DataLoader(SAMPLES, 8, shuffle=True, generator=torch.Generator().manual_seed(3)),
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_held_out_samples_are_never_trained_on(name: str) -> None:
    loader = SAMPLERS[name]()
    given = set(range(30, 90)) if name.startswith("a ") else set(range(100))
    train, holdout = held_out(loader)
    held = numbers(holdout)
    trained = [number for _ in range(4) for number in numbers(train)]
    assert not set(trained) & set(held)
    assert len(held) == len(set(held)) and held == numbers(holdout)
    if name in ("with replacement", "weighted"):
        assert 5 <= len(held) <= 10 and set(trained) < given
    else:
        assert len(held) == len(given) // 10 and sorted(trained) == sorted([*given - set(held)] * 4)


@pytest.mark.parametrize("name", ["shuffled", "a part", "weighted", "batch sampler", "lists of rows"])
def test_training_data_are_shuffled_by_the_global_generator(name: str) -> None:
    train, _ = held_out(SAMPLERS[name]())
    epochs = []
    for seed in (1, 2, 1):
        torch.manual_seed(seed)
        epochs.append(numbers(train))
    assert epochs[0] == epochs[2] != epochs[1]


@pytest.mark.parametrize("name", SAMPLERS)
def test_holding_out_draws_no_random_numbers(name: str) -> None:
    loader = SAMPLERS[name]()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    held_out(loader)
    assert torch.equal(torch.rand(3), expected)


def test_a_loader_keeps_its_settings() -> None:
    def seeded(worker: int) -> None:
        """For worker_init_fn."""

    given = DataLoader(
        SAMPLES, 8, True, num_workers=2, collate_fn=len, worker_init_fn=seeded, timeout=7, drop_last=True
    )
    train, holdout = held_out(given)
    for part in (train, holdout):
        assert isinstance(part, DataLoader)
        for name in ("dataset", "batch_size", "num_workers", "collate_fn", "worker_init_fn", "timeout", "generator"):
            assert getattr(part, name) == getattr(given, name), name
    assert (train.drop_last, holdout.drop_last) == (True, False)
    assert (len(train), len(holdout)) == (11, 2)


def test_workers_give_the_same_data() -> None:
    train, holdout = held_out(DataLoader(SAMPLES, 8, num_workers=1, multiprocessing_context="spawn"))
    alone, held = held_out(DataLoader(SAMPLES, 8))
    assert numbers(holdout) == numbers(held)
    assert isinstance(train, DataLoader) and train.multiprocessing_context.get_start_method() == "spawn"


@given(size=st.integers(0, 80), batch=st.integers(1, 20), drop_last=st.booleans())
def test_every_sample_is_in_one_part_and_no_last_batch_is_one_sample(size: int, batch: int, drop_last: bool) -> None:
    given = DataLoader(TensorDataset(torch.arange(size)), batch, shuffle=size > 0, drop_last=drop_last)
    train, holdout = held_out(given)
    sizes, held = [len(x) for (x,) in train], numbers(holdout)
    assert size // 10 <= len(held) <= size // 10 + 1
    whole = (size - len(held)) // batch * batch
    assert sum(sizes) == (whole if drop_last and whole else size - len(held))
    assert size < 10 or batch == 1 or sizes[-1] > 1
    assert len(train) == len(sizes)


class Endless(Sampler[int]):
    def __iter__(self) -> Iterator[int]:
        while True:
            yield 0


class Named(Sampler[str]):
    def __iter__(self) -> Iterator[str]:
        return iter(["a", "b"])

    def __len__(self) -> int:
        return 2


class Letters(Dataset):
    def __getitem__(self, name: str) -> int:
        return ord(name)


class Stream(IterableDataset):
    def __iter__(self) -> Iterator[Tensor]:
        return iter(torch.arange(200.0).view(200, 1))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (DataLoader(SAMPLES, 8, sampler=Endless()), ("Endless", "__len__")),
        (DataLoader(Letters(), 2, sampler=Named()), ("whole numbers", "str", "DataTask")),
        (Letters(), ("Letters", "__len__")),
        ("digits", ("list of batches", "str")),
        ({"x": torch.ones(3)}, ("list of batches", "dict")),
        (iter([1]), ("list of batches", "cannot be read twice")),
        ((torch.ones(3, 2), torch.ones(4)), ("equally many", "(3, 2), (4,)")),
        ((SAMPLES, SAMPLES), ("tuple of data sets", "squeeze.DataTask")),
        (nn.Linear(1, 1), ("list of batches", "Linear")),
    ],
)
def test_what_cannot_be_split_is_refused_in_one_line(data: Any, words: tuple[str, ...]) -> None:
    with pytest.raises(InputError) as caught:
        held_out(data)
    assert str(caught.value).startswith("data: ") and str(caught.value).isprintable()
    for word in words:
        assert word in str(caught.value)


def test_streams_are_batched_and_lend_every_tenth_batch() -> None:
    train, holdout = held_out(Stream())
    sizes = [len(batch) for batch in batches_of(Stream())]
    assert sizes == [64, 64, 64, 8] == [len(batch) for batch in train]
    assert list(holdout) == []
    train, holdout = held_out(DataLoader(Stream(), 4))
    assert [int(batch[0]) for batch in holdout] == [36, 76, 116, 156, 196]
    assert sum(len(batch) for batch in train) == 180


def test_a_list_of_batches_says_how_many_there_are() -> None:
    train, holdout = held_out([torch.ones(2)] * 25)
    assert [part.__length_hint__() for part in (train, holdout)] == [23, 2] == [len(list(p)) for p in (train, holdout)]


def test_example_inputs_do_not_depend_on_what_was_drawn_before() -> None:
    first = as_task(nn.Identity(), DataLoader(SAMPLES, 8, shuffle=True)).example_inputs
    torch.manual_seed(17)
    state = torch.get_rng_state()
    assert torch.equal(as_task(nn.Identity(), DataLoader(SAMPLES, 8, shuffle=True)).example_inputs, first)
    assert torch.equal(torch.get_rng_state(), state)
