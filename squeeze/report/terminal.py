"""The end of a run on the terminal: before, after, and what changed."""

from rich import box
from rich.table import Table
from rich.text import Text

from squeeze.report import wording
from squeeze.report.data import Report
from squeeze.report.speed import one_input, promise, remedies, speedups

FORMATS = {"onnx": "ONNX file", "safetensors": "weights (safetensors)"}


def summary_table(report: Report) -> Table:
    """Before, after and the change of everything that was measured; fits 80 columns."""
    name = Text(wording.shortened(report.origin.model, 40), style="bold")
    table = Table(title=name, box=box.SIMPLE_HEAD, title_justify="left", caption_justify="left", pad_edge=False)
    table.add_column("", overflow="fold")
    for column in ("before", "after", "change"):
        table.add_column(column, justify="right", no_wrap=True)
    before, after = report.before, report.after
    for key in [key for key in after.metrics if key in before.metrics]:
        old, new = before.metrics[key], after.metrics[key]
        _row(
            table,
            wording.shortened(key, 34),
            wording.metric(key, old),
            wording.metric(key, new),
            wording.metric_change(key, old, new),
        )
        if report.cut is not None and key in report.cut.metrics:
            cut = report.cut.metrics[key]
            shown = wording.metric(key, cut)
            _row(table, "  before fine-tuning", "", shown, wording.metric_change(key, old, cut), style="dim")
    _macs(table, report)
    promised = promise(report)
    if after.paper_macs != after.macs:
        counts = wording.count(before.paper_macs), wording.count(after.paper_macs)
        _row(table, "MACs as the paper counts", *counts, _fewer(promised))
    fewer = before.params / after.params if before.params and after.params else None
    _row(table, "parameters", wording.count(before.params), wording.count(after.params), _fewer(fewer))
    for form, new in after.bytes.items():
        was = before.bytes.get(form)
        change = _fewer(was / new if was and new else None, "smaller")
        _row(table, FORMATS.get(form, f"{form} file"), wording.size(was), wording.size(new), change)
    for pair in speedups(report):
        what = f"{pair.where}, {pair.before.threads} thr."
        change = f"{wording.times(pair.ratio)}, {pair.verdict}"
        times = wording.duration(pair.before.median_ms), wording.duration(pair.after.median_ms)
        _row(table, what, *times, change, style="" if pair.verdict == "faster" else "yellow")
    table.caption = "\n".join(_captions(report)) or None
    return table


def _captions(report: Report) -> tuple[str, ...]:
    spent = report.after.by_input
    mean = () if spent is None or one_input(report) is None else (f"Mean input: over {spent.words}.",)
    return (*mean, *remedies(report))


def _macs(table: Table, report: Report) -> None:
    """Of the example inputs; first of one input on average, where that hangs on the input."""
    before, after, mean = report.before, report.after, one_input(report)
    what, style = "MACs", ""
    if mean is not None:
        first, last = mean
        _row(table, "MACs, mean input", wording.count(first), wording.count(last), _fewer(first / last))
        what, style = "  example inputs", "dim"
    ratio = before.macs / after.macs if before.macs and after.macs else None
    _row(table, what, wording.count(before.macs), wording.count(after.macs), _fewer(ratio), style=style)


def _row(table: Table, name: str, before: str, after: str, change: str, style: str = "") -> None:
    table.add_row(Text(name), Text(before), Text(after), Text(change), style=style)


def _fewer(ratio: float | None, word: str = "fewer") -> str:
    return wording.NONE if ratio is None else f"{wording.times(ratio)} {word}"
