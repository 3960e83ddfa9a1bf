"""How long it takes to find out what can be removed, and to remove it: squeeze beside Torch-Pruning, in turn.

`make bench-trace`, or `python -m benchmarks.bench_trace --help`. README.md says what it found.
"""

import argparse
import gc
import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from torch import Tensor, nn

import squeeze
from benchmarks.records import circumstances, write_json

NETWORKS = ("resnet50", "vit_b_16", "swin_t", "densenet201", "efficientnet_b0")
LINEAR = ("resnet18", "resnet152", "densenet121", "densenet201")
"""Pairs of a small and a large network of one kind: the time may grow as the number of ops does."""

MEMORY = Path("/proc/self/status")


class Network:
    """A torchvision classifier with random weights, and one image.

    Args:
        name: As torchvision knows it.
    """

    def __init__(self, name: str) -> None:
        torch.manual_seed(0)
        self.model: nn.Module = torchvision.models.get_model(name, weights=None).eval()
        self.x: Tensor = torch.randn(1, 3, 224, 224)
        self.head = [m for m in self.model.modules() if isinstance(m, nn.Linear) and m.out_features == 1000]


@dataclass(frozen=True)
class Seconds:
    """What a step takes: on the clock, and of processor time, which other processes disturb less."""

    wall: float
    cpu: float


def timed(run: Callable[[], Any]) -> tuple[Any, Seconds]:
    """What it returns, and what it takes."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = run()
    return result, Seconds(time.perf_counter() - wall, time.process_time() - cpu)


def forward(network: Network) -> dict[str, Seconds]:
    """One plain forward pass."""
    with torch.no_grad():
        return {"forward": timed(lambda: network.model(network.x))[1]}


def ours(network: Network) -> dict[str, Seconds]:
    """Trace, plan that half of every group goes, rewrite; and what comes before a plan that means something: scores.

    One plain forward pass comes first: what everything else is measured against.
    """
    plain = forward(network)
    structure, tracing = timed(lambda: squeeze.trace(network.model, network.x))
    choice = structure.nothing()
    for units in choice.units:
        units[np.arange(len(units)) % 2 == 1] = True
    edits, planning = timed(lambda: structure.edits(choice))
    _, rewriting = timed(lambda: squeeze.rewrite(network.model, edits))
    chosen = squeeze.Magnitude(ratio=0.5, round_to=1, scope="local")
    _, scoring = timed(lambda: chosen.search(network.model, structure, None, squeeze.Run()))
    return {**plain, "trace": tracing, "plan": planning, "rewrite": rewriting, "score": scoring}


def theirs(network: Network) -> dict[str, Seconds]:
    """The dependency graph, a pruner for half of every group, and its step, which scores, plans and cuts."""
    import torch_pruning

    graph = torch_pruning.DependencyGraph()
    _, building = timed(lambda: graph.build_dependency(network.model, example_inputs=network.x))
    importance = torch_pruning.importance.GroupMagnitudeImportance(p=2)
    pruner, constructing = timed(
        lambda: torch_pruning.pruner.BasePruner(
            network.model, network.x, importance=importance, pruning_ratio=0.5, ignored_layers=network.head
        )
    )
    _, stepping = timed(pruner.step)
    return {"build_dependency": building, "pruner": constructing, "step": stepping}


SIDES: dict[str, Callable[[Network], dict[str, Seconds]]] = {"squeeze": ours, "torch-pruning": theirs}


MEMORIES: dict[str, Callable[[Network], Any]] = {
    "memory-forward": forward,
    "memory-trace": lambda network: squeeze.trace(network.model, network.x),
}
"""What is looked at for memory, each in a process of its own: what is freed stays with the process."""


def memory(name: str, side: str) -> dict[str, float]:
    """MiB that the network takes, and that a process grows by at most."""
    network = Network(name)
    model = sum(t.numel() * t.element_size() for t in [*network.model.parameters(), *network.model.buffers()])
    tiny()
    return {"model": model / 2**20, "peak": peak(lambda: MEMORIES[side](network))}


def warm_up(network: Network) -> None:
    """Libraries allocate what they keep in the first pass."""
    forward(network)
    tiny()


def tiny() -> None:
    """Imports what is imported late."""
    squeeze.trace(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)), torch.randn(1, 4))


def peak(run: Callable[[], Any], interval: float = 0.002) -> float:
    """MiB of resident memory that a run adds at most, looked at every few milliseconds."""
    gc.collect()
    before, highest, done = resident(), [0], threading.Event()

    def look() -> None:
        while not done.wait(interval):
            highest[0] = max(highest[0], resident())

    thread = threading.Thread(target=look)
    thread.start()
    run()
    done.set()
    thread.join()
    return max(highest[0] - before, 0) / 2**10


def resident() -> int:
    """KiB of this process in memory."""
    line = next(line for line in MEMORY.read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1])


def one(arguments: argparse.Namespace) -> None:
    """In a process of its own: warm up, then measure once, and print JSON."""
    torch.set_num_threads(arguments.threads)
    if arguments.side in MEMORIES:
        print(json.dumps(memory(arguments.network, arguments.side)))
        return
    network = Network(arguments.network)
    warm_up(network)
    print(json.dumps({step: asdict(seconds) for step, seconds in SIDES[arguments.side](network).items()}))


def measured(arguments: argparse.Namespace) -> dict[str, Any]:
    """Every network on every side, in turn, a process for each measurement; medians of what ended in time."""
    rows: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys([*arguments.networks, *(LINEAR if arguments.linear else ())]):
        sides = [*SIDES, *MEMORIES] if name in arguments.networks else ["squeeze"]
        runs: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
        notes: dict[str, str] = {}
        for turn in range(arguments.repeats):
            for side in [*sides[turn % 2 :], *sides[: turn % 2]]:
                if side not in notes and not (side in MEMORIES and turn):
                    perform(name, side, arguments, runs, notes)
        rows[name] = {"notes": notes} | {side: medians(found) for side, found in runs.items() if found}
        print(name, json.dumps(rows[name]), flush=True)
    return rows


def medians(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Of every figure, also one level down."""
    return {
        key: medians([run[key] for run in runs])
        if isinstance(runs[0][key], dict)
        else statistics.median(run[key] for run in runs)
        for key in runs[0]
    }


