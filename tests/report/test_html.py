import re
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from squeeze.errors import ArtifactError
from squeeze.report import Report, finding_plots, path_plots, plots, render
from squeeze.report.data import Histogram, Method, Origin, Phase, Stage
from squeeze.report.findings import Cluster, Distribution, Finding, Judged, Mosaic
from tests.report.sample import finding, gated, overview, report, timing

HOSTILE = "</td></script><script>alert(1)</script><img src=x onerror='y'>\"&$\\frac{{a}}$ 层\n{}"
VOID = {"meta", "br", "img", "input", "link", "hr"}


class Page(HTMLParser):
    """Reads a page strictly: every element is closed, in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.references: list[str] = []
        self.ids: list[str] = []
        self.words = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attributes:
            if name in ("src", "href", "xlink:href", "data", "action") and value:
                self.references.append(value)
            if name == "id" and value:
                self.ids.append(value)
            assert not name.startswith("on"), name
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attributes)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data


def headings(text: str) -> list[str]:
    return re.findall(r"<h2>(.*?)</h2>", text)


def test_it_is_one_well_formed_page_that_loads_nothing() -> None:
    text = render(report())
    page = Page(text)
    assert page.open == []
    assert not {"script", "link", "iframe", "img", "object", "embed"} & set(page.tags)
    inside = tuple(reference for reference in page.references if not reference.startswith("data:image/png;base64,"))
    assert all(reference.startswith("#") for reference in inside)
    assert "@import" not in text and not re.search(r"url\((?!#)", text)
    assert len(page.ids) == len(set(page.ids))
    assert {reference[1:] for reference in inside} <= set(page.ids)


def test_it_shows_the_headline_figures() -> None:
    words = Page(render(report())).words
    for figure in (
        "95.12 %",
        "94.87 %",
        "−0.25 points",
        "82.4 M",
        "41.2 M",
        "−50.0 %",
        "1.25 ms",
        "1.60× as fast",
        "71.00 %",
    ):
        assert figure in words


def test_the_passes_stand_below_the_name_and_the_page_has_a_title() -> None:
    text = render(report())
    assert '<div class="sub">GAL · ' in text
    assert f"<title>{report().origin.model} – squeeze report</title>" in text


def test_every_part_of_a_full_report_is_there_in_order() -> None:
    assert headings(render(report())) == [
        "Quality, step by step",
        "Speed, measured",
        "Layers",
        "Removed as a whole",
        "Coupled channels",
        "What KSE found",
        "Search: GAL",
        "Fine-tuning",
        "What had to stay, and why",
        "How this was made",
    ]


def test_empty_parts_are_left_out() -> None:
    assert headings(render(Report(Origin("m"), (), Stage(), None, Stage()))) == ["How this was made"]


def test_hostile_names_stay_text() -> None:
    made = report(name=HOSTILE, prose=HOSTILE)
    hostile = replace(
        made,
        methods=(Method(HOSTILE, {HOSTILE: [HOSTILE]}),),
        history=(replace(made.history[0], name=HOSTILE), *made.history[1:]),
        before=replace(made.before, latency=(timing(2.0, backend=HOSTILE),), metrics={HOSTILE: 1.0}),
        after=replace(made.after, latency=(timing(1.0, backend=HOSTILE),), metrics={HOSTILE: 1.0}),
    )
    page = Page(render(hostile))
    assert page.open == []
    assert not {"script", "img"} & set(page.tags)
    assert page.words.count("<script>alert(1)</script>") > 20


def test_the_same_report_gives_the_same_page() -> None:
    assert render(report()) == render(report())


def test_a_hundred_layers_stay_under_a_megabyte() -> None:
    assert len(render(report(100, "features.denseblock3.denselayer{}.conv2")).encode()) < 1_000_000


@pytest.mark.parametrize("count", [1, 2, 300])
def test_a_picture_has_two_bars_a_layer_and_pane(count: int) -> None:
    layers = report(count).layers
    tree = ElementTree.fromstring(plots.layers(layers))
    bars = [path for path in tree.iter("path") if re.search(r"fill: (#c3cad4|#0f766e)", path.get("style", ""))]
    legend = 2
    assert len(bars) == 4 * count + legend


def test_series_with_gaps_and_zeros_can_be_drawn() -> None:
    phase = report().history[0]
    gaps = replace(phase, series={"lambda": (0.0, None, 1.0), "share": (None, None, None), "zeros": (0.0, 0.0, 0.0)})
    text = plots.steering(gaps, 0.5, "MACs") + plots.masks(gaps)
    assert "budget 50 %" in text and "Masks that are exactly 0" in text


@pytest.mark.parametrize(
    "phase",
    [
        Phase("gal", {str(n): (1.0, 2.0) for n in range(5000)}),
        Phase("gal", masks=(Histogram("filters", 1, (0.0, 1.0), (1, 2)),)),
        Phase("gal", quantiles={"0": (1.0, 2.0), "100": (1.0,)}),
    ],
    ids=["many pictures", "edges", "quantiles"],
)
def test_what_no_run_writes_is_not_drawn(phase: Phase) -> None:
    with pytest.raises(ArtifactError, match="must be what a run writes"):
        render(replace(report(), history=(phase,)))


def test_a_finding_is_shown_with_the_spread_of_its_figures_beside_what_was_measured() -> None:
    words = Page(render(report())).words
    words = words[words.index("What KSE found") : words.index("Search: GAL")]
    for figure in ("1.5 (0.75 – 2.5)", "0.5 (0.5 – 0.5)", "all stay", "400", "2.50×", "4.92 MB", "2.40 MB", "1.60×"):
        assert figure in words


def test_a_mosaic_has_a_square_for_every_number_and_a_frame_for_every_cluster() -> None:
    (mosaic,) = finding().mosaics
    tree = ElementTree.fromstring(finding_plots.mosaics("m", [mosaic]))
    squares = [path for path in tree.iter("path") if "stroke: #d5dbe3" in path.get("style", "")]
    frames = [path for path in tree.iter("path") if "fill: none; stroke: #1f2933" in path.get("style", "")]
    assert (len(squares), len(frames)) == (4 * 3, 2)


def test_the_paths_of_classes_are_drawn_and_what_a_class_is_without_labels_is_said() -> None:
    page = Page(render(report()))
    for words in (
        "The paths of the classes",
        "3 of 4 filters",
        "t-SNE",
        "Distance between mean codes",
        "has no labels",
    ):
        assert words in page.words
    assert page.tags.count("image") == 4  # two matrices, each with its scale
    labelled = replace(report(), findings=(replace(finding(), paths=replace(overview(), labelled=True)),))
    assert "has no labels" not in render(labelled)
    static = replace(overview(), filters={}, varying=0, rates=((), ()))
    assert "The paths of the classes" not in render(replace(report(), findings=(replace(finding(), paths=static),)))


def test_each_input_is_a_point_in_the_colour_of_its_class() -> None:
    tree = ElementTree.fromstring(path_plots.plane("plane", overview()))
    points = [use.get("style", "") for use in tree.iter("use") if "fill" in use.get("style", "")]
    colours = [re.search(r"fill: (#\w+)", style)[1] for style in points]  # type: ignore[index]
    legend = ["#1f77b4", "#ff7f0e"]
    assert sorted(colours) == sorted(["#1f77b4", "#1f77b4", "#ff7f0e", "#c3cad4", *legend])


def test_of_gates_the_mean_over_inputs_is_shown_and_that_is_said() -> None:
    words = Page(render(gated())).words
    assert "MACs of an input, mean" in words and "was 41.2 M" in words and "20.6 M" in words
    assert "on average over 143 held-out inputs, with a standard deviation of 1.50 M" in words
    assert "2.00× as fast on the example inputs, on which it is timed" in words
    assert "MACs of an input" not in render(report())


@pytest.mark.parametrize(
    "found",
    [
        Finding("kse", layers=(Judged("conv", {str(n): (1.0,) for n in range(50)}),)),
        Finding("kse", mosaics=(Mosaic("m", 3, (Cluster((1.0,) * 9, ((1.0,) * 8,)),)),)),
        Finding("kse", mosaics=(Mosaic("m", 2, (Cluster((1.0,) * 9),)),)),
        Finding("kse", mosaics=(Mosaic("m", 0, (Cluster((1.0,)),)),)),
        Finding("kse", mosaics=(Mosaic("m", 1),)),
        Finding("kse", mosaics=(Mosaic("m", 100, (Cluster((1.0,) * 10000),)),)),
        Finding("kse", distributions=(Distribution("d", (0.0, 1.0), (1, 2), 0.5),)),
        Finding("kse", distributions=(Distribution("d", (0.0,), (), 0.5),)),
        Finding("kse", distributions=(Distribution("d", (0.0, 1.0), (1,), 0.5),) * 9),
        Finding("kse", paths=replace(overview(), rows=(0, 0, 1, 2))),
    ],
    ids=[
        *("many figures", "unequal", "no rectangle", "no columns", "empty", "large"),
        *("edges that do not fit", "no bins", "many distributions", "unknown class"),
    ],
)
def test_a_finding_that_no_pass_makes_is_not_drawn(found: Finding) -> None:
    with pytest.raises(ArtifactError, match=r"report\.findings: must be what a run writes"):
        render(replace(report(), findings=(found,)))
