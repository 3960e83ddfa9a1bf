"""How much codes tell of a class: mutual information of single filters, in bits."""

import numpy as np


def entropy(counts: np.ndarray) -> np.ndarray:
    """Of the distributions along the last axis, by their relative frequencies; in bits.

    Args:
        counts: (..., K) at least one of each K above 0.
    """
    shares = counts / counts.sum(-1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(shares > 0, -shares * np.log2(shares), 0.0)
    found: np.ndarray = terms.sum(-1)
    return found


def filter_information(on: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """(N,) I(a; z_n) of each single filter, in bits, less what would be found by chance.

    The plug-in estimate H(z) + H(a) - H(z, a) is too large, the more so the fewer inputs a class has. What is taken off
    is its mean over all ways to deal the same codes out to the inputs (Vinh et al., ICML 2009). So a filter that tells
    nothing is at 0 on average, however few inputs there are, and may be a little below it; of one that tells something
    this is too much, so that it is rather said to tell too little.

    Args:
        on: (S, N) bool.
        classes: (S,) whole numbers.
    """
    labels = np.unique(classes)
    hot = (classes[:, None] == labels).astype(np.float64)
    both = np.stack([hot.T @ on, hot.T @ ~on], -1).transpose(1, 0, 2)  # (N, K, 2)
    plain = entropy(both.sum(1)) + entropy(hot.sum(0)) - entropy(both.reshape(len(both), -1))
    found: np.ndarray = plain - _by_chance(both)
    return found


def _by_chance(both: np.ndarray) -> np.ndarray:
    """(N,) the mean information, in bits, of counts (N, K, 2) with the same sums; only these count."""
    from sklearn.metrics.cluster import expected_mutual_information  # takes a second to import

    sums, first, rows = np.unique(both[:, :, 0].sum(1), return_index=True, return_inverse=True)
    size = int(both[0].sum())
    means = [
        0.0 if total in (0, size) else expected_mutual_information(both[place], size) / np.log(2)
        for total, place in zip(sums.tolist(), first.tolist(), strict=True)
    ]
    return np.array(means)[rows]
