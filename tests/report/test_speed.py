from dataclasses import replace

from squeeze.report.data import Method, Stage, Timing
from squeeze.report.speed import Speedup, headline, promise, sentences, speedups
from tests.report.sample import gated, report, timing


def test_faster_and_slower_need_quartiles_apart() -> None:
    old = Timing("pytorch", 1, 1, 10.0, 9.0, 11.0)
    verdicts = [
        Speedup(old, replace(old, median_ms=m, q1_ms=m - 1, q3_ms=m + 1)).verdict for m in (7.9, 8.1, 11.9, 12.1)
    ]
    assert verdicts == ["faster", "no faster", "no faster", "slower"]


def test_only_equal_conditions_are_compared() -> None:
    before = Stage(latency=(timing(2.0), timing(9.0, batch=8), timing(4.0, backend="pytorch")))
    after = Stage(latency=(timing(1.0, backend="pytorch"), timing(1.0), timing(3.0, batch=16)))
    pairs = speedups(replace(report(), before=before, after=after))
    assert [(pair.before.backend, pair.ratio) for pair in pairs] == [("onnxruntime", 2.0), ("pytorch", 4.0)]


def test_the_headline_is_onnx_runtime_at_the_smallest_batch() -> None:
    times = tuple(timing(1.0, backend=b, batch=n) for b, n in (("pytorch", 1), ("onnxruntime", 8), ("onnxruntime", 2)))
    found = headline(replace(report(), before=Stage(latency=times), after=Stage(latency=times)))
    assert found is not None and found.where == "ONNX Runtime, batch 2"
    assert headline(replace(report(), before=Stage(), after=Stage())) is None


def test_a_saving_on_paper_only_is_called_so() -> None:
    made = report()
    assert promise(made) == 2.0
    assert not any("paper only" in line for line in sentences(made))
    same = replace(made, after=replace(made.after, latency=made.before.latency))
    assert any("not measurably faster (1.00×): there the saving exists on paper only" in s for s in sentences(same))
    unmeasured = replace(made, after=replace(made.after, latency=()))
    assert sentences(unmeasured)[-1] == "No latency was measured: so far the saving exists on paper only."


def test_what_the_papers_count_is_what_is_promised() -> None:
    made = report()
    before, after = replace(made.before, paper_macs=90), replace(made.after, macs=made.before.macs, paper_macs=30)
    clustered = replace(made, before=before, after=after)
    assert promise(clustered) == 3.0
    assert sentences(clustered)[0].endswith("the model should run 3.00× as fast.")


def test_a_model_that_was_not_cut_promises_nothing() -> None:
    made = report()
    assert sentences(replace(made, after=replace(made.before, latency=()))) == ()


def test_gates_that_onnx_runtime_gains_nothing_from_are_called_so_with_what_helps() -> None:
    fast = gated()
    slow = replace(fast, after=replace(fast.after, latency=(timing(3.0),)))
    assert sentences(slow)[-1].startswith(
        "Gates of small convolutions cost ONNX Runtime more than they spare; --set pay"
    )
    chosen = replace(slow, methods=(Method("decouple", {"paying": "onnx"}),))
    without = replace(report(), after=replace(report().after, latency=(timing(3.0),)))
    assert not any("paying" in line for other in (fast, chosen, without) for line in sentences(other))
