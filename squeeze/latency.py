"""Measured latency: candidates run in turn, so that whatever else the machine does hits them alike."""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from squeeze.modes import in_eval_mode
from squeeze.nn import HasWays
from squeeze.onnx_session import feed, open_session
from squeeze.task import Inputs, call, check_inputs, tensors_of

Candidate = nn.Module | Path
"""What can be timed: a model in PyTorch, or an ONNX file in ONNX Runtime."""

Clock = Callable[[], float]
"""Seconds from any origin."""


@dataclass(frozen=True)
class Latency:
    """How long one forward pass takes, and under which conditions.

    Attributes:
        median: In milliseconds, as the quartiles.
        q1: First quartile.
        q3: Third quartile.
        runs: How many were measured, warm-up not included.
        threads: How many worked on one operator.
        batch: The size of dim 0 of the first input; 0 if there is no such dim.
        backend: "pytorch" or "onnxruntime".
        device: Where the model ran, such as "cpu".
    """

    median: float
    q1: float
    q3: float
    runs: int
    threads: int
    batch: int
    backend: str
    device: str

    def to_dict(self) -> dict[str, Any]:
        """All figures, ready for JSON."""
        return {"unit": "ms", **asdict(self)}

    def __str__(self) -> str:
        """In one line, with spread and conditions."""
        threads = f"{self.threads} thread" + ("s" if self.threads != 1 else "")
        return (
            f"{self.median:.3f} ms (quartiles {self.q1:.3f} to {self.q3:.3f}; {self.runs} runs, {threads}, "
            f"batch {self.batch}, {self.backend}, {self.device})"
        )


def latency(
    model: Candidate, example_inputs: Inputs, *, threads: int | None = None, repeats: int = 50, warmup: int = 5
) -> Latency:
    """Measure one model; see `compare`, which is fairer to several than calling this for each."""
    return compare({"model": model}, example_inputs, threads=threads, repeats=repeats, warmup=warmup)["model"]


def compare(
    candidates: Mapping[str, Candidate],
    example_inputs: Inputs,
    *,
    threads: int | None = None,
    repeats: int = 50,
    warmup: int = 5,
    clock: Clock = time.perf_counter,
) -> dict[str, Latency]:
    """Measure several models on the same inputs, one run of each in every round, in eval mode.

    Args:
        candidates: Models or paths of ONNX files, by name. Models are left as they are.
        example_inputs: A tensor, a tuple of positional arguments or a dict of keyword arguments.
        threads: How many work on one operator; None keeps PyTorch's present number, for both backends.
        repeats: Measured rounds.
        warmup: Rounds before them.
        clock: What tells the time.

    Returns:
        One figure for each name.

    Raises:
        InputError: A model does not accept the inputs, or an ONNX file cannot be loaded.
        ValueError: A number that cannot be.
    """
    for name, value, least in (("threads", threads, 1), ("repeats", repeats, 1), ("warmup", warmup, 0)):
        if value is not None and value < least:
            raise ValueError(f"latency: {name} must be at least {least}, got {value}; pass a larger number.")
    with _threads(threads) as used, in_eval_mode(*[m for m in candidates.values() if isinstance(m, nn.Module)]):
        runs = {name: _runner(candidate, example_inputs, used) for name, candidate in candidates.items()}
        seconds = measure(runs, repeats, warmup, clock)
    tensors = tensors_of(example_inputs)
    batch = tensors[0].shape[0] if tensors and tensors[0].dim() else 0
    found = {}
    for name, candidate in candidates.items():
        quartiles = _quartiles([1000 * s for s in seconds[name]])
        backend, device = ("onnxruntime", "cpu") if isinstance(candidate, Path) else ("pytorch", _device(candidate))
        q1, median, q3 = quartiles
        found[name] = Latency(median, q1, q3, repeats, used, batch, backend, device)
    return found


def ways(model: nn.Module, example_inputs: Inputs) -> dict[str, str]:
    """How each layer that can be computed in several ways is computed for these inputs, in eval mode, by its name.

    A layer that has not yet met this shape measures its ways; after `latency` on the same inputs, this is what ran.
    """
    found: dict[str, str] = {}

    def ask(name: str, layer: HasWays, x: Tensor) -> None:
        found.setdefault(name, layer.way(x))

    modules = dict(model.named_modules())
    handles = [
        modules[name].register_forward_pre_hook(lambda layer, x, name=name: ask(name, layer, *x))
        for name, layer in modules.items()
        if isinstance(layer, HasWays)
    ]
    try:
        with in_eval_mode(model), torch.no_grad():
            call(model, example_inputs)
    finally:
        for handle in handles:
            handle.remove()
    return found


def measure(
    runs: Mapping[str, Callable[[], None]], repeats: int, warmup: int, clock: Clock = time.perf_counter
) -> dict[str, list[float]]:
    """Seconds of every run, in rounds that each start with the next candidate.

    The rotation keeps any one from always running in the wake of the same other.
    """
    names = list(runs)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(warmup + repeats):
        start = turn % len(names) if names else 0
        for name in names[start:] + names[:start]:
            begin = clock()
            runs[name]()
            taken = clock() - begin
            if turn >= warmup:
                seconds[name].append(taken)
    return seconds


def _quartiles(values: list[float]) -> tuple[float, float, float]:
    if len(values) == 1:
        return values[0], values[0], values[0]
    q1, median, q3 = statistics.quantiles(values, n=4, method="inclusive")
    return q1, median, q3


def _runner(candidate: Candidate, inputs: Inputs, threads: int) -> Callable[[], None]:
    """A function that runs the candidate once, to the end."""
    if isinstance(candidate, Path):
        session = open_session(candidate, threads)
        arrays = feed(session, inputs)
        return lambda: session.run(None, arrays)
    check_inputs(candidate, inputs)
    on_cpu = _device(candidate) == "cpu"

    def run() -> None:
        with torch.no_grad():
            call(candidate, inputs)
        if not on_cpu:
            torch.accelerator.synchronize()

    return run


def _device(model: nn.Module) -> str:
    tensor = next(iter([*model.parameters(), *model.buffers()]), None)
    return "cpu" if tensor is None else tensor.device.type


@contextmanager
def _threads(wanted: int | None) -> Iterator[int]:
    """PyTorch's number of threads, restored afterwards."""
    before = torch.get_num_threads()
    try:
        if wanted is not None:
            torch.set_num_threads(wanted)
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(before)
