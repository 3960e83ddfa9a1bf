"""The codes of a data set as a page shows them, class by class: plain numbers, few enough to be kept in a report."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from squeeze.gating.classes import ClassPaths, attribute_of, class_paths, distances
from squeeze.gating.codes import Codes
from squeeze.gating.embedding import MOST as MOST_POINTS
from squeeze.gating.embedding import embedded

MOST_CLASSES = 20
"""That are shown one by one: the largest."""
MOST_FILTERS = 1500
"""Columns of the picture; more could not be told apart."""


@dataclass(frozen=True)
class Overview:
    """The paths of classes and inputs.

    Attributes:
        labelled: A class is a label; else it is what the network took the input for.
        classes: Those that are shown, K.
        inputs: How many each has.
        filters: By layer, numbers of those that are on for some inputs and off for others, in the order of the columns:
            filters that are on oftenest for the same class, compared with all others, stand together.
        varying: How many such filters there are; where they are too many, some are left out of `filters` evenly.
        rates: A row a class: the share of its inputs that switch each filter on.
        apart: (K, K) mean distance, over all filters, between the mean codes of two classes.
        x: Places of single inputs in the plane, by t-SNE, from 0 to 1; empty where there is nothing to show.
        y: The same.
        rows: Of each of these inputs the row of its class, or -1 if that is not shown.
    """

    labelled: bool
    classes: tuple[int, ...]
    inputs: tuple[int, ...]
    filters: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    varying: int = 0
    rates: tuple[tuple[float, ...], ...] = ()
    apart: tuple[tuple[float, ...], ...] = ()
    x: tuple[float, ...] = ()
    y: tuple[float, ...] = ()
    rows: tuple[int, ...] = ()

    def problem(self) -> str:
        """Why it cannot be shown, in a few words; "" if it can."""
        count, width = len(self.classes), sum(map(len, self.filters.values()))
        shapes = [(len(self.inputs), *map(len, self.rates), *map(len, self.apart))]
        if not 0 < count <= MOST_CLASSES or width > MOST_FILTERS or not all(self.filters.values()):
            return f"codes of more than {MOST_CLASSES} classes or {MOST_FILTERS} filters, or of none"
        if shapes != [(count, *[width] * count, *[count] * count)]:
            return "mean codes that do not fit their classes"
        if not len(self.x) == len(self.y) == len(self.rows) <= MOST_POINTS:
            return f"places of more than {MOST_POINTS} inputs, or that do not fit them"
        if not all(-1 <= row < count for row in self.rows):
            return "inputs of classes that are not shown"
        shares = (self.x, self.y, *self.rates, *self.apart)
        return "" if all(0 <= number <= 1 for row in shares for number in row) else "shares beyond 0 and 1"


def overview(codes: Codes) -> Overview:
    """What is worth a look in codes.

    Args:
        codes: Of S inputs; see `squeeze.gating.classes.attribute_of` for their classes.
    """
    attribute, labelled = attribute_of(codes)
    paths = class_paths(codes, attribute)
    shown = paths.largest(MOST_CLASSES)
    classes = paths.classes[shown]
    varying = np.flatnonzero(codes.on.any(0) & ~codes.on.all(0))
    chosen = varying[np.unique(np.linspace(0, len(varying) - 1, min(MOST_FILTERS, len(varying))).astype(int))]
    order = _together(paths, shown, chosen)
    filters = {name: _within(order, codes.layer(name)) for name in codes.layers}
    columns = np.concatenate([*filters.values(), np.array([], dtype=int)])
    numbers, places = _plane(codes)
    return Overview(
        labelled=labelled,
        classes=tuple(classes.tolist()),
        inputs=tuple(paths.counts[shown].tolist()),
        filters={n: tuple((f - codes.layer(n).start).tolist()) for n, f in filters.items() if len(f)},
        varying=len(varying),
        rates=_rounded(paths.rates[shown][:, columns], 2),
        apart=_rounded(distances(paths.rates[shown]), 4),
        x=_rounded(places.T, 3)[0],
        y=_rounded(places.T, 3)[1],
        rows=tuple(_rows(classes, attribute[numbers]).tolist()),
    )


def _within(filters: np.ndarray, place: slice) -> np.ndarray:
    return filters[(filters >= place.start) & (filters < place.stop)]


def _together(paths: ClassPaths, shown: np.ndarray, filters: np.ndarray) -> np.ndarray:
    """Filters by the class that they are most tied to, the most tied first; as they are, where there is one class."""
    if len(paths.classes) < 2:
        return filters
    ties = paths.ties()[np.ix_(shown, filters)]
    return filters[np.lexsort((-ties.max(0), ties.argmax(0)))]


def _plane(codes: Codes) -> tuple[np.ndarray, np.ndarray]:
    """Numbers (P,) of inputs, and their places (P, 2) from 0 to 1, as far apart in x as they are in y."""
    found = embedded(codes.on)
    if found is None:
        return np.zeros(0, dtype=int), np.zeros((0, 2))
    numbers, places = found
    low, high = places.min(0), places.max(0)
    size = max(float((high - low).max()), 1e-9)
    return numbers, 0.5 + (places - (low + high) / 2) / size


def _rows(classes: np.ndarray, attribute: np.ndarray) -> np.ndarray:
    """The row of each input's class; -1 if there is none."""
    rows = np.searchsorted(classes, attribute).clip(0, len(classes) - 1)
    return np.where(classes[rows] == attribute, rows, -1)


def _rounded(values: np.ndarray, digits: int) -> tuple[tuple[float, ...], ...]:
    """To so many digits behind the point: enough to look at."""
    return tuple(tuple(round(number, digits) for number in row) for row in values.tolist())
