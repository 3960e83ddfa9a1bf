"""How much codes tell of a class: two estimates of mutual information, in bits."""

import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold

FOLDS = 3
STRENGTHS = (0.1, 10.0)
"""Inverse strengths of regularisation."""


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


def information_bound(on: np.ndarray, classes: np.ndarray) -> float | None:
    """A lower bound of I(a; z) of a whole code, in bits: H(a) + E[log Q(a | z)] (Barber and Agakov 2003).

    Q is a logistic regression, asked about inputs that it was not fitted on (three folds), so that no filter seems to
    tell what it only happened to. The better one of two, fitted with a lot of regularisation and with little, counts.
    A lower bound is no less one where the fit has not converged.

    Args:
        on: (S, N) bool.
        classes: (S,) whole numbers; those with fewer than three samples are left out.

    Returns:
        At least 0; None where fewer than two classes have samples enough.
    """
    labels, counts = np.unique(classes, return_counts=True)
    used = np.isin(classes, labels[counts >= FOLDS])
    on, classes = on[used], classes[used]
    labels, counts = np.unique(classes, return_counts=True)
    if len(labels) < 2:
        return None
    varying = on.any(0) & ~on.all(0)
    if not varying.any():
        return 0.0
    features, places = on[:, varying].astype(np.float32), np.searchsorted(labels, classes)
    loss = min(_loss(features, places, strength) for strength in STRENGTHS)
    return max(0.0, float(entropy(counts.astype(np.float64)) - loss))


def _loss(features: np.ndarray, places: np.ndarray, strength: float) -> float:
    """Mean -log2 Q(a | z) over inputs that Q was not fitted on."""
    losses = np.zeros(len(features))
    for fitted, asked in StratifiedKFold(FOLDS, shuffle=True, random_state=0).split(features, places):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            head = LogisticRegression(C=strength, max_iter=100).fit(features[fitted], places[fitted])
        found = head.predict_log_proba(features[asked])[np.arange(len(asked)), places[asked]]
        losses[asked] = -found / np.log(2)
    return float(losses.mean())
