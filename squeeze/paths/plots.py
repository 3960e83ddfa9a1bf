"""The pictures of the page about paths."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from squeeze.gating.activity import Spending
from squeeze.paths.study import LayerPaths
from squeeze.report import wording
from squeeze.report.finding_plots import distributions
from squeeze.report.findings import Distribution
from squeeze.report.plots import ABOVE, ACCENT, AFTER, BEFORE, INK, svg

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


def _mean_apart(found: np.ndarray) -> float:
    rest = found[~np.eye(len(found), dtype=bool)]
    return float(rest.mean()) if len(rest) else 0.0
