import pytest

from squeeze.report import wording


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (0, "0"),
        (999, "999"),
        (1000, "1.00 k"),
        (9_994, "9.99 k"),
        (9_996, "10.0 k"),
        (999_499, "999 k"),
        (999_500, "1.00 M"),
        (41_240_000, "41.2 M"),
        (1_820_000_000, "1.82 G"),
    ],
)
def test_counts_have_three_digits(value: int | None, text: str) -> None:
    assert wording.count(value) == text


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [
        (0.0421, "0.042 ms"),
        (0.99951, "1.00 ms"),
        (3.42, "3.42 ms"),
        (99.96, "100 ms"),
        (212.4, "212 ms"),
        (1240, "1.24 s"),
    ],
)
def test_durations(milliseconds: float, text: str) -> None:
    assert wording.duration(milliseconds) == text


def test_sizes_count_in_thousands() -> None:
    assert [wording.size(n) for n in (12, 742_000, 3_478_123)] == ["12 B", "742 kB", "3.48 MB"]


def test_a_spread_names_its_unit_once_if_it_can() -> None:
    assert wording.spread(6.634, 7.17) == "6.63 – 7.17 ms"
    assert wording.spread(990, 1240) == "990 ms – 1.24 s"


@pytest.mark.parametrize(
    ("before", "after", "text"),
    [
        (200, 99.4, "−50.3 %"),
        (100, 100, "0.0 %"),
        (100, 101.2, "+1.2 %"),
        (0, 3, "–"),
        (None, 3, "–"),
        (100, 99.99, "0.0 %"),
    ],
)
def test_changes_are_signed(before: float | None, after: float, text: str) -> None:
    assert wording.change(before, after) == text


def test_shares_are_percent_and_move_by_points() -> None:
    assert wording.metric("accuracy", 0.9173) == "91.73 %"
    assert wording.metric_change("accuracy", 0.9173, 0.9131) == "−0.42 points"
    assert wording.metric("loss", 0.28617) == "0.2862"
    assert wording.metric_change("loss", 0.3, 0.25) == "−0.05"


def test_long_names_lose_their_middle() -> None:
    assert wording.shortened("abcdefghij", 10) == "abcdefghij"
    assert wording.shortened("abcdefghijk", 10) == "abcd…ghijk"
    assert wording.shortened("a\n b", 10) == "a b"


def test_dates_are_read_to_the_minute() -> None:
    assert wording.moment("2031-05-06T07:08:09+00:00") == "2031-05-06, 07:08 UTC"
    assert wording.moment("yesterday") == "yesterday"
