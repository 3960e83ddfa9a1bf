import json
import re
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from squeeze.errors import ArtifactError
from squeeze.report import data, findings
from squeeze.report.data import Method, Origin, Phase, Report, Stage, Timing
from tests.report.sample import report

DOC = (Path(__file__).parents[2] / "docs" / "report.md").read_text(encoding="utf-8")

numbers = st.floats(allow_nan=False, allow_infinity=False)
counts = st.integers(0, 2**60)
series = st.dictionaries(st.text(), st.lists(st.none() | numbers).map(tuple))
stages = st.builds(
    Stage,
    metrics=st.dictionaries(st.text(), numbers),
    macs=st.none() | counts,
    params=st.none() | counts,
    bytes=st.dictionaries(st.text(), counts),
    latency=st.lists(st.builds(Timing, st.text(), counts, counts, numbers, numbers, numbers)).map(tuple),
)
reports = st.builds(
    Report,
    origin=st.builds(Origin, model=st.text(), inputs=st.lists(st.lists(counts).map(tuple)).map(tuple)),
    methods=st.lists(st.builds(Method, st.text(), st.dictionaries(st.text(), numbers | st.none() | st.booleans()))).map(
        tuple
    ),
    before=stages,
    cut=st.none() | stages,
    after=stages,
    history=st.lists(st.builds(Phase, st.text(), series, series)).map(tuple),
    notes=st.lists(st.text()).map(tuple),
)


@given(reports)
def test_a_report_survives_json(made: Report) -> None:
    assert Report.from_dict(json.loads(json.dumps(made.to_dict(), allow_nan=False))) == made


def test_the_full_sample_survives_json() -> None:
    assert Report.from_dict(json.loads(json.dumps(report().to_dict()))) == report()


def test_numbers_that_are_not_finite_become_null() -> None:
    made = Report(Origin("m"), (), Stage(), None, Stage(), history=(Phase("p", {"loss": (float("nan"), 1.0)}),))
    assert made.to_dict()["history"][0]["series"]["loss"] == [None, 1.0]


def altered(path: str, value: Any) -> dict[str, Any]:
    """The sample with one entry replaced, or taken out if the value is None."""
    content = json.loads(json.dumps(report().to_dict()))
    place, steps = content, path.split("/")
    for step in steps[:-1]:
        place = place[int(step)] if step.isdigit() else place[step]
    if value is None:
        del place[steps[-1]]
    else:
        place[steps[-1]] = value
    return content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "schema must be a whole number"),
        ([], "schema must be a whole number"),
        (altered("schema", "1"), "schema must be a whole number"),
        (altered("schema", True), "schema must be a whole number"),
        (altered("schema", data.SCHEMA + 1), "a newer squeeze wrote it"),
        (altered("origin", None), "must have origin"),
        (altered("origin/model", 3), r"report\.origin\.model: must be str, got 3"),
        (altered("layers/0/removed", "no"), r"report\.layers\.removed: must be bool"),
        (altered("layers/0/macs_after", 1.5), r"report\.layers\.macs_after: must be int"),
        (altered("layers/0/macs_after", True), r"report\.layers\.macs_after: must be int"),
        (altered("before/latency", {}), r"report\.before\.latency: must be a list"),
        (altered("before/metrics", []), r"report\.before\.metrics: must be an object"),
        (altered("before/metrics/accuracy", "high"), r"report\.before\.metrics: must be float"),
    ],
)
def test_what_is_not_a_report_is_refused(content: Any, message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        Report.from_dict(content)


def test_fields_of_a_later_squeeze_are_passed_over() -> None:
    assert Report.from_dict(altered("colour", "red")) == report()


def test_the_documentation_names_every_field_and_no_other() -> None:
    sections = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", DOC, re.DOTALL | re.MULTILINE))
    documented = {name: set(re.findall(r"^\| `(\w+)`", text, re.MULTILINE)) for name, text in sections.items()}
    found = {**vars(data), **vars(findings)}.values()
    records = [kind for kind in found if isinstance(kind, type) and is_dataclass(kind)]
    expected = {kind.__name__: {f.name for f in fields(kind)} for kind in records}
    expected["Report"].add("schema")
    assert documented == expected
