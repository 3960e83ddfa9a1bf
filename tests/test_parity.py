"""Trials on which an export is judged, and what counts as a difference."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from squeeze.errors import ExportError
from squeeze.parity import BATCHES, TOLERANCE, batch_of, check_parity, random_like, with_batch


@given(st.integers(1, 5), st.integers(1, 7))
def test_another_batch_repeats_or_cuts(before: int, after: int) -> None:
    inputs = (torch.arange(before * 2).reshape(before, 2), {"mask": torch.arange(before)}, torch.zeros(9, 2), "flag")
    changed = with_batch(inputs, after)
    assert batch_of(changed) == after
    assert torch.equal(changed[0], torch.stack([inputs[0][i % before] for i in range(after)]))
    assert torch.equal(changed[1]["mask"], torch.arange(after) % before)
    assert changed[2:] == inputs[2:]


def test_random_inputs_stay_in_range_and_repeat_with_their_seed() -> None:
    inputs = {"x": torch.rand(4, 50) + 3, "ids": torch.tensor([[2, 5, 7]]), "on": torch.tensor([True, False])}
    first, again, other = (random_like(inputs, seed) for seed in (1, 1, 2))
    assert first["x"].min() >= inputs["x"].min()
    assert first["x"].max() <= inputs["x"].max()
    assert set(first["ids"].flatten().tolist()) <= {2, 5, 7}
    assert first["on"].dtype == torch.bool
    assert torch.equal(first["x"], again["x"])
    assert not torch.equal(first["x"], other["x"])


def test_constant_examples_do_not_make_constant_trials() -> None:
    assert random_like(torch.zeros(3, 100), 0).std() > 0.5


def judge(change: Any, dtype: torch.dtype = torch.float32) -> None:
    check_parity(nn.Identity(), lambda x: [change(x)], torch.linspace(-4, 4, 8, dtype=dtype)[:, None], True, "file")


def test_equal_and_nearly_equal_pass() -> None:
    judge(lambda x: x)
    judge(lambda x: x + 0.9 * TOLERANCE * x.abs().max())
    judge(lambda x: x + 5e-3 * x.abs().max(), torch.float16)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda x: x + 1.2e-4 * 4, "a difference of 0.00048 where 0.0004 is allowed"),
        (lambda x: x[:-1], r"\(7, 1\) torch.float32 instead of \(8, 1\)"),
        (lambda x: x.double(), r"\(8, 1\) torch.float64 instead of"),
        (lambda x: x / (x != x.max()), "infinite or undefined values in other places"),
        (lambda x: x * float("nan"), "infinite or undefined values in other places"),
    ],
)
def test_faults_come_with_figures(change: Any, fault: str) -> None:
    with pytest.raises(ExportError, match=f"file: must compute what Identity computes in PyTorch, got {fault}"):
        judge(change)


def test_whole_numbers_may_flip_rarely() -> None:
    class Count(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.zeros(2000, dtype=torch.long)

    def flipped(count: int) -> list[Tensor]:
        out = torch.zeros(2000, dtype=torch.long)
        out[:count] = 1
        return [out]

    check_parity(Count(), lambda x: flipped(2), torch.zeros(1), False, "file")
    with pytest.raises(ExportError, match=r"0\.15% other values"):
        check_parity(Count(), lambda x: flipped(3), torch.zeros(1), False, "file")


@pytest.mark.parametrize(("dynamic", "sizes"), [(True, {5, *BATCHES}), (False, {5})])
def test_which_batches_are_tried(dynamic: bool, sizes: set[int]) -> None:
    seen = []

    def run(x: Tensor) -> list[Tensor]:
        seen.append(x.shape[0])
        return [x]

    check_parity(nn.Identity(), run, torch.randn(5, 2), dynamic, "file")
    assert set(seen) == sizes
    assert len(seen) == 4


def test_a_run_that_fails_is_named() -> None:
    def run(x: Tensor) -> list[Tensor]:
        raise RuntimeError("\n  no kernel\nfor this")

    with pytest.raises(ExportError, match=r"file: must run on inputs of shape \(1, 2\), got RuntimeError: no kernel;"):
        check_parity(nn.Identity(), run, torch.zeros(1, 2), True, "file")
