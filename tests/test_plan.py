"""A plan survives JSON, and nothing that is not a plan gets through."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from squeeze.errors import PlanError
from squeeze.plan import Drop, Edit, Plan, Resize, Select, Slice, Step

names = st.text(max_size=12)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False) | names,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=4),
    max_leaves=8,
)
settings = st.dictionaries(names, values, max_size=4)


@st.composite
def slices(draw: st.DrawFn) -> Slice:
    size = draw(st.integers(2, 40))
    bounds = sorted(draw(st.sets(st.integers(0, size), min_size=2, max_size=8)))
    return Slice(draw(names), draw(st.integers(0, 4)), size, tuple(zip(bounds[::2], bounds[1::2], strict=False)))


selects = slices().map(lambda edit: Select(edit.tensor, edit.size, edit.keep))
texts = st.lists(names, max_size=3).map(tuple)
drops = st.builds(Drop, names, texts, texts, st.lists(st.integers(0, 3), max_size=3).map(tuple))
resizes = st.integers(1, 40).flatmap(lambda size: st.builds(Resize, names, names, st.just(size), st.integers(1, size)))
steps = st.builds(Step, names, settings, st.lists(slices() | selects | drops | resizes, max_size=4).map(tuple))
plans = st.builds(Plan, st.lists(steps, max_size=3).map(tuple), settings)


def slice_edit(**changes: Any) -> dict[str, Any]:
    return {"kind": "slice", "tensor": "a.weight", "dim": 0, "size": 8, "keep": [[0, 4], [6, 8]], **changes}


def select_edit(**changes: Any) -> dict[str, Any]:
    return {"kind": "select", "module": "a", "size": 8, "keep": [[0, 4], [6, 8]], **changes}


def drop_edit(**changes: Any) -> dict[str, Any]:
    return {"kind": "drop", "name": "a", "modules": ["a"], "parameters": [], "parts": [], **changes}


def resize_edit(**changes: Any) -> dict[str, Any]:
    return {"kind": "resize", "module": "a", "attribute": "heads", "size": 8, "left": 6, **changes}


def text_of(*edits: Any) -> str:
    return json.dumps({"schema": 1, "provenance": {}, "steps": [{"method": "x", "settings": {}, "edits": list(edits)}]})


def check_refused(text: str, *words: str) -> None:
    with pytest.raises(PlanError) as caught:
        Plan.from_json(text)
    message = str(caught.value)
    assert message.isprintable() and len(message) < 400
    assert [word for word in words if word not in message] == []


@given(plans)
def test_a_plan_survives_json(plan: Plan) -> None:
    assert Plan.from_json(plan.to_json()) == plan


@given(st.lists(st.booleans(), min_size=1, max_size=50))
def test_slices_and_selections_hold_exactly_the_kept_indices(kept: list[bool]) -> None:
    for made in (Slice.of("w", 0, np.array(kept)), Select.of("w", np.array(kept))):
        assert made.indices().tolist() == [i for i, stays in enumerate(kept) if stays]
        assert made.size == len(kept)


def test_steps_are_replayed_in_order() -> None:
    first, second = Drop("a", ("a",)), Slice("b.weight", 0, 4, ((0, 2),))
    plan = Plan((), {"seed": 3}).then(Step("x", {}, (first,))).then(Step("y", {}, (second,)))
    assert plan.edits == (first, second)
    assert plan.provenance == {"seed": 3}


def test_fields_that_may_be_left_out() -> None:
    text = json.dumps(
        {"schema": 1, "steps": [{"method": "x", "edits": [{"kind": "drop", "name": "a", "modules": []}]}]}
    )
    assert Plan.from_json(text) == Plan((Step("x", {}, (Drop("a", ()),)),))


@pytest.mark.parametrize("text", ["", "{", "nonsense", "{'schema': 1}", "\ufeff{}", '{"schema": 1, "steps": [}', "\0"])
def test_text_that_is_not_json(text: str) -> None:
    check_refused(text, "plan: must be JSON")


@pytest.mark.parametrize("schema", [None, 0, -1, "1", 1.0, True, [], {}])
def test_schema_must_be_a_whole_number(schema: Any) -> None:
    check_refused(json.dumps({"schema": schema, "steps": []}), "schema must be a whole number")


def test_newer_schema_says_to_update() -> None:
    check_refused(json.dumps({"schema": 2, "steps": []}), "at most 1, got 2", "update squeeze")


@pytest.mark.parametrize("data", [[], 3, "x", None, True, 1.5])
def test_a_plan_is_an_object(data: Any) -> None:
    check_refused(json.dumps(data), "plan must be an object", type(data).__name__)


@pytest.mark.parametrize(
    ("broken", "word"),
    [
        ({"steps": None}, "steps must be a list"),
        ({"steps": {}}, "steps must be a list"),
        ({"steps": [1]}, "step must be an object"),
        ({"steps": [{}]}, "edits must be a list"),
        ({"steps": [{"edits": []}]}, "method must be text"),
        ({"steps": [{"method": "x", "edits": "x"}]}, "edits must be a list"),
        ({"steps": [{"method": "x", "edits": [], "settings": []}]}, "settings must be an object"),
        ({"steps": [], "provenance": []}, "provenance must be an object"),
    ],
)
def test_wrong_types_outside_of_edits(broken: dict[str, Any], word: str) -> None:
    check_refused(json.dumps({"schema": 1, **broken}), word)


@pytest.mark.parametrize(
    ("edit", "word"),
    [
        ([], "edit must be an object"),
        ({}, "kind must be 'slice', 'select', 'drop', 'cluster', 'resize' or 'gate', got None"),
        ({"kind": "melt"}, "'melt'"),
        ({"kind": ["slice"]}, "kind"),
        (slice_edit(tensor=3), "tensor must be text"),
        (slice_edit(dim=-1), "dim must be a whole number"),
        (slice_edit(dim=0.0), "dim must be a whole number"),
        (slice_edit(size=True), "size must be a whole number"),
        (slice_edit(size=2**60), "size must be a whole number"),
        (slice_edit(size="8"), "size must be a whole number"),
        (select_edit(module=3), "module must be text"),
        (select_edit(size=-1), "size must be a whole number"),
        (drop_edit(name=None), "name must be text"),
        (drop_edit(modules="a"), "modules must be a list"),
        (drop_edit(modules=[1]), "modules must be text"),
        (drop_edit(parameters=[None]), "parameters must be text"),
        (drop_edit(parts=[-1]), "parts must be a whole number"),
        (drop_edit(parts=3), "parts must be a list"),
        (resize_edit(module=None), "module must be text"),
        (resize_edit(attribute=3), "attribute must be text"),
        (resize_edit(left=True), "left must be a whole number"),
        (resize_edit(left=0), "left must be from 1 to 8, got 0"),
        (resize_edit(left=9), "left must be from 1 to 8, got 9"),
    ],
)
def test_wrong_types_in_edits(edit: Any, word: str) -> None:
    check_refused(text_of(edit), word)


@pytest.mark.parametrize(
    "keep",
    [
        *([], None, {}, [3], [[]], [[1]], [["a", "b"]], [[1, 2.0]], [[2, 2]], [[3, 1]], [[-1, 2]], [[0, 9]]),
        *([[0, 4], [2, 6]], [[4, 6], [0, 2]], [[0, 2, 4]], [[0, 1], [0, 1]], [[True, 2]], [[0, 2**70]]),
    ],
)
def test_ranges_ascend_within_the_size(keep: Any) -> None:
    check_refused(text_of(slice_edit(keep=keep)), "keep")
    check_refused(text_of(select_edit(keep=keep)), "keep")


@pytest.mark.parametrize("depth", [10, 300, 900, 960, 980, 990, 995, 100_000])
@pytest.mark.parametrize(
    "place", ["{}", '{{"schema": {}}}', '{{"schema": 1, "steps": [{{"method": {}, "edits": []}}]}}']
)
def test_nested_bombs(depth: int, place: str) -> None:
    check_refused(place.format("[" * depth + "]" * depth))


def test_long_values_are_not_repeated_in_full() -> None:
    for text in (json.dumps({"schema": "x" * 10**6}), text_of(slice_edit(dim="\n" * 10**6)), "1" * 10**5):
        check_refused(text)


@given(values)
def test_any_json_is_a_plan_or_refused_in_one_line(value: Any) -> None:
    for text in (
        json.dumps(value),
        json.dumps({"schema": 1, "steps": value}),
        text_of(value),
        text_of({"kind": value}),
    ):
        try:
            plan = Plan.from_json(text)
        except PlanError as error:
            assert str(error).isprintable()
        else:
            assert Plan.from_json(plan.to_json()) == plan


@given(st.sampled_from(["tensor", "dim", "size", "keep", "name", "modules", "parameters", "parts"]), values)
def test_any_value_in_an_edit_is_read_or_refused(name: str, value: Any) -> None:
    edit = {**slice_edit(), **drop_edit(), "kind": "slice" if name in slice_edit() else "drop", name: value}
    try:
        (found,) = Plan.from_json(text_of(edit)).edits
    except PlanError as error:
        assert str(error).isprintable()
    else:
        check_sound(found)


def check_sound(edit: Edit) -> None:
    if isinstance(edit, Slice):
        indices = edit.indices().tolist()
        assert indices == sorted(set(indices)) and indices and 0 <= indices[0] and indices[-1] < edit.size
    else:
        assert all(isinstance(name, str) for name in (edit.name, *edit.modules, *edit.parameters))
