"""A CIFAR ResNet at half of its MACs: squeeze's GAL and Magnitude beside Torch-Pruning, and the time it takes.

`make bench-gal DATA=folder WEIGHTS=folder`, or `python -m benchmarks.bench_gal --help`. README.md says what it found.
"""

import argparse
import copy
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

import squeeze
from benchmarks import cifar, latencies
from benchmarks.records import circumstances, finished, write_json

METHODS = ("gal", "gal-mixed", "magnitude", "torch-pruning", "magnitude-long", "torch-pruning-long")
"""GAL masks filters, GAL mixed also whole blocks. Those with -long fine-tune for as many epochs as GAL searches and
fine-tunes together."""
STRUCTURES = {"gal": ("filters",), "gal-mixed": ("filters", "blocks")}


@dataclass(frozen=True)
class Setup:
    """What is the same for every method.

    Attributes:
        network: A key of `NETWORKS`.
        macs: Share that stays.
        round_to: Widths are multiples of this.
        epochs: Of fine-tuning.
        search_epochs: Of GAL's mask phase.
        seed: Of everything.
        threads: While training.
        device: For training; latency is measured on the CPU.
    """

    network: str = "resnet20"
    macs: float = 0.5
    round_to: int = 8
    epochs: int = 10
    search_epochs: int = 6
    seed: int = 0
    threads: int = 1
    device: str = "cpu"


@dataclass(frozen=True)
class Bench:
    """A setup with its data and folders.

    Attributes:
        setup: What is done.
        task: The network's, with its data.
        dense: The pretrained network, on the CPU.
        work: For checkpoints, weights and ONNX files; one folder a method.
        results: For the JSON files.
    """

    setup: Setup
    task: Any
    dense: nn.Module
    work: Path
    results: Path

    def folder(self, method: str) -> Path:
        """Where a method leaves what is too big to keep."""
        return self.work / f"{self.setup.network}-{method}"

    def result(self, name: str) -> Path:
        """The JSON of a method, or of "latency"."""
        return self.results / f"{self.setup.network}-{name}.json"


def search(bench: Bench, method: str) -> tuple[nn.Module, dict[str, Any]]:
    """The cut network as the method leaves it, and what is needed to cut the dense one again."""
    setup = bench.setup
    if method.startswith("torch-pruning"):
        from benchmarks import torch_pruning_peer as peer

        cut = peer.cut_to(bench.dense, bench.task.example_inputs, setup.macs, setup.round_to)
        return cut.model, {"ratio": cut.ratio, "as_it_comes": as_it_comes(bench)}
    if method in STRUCTURES:
        chosen = squeeze.GAL(
            macs=setup.macs,
            structures=STRUCTURES[method],
            epochs=setup.search_epochs,
            round_to=setup.round_to,
        )
    else:
        chosen = squeeze.Magnitude(macs=setup.macs, round_to=setup.round_to)
    structure = squeeze.trace(bench.dense, bench.task.example_inputs)
    model = copy.deepcopy(bench.dense).to(setup.device)
    found = chosen.search(model, structure, bench.task, run(bench, method))
    plan = squeeze.Plan((squeeze.Step(chosen.name, asdict(chosen), found.edits),))
    return squeeze.rewrite(found.model.cpu(), found.edits), {"plan": json.loads(plan.to_json())}


def again(bench: Bench, method: str, recipe: dict[str, Any]) -> nn.Module:
    """The fine-tuned network of a method that is done, built from its recipe and its weights."""
    if "ratio" in recipe:
        from benchmarks import torch_pruning_peer as peer

        inputs = bench.task.example_inputs
        model = peer.cut(bench.dense, inputs, recipe["ratio"], bench.setup.round_to)
    else:
        model = squeeze.rewrite(bench.dense, squeeze.Plan.from_json(json.dumps(recipe["plan"])).edits)
    model.load_state_dict(load_file(bench.folder(method) / "weights.safetensors"))
    return model.eval()


def as_it_comes(bench: Bench) -> dict[str, Any]:
    """What Torch-Pruning does to an option-A ResNet when it is not told to leave the trunk alone."""
    from benchmarks import torch_pruning_peer as peer

    cut = peer.cut_to(bench.dense, bench.task.example_inputs, bench.setup.macs, bench.setup.round_to, whole=True)
    squeeze.reestimate_batchnorm(cut.model, bench.task)
    found = {"ratio": cut.ratio, "widths": widths(cut.model), "macs": int(cut.macs)}
    return found | {"accuracy_cut": bench.task.evaluate(cut.model, "test")["accuracy"]}


