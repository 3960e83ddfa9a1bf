"""What KSE buys in time: whole networks, dense in PyTorch and ONNX Runtime, and clustered on squeeze's native kernel.

`make bench-kse-latency`, or `python -m benchmarks.bench_kse_latency --help`. README.md says what it found.
"""

import argparse
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import nn

import squeeze
from benchmarks.records import circumstances, write_json
from examples.classifiers.model import resnet56, vgg16

NETWORKS: dict[str, tuple[Callable[[], nn.Module], int, tuple[int, ...]]] = {
    "VGG-16": (vgg16, 32, (1, 16)),
    "ResNet-56": (resnet56, 32, (1, 16)),
    "ResNet-50": (torchvision.models.resnet50, 224, (1,)),
}
"""What builds it, height and width of its images, and batches."""


def compared(name: str, given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """One network before and after; its weights are random, so it is not trained on."""
    torch.manual_seed(0)
    build, size, batches = NETWORKS[name]
    image = torch.randn(1, 3, size, size)
    dense = build().eval()
    chosen_pass: Any = squeeze.KSE(G=given.G, T=given.T)  # needs no task
    found = chosen_pass.search(dense, squeeze.trace(dense, image), None, squeeze.Run())
    small = squeeze.rewrite(dense, found.edits).eval()
    unknown = small.load_state_dict(found.tensors, strict=False).unexpected_keys
    assert not unknown, unknown
    before, after = squeeze.profile(dense, image), squeeze.profile(small, image)
    rows = []
    for batch in batches:
        inputs = image.repeat(batch, 1, 1, 1)
        path = folder / f"{name}-{batch}.onnx"
        squeeze.export_onnx(dense, inputs, path)
        candidates: dict[str, nn.Module | Path] = {"torch": dense, "onnxruntime": path, "clustered": small}
        times = squeeze.compare(candidates, inputs, threads=given.threads, repeats=given.repeats, warmup=3)
        torch.set_num_threads(given.threads)
        chosen = Counter(way.split(":")[0] for way in squeeze.ways(small, inputs).values())
        rows.append({"batch": batch, "ways": chosen, **{side: asdict(time) for side, time in times.items()}})
        print(name, batch, {side: f"{time.median:.3g} ms" for side, time in times.items()}, dict(chosen), flush=True)
    return {"macs": {"before": before.macs, "after": after.macs, "paper": after.paper_macs}, "rows": rows}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure everything, and write kse-latency.json."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_kse_latency", description=__doc__)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS), metavar="NAME")
    parser.add_argument("--G", type=int, default=4)
    parser.add_argument("--T", type=float, default=1.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        rows = {name: compared(name, given, Path(folder)) for name in given.networks}
    setup = {key: getattr(given, key) for key in ("G", "T", "threads", "repeats")}
    write_json(given.results / "kse-latency.json", {"setup": setup, "networks": rows, "made": circumstances()})


if __name__ == "__main__":
    main()
