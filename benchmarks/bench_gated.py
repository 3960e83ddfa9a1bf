"""What skipping filters buys in time: pairs of layers and whole networks, at a half and a quarter of the filters.

`make bench-gated`, or `python -m benchmarks.bench_gated --help`. README.md says what it found.
"""

import argparse
import copy
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

import squeeze
from benchmarks.records import circumstances, finished, write_json
from examples.classifiers.model import resnet20, resnet56, vgg16

SHARES = (0.5, 0.25)
PAIRS = ((16, 32), (32, 16), (64, 8), (64, 56), (64, 28), (128, 28), (256, 14), (512, 7))
"""Channels, and height and width of their maps."""
NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "ResNet-20": (resnet20, 32),
    "ResNet-56": (resnet56, 32),
    "VGG-16": (vgg16, 32),
    "ResNet-18": (torchvision.models.resnet18, 224),
    "ResNet-50": (torchvision.models.resnet50, 224),
    "ResNeXt-50, 64 px": (torchvision.models.resnext50_32x4d, 64),
}
"""What builds it, height and width of its images."""


class Pair(nn.Module):
    """Two 3×3 convolutions with their batch norms and ReLUs; the first is to be gated, the second reads it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.second = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.norm2(self.second(torch.relu(self.norm1(self.first(x))))))


def gated(dense: nn.Module, image: Tensor, share: float, reader: str = "") -> nn.Module:
    """All that a trace finds (but a reader) gated; of each layer the same share is on, whatever the input."""
    sites = [site for site in squeeze.trace(dense, image).gateable if site.conv != reader]
    edits = []
    for site in sites:
        conv = dense.get_submodule(site.conv)
        assert isinstance(conv, nn.Conv2d)
        if reader or not site.stem:
            hidden = max(1, conv.in_channels // 4)
            edits.append(squeeze.Gate(site.conv, site.norm, hidden, site.relu, site.follows, site.reads))
    made = squeeze.rewrite(dense, edits).eval()
    state = made.state_dict()
    for edit in edits:
        bias = state[f"{edit.module}.gate.expand.bias"]
        # Logits depend on the input, but never cross 0.
        bias.copy_(torch.where(torch.randperm(len(bias)) < share * len(bias), 1e3, -1e3))
    return made


def compared(name: str, dense: nn.Module, image: Tensor, given: argparse.Namespace, reader: str = "") -> dict[str, Any]:
    """Dense and gated, in PyTorch and ONNX Runtime, all in turn."""
    candidates: dict[str, nn.Module | Path] = {"torch, dense": dense}
    with tempfile.TemporaryDirectory() as folder:
        if given.onnx:
            candidates["onnx, dense"] = squeeze.export_onnx(dense, image, Path(folder) / "dense.onnx")
        for share in SHARES:
            made = gated(dense, image, share, reader)
            candidates[f"torch, {share:.0%}"] = made
            if given.onnx:
                path = squeeze.export_onnx(copy.deepcopy(made), image, Path(folder) / f"{share}.onnx")
                candidates[f"onnx, {share:.0%}"] = path
        times = squeeze.compare(candidates, image, threads=given.threads, repeats=given.repeats, warmup=3)
        torch.set_num_threads(given.threads)
        half = candidates["torch, 50%"]
        assert isinstance(half, nn.Module)
        ways = Counter(way.split(":")[0] for way in squeeze.ways(half, image).values())
    ratios = {n: t.median / times[f"{n.partition(',')[0]}, dense"].median for n, t in times.items()}
    print(
        name,
        f"{times['torch, dense'].median:.3g} ms",
        {n: f"{r:.2f}" for n, r in ratios.items()},
        dict(ways),
        flush=True,
    )
    times_of = {n: asdict(t) for n, t in times.items()}
    return {"name": name, "ratios": ratios, "ways": ways, "times": times_of, "date": circumstances()["date"]}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure everything, and write gated-N.json for N threads."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_gated", description=__doc__)
    parser.add_argument("--networks", nargs="*", default=list(NETWORKS), choices=list(NETWORKS), metavar="NAME")
    parser.add_argument("--no-pairs", dest="pairs", action="store_false", help="whole networks alone")
    parser.add_argument("--no-onnx", dest="onnx", action="store_false", help="PyTorch alone")
    parser.add_argument(
        "--keep", action="store_true", help="rows of a result with this setup that are not measured now"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    given = parser.parse_args(arguments)
    setup = {"threads": given.threads, "repeats": given.repeats}
    place = given.results / f"gated-{given.threads}.json"
    known = (finished(place, setup) if given.keep else None) or {"pairs": [], "networks": []}
    rows = {kind: {row["name"]: row for row in known[kind]} for kind in ("pairs", "networks")}

    def add(kind: str, names: Sequence[str], row: dict[str, Any]) -> None:
        rows[kind][row["name"]] = row
        content = {k: list(found.values()) for k, found in rows.items()}
        content[kind].sort(key=lambda found: names.index(found["name"]))
        write_json(place, {"setup": setup, **content, "made": circumstances()})

    names = [f"{channels} channels, {size}×{size}" for channels, size in PAIRS]
    for name, (channels, size) in zip(names, PAIRS, strict=True) if given.pairs else ():
        torch.manual_seed(0)
        image = torch.randn(1, channels, size, size)
        add("pairs", names, compared(name, Pair(channels).eval(), image, given, "second"))
    for name in given.networks:
        torch.manual_seed(0)
        build, size = NETWORKS[name]
        add("networks", list(NETWORKS), compared(name, build().eval(), torch.randn(1, 3, size, size), given))


if __name__ == "__main__":
    main()
