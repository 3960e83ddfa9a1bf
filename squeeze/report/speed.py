"""What the measured time says about the saving that the MACs promise."""

from dataclasses import dataclass
from typing import Literal

from squeeze.report import wording
from squeeze.report.data import Report, Stage, Timing

Verdict = Literal["faster", "no faster", "slower"]


@dataclass(frozen=True)
class Speedup:
    """The same measurement before and after."""

    before: Timing
    after: Timing

    @property
    def ratio(self) -> float:
        """Median before through median after: above 1 is faster."""
        return self.before.median_ms / self.after.median_ms

    @property
    def verdict(self) -> Verdict:
        """Faster or slower only where the quartiles of the two measurements do not overlap."""
        if self.after.q3_ms < self.before.q1_ms:
            return "faster"
        return "slower" if self.after.q1_ms > self.before.q3_ms else "no faster"

    @property
    def where(self) -> str:
        """What was measured, in words."""
        return f"{wording.backend(self.before.backend)}, batch {self.before.batch}"

    @property
    def conditions(self) -> str:
        """On what it was measured."""
        threads = self.before.threads
        return f"{threads} thread{'s' * (threads != 1)}, {self.before.device}"


def speedups(report: Report) -> tuple[Speedup, ...]:
    """Every measurement that was made both before and after."""
    after = {_key(timing): timing for timing in report.after.latency if timing.median_ms > 0}
    pairs = ((timing, after.get(_key(timing))) for timing in report.before.latency if timing.median_ms > 0)
    return tuple(Speedup(before, match) for before, match in pairs if match is not None)


def headline(report: Report) -> Speedup | None:
    """The measurement that stands for all: ONNX Runtime's at the smallest batch, if there is one."""
    found = speedups(report)
    return min(found, key=lambda s: (s.before.backend != "onnxruntime", s.before.batch)) if found else None


def promise(report: Report) -> float | None:
    """The speed-up that the MACs, as papers count them, promise: before through after; None if one is unknown or 0."""
    before, after = _paper(report.before), _paper(report.after)
    return before / after if before and after else None


def one_input(report: Report) -> tuple[float, float] | None:
    """Multiply-accumulates of one input, before and, on average, after; None where all inputs cost the same."""
    found = report.after.by_input
    if found is None or not report.before.macs or found.mean <= 0 or found.batch < 1:
        return None
    whole = report.before.macs / found.batch if report.before.by_input is None else report.before.by_input.mean
    return whole, found.mean


def sentences(report: Report) -> tuple[str, ...]:
    """The promise and what came of it, one sentence each."""
    promised, found, spent = promise(report), speedups(report), report.after.by_input
    mean, said = one_input(report), list[str]()
    if spent is not None and mean is not None:
        before, after, spread = map(wording.count, (*mean, spent.deviation))
        said.append(
            f"An input took {before} multiply-accumulates; now it takes {after} on average over {spent.words}, with a "
            f"standard deviation of {spread}."
        )
    if promised is not None and promised != 1:
        which = " on the example inputs, on which it is timed" if spent else ""
        said.append(
            f"On paper, by multiply-accumulates, the model should run {wording.times(promised)} as fast{which}."
        )
    faster = [f"{wording.times(item.ratio)} in {item.where}" for item in found if item.verdict == "faster"]
    if faster:
        said.append(f"Measured, it runs {'; '.join(faster).replace('×', '× as fast', 1)}.")
    for item in found:
        if item.verdict != "faster":
            slower = "slower" if item.verdict == "slower" else "not measurably faster"
            paper = ": there the saving exists on paper only" if promised is not None and promised > 1 else ""
            said.append(f"In {item.where} it is {slower} ({wording.times(item.ratio)}){paper}.")
    if not found and promised is not None and promised > 1:
        said.append("No latency was measured: so far the saving exists on paper only.")
    return (*said, *remedies(report))


def remedies(report: Report) -> tuple[str, ...]:
    """What helps where gates made the model no faster in ONNX Runtime, in a sentence; none where that was done."""
    slow = any(s.before.backend == "onnxruntime" and s.verdict != "faster" for s in speedups(report))
    chosen = any(method.settings.get("paying") == "onnx" for method in report.methods)
    if report.after.by_input is None or not slow or chosen:
        return ()
    return (
        "Gates of small convolutions cost ONNX Runtime more than they spare; --set paying=onnx gates only what is "
        "measured to be faster there.",
    )


def _paper(stage: Stage) -> int | None:
    return stage.macs if stage.paper_macs is None else stage.paper_macs


def _key(timing: Timing) -> tuple[str, int, int, str]:
    return timing.backend, timing.batch, timing.threads, timing.device
