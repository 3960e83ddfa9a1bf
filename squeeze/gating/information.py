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
    """(N,) I(a; z_n) of each single filter, in bits.

    The plug-in estimate H(z) + H(a) - H(z, a) is too large by about (cells - rows - columns + 1) / 2S, which matters
    with many classes; this is taken off (Miller 1955, for each entropy). So a filter that tells nothing is at 0 on
    average, and may be a little below it.

    Args:
        on: (S, N) bool.
        classes: (S,) whole numbers.
    """
    labels = np.unique(classes)
    hot = (classes[:, None] == labels).astype(np.float64)
    both = np.stack([hot.T @ on, hot.T @ ~on], -1).transpose(1, 0, 2)  # (N, K, 2)
    cells, states = both.reshape(len(both), -1), both.sum(1)
    plain = entropy(states) + entropy(hot.sum(0)) - entropy(cells)
    too_much = (cells > 0).sum(1) - (states > 0).sum(1) - len(labels) + 1
    found: np.ndarray = plain - too_much / (2 * len(on) * np.log(2))
    return found
