"""paths.html: one file that needs nothing else."""

import base64
from dataclasses import dataclass

from markupsafe import Markup

from squeeze.paths import plots
from squeeze.paths.study import Paths
from squeeze.report import wording
from squeeze.report.html import Card, page, path_pictures


@dataclass(frozen=True)
class Cell:
    """A figure of a table, and how strong its shade is, from 0 to 1."""

    text: str
    shade: float


def render_paths(found: Paths, model: str) -> str:
    """What was found, as one HTML page, which loads nothing from elsewhere.

    Args:
        found: By `squeeze.paths.find_paths`.
        model: The network's name.
    """
    return page(
        "paths.html",
        found=found,
        model=model,
        cards=_cards(found),
        figures={
            "macs": Markup(plots.macs(found.spending)),
            "layers": Markup(plots.layers(found.layers, found.entropy)),
        },
        paths=path_pictures(found.overview),
        pictures={n: f"data:image/png;base64,{base64.b64encode(png).decode()}" for n, png in found.pictures.items()},
        tables=_tables(found),
        nearest=min(found.path.distance.items(), key=lambda pair: pair[1]) if found.path else None,
        rows=[
            (
                item.activity.name,
                item.activity.summary(),
                f"{item.activity.dependence:.3f}",
                wording.NONE if item.bound is None else f"{item.bound:.2f}",
                f"{item.single:.3f}".replace("-", wording.MINUS),
            )
            for item in found.layers
        ],
    )


def _cards(found: Paths) -> list[Card]:
    spent, filters = found.spending, sum(len(item.activity.rates) for item in found.layers)
    varying = sum(item.activity.varying for item in found.layers)
    saved = f"{wording.change(spent.dense, spent.mean)} on average"
    cards = [
        Card("MACs of an input", wording.count(spent.dense), wording.count(spent.mean), saved, "good"),
        Card("Filters on for some", f"{filters} in all", str(varying), f"in {len(found.layers)} layers", ""),
    ]
    bounds = [item.bound for item in found.layers if item.bound is not None]
    if bounds and found.entropy > 0:
        text = f"{max(bounds):.2f} bits"
        cards.append(Card("A code tells of the class", f"{found.entropy:.2f} bits there are", text, "at least", ""))
    if found.silencing is not None:
        lead = found.silencing.lead
        badge = f"{lead.others:.2g} of others".replace("-", wording.MINUS)
        text = f"{lead.own:.2g}".replace("-", wording.MINUS)
        mean = f"of {lead.whole.mean():.2g}".replace("-", wording.MINUS)
        tone = "good" if lead.own > max(lead.others, float(lead.random.mean())) else "bad"
        cards.append(Card("Lead lost when silenced", mean, text, badge, tone))
    return cards


def _tables(found: Paths) -> list[tuple[str, list[tuple[int, list[Cell], str]], str]]:
    """Of each measure of silencing: its title, a row a class (cells, and the drop at random), and what to say."""
    silenced = found.silencing
    if silenced is None:
        return []
    tables = []
    measures = (
        ("Accuracy lost, in percentage points", silenced.accuracy, 100.0),
        ("Lead lost: the class's own feature over the largest other", silenced.lead, 1.0),
    )
    for title, effect, scale in measures:
        most = max(float(effect.drops.max()), 1e-9)
        rows = [
            (
                label,
                [Cell(_figure(scale * drop), max(0.0, drop / most)) for drop in effect.drops[row].tolist()],
                _figure(scale * float(effect.random[row])),
            )
            for row, label in enumerate(silenced.classes.tolist())
        ]
        told = (
            f"On average the class whose filters are silenced loses {_figure(scale * effect.own)}, the others lose "
            f"{_figure(scale * effect.others)}; without as many random filters of the same layers it loses "
            f"{_figure(scale * float(effect.random.mean()))}. {effect.hit} of {len(silenced.classes)} classes lose "
            "more than every other class."
        )
        tables.append((title, rows, told))
    return tables


def _figure(value: float) -> str:
    text = f"{value:.1f}"
    return "0.0" if float(text) == 0 else text.replace("-", wording.MINUS)
