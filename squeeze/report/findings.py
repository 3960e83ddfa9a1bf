"""What a pass found out layer by layer: how it judged the parts, what became of them, and pictures of some."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from squeeze.gating.overview import Overview
from squeeze.report.records import read

MOST_SERIES, MOST_MOSAICS, MOST_CELLS = 8, 8, 4000
"""Of one finding: what a page can show."""


@dataclass(frozen=True)
class Claim:
    """A cost by the accounting of the method's paper.

    Attributes:
        name: What is counted, and how.
        before: Of the model as the pass was given it.
        after: Of what the pass left.
    """

    name: str
    before: float
    after: float


@dataclass(frozen=True)
class Judged:
    """A layer whose parts a pass judged one by one.

    Attributes:
        name: Dotted name of the layer.
        series: By name of the figure, one value for each part.
        outcome: What became of the parts, in a few words.
    """

    name: str
    series: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    outcome: str = ""


@dataclass(frozen=True)
class Cluster:
    """Matrices for which one stands; each row by row, in one list.

    Attributes:
        centre: The one that stands for all.
        members: Those that it stands for.
    """

    centre: tuple[float, ...]
    members: tuple[tuple[float, ...], ...] = ()


@dataclass(frozen=True)
class Mosaic:
    """Small matrices in clusters, to be drawn side by side.

    Attributes:
        title: Where they are from.
        columns: Of one matrix.
        clusters: In the order in which they are drawn.
    """

    title: str
    columns: int
    clusters: tuple[Cluster, ...] = ()

    def matrices(self) -> list[tuple[float, ...]]:
        """All of them."""
        return [m for cluster in self.clusters for m in (cluster.centre, *cluster.members)]


@dataclass(frozen=True)
class Distribution:
    """How many have which value.

    Attributes:
        title: What is counted, by what.
        edges: Of the bins, ascending; one more than `counts`.
        counts: In each bin.
        mean: Of all values.
    """

    title: str
    edges: tuple[float, ...]
    counts: tuple[int, ...]
    mean: float


@dataclass(frozen=True)
class Finding:
    """What one pass found out.

    Attributes:
        method: The pass.
        text: What the figures mean, for the reader.
        claims: Costs that are counted, not measured; by the paper's accounting where it has one.
        layers: How the parts of each layer were judged.
        mosaics: Pictures of some.
        distributions: Of figures that are none of a layer.
        paths: Codes, class by class, of a network with gates.
    """

    method: str
    text: str = ""
    claims: tuple[Claim, ...] = ()
    layers: tuple[Judged, ...] = ()
    mosaics: tuple[Mosaic, ...] = ()
    distributions: tuple[Distribution, ...] = ()
    paths: Overview | None = None

    def series(self) -> tuple[str, ...]:
        """Names of all figures, in order."""
        return tuple(dict.fromkeys(name for layer in self.layers for name in layer.series))

    def problem(self) -> str:
        """Why it cannot be shown, in a few words; "" if it can."""
        if len(self.series()) > MOST_SERIES or len(self.mosaics) > MOST_MOSAICS:
            return f"a finding of more than {MOST_SERIES} figures or {MOST_MOSAICS} mosaics"
        for mosaic in self.mosaics:
            sizes = {len(matrix) for matrix in mosaic.matrices()}
            if len(sizes) != 1 or mosaic.columns < 1 or max(sizes) < 1 or max(sizes) % mosaic.columns:
                return "a mosaic of matrices that do not fit"
            if sum(map(len, mosaic.matrices())) > MOST_CELLS:
                return f"a mosaic of more than {MOST_CELLS} numbers"
        if len(self.distributions) > MOST_MOSAICS:
            return f"a finding of more than {MOST_MOSAICS} distributions"
        for item in self.distributions:
            if not item.counts or len(item.edges) != len(item.counts) + 1 or len(item.counts) > MOST_CELLS:
                return "a distribution whose edges do not fit"
        return self.paths.problem() if self.paths else ""


def found_by(history: Iterable[tuple[str, Any]]) -> tuple[Finding, ...]:
    """What the passes left in their ``Found.history`` under "finding": the fields of a `Finding` but its method.

    Raises:
        ArtifactError: It has other fields or types.
    """
    entries = [(name, entry["finding"]) for name, entry in history if isinstance(entry, Mapping) and "finding" in entry]
    return tuple(read(Finding, {**entry, "method": name}, f"finding of {name}") for name, entry in entries)
