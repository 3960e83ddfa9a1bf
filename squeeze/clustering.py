"""K-means of many small sets of points at once, as kernels of a convolution are clustered."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

ITERATIONS = 100
"""Of Lloyd's algorithm at most; it stops when no point moves any more."""

_STARTS = 128
"""Restarts times clusters at most."""

_FEW = 32
"""Clusters on a line for which starts are drawn as k-means++ does; with more, the points' density is as good."""

_SPREAD = 256
"""Restarts from the density times clusters at most; there are four at most."""

_WORTH = 1e-2
"""By how much more a split must gain than a merge costs: less is not worth a step."""

_NUMBERS = 2**23
"""How many distances are held in memory at one time."""


@dataclass(frozen=True, eq=False)
class Clustering:
    """Of B sets of N points into k clusters each.

    Attributes:
        centroids: (B, k, D), each the mean of its points.
        index: (B, N) int64, which centroid is nearest to each point.
        inertia: (B,) sums of squared distances from the points to their centroids.
    """

    centroids: Tensor
    index: Tensor
    inertia: Tensor


def kmeans(points: Tensor, clusters: int, restarts: int = 16, seed: int = 0) -> Clustering:
    """Cluster B sets of points, each by itself, all in one run.

    Starts as k-means++ does, with the best of several candidates for every centroid, and keeps the best of several
    restarts for each set. On a line (D = 1) clusters are also split and merged.

    Args:
        points: (B, N, D) floating point.
        clusters: k, from 1 to N.
        restarts: How often each set is clustered anew; with many clusters less often, as less hangs on the start.
        seed: Of the random numbers; the global generators are left alone.

    Raises:
        ValueError: There are fewer points than clusters, or no cluster is asked for.
    """
    sets, size, _ = points.shape
    if not 1 <= clusters <= size:
        raise ValueError(
            f"kmeans: clusters must be from 1 to the {size} points of a set, got {clusters}; ask for fewer."
        )
    generator = torch.Generator().manual_seed(seed)
    restarts = max(1, min(restarts, _STARTS // clusters))
    search = _best
    if points.shape[2] == 1:
        search, restarts = (
            (_best_on_a_line, restarts) if clusters <= _FEW else (_from_density, max(1, min(4, _SPREAD // clusters)))
        )
    share = max(1, _NUMBERS // (size * max(clusters, 4) * restarts))
    parts = [search(chunk, clusters, restarts, generator) for chunk in points.split(share)]
    return Clustering(
        torch.cat([part.centroids for part in parts]),
        torch.cat([part.index for part in parts]),
        torch.cat([part.inertia for part in parts]),
    )


def _best(points: Tensor, clusters: int, restarts: int, generator: torch.Generator) -> Clustering:
    repeated = points.repeat_interleave(restarts, 0)
    return _best_of(_lloyd(repeated, _plus_plus(repeated, clusters, generator)), restarts)


def _best_on_a_line(points: Tensor, clusters: int, restarts: int, generator: torch.Generator) -> Clustering:
    repeated = points.repeat_interleave(restarts, 0)
    starts = _plus_plus(repeated, clusters, generator)[..., 0].double().sort(dim=1).values
    return _best_of(_on_a_line(repeated, starts), restarts)


def _from_density(points: Tensor, clusters: int, restarts: int, generator: torch.Generator) -> Clustering:
    """On a line, with many clusters: starts as dense as the cube root of the points' density, which is nearly best.

    Every start is somewhere in its share of the points.
    """
    repeated = points.repeat_interleave(restarts, 0)
    values = repeated[..., 0].double().sort(dim=1).values
    mass = functional.pad((values.diff(dim=1) ** (2 / 3)).cumsum(1), (1, 0))
    shares = torch.rand(len(repeated), clusters, generator=generator, dtype=torch.float64).to(values.device)
    marks = (torch.arange(clusters, device=values.device) + shares) / clusters
    places = torch.searchsorted(mass, mass[:, -1:] * marks).clamp_(max=values.shape[1] - 1)
    return _best_of(_on_a_line(repeated, values.gather(1, places)), restarts)


def _best_of(found: Clustering, restarts: int) -> Clustering:
    """Of so many results for each set, which stand one after the other."""
    best = found.inertia.view(-1, restarts).argmin(1)
    rows = best + restarts * torch.arange(len(best), device=best.device)
    return Clustering(found.centroids[rows], found.index[rows], found.inertia[rows])


def _plus_plus(points: Tensor, clusters: int, generator: torch.Generator) -> Tensor:
    """(P, k, D) points far from one another: Arthur and Vassilvitskii 2007, greedily, as scikit-learn does."""
    sets, size, _ = points.shape
    rows = torch.arange(sets, device=points.device)
    trials = 2 + clusters.bit_length() // 2

    def draw(count: int) -> Tensor:
        return torch.rand(sets, count, generator=generator).to(points)

    chosen = [(draw(1) * size).long().clamp_(max=size - 1)[:, 0]]
    nearest = (points - points[rows, chosen[0]].unsqueeze(1)).square().sum(-1)
    for _ in range(clusters - 1):
        mass = nearest.cumsum(1)
        candidates = torch.searchsorted(mass, draw(trials) * mass[:, -1:]).clamp_(max=size - 1)
        there = points.gather(1, candidates.unsqueeze(-1).expand(-1, -1, points.shape[2]))
        distances = torch.minimum(nearest.unsqueeze(1), _distances(there, points))
        best = distances.sum(-1).argmin(1)
        nearest = distances[rows, best]
        chosen.append(candidates[rows, best])
    return points[rows.unsqueeze(1), torch.stack(chosen, 1)]


def _distances(a: Tensor, b: Tensor) -> Tensor:
    """(P, n, m) squared distances."""
    squares = a.square().sum(-1, keepdim=True) + b.square().sum(-1).unsqueeze(1)
    return torch.baddbmm(squares, a, b.transpose(1, 2), alpha=-2).clamp_(min=0)


def _lloyd(points: Tensor, centroids: Tensor) -> Clustering:
    """Assign, average, and again, until no point of a set moves; sets that are done wait for the others."""
    index = torch.full(points.shape[:2], -1, device=points.device)
    active = torch.arange(len(points), device=points.device)
    for _ in range(ITERATIONS):
        here = points[active]
        distance, nearest = _distances(here, centroids[active]).min(2)
        moved = (nearest != index[active]).any(1)
        index[active] = nearest
        active, here, nearest, distance = active[moved], here[moved], nearest[moved], distance[moved]
        if not len(active):
            break
        centroids[active] = _means(here, nearest, distance, centroids[active])
    inertia = (points - centroids.gather(1, _wide(index, points))).square().sum((1, 2))
    return Clustering(centroids, index, inertia)


def _means(points: Tensor, index: Tensor, distance: Tensor, before: Tensor) -> Tensor:
    """(P, k, D) the mean of each cluster; one without points moves to a point that is far from its own centroid."""
    clusters = before.shape[1]
    sums = torch.zeros_like(before).scatter_add_(1, _wide(index, points), points)
    counts = points.new_zeros(before.shape[:2]).scatter_add_(1, index, torch.ones_like(distance))
    means = sums / counts.clamp(min=1).unsqueeze(-1)
    empty = counts == 0
    most = int(empty.sum(1).max())
    if most:
        far = distance.topk(min(most, points.shape[1]), 1).indices
        turn = (empty.cumsum(1) - 1).clamp(0, far.shape[1] - 1)
        spare = points.gather(1, _wide(far.gather(1, turn), points))
        means = torch.where(empty.unsqueeze(-1), spare, means)
    return means.view(-1, clusters, points.shape[2])


def _wide(index: Tensor, points: Tensor) -> Tensor:
    return index.unsqueeze(-1).expand(-1, -1, points.shape[2])


def _on_a_line(points: Tensor, starts: Tensor) -> Clustering:
    """Numbers are sorted once; then clusters are intervals, and their means differences of one running sum.

    Args:
        points: (B, N, 1).
        starts: (B, k) centroids to begin with, ascending.
    """
    values, order = points[..., 0].double().sort(dim=1)
    size = values.shape[1]
    sums = functional.pad(values.cumsum(1), (1, 0))
    edges = _settled(values, sums, _edges(values, starts))
    centroids, _ = _interval_means(sums, edges)
    places = torch.arange(size, device=values.device).expand_as(values).contiguous()
    which = torch.searchsorted(edges[:, 1:-1].contiguous(), places, right=True)
    inertia = (values - centroids.gather(1, which)).square().sum(1)
    index = torch.empty_like(which).scatter_(1, order, which)
    return Clustering(centroids.unsqueeze(-1).to(points.dtype), index, inertia.to(points.dtype))


def _settled(values: Tensor, sums: Tensor, edges: Tensor) -> Tensor:
    """Move the borders to the middles between means, and swap, until neither changes a set; those are done."""
    clusters = edges.shape[1] - 1
    active = torch.arange(len(values), device=values.device)
    quiet = torch.zeros(len(values), dtype=torch.int64, device=values.device)
    for turn in range(ITERATIONS):
        here, totals, before = values[active], sums[active], edges[active]
        means, _ = _interval_means(totals, before)
        moved = _edges(here, means.cummax(1).values)
        moved = _swapped(here, totals, moved, turn % 2) if clusters > 2 else moved
        edges[active] = moved
        # A swap looks at every second border: what is quiet twice is done.
        quiet[active] = torch.where((moved == before).all(1), quiet[active] + 1, 0)
        active = active[quiet[active] < 2]
        if not len(active):
            break
    return edges


def _edges(values: Tensor, centroids: Tensor) -> Tensor:
    """(B, k + 1) where the points of each centroid begin and end among the sorted ones."""
    middles = (centroids[:, 1:] + centroids[:, :-1]) / 2
    edges = functional.pad(torch.searchsorted(values, middles.contiguous()), (1, 1))
    edges[:, -1] = values.shape[1]
    return edges


def _interval_means(sums: Tensor, edges: Tensor) -> tuple[Tensor, Tensor]:
    """(B, k) the mean of each interval (an empty one has its neighbour's point), and how many points it has."""
    counts = edges.diff(dim=1)
    values = sums.diff(dim=1)
    nearby = values.gather(1, edges[:, :-1].clamp(max=values.shape[1] - 1))
    means = sums.gather(1, edges).diff(dim=1) / counts.clamp(min=1)
    return torch.where(counts > 0, means, nearby), counts


def _swapped(values: Tensor, sums: Tensor, edges: Tensor, parity: int) -> Tensor:
    """Where splitting an interval at its mean gains more than merging two others costs, do both; several at once.

    Borders of one parity are looked at, so that no two of the merged pairs share an interval.
    """
    means, counts = _interval_means(sums, edges)
    cuts = torch.searchsorted(values, means.contiguous()).clamp(edges[:, :-1], edges[:, 1:])
    left, right = cuts - edges[:, :-1], edges[:, 1:] - cuts
    total = sums.gather(1, cuts)
    low = (total - sums.gather(1, edges[:, :-1])) / left.clamp(min=1)
    high = (sums.gather(1, edges[:, 1:]) - total) / right.clamp(min=1)
    several = max(1, means.shape[1] // 16)
    gain, split = _between(left, right, low - high).topk(several, 1)
    halved = torch.zeros_like(means, dtype=torch.bool).scatter_(1, split, True)
    cost = _between(counts[:, :-1], counts[:, 1:], means[:, :-1] - means[:, 1:])
    wrong = torch.arange(cost.shape[1], device=edges.device) % 2 != parity
    cost = cost.masked_fill(halved[:, :-1] | halved[:, 1:] | wrong, torch.inf)
    least, merge = cost.topk(several, 1, largest=False)
    border = torch.where(gain > least * (1 + _WORTH), cuts.gather(1, split), edges.gather(1, merge + 1))
    return edges.scatter(1, merge + 1, border).sort(1).values


def _between(first: Tensor, second: Tensor, difference: Tensor) -> Tensor:
    """By how much two clusters of so many points are better than one."""
    return first * second / (first + second).clamp(min=1) * difference.square()
