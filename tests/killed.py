"""Trainings that die: ``python -m tests.killed PHASE FOLDER EVENT [PHASE …]``, each in a process of its own.

An event is what kills, and at which time it happens: ``step:6`` during the sixth step of an optimiser, ``write:3``
when the third checkpoint is written but not yet renamed, ``ctrl-c:6`` as if someone pressed it during the sixth step.
Prints for each what became of it: the signal that ended it, or "KeyboardInterrupt".
"""

import copy
import os
import random
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from squeeze.finetune import FineTune, finetune
from squeeze.passes.gal import GAL
from squeeze.structure.trace import trace
from squeeze.training import Run
from tests.tasks import ToyTask, noise_task, tiny_net


class Restless(Dataset):
    """Augmented by every generator there is."""

    def __init__(self, task: ToyTask) -> None:
        self.task = task

    def __len__(self) -> int:
        return 96

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image = self.task.images[index] * random.uniform(0.5, 1.5) + np.float32(np.random.randn())
        return image + torch.randn(()), self.task.labels[index]


def restless_task(workers: int) -> ToyTask:
    """Six batches an epoch from a data loader with a generator of its own."""
    task = noise_task()
    loader = DataLoader(Restless(task), 16, shuffle=True, generator=torch.Generator(), num_workers=workers)
    task.train_batches = lambda epoch: loader
    return task


def tuned(run: Run, workers: int = 0) -> dict[str, Tensor]:
    """The weights after three epochs of fine-tuning."""
    torch.manual_seed(1)
    net = tiny_net()
    settings = FineTune(epochs=3, lr=0.05, warmup=2)
    return finetune(net, copy.deepcopy(net), restless_task(workers), settings, (), run)[0].state_dict()


def tuned_by_a_worker(run: Run) -> dict[str, Tensor]:
    """The same, with data from another process."""
    return tuned(run, workers=1)


def searched(run: Run) -> dict[str, Tensor]:
    """The weights after two epochs of learning masks, and what goes."""
    torch.manual_seed(1)
    net, task = tiny_net(), restless_task(0)
    found = GAL(macs=0.5, epochs=2, round_to=1).search(net, trace(net, task.example_inputs), task, run)
    shapes = {f"edit {edit.tensor} {edit.dim}": torch.tensor(edit.keep) for edit in found.edits}
    return {**found.model.state_dict(), **shapes}


PHASES: dict[str, Callable[[Run], dict[str, Tensor]]] = {
    phase.__name__: phase for phase in (tuned, tuned_by_a_worker, searched)
}


def doom(event: str) -> None:
    """Arrange for the end of this process."""
    kind, time = event.split(":")
    owner, name = (os, "replace") if kind == "write" else (torch.optim.SGD, "step")
    fatal = signal.SIGINT if kind == "ctrl-c" else signal.SIGKILL
    original, left = getattr(owner, name), [int(time)]

    def counted(*args: object, **kwargs: object) -> object:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), fatal)
        return original(*args, **kwargs)

    setattr(owner, name, counted)


def end(phase: str, folder: str, event: str) -> str:
    """Run a phase in a fork until it dies."""
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        doom(event)
        code = 0
        try:
            PHASES[phase](Run(Path(folder), checkpoint_seconds=0))
        except KeyboardInterrupt:
            code = 130
        finally:
            os._exit(code)
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        return signal.Signals(os.WTERMSIG(status)).name
    return "KeyboardInterrupt" if os.WEXITSTATUS(status) == 130 else f"exit {os.WEXITSTATUS(status)}"


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.optim.SGD([torch.zeros(1)])  # imports much of torch, once instead of in every fork
    words = iter(sys.argv[1:])
    for phase, folder, event in zip(words, words, words, strict=True):
        print(end(phase, folder, event), flush=True)
