"""Which data gates are looked at on."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

import squeeze
from squeeze.errors import InputError
from squeeze.gating.inputs import image_of, input_of, limited, replaced, rows, samples_from
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
