"""The pictures of a report, as SVG text: the same report gives the same text."""

import io
import math
import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from squeeze.report import wording
from squeeze.report.data import Histogram, Layer, Phase, Timing

BEFORE, AFTER, INK, MUTED, GRID, ACCENT = "#c3cad4", "#0f766e", "#1f2933", "#6b7785", "#e4e8ee", "#c2410c"
WIDTH = 10.4
ABOVE: dict[str, Any] = {"loc": "lower right", "bbox_to_anchor": (1, 1), "ncols": 3, "borderaxespad": 0.2}
"""Places a legend over the right end of its axes."""

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "squeeze",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 8,
    "text.color": INK,
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.titlecolor": INK,
    "axes.titlesize": 8.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.6,
}

Draw = Callable[[Figure], None]


def layers(items: Sequence[Layer]) -> str:
    """MACs and widths of each layer, before and after, on one axis of layers."""
    labels = [wording.shortened(layer.name or "(model)", 26) for layer in items]
    widths = [layer for layer in items if layer.width_before]

    def draw(figure: Figure) -> None:
        panes = figure.subplots(2 if widths else 1, 1, sharex=True, squeeze=False)[:, 0]
        places = list(range(len(items)))
        _pair(panes[0], places, [i.macs_before for i in items], [i.macs_after for i in items])
        panes[0].set_title("MACs")
        panes[0].yaxis.set_major_formatter(FuncFormatter(lambda value, _: _round(value)))
        panes[0].legend(*_legend(panes[0], any(layer.removed for layer in items)), **ABOVE)
        if widths:
            _pair(panes[1], places, [i.width_before or 0 for i in items], [i.width_after or 0 for i in items])
            panes[1].set_title("Width (output channels)")
        for pane in panes:
            for place, layer in enumerate(items):
                if layer.removed:
                    pane.plot(place, 0, marker="x", color=ACCENT, markersize=3.5, mew=1, clip_on=False, zorder=4)
        every = math.ceil(len(items) / 72)
        panes[-1].set_xticks(places[::every], labels[::every], rotation=90, fontsize=7 if len(items) < 60 else 6.2)
        panes[-1].set_xlim(-0.7, max(len(items), 12) - 0.3)

    return svg("layers", 4.3 if widths else 2.7, draw)


def latency(pairs: Sequence[tuple[Timing, Timing]]) -> str:
    """Median time before and after, relative to before, with quartiles."""

    def draw(figure: Figure) -> None:
        pane = figure.subplots()
        ticks, bars = [], []
        for row, (before, after) in enumerate(pairs):
            for offset, timing, colour in ((-0.19, before, BEFORE), (0.19, after, AFTER)):
                scale = 100 / before.median_ms
                bars.append(pane.barh(row + offset, timing.median_ms * scale, height=0.34, color=colour))
                low, high = timing.q1_ms * scale, timing.q3_ms * scale
                pane.plot([low, high], [row + offset] * 2, color=INK, linewidth=1.1, solid_capstyle="butt")
                pane.plot([low, high], [row + offset] * 2, "|", color=INK, markersize=5, mew=1.1)
                text = wording.duration(timing.median_ms)
                pane.text(max(high, timing.median_ms * scale) + 1.2, row + offset, text, va="center", color=INK)
            ticks.append(wording.shortened(f"{wording.backend(before.backend)}, batch {before.batch}", 40))
        pane.set_yticks(range(len(pairs)), ticks, color=INK)
        pane.legend(bars[:2], ["before", "after"], **ABOVE)
        pane.set_ylim(len(pairs) - 0.5, -0.5)
        pane.set_xlim(0, pane.get_xlim()[1] * 1.08)
        pane.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f} %"))
        pane.grid(axis="y", visible=False)
        pane.grid(axis="x")
        pane.set_xlabel("time of one pass, before = 100 % (bar: median; mark: quartiles)")

    return svg("latency", 0.95 + 0.55 * len(pairs), draw)


