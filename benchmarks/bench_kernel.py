"""Clustered convolutions on squeeze's native kernel, beside the equal dense ones in PyTorch and in ONNX Runtime.

`make bench-kernel`, or `python -m benchmarks.bench_kernel --help`. README.md says what it found.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import quantiles
from tempfile import TemporaryDirectory
from typing import Any

import onnxruntime
import torch
from torch import nn

import squeeze
from benchmarks.records import circumstances, write_json

HERE = Path(__file__).parent
SHAPES = (
    (16, 32),
    (32, 16),
    (64, 56),
    (64, 28),
    (64, 14),
    (128, 28),
    (128, 14),
    (256, 28),
    (256, 14),
    (512, 14),
    (512, 7),
)
"""(channels in and out, height and width)."""
RATIOS = (4, 8, 16)
"""N / q: one kernel in so many is left."""
SECONDS = 0.004
"""About how long each measurement runs; small layers are called several times."""
REST, WARM = 0.01, 0.1
"""Seconds before each: threads of the way before, which wait for more work by spinning, go to sleep; then those of this
way are woken, and the scheduler gives them a processor each."""


def layer(channels: int, ratio: int) -> squeeze.nn.ClusteredConv2d:
    """A 3×3 convolution that keeps one kernel in `ratio` of every input channel; any numbers do."""
    conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
    return squeeze.nn.ClusteredConv2d(conv, [channels // ratio] * channels).eval()


def dense(clustered: squeeze.nn.ClusteredConv2d) -> nn.Conv2d:
    """The ordinary convolution that computes the same."""
    conv = nn.Conv2d(clustered.in_channels, clustered.out_channels, 3, padding=1, bias=False).eval()
    conv.weight.data.copy_(clustered.dense_weight())
    return conv


def session(conv: nn.Module, x: torch.Tensor, threads: int) -> Callable[[], Any]:
    """A call of ONNX Runtime."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    with TemporaryDirectory() as folder:
        squeeze.export_onnx(conv, x, Path(folder) / "layer.onnx")
        made = onnxruntime.InferenceSession(Path(folder) / "layer.onnx", options, providers=["CPUExecutionProvider"])
    feed = {made.get_inputs()[0].name: x.numpy()}
    return lambda: made.run(None, feed)


def timed(ways: dict[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """Milliseconds a call, quartiles; all ways in turn in every round, after a warm-up."""
    calls = {}
    for name, way in ways.items():
        for _ in range(3):
            way()
        begin = time.perf_counter()
        way()
        calls[name] = max(1, round(SECONDS / (time.perf_counter() - begin)))
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            time.sleep(REST)
            warm = time.perf_counter() + WARM
            while time.perf_counter() < warm:
                way()
            begin = time.perf_counter()
            for _ in range(calls[name]):
                way()
            found[name].append(1000 * (time.perf_counter() - begin) / calls[name])
    return {name: quantiles(times, n=4) for name, times in found.items()}


@torch.no_grad()
def measured(channels: int, size: int, ratio: int, threads: int, repeats: int) -> dict[str, Any]:
    """One layer in all ways."""
    clustered, x = layer(channels, ratio), torch.randn(1, channels, size, size)
    ordinary = dense(clustered)
    last, x_last = dense(clustered).to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
    assert torch.allclose(clustered(x), ordinary(x), rtol=1e-4, atol=1e-4)
    ways = {
        "clustered": lambda: clustered(x),
        "torch": lambda: ordinary(x),
        "torch_channels_last": lambda: last(x_last),
        "onnxruntime": session(ordinary, x, threads),
    }
    times = timed(ways, repeats)
    return {
        "channels": channels,
        "size": size,
        "ratio": ratio,
        "threads": threads,
        "ms": times,
        "way": clustered.way(x),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and write the JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_kernel", description=__doc__)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--results", type=Path, default=HERE / "results")
    given = parser.parse_args(arguments)
    rows = []
    for threads in given.threads:
        torch.set_num_threads(threads)
        for channels, size in SHAPES:
            for ratio in RATIOS:
                rows.append(measured(channels, size, ratio, threads, given.repeats))
                ms = {name: quartiles[1] for name, quartiles in rows[-1]["ms"].items()}
                print(f"{channels} channels, {size}x{size}, N/{ratio}, {threads} thr.: {ms}", flush=True)
    write_json(given.results / "kernel.json", {"unit": "ms", "rows": rows, "made": circumstances()})


if __name__ == "__main__":
    main()
