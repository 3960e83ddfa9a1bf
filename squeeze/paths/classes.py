"""Which filters are most a class's own, and the path of a single input beside that of its class."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from squeeze.gating.classes import ClassPaths
from squeeze.gating.codes import Codes


def most_tied(paths: ClassPaths, count: int) -> dict[int, np.ndarray]:
    """By class, its most own filters among all F, the most first: as many as asked for, or as have a tie above 0."""
    found = {}
    for label, ties in zip(paths.classes.tolist(), paths.ties(), strict=True):
        order = np.argsort(-ties, kind="stable")[:count]
        found[label] = order[ties[order] > 0]
    return found


def by_layer(codes: Codes, filters: np.ndarray) -> dict[str, np.ndarray]:
    """Filters numbered among all F, as numbers within their layers."""
    found = {}
    for name in codes.layers:
        place = codes.layer(name)
        here = filters[(filters >= place.start) & (filters < place.stop)] - place.start
        if len(here):
            found[name] = here
    return found


def exciting(codes: Codes, filter: int, count: int) -> np.ndarray:
    """The inputs for which a filter's gate was surest to be on: those with the largest logits, the largest first."""
    order = np.argsort(-codes.logits[:, filter], kind="stable")[:count]
    found: np.ndarray = order[codes.on[order, filter]]
    return found


@dataclass(frozen=True)
class Step:
    """What one layer did with one input.

    Attributes:
        layer: Its name.
        on: Numbers of the filters that were on.
        extra: Of those, the ones that are off for most of its class.
        missing: Filters that were off, and are on for most of its class.
        distance: Mean distance, a filter, to the class's mean code.
    """

    layer: str
    on: tuple[int, ...]
    extra: tuple[int, ...]
    missing: tuple[int, ...]
    distance: float


@dataclass(frozen=True)
class SinglePath:
    """The path of one input through the network.

    Attributes:
        sample: Its number among those that codes were gathered of.
        label: Its class; see `attribute_of`.
        predicted: The class that the network saw.
        steps: Layer by layer.
        distance: Mean distance over all filters to the mean code of each class, by class.
    """

    sample: int
    label: int
    predicted: int
    steps: tuple[Step, ...]
    distance: Mapping[int, float]


def single_path(codes: Codes, paths: ClassPaths, sample: int, label: int) -> SinglePath:
    """The path of one input.

    Args:
        codes: Of S inputs.
        paths: Of their classes.
        sample: From 0 to S - 1.
        label: Its class, one of those of `paths`.
    """
    mean = paths.rates[int(np.searchsorted(paths.classes, label))]
    steps = []
    for name in codes.layers:
        place = codes.layer(name)
        on, usual = codes.on[sample, place], mean[place]
        steps.append(
            Step(
                name,
                tuple(np.flatnonzero(on).tolist()),
                tuple(np.flatnonzero(on & (usual < 0.5)).tolist()),
                tuple(np.flatnonzero(~on & (usual > 0.5)).tolist()),
                float(np.abs(on - usual).mean()),
            )
        )
    away = np.abs(codes.on[sample] - paths.rates).mean(1)
    found = dict(zip(paths.classes.tolist(), away.tolist(), strict=True))
    return SinglePath(sample, label, int(codes.predicted[sample]), tuple(steps), found)
