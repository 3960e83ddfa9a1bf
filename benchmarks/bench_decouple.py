"""Architecture decoupling on pretrained CIFAR ResNets: accuracy, MACs of each input, latency over test images, attacks.

`make bench-decouple DATA=folder WEIGHTS=folder`, or `python -m benchmarks.bench_decouple --help`. README.md says what
it found.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn

import squeeze
from benchmarks import cifar
from benchmarks.records import circumstances, finished, write_json
from squeeze.detection import Threats, detect


@dataclass(frozen=True)
class Setup:
    """What a row is.

    Attributes:
        network: A key of `cifar.NETWORKS`.
        macs: Share that stays.
        epochs: Of training with gates.
        finetuning: Epochs afterwards, gates as they are.
        lambda_m: Weight of the mutual information.
        seed: Of everything.
        threads: While training.
        device: For training.
    """

    network: str = "resnet20"
    macs: float = 0.5
    epochs: int = 12
    finetuning: int = 10
    lambda_m: float = 0.1
    seed: int = 0
    threads: int = 1
    device: str = "cpu"

    @property
    def name(self) -> str:
        """Of its files."""
        return f"decouple-{self.network}-{round(100 * self.macs)}"


def trained(setup: Setup, task: Any, dense: nn.Module, work: Path) -> dict[str, Any]:
    """Search, fine-tune, judge on the test images; the artefact stays in the folder."""
    begin = time.time()
    run = squeeze.Run(work / setup.name, setup.seed, resume=True, quiet=False)
    settings = squeeze.Decouple(macs=setup.macs, epochs=setup.epochs, lambda_m=setup.lambda_m)
    result = squeeze.compress(
        dense.to(setup.device), settings, task, finetuning=squeeze.FineTune(epochs=setup.finetuning), run=run
    )
    model = result.model.cpu().eval()
    squeeze.save(Small(model, result.plan), work / setup.name / "model.safetensors")
    codes = squeeze.gather(model, task, task.batches("test"))
    mean = codes.on.mean(0)
    return {
        "setup": asdict(setup),
        "accuracy": {
            "dense": cifar.accuracy(task, dense.cpu()),
            "gated": float((codes.predicted == codes.labels).mean()),
        },
        "share": {
            "mean": float(codes.share.mean()),
            "deviation": float(codes.share.std()),
            "quantiles": np.quantile(codes.share, [0, 0.25, 0.5, 0.75, 1]).tolist(),
        },
        "filters": {"always": float((mean == 1).mean()), "never": float((mean == 0).mean()), "all": len(mean)},
        "seconds": time.time() - begin,
        "made": circumstances(),
    }


@dataclass(frozen=True)
class Small:
    """What `squeeze.save` takes."""

    model: nn.Module
    plan: squeeze.Plan


def timed(setup: Setup, task: Any, dense: nn.Module, work: Path, images: int, threads: int) -> dict[str, Any]:
    """Milliseconds for single test images, all ways in turn for each image."""
    torch.set_num_threads(threads)
    folder = work / setup.name
    gated = squeeze.load(folder / "model.safetensors", task.build).eval()
    ways: dict[str, Callable[[Tensor], Any]] = {"dense, PyTorch": dense, "gated, PyTorch": gated}
    for name, model in (("dense", dense), ("gated", gated)):
        path = squeeze.export_onnx(model, task.example_inputs, folder / f"{name}.onnx")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        ways[f"{name}, ONNX Runtime"] = lambda x, session=session: session.run(None, {"input": x.numpy()})
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    with torch.inference_mode():
        for number, x in enumerate(singles(task, images)):
            for name, way in ways.items():
                begin = time.perf_counter()
                way(x)
                if number >= 20:
                    seconds[name].append(time.perf_counter() - begin)
    quantiles = {name: (1e3 * np.quantile(found, [0.25, 0.5, 0.75])).tolist() for name, found in seconds.items()}
    means = {name: 1e3 * float(np.mean(found)) for name, found in seconds.items()}
    return {"unit": "ms", "threads": threads, "images": images, "quartiles": quantiles, "mean": means}


def attacked(setup: Setup, task: Any, work: Path, images: int) -> dict[str, Any]:
    """How well attacks on test images are told by codes."""
    torch.set_num_threads(setup.threads)
    begin = time.time()
    model = squeeze.load(work / setup.name / "model.safetensors", task.build).eval()
    found = detect(model, task, Threats(most=images))
    return {"images": images, "seconds": time.time() - begin, **found.to_dict()}


def singles(task: Any, images: int) -> Any:
    """Test images, one by one, and twenty before them to warm up."""
    count = 0
    for x, _ in task.batches("test"):
        for image in x:
            if count == images + 20:
                return
            yield image.unsqueeze(0)
            count += 1


def parsed(arguments: Sequence[str] | None) -> tuple[Setup, argparse.Namespace]:
    """The command line."""
    here, setup = Path(__file__).parent, Setup()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_decouple", description=__doc__)
    parser.add_argument("data", help="folder of CIFAR-10")
    parser.add_argument("weights", type=Path, help="folder of the pretrained weights")
    for name, value in asdict(setup).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    parser.add_argument("--images", type=int, default=1000, help="timed one by one; 0 leaves latency out")
    parser.add_argument("--attacked", type=int, default=1000, help="images under attack; 0 leaves detection out")
    parser.add_argument("--work", type=Path, default=here / "work", help="for artefacts; default %(default)s")
    parser.add_argument("--results", type=Path, default=here / "results", help="for JSON; default %(default)s")
    given = parser.parse_args(arguments)
    return Setup(**{name: getattr(given, name) for name in asdict(setup)}), given


def main(arguments: Sequence[str] | None = None) -> None:
    """Train what is not trained yet; then measure."""
    setup, given = parsed(arguments)
    torch.set_num_threads(setup.threads)
    task, dense = cifar.pretrained(setup.network, given.data, given.weights)
    place = given.results / f"{setup.name}.json"
    found = finished(place, asdict(setup)) or trained(setup, task, dense, given.work)
    write_json(place, found)
    print(found["accuracy"], found["share"])
    if given.images:
        found["latency"] = timed(setup, task, dense, given.work, given.images, 1)
        write_json(place, found)
        print(found["latency"]["mean"])
    if given.attacked:
        found["detection"] = attacked(setup, task, given.work, given.attacked)
        write_json(place, found)
        print({verdict["attack"]: verdict["auc"] for verdict in found["detection"]["verdicts"]})


if __name__ == "__main__":
    main()
