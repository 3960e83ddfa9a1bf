"""KSE on pretrained CIFAR ResNets at the paper's settings, beside its authors' variant and Magnitude at the same size.

`make bench-kse DATA=folder WEIGHTS=folder`, or `python -m benchmarks.bench_kse --help`. README.md says what it found.
"""

import argparse
import copy
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

import squeeze
from benchmarks import cifar, latencies
from benchmarks.records import circumstances, finished, write_json

ROWS: dict[str, dict[str, Any]] = {
    "g4": {"G": 4},
    "g4-released": {"G": 4, "released": True},
    "g5": {"G": 5},
    "g5-released": {"G": 5, "released": True},
    "by-layer": {"like": "g4"},
    "magnitude": {"like": "g4"},
}
"""Settings of KSE, all at T = 0. By layer: the multiplications of the row it is like, each layer with a G and T of its
own. Magnitude: as many bytes in the file as the row it is like."""


@dataclass(frozen=True)
class Setup:
    """What is the same for every row.

    Attributes:
        network: A key of `cifar.NETWORKS`.
        epochs: Of fine-tuning; 0 leaves it out.
        seed: Of everything.
        threads: While training.
        device: For training; latency is measured on the CPU.
    """

    network: str = "resnet20"
    epochs: int = 0
    seed: int = 0
    threads: int = 1
    device: str = "cpu"


@dataclass(frozen=True)
class Small:
    """What an artefact is made of."""

    model: nn.Module
    plan: squeeze.Plan


@dataclass(frozen=True)
class Bench:
    """A setup with its data and folders.

    Attributes:
        setup: What is done.
        task: The network's, with its data.
        dense: The pretrained network, on the CPU.
        work: For checkpoints and artefacts; one folder a row.
        results: For the JSON files.
    """

    setup: Setup
    task: Any
    dense: nn.Module
    work: Path
    results: Path

    def folder(self, row: str) -> Path:
        """Where a row leaves what is too big to keep."""
        tuned = f"-{self.setup.epochs}" if self.setup.epochs else ""
        return self.work / f"kse-{self.setup.network}-{row}{tuned}"

    def result(self, name: str) -> Path:
        """The JSON of a row, or of "latency"."""
        return self.results / f"{self.folder(name).name}.json"

    def saved(self, name: str, model: nn.Module, plan: squeeze.Plan) -> Path:
        """The model as one file."""
        self.folder(name).mkdir(parents=True, exist_ok=True)
        return squeeze.save(Small(model, plan), self.folder(name) / "model.safetensors")


def chosen(bench: Bench, row: str) -> squeeze.Pass:
    """The pass of a row."""
    settings = dict(ROWS[row])
    like = settings.pop("like", None)
    if like is None:
        return squeeze.KSE(**settings)
    found = finished(bench.result(like), asdict(bench.setup))
    if found is None:
        raise SystemExit(f"{row}: needs the row {like} first; name both.")
    if row == "by-layer":
        return squeeze.KSE(macs=found["paper_macs"] / found["dense"]["macs"])
    # The header and batch norm's statistics take bytes of their own, so the share is looked for.
    high = found["bytes"] / found["dense"]["bytes"]
    low, structure = high / 2, squeeze.trace(bench.dense, bench.task.example_inputs)
    for _ in range(10):
        middle = (low + high) / 2
        cut, _ = search(bench, squeeze.Magnitude(params=middle, round_to=1), structure)
        fits = bench.saved(row, cut.model, cut.plan).stat().st_size <= found["bytes"]
        low, high = (middle, high) if fits else (low, middle)
    return squeeze.Magnitude(params=low, round_to=1)


def search(bench: Bench, by: squeeze.Pass, structure: squeeze.Structure | None = None) -> tuple[Small, dict[str, Any]]:
    """The cut network, and what the pass says of it."""
    structure = structure or squeeze.trace(bench.dense, bench.task.example_inputs)
    found = by.search(bench.dense, structure, bench.task, squeeze.Run(seed=bench.setup.seed))
    small = squeeze.rewrite(found.model, found.edits)
    small.load_state_dict(dict(found.tensors), strict=False)
    plan = squeeze.Plan((squeeze.Step(by.name, json.loads(json.dumps(asdict(by))), found.edits),))  # type: ignore[call-overload]
    return Small(small.eval(), plan), dict(found.history)