def masks(phase: Phase) -> str:
    """Quantiles of all mask values over training, and the share that is exactly zero."""
    zeros = phase.series.get("zeros")
    levels = sorted(phase.quantiles, key=float)

    def draw(figure: Figure) -> None:
        panes = figure.subplots(1, 2 if zeros else 1, squeeze=False, width_ratios=[3, 2] if zeros else None)[0]
        for index in range(len(levels) // 2):
            low, high = levels[index], levels[-1 - index]
            bottom, top = _numbers(phase.quantiles[low]), _numbers(phase.quantiles[high])
            tint = 0.14 + 0.2 * index
            epochs = range(1, len(bottom) + 1)
            panes[0].fill_between(epochs, bottom, top, color=AFTER, alpha=tint, linewidth=0, label=_band(low, high))
        if len(levels) % 2:
            middle = _numbers(phase.quantiles[levels[len(levels) // 2]])
            panes[0].plot(range(1, len(middle) + 1), middle, color=AFTER, label="median")
        panes[0].set_title("Mask values")
        panes[0].set_ylim(bottom=min(0, *_finite(phase.quantiles[levels[0]])))
        panes[0].legend(**ABOVE)
        if zeros:
            _line(panes[1], zeros, "Masks that are exactly 0", percent=True)
            panes[1].set_ylim(0, max(0.05, 1.1 * max(_finite(zeros), default=0)))
        _epochs(panes)

    return svg(f"masks-{phase.name}", 2.5, draw)


def steering(phase: Phase, target: float | None, title: str) -> str:
    """λ, and the cost that stays, against the budget."""

    def draw(figure: Figure) -> None:
        names = [name for name in ("lambda", "share") if name in phase.series]
        panes = figure.subplots(1, len(names), squeeze=False)[0]
        for pane, name in zip(panes, names, strict=True):
            if name == "share":
                _line(pane, phase.series[name], title, percent=True)
                if target is not None:
                    pane.axhline(target, color=ACCENT, linewidth=1.2, linestyle=(0, (4, 3)))
                    text = f"budget {100 * target:.3g} %"
                    pane.text(0.02, target, text, color=ACCENT, va="bottom", transform=pane.get_yaxis_transform())
                pane.set_ylim(0, 1.08)
            else:
                _line(pane, phase.series[name], "λ, weight of the sparsity term")
                _logarithmic(pane, _finite(phase.series[name]))
        _epochs(panes)

    return svg(f"steering-{phase.name}", 2.3, draw)


def histograms(phase: Phase) -> str:
    """Final mask values of each kind; zeros apart."""

    def draw(figure: Figure) -> None:
        panes = figure.subplots(1, len(phase.masks), squeeze=False)[0]
        for pane, item in zip(panes, phase.masks, strict=True):
            _histogram(pane, item)

    return svg(f"histograms-{phase.name}", 2.2, draw)


def curves(phase: Phase, names: Sequence[tuple[str, str]]) -> str:
    """Series side by side, up to four in a row."""
    columns = 3 if len(names) in (5, 6, 9) else min(4, max(2, len(names)))
    rows = math.ceil(len(names) / columns)

    def draw(figure: Figure) -> None:
        panes = list(figure.subplots(rows, columns, squeeze=False).flat)
        for pane, (name, title) in zip(panes, names, strict=False):
            _line(pane, phase.series[name], wording.shortened(title, 34))
        for pane in panes[len(names) :]:
            pane.set_visible(False)
        _epochs(panes)

    return svg(f"curves-{phase.name}", 2.0 * rows, draw)


def _pair(pane: Axes, places: Sequence[int], before: Sequence[float], after: Sequence[float]) -> None:
    pane.bar(places, before, width=0.78, color=BEFORE, label="before")
    pane.bar(places, after, width=0.78, color=AFTER, label="after")
    if any(before) and not any(0 < value < max(before) / 100 for value in after):
        pane.yaxis.set_major_locator(MaxNLocator(4, integer=True))


def _legend(pane: Axes, removed: bool) -> tuple[list[Any], list[Any]]:
    handles, labels = pane.get_legend_handles_labels()
    if not removed:
        return handles, labels
    return [*handles, *pane.plot([], [], "x", color=ACCENT, markersize=4, mew=1)], [*labels, "removed"]


def _histogram(pane: Axes, item: Histogram) -> None:
    widths = [right - left for left, right in zip(item.edges, item.edges[1:], strict=False)]
    pane.bar(item.edges[:-1], item.counts, width=widths, align="edge", color=AFTER, linewidth=0)
    low, step = (item.edges[0], widths[0]) if widths else (0.0, 1.0)
    pane.bar([low - 1.5 * step], [item.zeros], width=1.3 * step, color=ACCENT)
    pane.xaxis.set_major_formatter(FuncFormatter(lambda value, _: "" if value < low else f"{value:g}"))
    pane.set_title(f"{wording.method(item.kind)}: {item.zeros} of {item.zeros + sum(item.counts)} are 0")
    pane.set_xlabel("final mask value (orange: exactly 0)")
    pane.yaxis.set_major_locator(MaxNLocator(4, integer=True))


def _line(pane: Axes, values: Sequence[float | None], title: str, percent: bool = False) -> None:
    marker = "o" if len(values) < 16 else None
    pane.plot(range(1, len(values) + 1), _numbers(values), color=AFTER, marker=marker, markersize=3)
    pane.set_title(title)
    if percent:
        pane.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f} %"))


def _logarithmic(pane: Axes, values: Sequence[float]) -> None:
    """A logarithmic axis where the values differ enough to need one."""
    low, high = min(values, default=0.0), max(values, default=0.0)
    if low > 0 and high > 3 * low:
        pane.set_yscale("log")
        pane.yaxis.set_major_locator(LogLocator(10, subs=(1, 2, 5) if high < 300 * low else (1,), numticks=20))
        pane.yaxis.set_minor_locator(NullLocator())
    pane.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _band(low: str, high: str) -> str:
    share = float(high) - float(low)
    return "all" if share == 100 else f"middle {share:g} %"


def _round(value: float) -> str:
    """For an axis: 2 M, where a table says 2.00 M."""
    number, _, unit = wording.count(value).partition(" ")
    return f"{float(number):g} {unit}".strip()


def _epochs(panes: Iterable[Axes]) -> None:
    for pane in panes:
        pane.set_xlabel("epoch")
        pane.xaxis.set_major_locator(MaxNLocator(6, integer=True))


def _numbers(values: Sequence[float | None]) -> list[float]:
    return [math.nan if value is None else value for value in values]


def _finite(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def svg(name: str, height: float, draw: Draw) -> str:
    """Draw, and make the picture fit to stand in a page beside others."""
    with rc_context(STYLE), warnings.catch_warnings():
        # The page's own fonts show the text; that the layout font lacks a glyph does not matter.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        FigureCanvasSVG(figure)
        draw(figure)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    prefix = re.sub(r"[^A-Za-z0-9]", "-", name)
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}-", text)
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", text, flags=re.DOTALL)
    return re.sub(
        r'<svg [^>]*?viewBox="([^"]*)"[^>]*>',
        r'<svg viewBox="\1" role="img" xmlns:xlink="http://www.w3.org/1999/xlink">',
        text,
        count=1,
    )
