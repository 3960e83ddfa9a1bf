"""How often filters are on, and how much that hangs on the input."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import nn

from squeeze.gating.codes import Codes, gather
from squeeze.gating.costs import require_gates
from squeeze.gating.explained import has_gates
from squeeze.gating.inputs import Source, samples_of
from squeeze.task import Task

INPUTS = 2000
"""Of a data set, that are looked at."""


@dataclass(frozen=True, eq=False)
class Activity:
    """What the gate of one layer did with S inputs.

    Attributes:
        name: Of the gated convolution.
        rates: (N,) for each filter the share of the inputs that it was on for.
    """

    name: str
    rates: np.ndarray

    @property
    def always(self) -> int:
        """Filters that were on for every input."""
        return int((self.rates == 1).sum())

    @property
    def never(self) -> int:
        """Filters that were on for none."""
        return int((self.rates == 0).sum())

    @property
    def varying(self) -> int:
        """Filters that were on for some."""
        return len(self.rates) - self.always - self.never

    @property
    def dependence(self) -> float:
        """Mean distance between a code and the mean code, a filter: 0 for a gate that ignores its input, at most 0.5.

        It is mean ‖z - z̄‖₁ / N, what the authors' code logs but for the division by N; of a filter that is on with a
        rate of p it is 2 p (1 - p).
        """
        return float((2 * self.rates * (1 - self.rates)).mean())

    def summary(self) -> str:
        """In words: "of 64: 5 always on, 12 never, 47 for some"."""
        return f"of {len(self.rates)}: {self.always} always on, {self.never} never, {self.varying} for some"


def activities(codes: Codes) -> tuple[Activity, ...]:
    """One a layer, in the model's order."""
    return tuple(Activity(name, codes.on[:, codes.layer(name)].mean(0)) for name in codes.layers)


@dataclass(frozen=True, eq=False)
class Spending:
    """Multiply-accumulates of single inputs, controllers included, where what is off is skipped.

    Attributes:
        dense: Of one input in the network without gates.
        each: (S,) of each.
    """

    dense: float
    each: np.ndarray

    @property
    def mean(self) -> float:
        """Over the inputs."""
        return float(self.each.mean())

    @property
    def deviation(self) -> float:
        """Standard deviation over the inputs."""
        return float(self.each.std())

    @property
    def quartiles(self) -> tuple[float, float, float, float, float]:
        """Least, first quartile, median, third quartile, most."""
        low, first, middle, third, high = np.quantile(self.each, (0, 0.25, 0.5, 0.75, 1)).tolist()
        return low, first, middle, third, high

    def histogram(self, bins: int = 24) -> tuple[tuple[float, ...], tuple[int, ...]]:
        """Edges of equal bins from the least to the most, and how many inputs lie in each."""
        counts, edges = np.histogram(self.each, bins)
        return tuple(edges.tolist()), tuple(counts.tolist())

    def to_dict(self) -> dict[str, float | list[float] | Mapping[str, list[float]]]:
        """As JSON values."""
        edges, counts = self.histogram()
        return {
            "dense": self.dense,
            "mean": self.mean,
            "deviation": self.deviation,
            "quartiles": list(self.quartiles),
            "histogram": {"edges": list(edges), "counts": list(counts)},
        }


def spending(codes: Codes, dense: float) -> Spending:
    """What the inputs of some codes cost.

    Args:
        codes: Of the network.
        dense: Multiply-accumulates of one sample without gates, `squeeze.gating.costs.GateCosts.dense`.
    """
    return Spending(dense, codes.share.astype(np.float64) * dense)


def spent_on(model: nn.Module, task: Task, order: Sequence[Source]) -> tuple[Source, Spending] | None:
    """What the inputs of a task cost a gated network; None without gates, or without data.

    Args:
        model: Left as it is.
        task: Its data.
        order: Which data is wanted most.

    Raises:
        InputError: The data do not fit the model.
    """
    found = samples_of(task, order, INPUTS) if has_gates(model) else None
    if found is None:
        return None
    source, batches = found
    dense = require_gates(model, task.example_inputs).costs.dense
    return source, spending(gather(model, task, batches), dense)
