"""The pictures of what a pass found out."""

import math
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator

from squeeze.report import wording
from squeeze.report.findings import Distribution, Finding, Mosaic
from squeeze.report.plots import ACCENT, AFTER, BEFORE, INK, svg

_SIGNED = LinearSegmentedColormap.from_list("signed", [ACCENT, "#ffffff", AFTER])
_TITLES: Mapping[str, str] = {
    "on": "Share of the inputs that switch a filter on",
    "information": "What a filter tells of the class, in bits",
}
"""Of figures whose names say too little."""
_GAP = 0.35
"""Between two matrices, in widths of one."""


def spreads(name: str, finding: Finding) -> str:
    """The spread of each figure, layer by layer, one below the other."""
    series = finding.series()
    labels = [wording.shortened(layer.name or "(model)", 26) for layer in finding.layers]

    def draw(figure: Figure) -> None:
        panes = figure.subplots(len(series), 1, sharex=True, squeeze=False)[:, 0]
        for pane, key in zip(panes, series, strict=True):
            pane.set_title(wording.shortened(_TITLES.get(key, wording.spoken(key)), 90))
            for place, layer in enumerate(finding.layers):
                if layer.series.get(key):
                    _mark(pane, place, layer.series[key])
        every = math.ceil(len(labels) / 72)
        panes[-1].set_xticks(
            range(0, len(labels), every), labels[::every], rotation=90, fontsize=7 if len(labels) < 60 else 6.2
        )
        panes[-1].set_xlim(-0.7, max(len(labels), 12) - 0.3)

    return svg(name, 0.9 + 1.15 * len(series), draw)


def mosaics(name: str, items: Sequence[Mosaic]) -> str:
    """Matrices in clusters, up to three mosaics in a row."""
    columns = min(3, len(items))
    rows = math.ceil(len(items) / columns)
    tallest = max(len(item.clusters) for item in items)

    def draw(figure: Figure) -> None:
        panes = list(figure.subplots(rows, columns, squeeze=False).flat)
        for pane, item in zip(panes, items, strict=False):
            _mosaic(pane, item)
        for pane in panes[len(items) :]:
            pane.set_visible(False)

    return svg(name, rows * min(6.0, 0.5 + 0.36 * tallest), draw)


def distributions(name: str, items: Sequence[Distribution]) -> str:
    """Histograms, one below the other."""

    def draw(figure: Figure) -> None:
        for pane, item in zip(figure.subplots(len(items), 1, squeeze=False)[:, 0], items, strict=True):
            histogram(pane, item)

    return svg(name, 2.1 * len(items), draw)


def histogram(pane: Axes, item: Distribution) -> None:
    """How many have which value, and the mean."""
    widths = [max(right - left, 1e-12) for left, right in zip(item.edges, item.edges[1:], strict=False)]
    pane.bar(item.edges[:-1], item.counts, width=widths, align="edge", color=AFTER, linewidth=0)
    pane.axvline(item.mean, color=ACCENT, linewidth=1.2, linestyle=(0, (4, 3)))
    pane.text(item.mean, 1.01, " mean", color=ACCENT, transform=pane.get_xaxis_transform())
    pane.set_title(wording.shortened(item.title, 90))
    pane.xaxis.set_major_formatter(FuncFormatter(lambda value, _: wording.count(value)))
    pane.yaxis.set_major_locator(MaxNLocator("auto", integer=True))


def _mark(pane: Axes, place: int, values: Sequence[float]) -> None:
    least, low, middle, high, most = wording.quartiles(values)
    pane.plot([place, place], [least, most], color=BEFORE, linewidth=0.8)
    pane.plot([place, place], [low, high], color=AFTER, linewidth=3.2, solid_capstyle="butt")
    pane.plot([place], [middle], "o", color=INK, markersize=2.4)


def _mosaic(pane: Axes, item: Mosaic) -> None:
    """One cell is a square of side 1 over the columns of a matrix; y grows downwards."""
    side, lines = 1 / item.columns, len(item.matrices()[0]) // item.columns
    most = max((abs(number) for matrix in item.matrices() for number in matrix), default=0.0) or 1.0
    cells, colours, height = [], [], lines * side
    for row, cluster in enumerate(item.clusters):
        top = row * (height + _GAP)
        for turn, matrix in enumerate((cluster.centre, *cluster.members)):
            left = turn * (1 + _GAP) + (_GAP if turn else 0)
            for number, value in enumerate(matrix):
                x, y = left + number % item.columns * side, top + number // item.columns * side
                cells.append([(x, y), (x + side, y), (x + side, y + side), (x, y + side)])
                colours.append(_SIGNED(0.5 + 0.5 * value / most))
        frame = Rectangle((-0.08, top - 0.08), 1.16, height + 0.16, fill=False, edgecolor=INK, linewidth=0.9)
        pane.add_patch(frame)
    pane.add_collection(PolyCollection(cells, facecolors=colours, edgecolors="#d5dbe3", linewidths=0.3))
    widest = max(len(cluster.members) for cluster in item.clusters)
    pane.set_xlim(-0.2, (widest + 1) * (1 + _GAP) + _GAP)
    pane.set_ylim(len(item.clusters) * (height + _GAP), -0.3)
    pane.set_aspect("equal", anchor="NW")
    pane.set_title(wording.shortened(item.title, 46))
    pane.axis("off")