def perform(bench: Bench, row: str) -> dict[str, Any]:
    """Search, cut, re-estimate, fine-tune; the test set is looked at between, and decides nothing."""
    setup, task = bench.setup, bench.task
    by = chosen(bench, row)
    small, told = search(bench, by)
    model = small.model
    accuracy = {"dense": dense_accuracy(bench), "raw": cifar.accuracy(task, model)}
    squeeze.reestimate_batchnorm(model, task)
    accuracy["cut"] = cifar.accuracy(task, model)
    if setup.epochs:
        run = squeeze.Run(bench.folder(row), setup.seed, resume=True, quiet=False)
        teacher, settings = copy.deepcopy(bench.dense).to(setup.device), squeeze.FineTune(epochs=setup.epochs)
        model, _ = squeeze.finetune(model.to(setup.device), teacher, task, settings, (by.objective,), run)
        model = model.cpu().eval()
        accuracy["finetuned"] = cifar.accuracy(task, model)
    counted, before = squeeze.profile(model, task.example_inputs), squeeze.profile(bench.dense, task.example_inputs)
    place = bench.saved("dense", bench.dense, squeeze.Plan())
    return {
        "row": row,
        "setup": asdict(setup),
        "settings": asdict(by),  # type: ignore[call-overload]
        "accuracy": accuracy,
        "dense": {"macs": before.macs, "params": before.params, "bytes": place.stat().st_size},
        "paper_macs": counted.paper_macs,
        "macs": counted.macs,
        "params": counted.params,
        "bytes": bench.saved(row, model, small.plan).stat().st_size,
        "claims": told.get("finding", {}).get("claims", []),
        "made": circumstances(),
    }


def dense_accuracy(bench: Bench) -> float:
    """Measured once: another row may know it."""
    for row in ROWS:
        if found := finished(bench.result(row), asdict(bench.setup)):
            return float(found["accuracy"]["dense"])
    return cifar.accuracy(bench.task, bench.dense)


def timed(bench: Bench, threads: int) -> dict[str, Any]:
    """Latency of all rows that are done, in turn with the dense network."""
    models, onnx = {"dense": bench.dense}, {"dense": bench.folder("dense") / "model.onnx"}
    for row in ROWS:
        if bench.result(row).exists():
            models[row] = squeeze.load(bench.folder(row) / "model.safetensors", bench.task.build).eval()
            onnx[row] = bench.folder(row) / "model.onnx"
    for row, model in models.items():
        squeeze.export_onnx(model, bench.task.example_inputs, onnx[row])
    return latencies.measured(models, onnx, bench.task.example_inputs, threads) | {"made": circumstances()}


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    here, setup = Path(__file__).parent, Setup()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_kse", description=__doc__)
    parser.add_argument("data", help="folder of CIFAR-10")
    parser.add_argument("weights", type=Path, help="folder of the pretrained weights")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), metavar="ROW", help=", ".join(ROWS))
    parser.add_argument("--network", choices=cifar.NETWORKS, default=setup.network)
    for name in ("epochs", "seed", "threads"):
        parser.add_argument(f"--{name}", type=int, default=getattr(setup, name))
    parser.add_argument("--device", default=setup.device)
    parser.add_argument("--latency-threads", type=int, default=1, help="0 leaves latency out; default %(default)s")
    parser.add_argument("--work", type=Path, default=here / "work", help="for artefacts; default %(default)s")
    parser.add_argument("--results", type=Path, default=here / "results", help="for JSON; default %(default)s")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Do what is not done yet; what was interrupted continues."""
    given = parsed(arguments)
    setup = Setup(**{name: getattr(given, name) for name in vars(Setup())})
    torch.set_num_threads(setup.threads)
    bench = Bench(setup, *cifar.pretrained(setup.network, given.data, given.weights), given.work, given.results)
    for row in given.rows:
        place = bench.result(row)
        if finished(place, asdict(setup)):
            print(f"{row}: done, see {place}")
            continue
        write_json(place, perform(bench, row))
        print(f"{row}: {json.loads(place.read_text())['accuracy']}", flush=True)
    if given.latency_threads:
        write_json(bench.result("latency"), timed(bench, given.latency_threads))


if __name__ == "__main__":
    main()
