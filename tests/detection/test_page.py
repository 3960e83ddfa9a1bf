"""The page about attacks."""

import re
from dataclasses import replace

from squeeze.detection import Detection
from squeeze.detection.judging import Verdict
from squeeze.detection.page import render_detection

VERDICT = Verdict(
    "FGSM",
    0.25,
    7,
    {"random forest": 0.75, "largest softmax": 0.5},
    {"AdaBoost": {1: 0.5, 3: 0.875}, "random forest": {1: 0.625, 3: 0.75}},
    0.125,
)
FOUND = Detection((VERDICT,), None, 0.0625, 30, 28, ("holdout", "test"), True)


def test_the_page_shows_every_figure_and_loads_nothing() -> None:
    page = render_detection(FOUND, "a & b")
    assert "<h1>a &amp; b</h1>" in page
    for figure in ('"now">25.0 %', "AUC 0.750", "0.500", "25.0 %", "12.5 %", "flags 6.2 %"):
        assert figure in page
    table = page[page.index("In figures, attack by attack") :]
    assert re.findall(r'<td class="n">([\d.]+)</td>', table)[:6] == ["1", "0.500", "0.625", "3", "0.875", "0.750"]
    assert re.findall(r'<td class="n best">([^<]*)</td>', page) == ["0.750"]
    assert all(link.startswith("#") for link in re.findall(r'(?:src|href)="([^"]*)"', page))


def test_where_nothing_succeeds_the_page_says_so() -> None:
    idle = Verdict("FGSM", 0.0, 0, {}, {}, None)
    page = render_detection(replace(FOUND, verdicts=(idle,), alarms=None), "net")
    assert "nothing to detect" in page and "never made the network see something else" in page
    assert "The detector that is kept" not in page and "<svg" not in page


def test_a_network_of_one_layer_has_no_picture_of_depths() -> None:
    assert "<svg" not in render_detection(
        replace(FOUND, verdicts=(replace(VERDICT, depth={"AdaBoost": {1: 0.75}}),)), "net"
    )


def test_any_number_of_attacks_can_be_drawn() -> None:
    many = tuple(replace(VERDICT, attack=f"attack {n}") for n in range(9))
    assert render_detection(replace(FOUND, verdicts=many), "net").count("attack 8") >= 3
