"""report.html: one file that needs nothing else."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from squeeze.errors import ArtifactError
from squeeze.gating.overview import Overview
from squeeze.report import finding_plots, path_plots, plots, wording
from squeeze.report.data import Layer, Phase, Report
from squeeze.report.findings import Finding, Judged
from squeeze.report.speed import headline, one_input, promise, sentences, speedups

TITLES: Mapping[str, str] = {
    "lambda": "λ",
    "share": "Predicted cost",
    "zeros": "Zeros",
    "lr": "Learning rate",
    "distill": "Distance from the dense model",
    "supervised": "Loss on labels",
    "discriminator": "Loss of the discriminator",
    "adversarial": "Adversarial loss of the generator",
    "data": "Alignment of features",
}
FILES: Mapping[str, str] = {"onnx": "ONNX file", "safetensors": "Weights file"}
_MANY = 100
"""Phases of a run, and pictures of a phase, that no run exceeds."""
STEERED = frozenset({"lambda", "share", "zeros"})
"""Series with a picture of their own."""


@dataclass(frozen=True)
class Card:
    """A headline figure; `tone` is "good", "bad" or ""."""

    title: str
    before: str
    after: str
    badge: str
    tone: str


@dataclass(frozen=True)
class Chapter:
    """The pictures of one phase of training."""

    title: str
    figures: tuple[tuple[str, Markup], ...]


@dataclass(frozen=True)
class PathPictures:
    """Of the paths of classes and inputs; empty where there is nothing to see. class_paths.html shows them."""

    heat: Markup
    plane: Markup
    told: str


@dataclass(frozen=True)
class Gallery:
    """What a pass found out: `rows` has a layer each, with the cells of its figures."""

    finding: Finding
    title: str
    spreads: Markup
    mosaics: Markup
    distributions: Markup
    paths: PathPictures | None
    rows: tuple[tuple[str, tuple[str, ...], str], ...]


def render(report: Report) -> str:
    """The report as one HTML page, which loads nothing from elsewhere.

    Raises:
        ArtifactError: It has more pictures than a run makes, or some that cannot be drawn.
    """
    problem = next((found for found in map(_undrawable, report.history) if found), "")
    if len(report.history) > _MANY or problem:
        problem = problem or f"{len(report.history)} phases"
        raise ArtifactError(f"report.history: must be what a run writes, got {problem}; the report was altered.")
    problem = next((found for finding in report.findings if (found := finding.problem())), "")
    if len(report.findings) > _MANY or problem:
        problem = problem or f"{len(report.findings)} findings"
        raise ArtifactError(f"report.findings: must be what a run writes, got {problem}; the report was altered.")
    pairs = speedups(report)
    computing = tuple(layer for layer in report.layers if layer.macs_before > 0)
    return page(
        "template.html",
        report=report,
        title=" + ".join(wording.method(item.name) for item in report.methods) or "Nothing removed",
        cards=_cards(report),
        verdict=sentences(report),
        pairs=pairs,
        promised=promise(report),
        stages=_stages(report),
        layers=computing,
        files=FILES,
        cut=any(group.after < group.before for group in report.groups),
        rest=_rest(report.layers),
        most=max((layer.macs_before for layer in computing), default=1),
        figures={
            "layers": Markup(plots.layers(computing)) if computing else "",
            "latency": Markup(plots.latency([(p.before, p.after) for p in pairs])) if pairs else "",
        },
        galleries=[_gallery(number, finding) for number, finding in enumerate(report.findings)],
        chapters=[chapter for phase in report.history if (chapter := _chapter(report, phase)).figures],
    )


def page(template: str, **values: Any) -> str:
    """A page in the look of all, which loads nothing from elsewhere.

    Args:
        template: A file beside this one.
        values: What it shows; "cards" among them.
    """
    environment = Environment(
        loader=PackageLoader("squeeze.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        {name: getattr(wording, name) for name in ("count", "size", "duration", "times", "setting", "moment")}
    )
    return environment.get_template(template).render(wording=wording, **values)


def _undrawable(phase: Phase) -> str:
    """Why there can be no picture of a phase; "" if there can."""
    if max(len(phase.series), len(phase.quantiles), len(phase.masks)) > _MANY:
        return f"a phase of more than {_MANY} pictures"
    if len({len(values) for values in phase.quantiles.values()}) > 1:
        return "quantiles of unequal length"
    if any(len(item.edges) != len(item.counts) + 1 for item in phase.masks):
        return "a histogram whose edges do not fit"
    return ""


def _cards(report: Report) -> list[Card]:
    before, after = report.before, report.after
    cards = []
    key = report.origin.metric if report.origin.metric in after.metrics else next(iter(after.metrics), "")
    if key and key in before.metrics:
        old, new = before.metrics[key], after.metrics[key]
        tone = "" if key != report.origin.metric or old == new else "good" if new > old else "bad"
        moved = wording.metric_change(key, old, new)
        cards.append(Card(key[:1].upper() + key[1:], wording.metric(key, old), wording.metric(key, new), moved, tone))
    macs = one_input(report)
    counted = [
        ("MACs", before.macs, after.macs, wording.count)
        if macs is None
        else ("MACs of an input, mean", *macs, wording.count),
        ("Parameters", before.params, after.params, wording.count),
    ]
    if after.paper_macs != after.macs:
        counted.insert(1, ("MACs, as the paper counts", before.paper_macs, after.paper_macs, wording.count))
    form = next((form for form in ("onnx", "safetensors") if form in before.bytes and form in after.bytes), "")
    if form:
        counted.append((FILES[form], before.bytes[form], after.bytes[form], wording.size))
    for title, first, last, show in counted:
        if first is not None and last is not None:
            tone = "good" if last < first else "bad" if last > first else ""
            cards.append(Card(title, show(first), show(last), wording.change(first, last), tone))
    pair = headline(report)
    if pair is not None:
        tone = "good" if pair.verdict == "faster" else "bad"
        badge = f"{wording.times(pair.ratio)} as fast" if pair.verdict == "faster" else pair.verdict
        medians = wording.duration(pair.before.median_ms), wording.duration(pair.after.median_ms)
        cards.append(Card(pair.where, *medians, badge, tone))
    return cards


def _stages(report: Report) -> list[tuple[str, list[str]]]:
    """The metrics at each stage, if that says more than the headline."""
    stages = [stage for stage in (report.before, report.cut, report.after) if stage is not None]
    names = list(dict.fromkeys(name for stage in stages for name in stage.metrics))
    if len(names) < 2 and (report.cut is None or not report.cut.metrics):
        return []
    return [(name, [wording.metric(name, stage.metrics.get(name)) for stage in stages]) for name in names]


def _rest(layers: tuple[Layer, ...]) -> tuple[int, int, int]:
    """Layers that hold parameters and multiply nothing: how many, and their parameters before and after."""
    rest = [layer for layer in layers if layer.macs_before == 0 and (layer.params_before or layer.params_after)]
    return len(rest), sum(layer.params_before for layer in rest), sum(layer.params_after for layer in rest)


def _chapter(report: Report, phase: Phase) -> Chapter:
    figures = []
    if any(len(values) > 1 for values in phase.quantiles.values()):
        figures.append(("How the masks moved; the shaded bands hold the named share of them.", plots.masks(phase)))
    if {"lambda", "share"} & set(phase.series):
        target, subject = _budget(report, phase.name)
        masked = bool(phase.quantiles or phase.masks)
        title = f"{subject} that the masks leave" if masked else f"{subject} that stay, on average"
        cost = "the cost if every mask at 0 were removed now" if masked else "the cost as it is executed now"
        figures.append((f"The weight of the sparsity term, and {cost}.", plots.steering(phase, target, title)))
    if phase.masks:
        caption = "Masks at the end of the search. Survivors are folded into the weights: the finished model has none."
        figures.append((caption, plots.histograms(phase)))
    names = [
        (name, TITLES.get(name, wording.spoken(name)))
        for name, values in phase.series.items()
        if name not in STEERED and _moves(values)
    ]
    if names:
        figures.append(("Means over each epoch.", plots.curves(phase, names)))
    searched = phase.name in {method.name for method in report.methods}
    heading = f"Search: {wording.method(phase.name)}" if searched else "Fine-tuning"
    return Chapter(heading, tuple((caption, Markup(svg)) for caption, svg in figures))


def _gallery(number: int, finding: Finding) -> Gallery:
    names = finding.series()
    rows = tuple((j.name, tuple(_cell(j, name) for name in names), j.outcome) for j in finding.layers)
    spreads = Markup(finding_plots.spreads(f"spreads-{number}", finding)) if names else Markup("")
    mosaics = Markup(finding_plots.mosaics(f"mosaics-{number}", finding.mosaics)) if finding.mosaics else Markup("")
    counted = finding_plots.distributions(f"counts-{number}", finding.distributions) if finding.distributions else ""
    title = f"What {wording.method(finding.method)} found"
    paths = path_pictures(finding.paths, f"-{number}") if finding.paths else None
    return Gallery(finding, title, spreads, mosaics, Markup(counted), paths, rows)


def path_pictures(found: Overview, suffix: str = "") -> PathPictures:
    """Pictures of the paths of classes and inputs.

    Args:
        found: What they show.
        suffix: Of their names, by which the pictures of a page differ.
    """
    told = "" if found.labelled else "The data has no labels: the class of an input is what the network takes it for."
    varies, several = bool(found.filters), len(found.classes) > 1
    heat = path_plots.heat(f"heat{suffix}", found) if varies else ""
    plane = path_plots.plane(f"plane{suffix}", found) if varies and several else ""
    return PathPictures(Markup(heat), Markup(plane), told)


def _cell(layer: Judged, name: str) -> str:
    return wording.middle(layer.series[name]) if layer.series.get(name) else wording.NONE


def _moves(values: tuple[float | None, ...]) -> bool:
    return sum(value is not None for value in values) > 1


def _budget(report: Report, name: str) -> tuple[float | None, str]:
    """The share that a pass was told to leave, and of what."""
    settings: Mapping[str, Any] = next((method.settings for method in report.methods if method.name == name), {})
    for key, subject in (("macs", "MACs"), ("params", "Parameters")):
        value = settings.get(key)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value), subject
    return None, "MACs"
