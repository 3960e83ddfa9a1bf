"""The codes of classes: how often each filter is on for each, and how far classes lie apart."""

from dataclasses import dataclass

import numpy as np
from scipy.spatial.distance import cdist

from squeeze.gating.codes import Codes


@dataclass(frozen=True, eq=False)
class ClassPaths:
    """Mean codes of classes.

    Attributes:
        classes: (K,) int64, ascending: those that have inputs.
        counts: (K,) int64 how many.
        rates: (K, F) for each filter the share of a class's inputs that it was on for: the class's mean code.
    """

    classes: np.ndarray
    counts: np.ndarray
    rates: np.ndarray

    def others(self) -> np.ndarray:
        """(K, F) the rates over the inputs of all other classes; nan if there is none."""
        on = self.rates * self.counts[:, None]
        rest = (self.counts.sum() - self.counts).astype(np.float64)
        with np.errstate(invalid="ignore"):
            return (on.sum(0) - on) / np.where(rest > 0, rest, np.nan)[:, None]

    def ties(self) -> np.ndarray:
        """(K, F) P(on | class) - P(on | another class), from -1 to 1.

        A difference of rates, not pointwise mutual information: that is largest for filters that are hardly ever on,
        where it is known worst.
        """
        return self.rates - self.others()

    def largest(self, most: int) -> np.ndarray:
        """Rows of the classes with the most inputs, so many at most, in order."""
        order = np.lexsort((self.classes, -self.counts))[:most]
        return np.sort(order)


def class_paths(codes: Codes, classes: np.ndarray) -> ClassPaths:
    """Mean codes by class.

    Args:
        codes: Of S inputs.
        classes: (S,) the class of each; see `attribute_of`.
    """
    labels, counts = np.unique(classes, return_counts=True)
    rates = np.stack([codes.on[classes == label].mean(0) for label in labels])
    return ClassPaths(labels, counts, rates)


def attribute_of(codes: Codes) -> tuple[np.ndarray, bool]:
    """(S,) the class of each input, and whether that is its label; else it is the class that the network saw."""
    labelled = bool((codes.labels >= 0).all())
    return (codes.labels if labelled else codes.predicted), labelled


def distances(rates: np.ndarray) -> np.ndarray:
    """(K, K) mean distance, a filter, between the mean codes (K, N) of classes: 0 for the same, 1 for opposite ones."""
    found: np.ndarray = cdist(rates, rates, "cityblock") / rates.shape[1]
    return found
