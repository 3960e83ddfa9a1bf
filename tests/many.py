"""Phases that run in one process or in several: ``torchrun --nproc-per-node 2 -m tests.many OUT PHASE …``.

Each process writes what a phase came to, OUT/PHASE-RANK.safetensors; the first that fails prints why.
Without torchrun, ``python -m tests.many OUT`` goes through all scenarios, and prints for each what the processes
printed and how they ended.
"""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import torch
from safetensors.torch import save_file
from torch import Tensor, distributed, nn
from torch.nn import functional

from squeeze import processes
from squeeze.compress import compress
from squeeze.errors import InputError, SqueezeError
from squeeze.finetune import FineTune, finetune
from squeeze.gating.costs import require_gates
from squeeze.nn.gates import binarised
from squeeze.passes.decouple import Decouple
from squeeze.passes.decouple.budget import sampled
from squeeze.passes.gal import GAL
from squeeze.structure.trace import trace
from squeeze.training import Run
from tests.killed import doom
from tests.tasks import ToyTask, noise_task, tiny_net


def normless_net() -> nn.Module:
    """Without batch norm; (N, 1, 8, 8) to 10 logits."""
    return nn.Sequential(
        *(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1, stride=2), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 10)),
    )


def uneven_task(batch: int) -> ToyTask:
    """129 images to train on: of batches of 16 the last has a single image, so that one process of two has none."""
    task = noise_task(161)
    task.batch = batch
    task.augment = batch == 16
    return task


def like(net: nn.Module, task: ToyTask) -> ToyTask:
    """Images in the precision of the net."""
    task.images = task.images.to(next(net.parameters()).dtype)
    return task


def tuned(net: nn.Module, batch: int, run: Run, **settings: object) -> dict[str, Tensor]:
    """The weights after two epochs of fine-tuning, and what was logged."""
    teacher = tiny_net(dropout=0)
    finetuning = FineTune(**{"epochs": 2, "lr": 0.05, "warmup": 2, **settings})
    task = like(net, uneven_task(batch))
    model, history = finetune(net, teacher.to(task.images.dtype), task, finetuning, (), run)
    logged = {f"logged {name}": torch.tensor([epoch[name] for epoch in history]) for name in history[0]}
    return {**model.state_dict(), **logged}


def searched(net: nn.Module, batch: int, run: Run, **settings: object) -> dict[str, Tensor]:
    """Masks, weights and what goes after two epochs of GAL."""
    task = like(net, uneven_task(batch))
    gal = GAL(**{"macs": 0.5, "epochs": 2, "round_to": 1, "lr_mask": 0.02, "lr_generator": 1e-3, **settings})
    found = gal.search(net, trace(net, task.example_inputs), task, run)
    edits = {f"edit {edit.tensor} {edit.dim}": torch.tensor(edit.keep) for edit in found.edits}
    masks = {f"mask {name}": torch.tensor(values) for name, values in found.history["masks"]["filters"].items()}
    return {**found.model.state_dict(), **edits, **masks}


def decoupled(net: nn.Module, run: Run, **budget: float) -> dict[str, Tensor]:
    """Gates and weights after two epochs of training both and one of fine-tuning, and what held-out images cost."""
    task = like(net, uneven_task(16))
    chosen = Decouple(**(budget or {"macs": 0.7}), epochs=2, stem=True)
    small = compress(net, chosen, task, finetuning=FineTune(epochs=1, lr=0.05), run=run).model
    return {**small.state_dict(), "share": sampled(require_gates(small, task.example_inputs), task).mean()}


def certain(logits: Tensor, training: bool) -> Tensor:
    """Codes without the noise of training, which each process draws for its own samples."""
    hard = binarised(logits, training=False)
    return hard + logits.sigmoid() - logits.sigmoid().detach() if training else hard


def decoupled_without_noise(run: Run, **budget: float) -> dict[str, Tensor]:
    """The same by what all processes share."""
    with patch("squeeze.nn.gated.binarised", certain):
        return decoupled(tiny_net(dropout=0).double(), run, **budget)


def disunited(run: Run) -> dict[str, Tensor]:
    """Fails, because every process shuffles in its own way."""
    task = uneven_task(16)
    task.images = task.images + processes.rank()
    return finetune(tiny_net(), None, task, FineTune(epochs=1), (), run)[0].state_dict()


