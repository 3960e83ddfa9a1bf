"""Batched k-means against scikit-learn, and what holds for any result of it."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from torch import Tensor

from squeeze.clustering import kmeans


def reference(points: Tensor, clusters: int) -> float:
    """The inertia that scikit-learn reaches, over all sets."""
    fits = (KMeans(clusters, n_init=10, random_state=0).fit(one.numpy()) for one in points)
    return sum(float(fit.inertia_) for fit in fits)


@pytest.mark.parametrize(
    ("size", "numbers", "clusters"), [(16, 9, 4), (32, 9, 16), (64, 1, 8), (96, 1, 24), (300, 1, 40)]
)
def test_is_as_good_as_scikit_learn(size: int, numbers: int, clusters: int) -> None:
    points = torch.randn(24, size, numbers, generator=torch.Generator().manual_seed(size))
    assert float(kmeans(points, clusters).inertia.sum()) <= 1.02 * reference(points, clusters)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 12), st.integers(1, 3), st.integers(0, 2**16), st.data())
def test_points_go_to_the_nearest_centroid_and_centroids_are_means(
    size: int, numbers: int, seed: int, data: st.DataObject
) -> None:
    clusters = data.draw(st.integers(1, size))
    points = torch.randint(-3, 4, (3, size, numbers), generator=torch.Generator().manual_seed(seed)).double()
    found = kmeans(points, clusters, restarts=2, seed=seed)
    distances = (points.unsqueeze(2) - found.centroids.unsqueeze(1)).square().sum(-1)
    nearest = distances.gather(2, found.index.unsqueeze(2))[..., 0]
    assert torch.allclose(nearest, distances.amin(2), atol=1e-9)
    assert torch.allclose(found.inertia, nearest.sum(1), atol=1e-9)
    for one, index, centroids in zip(points, found.index, found.centroids, strict=True):
        for number in index.unique():
            assert torch.allclose(centroids[number], one[index == number].mean(0), atol=1e-9)


@pytest.mark.parametrize("numbers", [1, 4])
def test_as_many_clusters_as_different_points_are_exact(numbers: int) -> None:
    values = torch.randn(5, 6, numbers)
    points = values.repeat(1, 3, 1)[:, torch.randperm(18)]
    found = kmeans(points, 6)
    assert float(found.inertia.max()) < 1e-10
    assert torch.allclose(found.centroids.gather(1, found.index.unsqueeze(-1).expand_as(points)), points, atol=1e-5)


@pytest.mark.parametrize("numbers", [1, 2])
def test_more_clusters_than_different_points_leave_no_gap(numbers: int) -> None:
    points = torch.tensor([0.0, 0.0, 1.0, 1.0, 1.0]).view(1, 5, 1).expand(-1, -1, numbers)
    found = kmeans(points, 4)
    assert float(found.inertia.max()) == 0
    assert bool(found.centroids.isfinite().all())


def test_the_same_seed_gives_the_same_and_leaves_the_global_one_alone() -> None:
    points, before = torch.randn(4, 20, 3), torch.get_rng_state()
    first, second = kmeans(points, 5, seed=3), kmeans(points, 5, seed=3)
    assert torch.equal(first.centroids, second.centroids)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("clusters", [0, 6])
def test_clusters_must_be_possible(clusters: int) -> None:
    with pytest.raises(ValueError, match="from 1 to the 5 points"):
        kmeans(torch.zeros(1, 5, 2), clusters)


def test_one_cluster_is_the_mean() -> None:
    points = torch.randn(3, 7, 2, dtype=torch.float64)
    assert np.allclose(kmeans(points, 1).centroids[:, 0], points.mean(1))
