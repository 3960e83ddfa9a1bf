"""Settings from text, by the type of the field."""

from dataclasses import dataclass
from typing import Any, Literal

import pytest

from squeeze import FineTune
from squeeze.errors import InputError
from squeeze_cli.settings import FINETUNE, build, convert, find_pass, parse_assignments, settings_of


@dataclass(frozen=True)
class Example:
    """Two settings.

    Attributes:
        share: What stays, which is
            told on two lines.
        names: Of layers.
    """

    share: float | None = None
    names: tuple[str, ...] = ("head",)
    fast: bool = True

    def __post_init__(self) -> None:
        if self.share is not None and not 0 < self.share < 1:
            raise ValueError(f"share: must be between 0 and 1, got {self.share}; say what stays.")


@pytest.mark.parametrize(
    ("text", "annotation", "value"),
    [
        ("8", int, 8),
        ("1e-3", float, 0.001),
        ("0.5", float | None, 0.5),
        ("none", float | None, None),
        ("no", bool, False),
        ("True", bool, True),
        ("l2", Literal["l1", "l2"], "l2"),
        ("2", Literal[1, 2], 2),
        ("filters, blocks", tuple[Literal["filters", "blocks"], ...], ("filters", "blocks")),
        ("", tuple[str, ...], ()),
        ("3,0.5", tuple[int, float], (3, 0.5)),
        ("3", int | str, 3),
        ("x", int | str, "x"),
        ("[1, 2]", Any, [1, 2]),
    ],
)
def test_text_becomes_what_the_field_wants(text: str, annotation: Any, value: Any) -> None:
    converted = convert(text, annotation, "field")
    assert (converted, type(converted)) == (value, type(value))


@pytest.mark.parametrize(
    ("text", "annotation", "wanted"),
    [
        ("8.5", int, "a whole number"),
        ("half", float | None, "a number or none"),
        ("maybe", bool, "true or false"),
        ("l3", Literal["l1", "l2"], "l1|l2"),
        ("filters,layers", tuple[Literal["filters", "blocks"], ...], "filters|blocks, ..."),
        ("1,2,3", tuple[int, int], "a whole number"),
        ("{}", dict[str, int], "dict"),
    ],
)
def test_other_text_is_refused_with_what_it_must_be(text: str, annotation: Any, wanted: str) -> None:
    with pytest.raises(InputError) as caught:
        convert(text, annotation, "field")
    assert wanted in str(caught.value)
    assert repr(text) in str(caught.value)


def test_a_record_is_built_from_texts_and_values() -> None:
    assert build(Example, {"share": "0.25"}, {"names": ("a",)}, "example") == Example(0.25, ("a",))


def test_an_unknown_field_is_answered_with_the_fields_and_a_guess() -> None:
    with pytest.raises(InputError, match="share, names, fast.*'shar'.*did you mean 'share'"):
        build(Example, {"shar": "1"}, {}, "example")


def test_a_value_that_can_not_be_keeps_the_words_of_the_pass() -> None:
    with pytest.raises(InputError, match="share: must be between 0 and 1, got 2.0"):
        build(Example, {"share": "2"}, {}, "example")


def test_an_option_that_a_pass_has_no_use_for_is_named() -> None:
    with pytest.raises(InputError, match="--epochs: must be a setting of example, got one that it has not; leave it"):
        build(Example, {}, {"epochs": 3}, "example")


@dataclass(frozen=True)
class Demanding:
    """One that needs to be told something.

    Attributes:
        strength: How much.
    """

    strength: float


def test_a_setting_without_default_must_be_given() -> None:
    with pytest.raises(InputError, match="demanding must be given strength, got none; add --set strength=VALUE"):
        build(Demanding, {}, {}, "demanding")
    assert build(Demanding, {"strength": "2"}, {}, "demanding") == Demanding(2.0)


def test_what_is_said_twice_is_refused() -> None:
    with pytest.raises(InputError, match="got finetune.epochs twice; drop one"):
        build(FineTune, {"epochs": "3"}, {"epochs": 4}, "fine-tuning", FINETUNE)


def test_settings_of_fine_tuning_are_named_as_they_were_given() -> None:
    with pytest.raises(InputError, match="--set finetune.lr: must be a number, got 'fast'"):
        build(FineTune, {"lr": "fast"}, {}, "fine-tuning", FINETUNE)


def test_an_assignment_needs_a_name_and_an_equals_sign() -> None:
    assert parse_assignments(["a=1", "b = x=y "]) == {"a": "1", "b": "x=y"}
    with pytest.raises(InputError, match="field=value, got 'a'"):
        parse_assignments(["a"])


def test_settings_are_listed_with_type_default_and_documentation() -> None:
    share, names, fast = settings_of(Example)
    assert (share.type, share.default, share.doc) == (
        "a number or none",
        "none",
        "What stays, which is told on two lines.",
    )
    assert (names.type, names.default) == ("text, ...", "head")
    assert (fast.type, fast.default, fast.doc) == ("true or false", "true", "")


def test_an_unknown_method_is_answered_with_the_known_ones() -> None:
    known = "gal, kse, magnitude or file.py:Pass"
    with pytest.raises(InputError, match=f"{known}, got 'magnitud'; did you mean 'magnitude'"):
        find_pass("magnitud")
