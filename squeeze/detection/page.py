"""detection.html: one file that needs nothing else."""

from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from squeeze.detection.judging import Detection, Verdict
from squeeze.report import wording
from squeeze.report.html import Card, page
from squeeze.report.plots import ACCENT, AFTER, INK, MUTED, svg

_COLOURS = (AFTER, ACCENT, INK, MUTED)
_DASHES = ("-", "--", ":")


def render_detection(found: Detection, model: str) -> str:
    """What was found, as one HTML page, which loads nothing from elsewhere.

    Args:
        found: By `squeeze.detection.detect`.
        model: The network's name.
    """
    judged = [verdict for verdict in found.verdicts if verdict.auc]
    names = list(judged[0].auc) if judged else []
    deep = bool(judged) and len(judged[0].by_depth()) > 1
    return page(
        "detection.html",
        found=found,
        model=model,
        cards=_cards(found),
        judged=judged,
        rows=[(name, [(verdict.auc[name], f"{verdict.auc[name]:.3f}") for verdict in judged]) for name in names],
        best=[max(verdict.auc.values()) for verdict in judged],
        depth=Markup(_depth(judged)) if deep else "",
    )


def _cards(found: Detection) -> list[Card]:
    cards = []
    for verdict in found.verdicts:
        told = max(verdict.auc, key=lambda name: verdict.auc[name]) if verdict.auc else ""
        text = f"AUC {verdict.auc[told]:.3f}" if told else "nothing to detect"
        cards.append(Card(verdict.attack, text, f"{100 * verdict.success:.1f} %", told, ""))
    return cards


def _depth(judged: list[Verdict]) -> str:
    """Area under the ROC curve over the number of layers whose codes are read; a pane for each classifier."""
    lowest = min(area for verdict in judged for areas in verdict.depth.values() for area in areas.values())

    def draw(figure: Figure) -> None:
        names = list(judged[0].depth)
        panes = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
        for pane, name in zip(panes, names, strict=True):
            for place, verdict in enumerate(judged):
                colour = _COLOURS[place % len(_COLOURS)]
                style = _DASHES[place // len(_COLOURS) % len(_DASHES)]
                counts, areas = list(verdict.depth[name]), list(verdict.depth[name].values())
                pane.plot(counts, areas, style, color=colour, marker="o", markersize=3, label=verdict.attack)
            pane.axhline(0.5, color=MUTED, linewidth=0.8, linestyle=(0, (2, 3)))
            pane.set_title(wording.spoken(name))
            pane.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        panes[0].set_ylim(min(0.45, lowest) - 0.02, 1.02)
        panes[0].set_ylabel("area under the ROC curve")
        figure.supxlabel("layers whose codes are read, from the first", fontsize=8, color=MUTED)
        figure.legend(*panes[0].get_legend_handles_labels(), loc="outside upper right", ncols=6)

    return svg("depth", 2.9, draw)
