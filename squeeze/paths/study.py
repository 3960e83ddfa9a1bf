"""What the paths of a gated network say of it, found on one data set."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from torch import nn

from squeeze.errors import InputError
from squeeze.gating.activity import Activity, Spending, activities, spending
from squeeze.gating.classes import ClassPaths, attribute_of, class_paths, distances
from squeeze.gating.codes import Codes, gather, require_finite
from squeeze.gating.costs import require_gates
from squeeze.gating.information import entropy, filter_information
from squeeze.gating.inputs import samples_from
from squeeze.gating.overview import MOST_CLASSES, Overview, overview
from squeeze.paths.bound import information_bound
from squeeze.paths.classes import SinglePath, by_layer, exciting, most_tied, single_path
from squeeze.paths.pictures import pictures_of
from squeeze.paths.silencing import Silencing, silencing
from squeeze.task import Batch, Task

MOST = 2000
TIED, EXCITING = 3, 6
"""Filters of a class, and inputs of a filter, that are shown."""
_SILENCED = 20
"""One in so many filters is silenced, where nobody says how many."""


@dataclass(frozen=True, eq=False)
class LayerPaths:
    """What the code of one layer has to do with the class.

    Attributes:
        activity: How often its filters are on.
        distances: Between the mean codes of the classes that are shown one by one, `Overview.classes`.
        bound: A lower bound of the mutual information of its code with the class, in bits; None if there are too few
            samples.
        single: The mean over its filters of the mutual information of each alone, in bits.
    """

    activity: Activity
    distances: np.ndarray
    bound: float | None
    single: float


@dataclass(frozen=True)
class Tied:
    """A filter that is a class's own.

    Attributes:
        layer: Its layer.
        filter: Its number there.
        tie: P(on | class) - P(on | another class).
        rate: P(on | class).
        inputs: Numbers of the inputs for which its gate was surest, the surest first.
    """

    layer: str
    filter: int
    tie: float
    rate: float
    inputs: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Paths:
    """Everything that `squeeze paths` shows.

    Attributes:
        codes: Of the inputs.
        source: What they are: "test", "holdout", "train", or the name of a file of codes.
        attribute: (S,) the class of each.
        labelled: That is its label; else it is the class that the network saw.
        classes: Their mean codes.
        entropy: Of the class, in bits: no code can tell more.
        spending: Multiply-accumulates of each input.
        layers: In the model's order.
        tied: By class, its most own filters; the largest classes that have some.
        overview: Their codes, class by class.
        silencing: What it costs to silence them; None without data, with one class, or where no filter is tied to any.
        path: Of the one input that was asked for.
        pictures: By number, the inputs that are shown, as PNG files; empty where inputs are no images.
    """

    codes: Codes
    source: str
    attribute: np.ndarray
    labelled: bool
    classes: ClassPaths
    entropy: float
    spending: Spending
    layers: tuple[LayerPaths, ...]
    tied: dict[int, tuple[Tied, ...]]
    overview: Overview
    silencing: Silencing | None
    path: SinglePath | None
    pictures: dict[int, bytes]

    @property
    def notes(self) -> tuple[str, ...]:
        """What the reader should know."""
        told = []
        if not self.labelled:
            told.append("The data has no labels: the class of an input is what the network takes it for.")
        if self.source == "train":
            told.append("There is neither test nor held-out data: these are inputs that the gates were trained on.")
        if len(self.classes.classes) < 2:
            told.append("All inputs are of one class: there is nothing that a code could tell of it.")
        few = int((self.classes.counts < 5).sum())
        if few and len(self.classes.classes) > 1:
            told.append(
                f"{few} of {len(self.classes.classes)} classes have fewer than five inputs: their mean codes, and the "
                "filters tied to them, may be chance; bounds of information leave out those with fewer than three."
            )
        return tuple(told)

    def to_dict(self) -> dict[str, Any]:
        """As JSON values, without codes and pictures."""
        silenced = self.silencing
        return {
            "source": self.source,
            "inputs": len(self.codes),
            "labelled": self.labelled,
            "notes": list(self.notes),
            "classes": self.classes.classes.tolist(),
            "counts": self.classes.counts.tolist(),
            "entropy_bits": self.entropy,
            "macs": self.spending.to_dict(),
            "layers": [_layer_dict(item) for item in self.layers],
            "overview": asdict(self.overview),
            "tied": {str(label): [asdict(item) for item in items] for label, items in self.tied.items()},
            "silencing": None if silenced is None else silenced.to_dict(),
            "path": None if self.path is None else asdict(self.path),
        }


def _layer_dict(item: LayerPaths) -> dict[str, Any]:
    return {
        "name": item.activity.name,
        "rates": item.activity.rates.tolist(),
        "dependence": item.activity.dependence,
        "information_bound_bits": item.bound,
        "information_single_bits": item.single,
        "distances": item.distances.tolist(),
    }


@dataclass(frozen=True)
class Asked:
    """What is looked for.

    Attributes:
        most: Inputs in all.
        sample: The input whose path is shown; None for none.
        silenced: Filters of a class that are silenced; None for one in twenty, 0 for no such test.
    """

    most: int = MOST
    sample: int | None = None
    silenced: int | None = None

    def __post_init__(self) -> None:
        for name, least in (("most", 1), ("sample", 0), ("silenced", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"Asked: {name} must be at least {least}, got {value}; leave it out for the default.")


def find_paths(model: nn.Module, task: Task, asked: Asked | None = None, codes: Codes | None = None) -> Paths:
    """Look at the paths of a gated network: on test data, or held-out data, or training data, whichever there is.

    Args:
        model: Gated; left as it is.
        task: Its data.
        asked: What is looked for.
        codes: Gathered before (`squeeze.gating.codes.load_codes`): then the data are left alone, nothing is silenced,
            and there are no pictures.

    Raises:
        InputError: The model has no gates, there is no data, or no such sample, or numbers are not finite.
    """
    asked = asked or Asked()
    dense = require_gates(model, task.example_inputs).costs.dense
    source, batches = (
        ("file of codes", list[Batch]()) if codes else samples_from(task, ("test", "holdout", "train"), asked.most)
    )
    codes = require_finite(codes or gather(model, task, batches))
    if asked.sample is not None and asked.sample >= len(codes):
        raise InputError(
            f"sample: must be from 0 to {len(codes) - 1}, got {asked.sample}; there are {len(codes)} inputs (--most)."
        )
    attribute, labelled = attribute_of(codes)
    classes = class_paths(codes, attribute)
    shown = classes.largest(MOST_CLASSES)
    tied = _tied(codes, classes, shown)
    count = max(1, sum(codes.filters) // _SILENCED) if asked.silenced is None else asked.silenced
    pictured = {i for filters in tied.values() for filter in filters for i in filter.inputs}
    path = None if asked.sample is None else single_path(codes, classes, asked.sample, int(attribute[asked.sample]))
    return Paths(
        codes=codes,
        source=source,
        attribute=attribute,
        labelled=labelled,
        classes=classes,
        entropy=float(entropy(classes.counts.astype(np.float64))),
        spending=spending(codes, dense),
        layers=_layers(codes, classes.rates[shown], attribute),
        tied=tied,
        overview=overview(codes),
        silencing=silencing(model, task, batches, codes, count, MOST_CLASSES) if batches and count else None,
        path=path,
        pictures=pictures_of(batches, pictured | ({path.sample} if path else set())),
    )


def _layers(codes: Codes, rates: np.ndarray, attribute: np.ndarray) -> tuple[LayerPaths, ...]:
    found = []
    for activity in activities(codes):
        place = codes.layer(activity.name)
        on = codes.on[:, place]
        single = float(filter_information(on, attribute).mean())
        found.append(LayerPaths(activity, distances(rates[:, place]), information_bound(on, attribute), single))
    return tuple(found)


def _tied(codes: Codes, classes: ClassPaths, shown: np.ndarray) -> dict[int, tuple[Tied, ...]]:
    if len(classes.classes) < 2:
        return {}
    ties, most = classes.ties(), most_tied(classes, TIED)
    found = {}
    for row in shown.tolist():
        label = int(classes.classes[row])
        if len(most[label]):
            found[label] = tuple(_described(codes, classes, ties, row, int(filter)) for filter in most[label])
    return found


def _described(codes: Codes, classes: ClassPaths, ties: np.ndarray, row: int, filter: int) -> Tied:
    ((layer, numbers),) = by_layer(codes, np.array([filter])).items()
    inputs = tuple(exciting(codes, filter, EXCITING).tolist())
    return Tied(layer, int(numbers[0]), float(ties[row, filter]), float(classes.rates[row, filter]), inputs)