def perform(
    name: str,
    side: str,
    arguments: argparse.Namespace,
    runs: dict[str, list[dict[str, Any]]],
    notes: dict[str, str],
) -> None:
    """One measurement; what does not end, or crashes, is noted and not tried again."""
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.bench_trace", "--side", side, "--network", name]
    command += ["--threads", str(arguments.threads)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=arguments.timeout, check=True)
    except subprocess.TimeoutExpired:
        notes[side] = f"not done after {arguments.timeout} s"
    except subprocess.CalledProcessError as error:
        notes[side] = (error.stderr.strip().splitlines() or ["crashed"])[-1][:200]
    else:
        runs[side].append(json.loads(done.stdout.splitlines()[-1]))


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_trace", description=__doc__)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), metavar="NAME")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--timeout", type=int, default=60, help="seconds for one measurement; default %(default)s")
    parser.add_argument("--linear", action=argparse.BooleanOptionalAction, default=True, help="how the time grows")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--side", choices=[*SIDES, *MEMORIES], help=argparse.SUPPRESS)
    parser.add_argument("--network", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure everything, and write trace.json."""
    given = parsed(arguments)
    if given.side:
        return one(given)
    rows = measured(given)
    setup = {"threads": given.threads, "repeats": given.repeats, "timeout": given.timeout}
    write_json(given.results / "trace.json", {"setup": setup, "networks": rows, "made": circumstances()})
    return None


if __name__ == "__main__":
    main()
