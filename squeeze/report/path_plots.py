"""The pictures of the paths of classes and inputs."""

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from squeeze.gating.overview import Overview
from squeeze.report import wording
from squeeze.report.plots import ACCENT, AFTER, BEFORE, svg

_SHADES = LinearSegmentedColormap.from_list("shades", ["#ffffff", AFTER, "#06302d"])
_FARTHER = LinearSegmentedColormap.from_list("farther", ["#ffffff", ACCENT])
_NAMED = 1 / 40
"""A layer with a smaller share of the columns has no room for its name."""


def heat(name: str, found: Overview) -> str:
    """Mean codes: a row a class, a column a filter, the layers parted by lines."""
    edges = np.cumsum([0, *map(len, found.filters.values())])
    width = int(edges[-1])

    def draw(figure: Figure) -> None:
        pane = figure.subplots()
        image = pane.imshow(found.rates, aspect="auto", cmap=_SHADES, vmin=0, vmax=1, interpolation="nearest")
        _class_ticks(pane, found, "y")
        for left in edges[1:-1]:
            pane.axvline(left - 0.5, color=ACCENT, linewidth=min(1.0, 10 / len(edges)))
        layers = zip(edges, edges[1:], found.filters, strict=False)
        named = {(a + b - 1) / 2: wording.shortened(layer, 26) for a, b, layer in layers if b - a >= _NAMED * width}
        pane.set_xticks(list(named), list(named.values()), rotation=90, fontsize=7)
        pane.grid(visible=False)
        few = "" if width == found.varying else f" of {found.varying:,}"
        pane.set_title(
            f"Class by filter: the share of a class's inputs that switch a filter on ({width:,}{few} filters)"
        )
        figure.colorbar(image, ax=pane, pad=0.01, format=FuncFormatter(lambda value, _: f"{100 * value:.0f} %"))

    return svg(name, 1.5 + 0.2 * len(found.classes), draw)


def plane(name: str, found: Overview) -> str:
    """Codes of single inputs in the plane, and how far the mean codes of classes lie apart."""
    count = len(found.classes)
    colours = matplotlib.colormaps["tab10" if count <= 10 else "tab20"]

    def draw(figure: Figure) -> None:
        panes = figure.subplots(1, 2, width_ratios=[3, 2])
        places, rows = np.array([found.x, found.y]), np.array(found.rows, dtype=int)
        panes[0].scatter(*places[:, rows < 0], s=5, color=BEFORE, linewidths=0)
        for row, label in enumerate(found.classes):
            panes[0].scatter(*places[:, rows == row], s=7, color=colours(row), linewidths=0, label=str(label))
        panes[0].legend(loc="center left", bbox_to_anchor=(1, 0.5), markerscale=2, ncols=1 + (count > 12))
        panes[0].set_title("Codes of single inputs (t-SNE), by class")
        panes[0].set_visible(bool(found.x))
        panes[0].set_xticks([])
        panes[0].set_yticks([])
        image = panes[1].imshow(found.apart, cmap=_FARTHER, vmin=0, interpolation="nearest")
        _class_ticks(panes[1], found, "y")
        _class_ticks(panes[1], found, "x")
        panes[1].grid(visible=False)
        panes[1].set_title("Distance between mean codes")
        figure.colorbar(image, ax=panes[1], pad=0.02, shrink=0.8)

    return svg(name, 3.6, draw)


def _class_ticks(pane: Axes, found: Overview, axis: str) -> None:
    names = [str(label) for label in found.classes]
    if axis == "y":
        pane.set_yticks(range(len(names)), names)
    else:
        pane.set_xticks(range(len(names)), names, rotation=90 if max(map(len, names)) > 2 else 0)