def perform(bench: Bench, method: str) -> dict[str, Any]:
    """Search, cut, re-estimate, fine-tune; the test set is looked at between, and decides nothing."""
    setup, task, seconds = bench.setup, bench.task, {}
    begin = time.perf_counter()
    small, recipe = search(bench, method)
    seconds["search"] = time.perf_counter() - begin
    accuracy = {"dense": cifar.accuracy(bench.task, bench.dense), "raw": cifar.accuracy(bench.task, small)}
    squeeze.reestimate_batchnorm(small, task)
    accuracy["cut"] = cifar.accuracy(bench.task, small)
    begin = time.perf_counter()
    epochs = setup.epochs + (setup.search_epochs if method.endswith("-long") else 0)
    teacher = copy.deepcopy(bench.dense).to(setup.device)
    settings = squeeze.FineTune(epochs=epochs)
    small, history = squeeze.finetune(small.to(setup.device), teacher, task, settings, (), run(bench, method))
    seconds["finetune"] = time.perf_counter() - begin
    accuracy["finetuned"] = cifar.accuracy(bench.task, small)
    small = small.cpu()
    folder = bench.folder(method)
    save_file({name: value.contiguous() for name, value in small.state_dict().items()}, folder / "weights.safetensors")
    squeeze.export_onnx(small, task.example_inputs, folder / "model.onnx")
    counted, dense = squeeze.profile(small, task.example_inputs), squeeze.profile(bench.dense, task.example_inputs)
    return {
        "method": method,
        "setup": asdict(setup),
        "accuracy": accuracy,
        "macs": {"dense": dense.macs, "after": counted.macs},
        "params": {"dense": dense.params, "after": counted.params},
        "onnx_bytes": (folder / "model.onnx").stat().st_size,
        "widths": widths(small),
        "epochs": epochs,
        "finetune": asdict(settings),
        "history": history,
        "seconds": {name: round(value) for name, value in seconds.items()},
        "recipe": recipe,
        "made": circumstances(),
    }


def run(bench: Bench, method: str) -> squeeze.Run:
    """Checkpoints in the method's folder; what was begun there is continued."""
    return squeeze.Run(folder=bench.folder(method), seed=bench.setup.seed, resume=True, quiet=False)


def widths(model: nn.Module) -> list[int]:
    """Output channels of all convolutions, in order; those of removed blocks are missing."""
    return [module.out_channels for module in model.modules() if isinstance(module, nn.Conv2d)]


def opened(setup: Setup, data: str, weights: Path, work: Path, results: Path) -> Bench:
    """The pretrained network and its data."""
    task, dense = cifar.pretrained(setup.network, data, weights)
    return Bench(setup, task, dense, work, results)


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    here, setup = Path(__file__).parent, Setup()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_gal", description=__doc__)
    parser.add_argument("data", help="folder of CIFAR-10")
    parser.add_argument("weights", type=Path, help="folder of the pretrained weights")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS[:4], metavar="METHOD")
    parser.add_argument("--network", choices=cifar.NETWORKS, default=setup.network)
    for name in ("epochs", "search_epochs", "round_to", "seed", "threads"):
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=getattr(setup, name))
    parser.add_argument("--macs", type=float, default=setup.macs)
    parser.add_argument("--device", default=setup.device)
    parser.add_argument("--latency-threads", type=int, default=1)
    parser.add_argument("--work", type=Path, default=here / "work", help="for checkpoints; default %(default)s")
    parser.add_argument("--results", type=Path, default=here / "results", help="for JSON; default %(default)s")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Do what is not done yet; what was interrupted continues."""
    given = parsed(arguments)
    setup = Setup(**{name: getattr(given, name) for name in vars(Setup())})
    torch.set_num_threads(setup.threads)
    bench = opened(setup, given.data, given.weights, given.work, given.results)
    for method in given.methods:
        place = bench.result(method)
        if finished(place, asdict(setup)):
            print(f"{method}: done, see {place}")
            continue
        bench.folder(method).mkdir(parents=True, exist_ok=True)
        write_json(place, perform(bench, method))
    done = {m: json.loads(bench.result(m).read_text())["recipe"] for m in METHODS if bench.result(m).exists()}
    place = bench.result("latency")
    if place.exists() and set(json.loads(place.read_text())["methods"]) == {"dense", *done}:
        print(f"latency: done, see {place}")
        return
    onnx = {method: bench.folder(method) / "model.onnx" for method in done}
    models = {method: again(bench, method, recipe) for method, recipe in done.items()}
    onnx["dense"], models["dense"] = bench.work / f"{setup.network}.onnx", bench.dense
    squeeze.export_onnx(bench.dense, bench.task.example_inputs, onnx["dense"])
    found = latencies.measured(models, onnx, bench.task.example_inputs, given.latency_threads)
    write_json(place, found | {"made": circumstances()})


if __name__ == "__main__":
    main()
