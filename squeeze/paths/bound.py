"""How much a whole code tells of a class: a lower bound of their mutual information, in bits."""

import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold

from squeeze.gating.information import entropy

FOLDS = 3
STRENGTHS = (0.1, 10.0)
"""Inverse strengths of regularisation."""


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