def unlucky(run: Run) -> dict[str, Tensor]:
    """Fails in the second process alone, in its third step."""
    task, seen = uneven_task(16), []

    def loss(model: nn.Module, batch: object) -> Tensor:
        seen.append(batch)
        if processes.rank() == 1 and len(seen) == 3:
            raise InputError("unlucky: must work, got bad luck; try again.")
        return functional.cross_entropy(model(batch[0]), batch[1])

    task.loss = loss
    return finetune(tiny_net(), None, task, FineTune(epochs=1), (), run)[0].state_dict()


PHASES: dict[str, Callable[[Run], dict[str, Tensor]]] = {
    "tuned": lambda run: tuned(tiny_net(dropout=0), 16, run),
    "tuned-normless": lambda run: tuned(normless_net(), 16, run),
    "tuned-doubled": lambda run: tuned(tiny_net(dropout=0), 16, run, accumulate=2),
    "tuned-whole": lambda run: tuned(normless_net(), 30, run),
    "tuned-accumulated": lambda run: tuned(normless_net(), 15, run, accumulate=2),
    "tuned-precise": lambda run: tuned(tiny_net(dropout=0).double(), 16, run),
    "searched": lambda run: searched(tiny_net(dropout=0), 16, run),
    "searched-normless": lambda run: searched(normless_net(), 16, run, mask_step=3),
    "searched-precise": lambda run: searched(tiny_net(dropout=0).double(), 16, run, mask_step=2),
    "searched-whole": lambda run: searched(normless_net(), 30, run),
    "searched-accumulated": lambda run: searched(normless_net(), 15, run, accumulate=2),
    "decoupled": lambda run: decoupled(tiny_net(dropout=0), run),
    "decoupled-precise": decoupled_without_noise,
    "decoupled-active-precise": lambda run: decoupled_without_noise(run, active=0.5, lambda_s=0.05),
    "disunited": disunited,
    "unlucky": unlucky,
}


def carried_out(phase: str, run: Run) -> dict[str, Tensor]:
    """What a phase comes to, from a seed."""
    torch.manual_seed(1)
    return PHASES[phase](run)


SCENARIOS: dict[str, tuple[str, ...]] = {
    "whole": (
        *("tuned", "tuned-normless", "tuned-doubled", "tuned-precise"),
        *("searched", "searched-normless", "searched-precise", "decoupled-precise", "decoupled-active-precise"),
    ),
    "random": ("decoupled",),
    "first": ("kill=0:step:7", "tuned"),
    "first resumed": ("resume", "tuned"),
    "second": ("kill=1:write:5", "kill=1:step:7", "tuned"),
    "second resumed": ("resume", "tuned"),
    "ctrl-c": ("kill=1:ctrl-c:14", "searched"),
    "unlucky": ("unlucky",),
    "disunited": ("disunited",),
}
"""What happens to two processes, one after the other; the first word is the name of their folder."""


def worker(out: str, *words: str) -> int:
    """Carry out phases; ``kill=1:step:7`` arranges for the end of a process, ``resume`` goes on after it."""
    for rank, event in (word.removeprefix("kill=").split(":", 1) for word in words if word.startswith("kill=")):
        if processes.rank() == int(rank):
            doom(event)
    try:
        for phase in (word for word in words if word in PHASES):
            run = Run(Path(out) / phase, checkpoint_seconds=0, resume="resume" in words)
            save_file(carried_out(phase, run), Path(out) / f"{phase}-{processes.rank()}.safetensors")
    except (SqueezeError, KeyboardInterrupt) as error:
        if processes.speaks():
            print(f"{type(error).__name__}: {error}", flush=True)
        return 1
    return 0


def launched(*words: str) -> list[int]:
    """Run two workers as torchrun does, in forks, which begin at once: how each ended."""
    store = distributed.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    address = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    workers = {}
    for rank in (0, 1):
        child = os.fork()
        if child == 0:
            os.environ.update({**address, "WORLD_SIZE": "2", "RANK": str(rank)})
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.alarm(900)
            os._exit(worker(*words))
        workers[child] = rank
    ends = [0, 0]
    while workers:
        child, status = os.wait()
        ends[workers.pop(child)] = os.waitstatus_to_exitcode(status)
        if status:
            for other in workers:
                os.kill(other, signal.SIGTERM)
    return ends


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.optim.SGD([torch.zeros(1)])  # imports much of torch, once instead of in every fork
    if "RANK" in os.environ:
        sys.exit(worker(*sys.argv[1:]))
    for name, phases in SCENARIOS.items():
        folder = Path(sys.argv[1]) / name.split()[0]
        print(f"{name}:", flush=True)
        print(*launched(str(folder), *phases), flush=True)
