"""What half of the MACs buys in time: networks before and after in turn, in PyTorch and in ONNX Runtime.

`make bench-latency`, or `python -m benchmarks.bench_latency --help`. README.md says what it found.
"""

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import nn

import squeeze
from benchmarks.records import circumstances, write_json

NETWORKS = ("resnet50", "mobilenet_v2", "efficientnet_b0", "vgg16")


def halved(model: nn.Module, inputs: torch.Tensor, given: argparse.Namespace) -> nn.Module:
    """The network at this share of its MACs, as Magnitude cuts it; its weights are random, so it is not trained on."""
    structure = squeeze.trace(model, inputs)
    chosen = squeeze.Magnitude(macs=given.macs, round_to=given.round_to, structures=tuple(given.structures))
    found = chosen.search(model, structure, None, squeeze.Run())
    return squeeze.rewrite(model, found.edits).eval()


def compared(name: str, given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """MACs, and the time that a forward pass takes, before and after."""
    torch.manual_seed(0)
    inputs = torch.randn(1, 3, 224, 224)
    dense = torchvision.models.get_model(name, weights=None).eval()
    models = {"before": dense, "after": halved(dense, inputs, given)}
    paths = {side: folder / f"{name}-{side}.onnx" for side in models}
    for side, model in models.items():
        squeeze.export_onnx(model, inputs, paths[side])
    named = {f"{side} pytorch": model for side, model in models.items()}
    named |= {f"{side} onnxruntime": path for side, path in paths.items()}
    times = squeeze.compare(named, inputs, threads=given.threads, repeats=given.repeats, warmup=10)
    macs = {side: squeeze.profile(model, inputs).macs for side, model in models.items()}
    gained = macs["before"] / macs["after"]
    found: dict[str, Any] = {"macs": macs}
    for backend in ("pytorch", "onnxruntime"):
        before, after = (times[f"{side} {backend}"] for side in ("before", "after"))
        speedup = before.median / after.median
        ratios = {"speedup": speedup, "ratio": speedup / gained}
        found[backend] = {"before": asdict(before), "after": asdict(after)} | ratios
    return found


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_latency", description=__doc__)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), metavar="NAME")
    parser.add_argument("--macs", type=float, default=0.5)
    parser.add_argument("--round-to", type=int, default=8)
    parser.add_argument("--structures", nargs="+", default=["filters"], choices=("filters", "inputs"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure everything, and write latency.json; latency-inputs.json if inputs are selected."""
    given = parsed(arguments)
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in given.networks:
            rows[name] = compared(name, given, Path(folder))
            print(name, rows[name], flush=True)
    setup = {key: getattr(given, key) for key in ("macs", "round_to", "structures", "threads", "repeats")} | {
        "batch": 1
    }
    name = "-".join(["latency", *(kind for kind in given.structures if kind != "filters")])
    write_json(given.results / f"{name}.json", {"setup": setup, "networks": rows, "made": circumstances()})


if __name__ == "__main__":
    main()
