"""The pictures of the page about paths."""

import math
from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from squeeze.gating.activity import Spending
from squeeze.paths.study import SHOWN, LayerPaths, Paths
from squeeze.report import wording
from squeeze.report.finding_plots import distributions
from squeeze.report.findings import Distribution
from squeeze.report.plots import ABOVE, ACCENT, AFTER, BEFORE, INK, svg

_SHADES = LinearSegmentedColormap.from_list("shades", ["#ffffff", AFTER, "#06302d"])
_FARTHER = LinearSegmentedColormap.from_list("farther", ["#ffffff", ACCENT])
_EVERY = 72
"""Names below an axis, at most."""


def macs(spending: Spending) -> str:
    """How many inputs cost how much."""
    edges, counts = spending.histogram()
    return distributions("macs", [Distribution("Inputs by their MACs", edges, counts, spending.mean)])


def layers(items: Sequence[LayerPaths], ceiling: float) -> str:
    """What the gates of each layer do, and what its code tells of the class."""
    labels = [wording.shortened(item.activity.name, 26) for item in items]
    places = np.arange(len(items))

    def draw(figure: Figure) -> None:
        shares, told, apart = figure.subplots(3, 1, sharex=True)
        below = np.zeros(len(items))
        kinds = (("always", "always on", BEFORE), ("varying", "on for some", AFTER), ("never", "never on", "#f0d3c5"))
        for attribute, label, colour in kinds:
            part = np.array([getattr(i.activity, attribute) / len(i.activity.rates) for i in items])
            shares.bar(places, part, bottom=below, color=colour, width=0.78, label=label)
            below += part
        shares.set_title("Filters")
        shares.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f} %"))
        shares.legend(**ABOVE)
        bounds = [math.nan if item.bound is None else item.bound for item in items]
        told.bar(places, bounds, color=AFTER, width=0.78, label="code, at least")
        told.plot(places, [item.single for item in items], "o", color=INK, markersize=2.6, label="single filter, mean")
        if ceiling > 0:
            told.axhline(ceiling, color=ACCENT, linewidth=1.2, linestyle=(0, (4, 3)))
            told.text(0.005, ceiling, "all there is", color=ACCENT, va="bottom", transform=told.get_yaxis_transform())
            told.set_ylim(0, 1.22 * ceiling)
        told.set_title("Information on the class, in bits")
        told.legend(**ABOVE)
        apart.bar(places, [_mean_apart(item.distances) for item in items], color=AFTER, width=0.78)
        apart.set_title("Mean distance between the codes of two classes, a filter")
        every = math.ceil(len(items) / _EVERY)
        apart.set_xticks(places[::every], labels[::every], rotation=90, fontsize=7 if len(items) < 60 else 6.2)
        apart.set_xlim(-0.7, max(len(items), 12) - 0.3)

    return svg("layers", 5.2, draw)


def heat(found: Paths) -> str:
    """Mean codes: a row a class, a column a filter; only filters that are on for some inputs and off for others."""
    rows = largest(found)
    varying = np.flatnonzero((found.codes.on.any(0)) & ~found.codes.on.all(0))
    rates = found.classes.rates[rows][:, varying]
    starts = [found.codes.layer(name).start for name in found.codes.layers]

    def draw(figure: Figure) -> None:
        pane = figure.subplots()
        image = pane.imshow(rates, aspect="auto", cmap=_SHADES, vmin=0, vmax=1, interpolation="nearest")
        _class_ticks(pane, found.classes.classes[rows], "y")
        edges = np.searchsorted(varying, [*starts, found.codes.on.shape[1]])
        wide = [(a, b, n) for a, b, n in zip(edges, edges[1:], found.codes.layers, strict=False) if b > a]
        for left, _, _ in wide[1:]:
            pane.axvline(left - 0.5, color=ACCENT, linewidth=min(1.0, 10 / len(wide)))
        named = [(left, right, name) for left, right, name in wide if right - left >= len(varying) / 40]
        ticks = [(left + right - 1) / 2 for left, right, _ in named]
        pane.set_xticks(ticks, [wording.shortened(n, 26) for *_, n in named], rotation=90, fontsize=7)
        pane.grid(visible=False)
        pane.set_title(
            f"Class by filter: the share of a class's inputs that switch a filter on ({len(varying)} filters)"
        )
        figure.colorbar(image, ax=pane, pad=0.01, format=FuncFormatter(lambda value, _: f"{100 * value:.0f} %"))

    return svg("heat", 1.5 + 0.2 * len(rows), draw)


def plane(found: Paths) -> str:
    """Codes in the plane, and how far the mean codes of classes lie apart over all layers."""
    rows = largest(found)
    shown = found.classes.classes[rows]
    colours = matplotlib.colormaps["tab10" if len(rows) <= 10 else "tab20"]

    def draw(figure: Figure) -> None:
        panes = figure.subplots(1, 2, width_ratios=[3, 2])
        if found.plane is not None:
            numbers, places = found.plane
            labels = found.attribute[numbers]
            rest = ~np.isin(labels, shown)
            panes[0].scatter(*places[rest].T, s=5, color=BEFORE, linewidths=0)
            for number, label in enumerate(shown.tolist()):
                panes[0].scatter(*places[labels == label].T, s=7, color=colours(number), linewidths=0, label=str(label))
            panes[0].legend(loc="center left", bbox_to_anchor=(1, 0.5), markerscale=2, ncols=1 + (len(rows) > 12))
        panes[0].set_title("Codes of single inputs (t-SNE), by class")
        panes[0].set_xticks([])
        panes[0].set_yticks([])
        apart = _all_apart(found)[np.ix_(rows, rows)]
        image = panes[1].imshow(apart, cmap=_FARTHER, vmin=0, interpolation="nearest")
        _class_ticks(panes[1], shown, "y")
        _class_ticks(panes[1], shown, "x")
        panes[1].grid(visible=False)
        panes[1].set_title("Distance between mean codes")
        figure.colorbar(image, ax=panes[1], pad=0.02, shrink=0.8)

    return svg("plane", 3.6, draw)


def largest(found: Paths) -> np.ndarray:
    """Rows of the classes with the most inputs, as many as are shown, in order."""
    counts = found.classes.counts
    return np.array(sorted(sorted(range(len(counts)), key=lambda row: (-counts[row], row))[:SHOWN]))


def _all_apart(found: Paths) -> np.ndarray:
    """(K, K) over all filters."""
    sizes = [len(item.activity.rates) for item in found.layers]
    total = sum(size * item.distances for size, item in zip(sizes, found.layers, strict=True))
    return np.asarray(total / sum(sizes))


def _mean_apart(found: np.ndarray) -> float:
    rest = found[~np.eye(len(found), dtype=bool)]
    return float(rest.mean()) if len(rest) else 0.0


def _class_ticks(pane: Axes, classes: np.ndarray, axis: str) -> None:
    names = [str(label) for label in classes.tolist()]
    if axis == "y":
        pane.set_yticks(range(len(names)), names)
    else:
        pane.set_xticks(range(len(names)), names, rotation=90 if max(map(len, names)) > 2 else 0)
