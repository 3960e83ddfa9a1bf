"""Numbers as people read them: 41.2 M, 3.42 ms, −50.3 %."""

import math
import re
from collections.abc import Iterable, Mapping

NONE = "–"
MINUS = "\u2212"

SHARES = frozenset({"accuracy", "acc", "top1", "top5", "top-1", "top-5"})
"""Metrics that are shares: shown in percent when they lie between 0 and 1."""

BACKENDS: Mapping[str, str] = {
    "pytorch": "PyTorch",
    "torch": "PyTorch",
    "onnxruntime": "ONNX Runtime",
    "onnx": "ONNX Runtime",
}

METHODS: Mapping[str, str] = {"gal": "GAL", "kse": "KSE"}


def count(value: float | None) -> str:
    """MACs or parameters to three digits: 852, 41.2 M."""
    return NONE if value is None else _scaled(value, ("", "k", "M", "G", "T"))


def size(value: float | None) -> str:
    """Bytes to three digits; a kB is 1000 bytes."""
    return NONE if value is None else _scaled(value, ("B", "kB", "MB", "GB", "TB"))


def duration(milliseconds: float | None) -> str:
    """To three digits: 0.842 ms, 212 ms, 1.24 s."""
    if milliseconds is None:
        return NONE
    return f"{_digits(milliseconds / 1000)} s" if milliseconds >= 999.5 else f"{_digits(milliseconds)} ms"


def spread(low: float, high: float) -> str:
    """Two durations: 6.63 – 7.17 ms."""
    first, second = duration(low), duration(high)
    same = first.rpartition(" ")[2] == second.rpartition(" ")[2]
    return f"{first.rpartition(' ')[0] if same else first} – {second}"


def change(before: float | None, after: float | None) -> str:
    """By how many percent a figure changed: −50.3 %."""
    if before is None or after is None or before == 0:
        return NONE
    return f"{_signed(100 * (after - before) / before, 1)} %"


def times(ratio: float | None) -> str:
    """A ratio: 2.01×."""
    return NONE if ratio is None else f"{_digits(ratio)}×"


def metric(name: str, value: float | None) -> str:
    """A metric: shares in percent, others to four digits."""
    if value is None:
        return NONE
    return f"{100 * value:.2f} %" if is_share(name, value) else f"{value:.4g}".replace("-", MINUS)


def metric_change(name: str, before: float | None, after: float | None) -> str:
    """How a metric moved: shares by percentage points, others by their own unit."""
    if before is None or after is None:
        return NONE
    if is_share(name, before) and is_share(name, after):
        return f"{_signed(100 * (after - before), 2)} points"
    return f"{after - before:+.3g}".replace("-", MINUS)


def is_share(name: str, value: float) -> bool:
    """Whether a metric is shown in percent."""
    return name.lower() in SHARES and 0 <= value <= 1


def backend(name: str) -> str:
    """A backend's own spelling of its name."""
    return BACKENDS.get(name, name)


def method(name: str) -> str:
    """A method's name at the start of a line."""
    return METHODS.get(name, name[:1].upper() + name[1:])


def spoken(name: str) -> str:
    """A name in code as a title: "Holdout accuracy"."""
    words = name.replace("_", " ")
    return words[:1].upper() + words[1:]


def moment(date: str) -> str:
    """An ISO 8601 date to the minute; text that is not one stays as it is."""
    found = re.fullmatch(r"(\d{4}-\d\d-\d\d)T(\d\d:\d\d):\d\d\+00:00", date)
    return f"{found[1]}, {found[2]} UTC" if found else date


def middle(values: Iterable[float]) -> str:
    """The median of some numbers, and their middle half: 1.5 (0.75 – 2.5)."""
    _, low, median, high, _ = quartiles(values)
    return f"{median:.3g} ({low:.3g} – {high:.3g})"


def quartiles(values: Iterable[float]) -> tuple[float, float, float, float, float]:
    """Least, first quartile, median, third quartile, largest; between neighbours linearly."""
    ordered = sorted(values)

    def at(share: float) -> float:
        place = share * (len(ordered) - 1)
        low = math.floor(place)
        high = min(low + 1, len(ordered) - 1)
        return ordered[low] + (place - low) * (ordered[high] - ordered[low])

    return at(0), at(0.25), at(0.5), at(0.75), at(1)


def setting(value: object) -> str:
    """A setting's value."""
    if value is None:
        return NONE
    if isinstance(value, list | tuple):
        return ", ".join(setting(item) for item in value) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def shortened(name: str, length: int) -> str:
    """A name on one line, its middle left out if it is longer than `length`."""
    name = " ".join(name.split())
    if len(name) <= length:
        return name
    head = (length - 1) // 2
    return f"{name[:head]}…{name[len(name) - (length - 1 - head) :]}"


def _signed(value: float, places: int) -> str:
    text = f"{value:+.{places}f}"
    return text[1:] if float(text) == 0 else text.replace("-", MINUS)


def _digits(value: float) -> str:
    """Three digits, without an exponent."""
    for limit, places in ((0.9995, 3), (9.995, 2), (99.95, 1)):
        if abs(value) < limit:
            return f"{value:.{places}f}"
    return f"{value:.0f}"


def _scaled(value: float, units: tuple[str, ...]) -> str:
    scaled, unit = float(value), 0
    while abs(scaled) >= 999.5 and unit < len(units) - 1:
        scaled, unit = scaled / 1000, unit + 1
    number = str(int(value)) if unit == 0 and value == int(value) else _digits(scaled)
    return f"{number} {units[unit]}".strip()
