"""The indicator against a slow, obvious reference written with scikit-learn, and against numbers worked out by hand."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from squeeze.errors import InputError
from squeeze.passes.kse import importance, indicator
from squeeze.passes.kse.levels import Setting, cluster_counts


def scaled(values: list[float], constant: float) -> np.ndarray:
    array = np.array(values)
    span = array.max() - array.min()
    return np.full(len(array), constant) if span == 0 else (array - array.min()) / span


def entropy(kernels: np.ndarray) -> float:
    """Of the distances of (N, K²) kernels to their five nearest neighbours, kernel by kernel."""
    count = min(5, len(kernels) - 1)
    if count == 0:
        return 0.0
    distances, _ = NearestNeighbors(n_neighbors=count + 1, algorithm="brute").fit(kernels).kneighbors(kernels)
    density = distances.sum(1)
    shares = [d / density.sum() for d in density if d > 0]
    return -sum(p * np.log2(p) for p in shares)


def reference(weight: Tensor, groups: int = 1, released: bool = False) -> np.ndarray:
    """Channel by channel, as the paper says; or with the entropy of the authors' code, scaled once more."""
    outputs, inputs = weight.shape[:2]
    size = outputs // groups
    flat = weight.double().numpy().reshape(outputs, inputs, -1)
    kernels = [flat[g * size : (g + 1) * size, c] for g in range(groups) for c in range(inputs)]
    s = scaled([float(np.abs(k).sum()) for k in kernels], 1.0)
    if released:
        mixed = np.array(kernels).reshape(size, groups * inputs, -1)
        e = scaled([entropy(mixed[:, c]) for c in range(groups * inputs)], 0.0)
        return scaled(list(np.sqrt(s / (1 + e))), 1.0)
    e = scaled([entropy(k) for k in kernels], 0.0)
    return np.sqrt(s / (1 + e))


SHAPES = [
    ((16, 16, 3, 3), 1),
    ((12, 5, 3, 3), 1),
    ((5, 9, 5, 5), 1),
    ((24, 4, 3, 3), 3),
    ((32, 20, 1, 1), 1),
    ((6, 7), 1),
    ((7, 3, 1, 3), 1),
    ((2, 4, 3, 3), 1),
]


@pytest.mark.parametrize("released", [False, True])
@pytest.mark.parametrize(("shape", "groups"), SHAPES)
def test_agrees_with_the_reference(shape: tuple[int, ...], groups: int, released: bool) -> None:
    weight = torch.randn(*shape, generator=torch.Generator().manual_seed(1))
    assert np.allclose(indicator(weight, groups, released), reference(weight, groups, released), atol=2e-5)


def test_released_entropy_is_that_of_output_filters_where_there_are_as_many() -> None:
    weight = torch.randn(8, 8, 3, 3, dtype=torch.float64)
    transposed = importance(weight.transpose(0, 1).contiguous())
    assert torch.allclose(importance(weight, released=True).entropy, transposed.entropy)


def test_by_hand() -> None:
    # Three numbers for each of two maps: their other two are the neighbours.
    weight = torch.tensor([[0.0, 1.0], [1.0, 2.0], [3.0, 4.0]])
    found = importance(weight)
    assert found.sparsity.tolist() == [4.0, 7.0]
    shares = np.array([4, 3, 5]) / 12
    assert np.allclose(found.entropy, -(shares * np.log2(shares)).sum())
    assert found.indicator.tolist() == [0.0, 1.0]


def test_an_even_map_counts_less_than_an_uneven_one_of_the_same_size() -> None:
    weight = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.1, 0.0], [2.0, 0.2, 0.0], [3.0, 5.7, 0.0]])
    even, uneven, _ = indicator(weight).tolist()
    assert 0 < even < uneven


@pytest.mark.parametrize(
    ("weight", "expected"),
    [
        (torch.randn(8, 1, 3, 3), [1.0]),
        (torch.ones(8, 3, 3, 3), [1.0, 1.0, 1.0]),
        (torch.zeros(8, 2, 3, 3), [1.0, 1.0]),
        (torch.tensor([[[[2.0]], [[0.0]], [[1.0]]]]), [1.0, 0.0, 0.5**0.5]),
        (torch.cat((torch.ones(8, 1, 3, 3), torch.zeros(8, 1, 3, 3)), 1), [1.0, 0.0]),
    ],
    ids=["one map", "all equal", "all zero", "one filter", "a zero map"],
)
def test_what_is_degenerate_is_defined(weight: Tensor, expected: list[float]) -> None:
    assert indicator(weight).tolist() == pytest.approx(expected)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9), st.integers(1, 6), st.sampled_from([1, 3]), st.integers(0, 2**16), st.booleans())
def test_is_a_share_and_follows_its_map(outputs: int, inputs: int, kernel: int, seed: int, released: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randint(-2, 3, (outputs, inputs, kernel, kernel), generator=generator).double()
    found = indicator(weight, released=released)
    assert bool(((found >= 0) & (found <= 1)).all())
    if not released:
        order = torch.randperm(inputs, generator=generator)
        assert torch.allclose(indicator(weight[:, order]), found[order])
        assert torch.allclose(indicator(weight[torch.randperm(outputs, generator=generator)]), found)
        assert torch.allclose(indicator(8 * weight), found)


@pytest.mark.parametrize(
    ("weight", "words"),
    [
        (torch.ones(4, 4, 3, 3, dtype=torch.int64), "real numbers, got torch.int64"),
        (torch.ones(4, 4, 3, 3, dtype=torch.complex64), "real numbers, got torch.complex64"),
        (torch.full((4, 4, 3, 3), torch.nan), "finite"),
        (torch.ones(4, 0, 3, 3), "shape"),
        (torch.ones(4), "shape"),
    ],
)
def test_bad_weights_are_told(weight: Tensor, words: str) -> None:
    with pytest.raises(InputError, match=words):
        indicator(weight)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_judged_in_single(dtype: torch.dtype) -> None:
    weight = torch.randn(8, 4, 3, 3).to(dtype)
    assert torch.equal(indicator(weight), indicator(weight.float()))


@pytest.mark.parametrize(
    ("levels", "shift", "counts"),
    [(3, 0, [0, 32, 64]), (4, 0, [0, 16, 32, 64]), (5, 0, [0, 8, 16, 32, 64]), (5, 1, [0, 4, 8, 16, 64])],
)
def test_levels_are_those_of_the_paper(levels: int, shift: float, counts: list[int]) -> None:
    middles = (np.arange(levels) + 0.5) / levels
    assert cluster_counts(middles, 64, Setting(levels, shift)).tolist() == counts


def test_levels_at_their_borders() -> None:
    borders = np.array([0.0, 0.25, 0.5, 0.75, 1.0])
    assert cluster_counts(borders, 64, Setting(4, 0)).tolist() == [0, 8, 16, 32, 64]
    assert cluster_counts(borders, 64, Setting(4, 0, released=True)).tolist() == [0, 16, 32, 64, 64]
    assert cluster_counts(borders, 3, Setting(4, 9)).tolist() == [0, 1, 1, 1, 3]
