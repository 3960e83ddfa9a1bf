import io
from dataclasses import replace

from rich.cells import cell_len
from rich.console import Console

from squeeze.report import Report, summary_table
from squeeze.report.data import Origin, Stage
from tests.report.sample import gated, report, timing


def shown(made: Report) -> list[str]:
    stream = io.StringIO()
    Console(file=stream, width=80).print(summary_table(made))
    return stream.getvalue().splitlines()


def test_it_says_what_changed_in_80_columns() -> None:
    lines = shown(report())
    rows = [" ".join(line.split()) for line in lines]
    assert max(map(cell_len, lines)) <= 80
    assert "accuracy 95.12 % 94.87 % −0.25 points" in rows
    assert "before fine-tuning 71.00 % −24.12 points" in rows
    assert "MACs 82.4 M 41.2 M 2.00× fewer" in rows
    assert "parameters 1.23 M 600 k 2.05× fewer" in rows
    assert "ONNX file 4.92 MB 2.40 MB 2.05× smaller" in rows
    assert "ONNX Runtime, batch 1, 1 thr. 2.00 ms 1.25 ms 1.60×, faster" in rows


def test_of_gates_the_mean_over_inputs_comes_first() -> None:
    lines = shown(gated())
    rows = [" ".join(line.split()) for line in lines]
    place = rows.index("MACs, mean input 41.2 M 20.6 M 2.00× fewer")
    assert rows[place + 1] == "example inputs 82.4 M 41.2 M 2.00× fewer"
    assert "Mean input: over 143 held-out inputs." in rows
    assert max(map(cell_len, lines)) <= 80


def test_gates_that_are_slower_in_onnx_runtime_come_with_what_helps() -> None:
    made = gated()
    slow = replace(made, after=replace(made.after, latency=(timing(3.0),)))
    lines = shown(slow)
    assert "--set paying=onnx" in " ".join(" ".join(lines).split())
    assert max(map(cell_len, lines)) <= 80


def test_names_are_not_markup_and_do_not_widen_it() -> None:
    lines = shown(report(name="[bold red]{}[/]" + "x" * 200))
    assert "[bold red]net[/]xx" in "".join(lines)
    assert max(map(cell_len, lines)) <= 80


def test_what_was_not_measured_is_a_dash() -> None:
    lines = shown(Report(Origin("m"), (), Stage(), None, Stage()))
    assert " ".join(lines[4].split()) == "MACs – – –"
