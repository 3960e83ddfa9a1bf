"""Which data gates are looked at on."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import squeeze
from squeeze.errors import InputError
from squeeze.gating.inputs import classes_of, image_of, input_of, limited, replaced, rows, samples_from
from tests.tasks import noise_task

IMAGES = torch.arange(40.0).view(10, 1, 2, 2)
LABELS = torch.arange(10)


def test_no_more_than_asked_for_the_last_batch_cut() -> None:
    found = limited([(IMAGES, LABELS), (IMAGES, LABELS)], 13)
    assert [len(labels) for _, labels in found] == [10, 3]
    assert torch.equal(found[1][0], IMAGES[:3])


def test_data_that_is_drawn_at_random_is_the_same_each_time_and_leaves_the_generator_alone() -> None:
    class Random:
        def __iter__(self) -> Iterator[Any]:
            yield torch.rand(4, 3)

    state = torch.get_rng_state()
    assert torch.equal(limited(Random(), 4)[0], limited(Random(), 4)[0])
    assert torch.equal(torch.get_rng_state(), state)


def test_batches_without_samples_are_left_out() -> None:
    assert [len(batch) for batch in limited([IMAGES[:0], IMAGES, IMAGES[:0]], 13)] == [10]
    assert limited([IMAGES[:0]], 13) == []


def test_of_what_is_sorted_by_class_samples_of_all_classes_are_seen() -> None:
    labels = torch.arange(40) // 4
    loader = DataLoader(TensorDataset(torch.rand(40, 3), labels), batch_size=8)
    assert torch.cat([seen for _, seen in limited(loader, 10)]).tolist() == list(range(10))
    held = DataLoader(loader.dataset, batch_size=8, sampler=list(range(0, 40, 2)))
    assert torch.cat([seen for _, seen in limited(held, 10)]).tolist() == list(range(10))


@pytest.mark.parametrize("most", [40, 100])
def test_data_that_are_few_enough_and_orders_of_their_own_stay(most: int) -> None:
    data = TensorDataset(torch.arange(40))
    backwards = list(range(39, -1, -1))
    assert torch.cat([seen for (seen,) in limited(DataLoader(data, 8), most)]).tolist() == list(range(40))
    assert torch.cat([seen for (seen,) in limited(DataLoader(data, 8, sampler=backwards), 4)]).tolist() == backwards[:4]


def test_labels_must_be_classes_of_the_network() -> None:
    task = squeeze.DataTask(torch.nn.Identity, IMAGES[:1])
    assert classes_of(task, IMAGES, torch.zeros(10, 3)) is None
    for labels in (LABELS, LABELS - 1):  # below 0: none of its own
        assert torch.equal(classes_of(task, (IMAGES, labels), torch.zeros(10, 10)), labels)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"labels must be classes from 0 to 8, .* got 9;"):
        classes_of(task, (IMAGES, LABELS), torch.zeros(10, 9))
    with pytest.raises(InputError, match=r"labels must be one for each of 10 inputs, got shape \(4,\)"):
        classes_of(task, (IMAGES, LABELS[:4]), torch.zeros(10, 10))


def test_the_first_source_with_data_counts() -> None:
    task = squeeze.DataTask(torch.nn.Identity, IMAGES[:1], train=[IMAGES[:4]], holdout=[IMAGES[4:6]])
    assert samples_from(task, ("test", "holdout", "train"), 9)[0] == "holdout"
    assert samples_from(noise_task(), ("test", "holdout", "train"), 9)[0] == "train"  # shows nothing else
    with pytest.raises(InputError, match="data: must be there .* got none; add --data"):
        samples_from(task, ("test",), 9)


def test_a_batch_taken_apart() -> None:
    batch = {"pixels": IMAGES, "labels": LABELS, "note": "text"}
    assert input_of(batch) is IMAGES and image_of(batch) is IMAGES
    assert input_of((IMAGES, IMAGES.clone())) is None and input_of(LABELS) is None
    assert image_of(torch.zeros(3, 7)) is None
    part = rows(batch, torch.tensor([1, 3]), 10)
    assert part["labels"].tolist() == [1, 3] and part["note"] == "text"
    changed = replaced(batch, IMAGES, IMAGES + 1)
    assert torch.equal(changed["pixels"], IMAGES + 1) and changed["labels"] is LABELS
