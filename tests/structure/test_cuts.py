"""What a trial cuts is uneven enough for sizes written in the code to show."""

import numpy as np
import pytest

from squeeze.structure.cuts import first_cut, second_cut

SIZES = (12, 16, 24, 32, 48, 64, 96, 128, 256, 768, 1024)


def stays(size: int, number: int) -> tuple[np.ndarray, np.ndarray]:
    first = first_cut(size, number)
    return ~first, ~second_cut(first, number)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, *SIZES])
def test_something_goes_and_something_stays(size: int) -> None:
    for number in range(20):
        first, second = stays(size, number)
        assert 0 < second.sum() <= first.sum() and (first.sum() < size or size == 1)
        assert not (second & ~first).any()
        assert second.sum() < first.sum() or size < 4


@pytest.mark.parametrize("size", SIZES)
def test_no_slice_from_an_end_holds_what_it_should(size: int) -> None:
    for number in range(20):
        kept = stays(size, number)[0]
        left = int(kept.sum())
        for bound in range(1, size):
            assert kept[:bound].sum() != min(bound, left)


@pytest.mark.parametrize("size", (4, 8, *SIZES))
@pytest.mark.parametrize("parts", [2, 4])
def test_no_computed_share_is_right_in_both_stages(size: int, parts: int) -> None:
    for number in range(20):
        right = [kept[: size // parts].sum() == kept.sum() // parts for kept in stays(size, number)]
        assert not all(right)


def test_widths_differ_from_group_to_group() -> None:
    assert len({int(stays(256, number)[0].sum()) for number in range(16)}) > 8
