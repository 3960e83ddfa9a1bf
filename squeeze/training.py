"""The one training loop: it checkpoints, resumes bit for bit, and stops before a bad state replaces a good one."""

import operator
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from squeeze import processes
from squeeze.errors import InputError, ProcessError, TrainingError
from squeeze.interrupts import Interrupts
from squeeze.locks import locked
from squeeze.phase import Phase
from squeeze.progress import Monitor
from squeeze.randomness import randomness_kept, seed_all
from squeeze.task import Batch, tensors_of
from squeeze.updates import Kind, Update, rows


@dataclass(frozen=True)
class Run:
    """Where and how a run happens; passed to everything that trains.

    Attributes:
        folder: Checkpoints and TensorBoard scalars go there; None writes nothing.
        seed: Of every random number in the run.
        resume: Continue from the folder's checkpoints.
        quiet: No progress bar.
        checkpoint_seconds: At least this long between checkpoints within an epoch; 0 for one a step.
        precision: Of the forward pass in training: "no", "bf16" or "fp16"; None for what ``accelerate launch`` was
            told, and "no" without it.
    """

    folder: Path | None = None
    seed: int = 0
    resume: bool = False
    quiet: bool = True
    checkpoint_seconds: float = 60.0
    precision: Kind | None = None


class Learner(Protocol):
    """What the loop trains: some modules, their optimisers, and one step.

    The modules lie on one device, to which the loop brings every batch.
    """

    @property
    def accumulate(self) -> int:
        """So many batches are one update."""

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        """Everything with state, by name; saved and restored."""

    @property
    def optimizers(self) -> Mapping[str, Optimizer]:
        """By name; saved and restored."""

    def start_epoch(self, epoch: int) -> None:
        """Set modes and learning rates; a resumed epoch is started again, so do it the same way twice."""

    def step(self, update: Update) -> dict[str, float]:
        """One update, as `squeeze.updates.Update` says; returns scalars to log."""

    def end_epoch(self, epoch: int) -> dict[str, float]:
        """Judge the epoch; returns scalars to log."""

    def state_dict(self) -> dict[str, Any]:
        """What else must survive: JSON values and tensors."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Undo `state_dict`."""


def train(
    learner: Learner, batches: Callable[[int], Iterable[Batch]], epochs: int, run: Run, name: str
) -> list[dict[str, float]]:
    """Train for some epochs, checkpointing atomically; a killed run resumes bit for bit on CPU.

    Several processes (started by torchrun) train together: all call this with the same learner and batches, each
    runs its rows of every batch, and all end with the same state, that of one process but for rounding and for what
    a model draws at random. The first process writes. Another number of processes may resume.

    Python's, numpy's and torch's generators are seeded from the run's seed, the phase's name and the epoch before
    `batches` is called, and put back when training ends. A resumed epoch iterates `batches` again and passes over
    what was consumed, so they must depend on the epoch and these generators only. (A DataLoader's own generator is
    seeded, too; one with ``persistent_workers`` resumes, but not bit for bit.)

    Args:
        learner: What is trained, in place, on the device where its modules are.
        batches: The batches of an epoch, given its number.
        epochs: How many.
        run: Where and how.
        name: Of this phase; its checkpoint is ``<folder>/checkpoints/<name>.safetensors``.

    Returns:
        The scalars of each epoch (means over its steps, and what `end_epoch` gave).

    Raises:
        InputError: There is no batch, the folder cannot be written to, or another run is at work in it.
        TrainingError: A logged scalar or parameter is not finite; a checkpoint does not fit.
        ArtifactError: The checkpoint to resume from is damaged.
        ProcessError: Another process is gone.
        KeyboardInterrupt: Passed on after a checkpoint was written.
    """
    phase = Phase(learner, epochs, run, name)
    loop = _Loop(learner, run, name, phase)
    first = processes.is_first()
    with locked(run.folder), randomness_kept(), Interrupts(processes.count() > 1) as interrupts:
        phase.begin()
        folder = run.folder if first else None
        with Monitor(name, epochs, run.quiet or not first, folder, phase.at.total) as monitor:
            try:
                while phase.at.epoch < epochs:
                    loop.epoch(batches, monitor, interrupts)
            except KeyboardInterrupt:
                if not interrupts.torn:
                    phase.save()
                raise KeyboardInterrupt(phase.farewell()) from None
            except ProcessError as error:
                told = str(error).removesuffix(".")
                raise ProcessError(f"{name}, epoch {phase.at.epoch + 1}: {told} ({phase.kept()}).") from error
    return phase.at.history


class _Loop:
    """Feeds a learner, epoch by epoch."""

    def __init__(self, learner: Learner, run: Run, name: str, phase: Phase) -> None:
        self._learner, self._run, self._name, self._phase = learner, run, name, phase

    def epoch(self, batches: Callable[[int], Iterable[Batch]], monitor: Monitor, interrupts: Interrupts) -> None:
        """The rest of the current epoch, and a checkpoint at its end."""
        learner, phase, at = self._learner, self._phase, self._phase.at
        epoch = at.epoch
        seeds = (self._run.seed, zlib.crc32(self._name.encode()), epoch)
        seed_all(*seeds, 0)
        with interrupts.whole():
            learner.start_epoch(epoch)
        seed_all(*seeds, 1)
        source = batches(epoch)
        if isinstance(source, DataLoader) and source.generator is not None:
            source.generator.manual_seed(zlib.crc32(repr(seeds).encode()))
        monitor.epoch(epoch, updates_in(source, learner.accumulate), at.step)
        iterator = iter(source)
        if at.step:
            phase.catch_up(iterator)
            at = phase.at
        while group := self._next(iterator, interrupts):
            with interrupts.whole():
                with randomness_kept():
                    # What the model draws is no matter of the data's, which must be the same in all processes.
                    seed_all(*seeds, 2, at.step, processes.rank())
                    update = Update(group, phase.precision)
                    scalars = learner.step(update)
                    update.finish()
                phase.advance(scalars)
            monitor.step(at.total, scalars)
            if phase.due:
                phase.save()
        if not at.step:
            raise InputError(f"{self._name}: needs data to train on, got no batch in epoch {epoch + 1}; pass data=.")
        with interrupts.whole():
            phase.end_epoch(learner.end_epoch(epoch))
        states = (module.state_dict() for module in learner.modules.values())
        self._meet(interrupts, f"state after epoch {epoch + 1}", [t for state in states for t in tensors_of(state)])
        monitor.epoch_ended(at.total, at.history[-1])
        phase.save()

    def _next(self, iterator: Iterator[Batch], interrupts: Interrupts) -> list[Batch]:
        """The batches of the next update; none at the end of the epoch."""
        group = list(islice(iterator, self._learner.accumulate))
        if processes.count() > 1:
            what = f"batch {self._phase.at.step + 1} of epoch {self._phase.at.epoch + 1}"
            self._meet(interrupts, what, tensors_of(group) if not self._phase.at.step else (), sum(map(rows, group)))
        return group

    def _meet(self, interrupts: Interrupts, what: str, tensors: Sequence[torch.Tensor], size: int = 0) -> None:
        """With several processes: stop if one was asked to, and make sure that all have the same."""
        if processes.count() == 1:
            return
        asked, *others = zip(*processes.gathered((interrupts.asked, size, processes.digest_of(tensors))), strict=True)
        if any(asked):
            raise KeyboardInterrupt
        if any(len(set(numbers)) > 1 for numbers in others):
            raise TrainingError(
                f"{self._name}: {what} must be the same in all {processes.count()} processes, got different ones; give "
                "all the same data, undivided (squeeze divides each batch), drawn from the seeded generators only."
            )


def updates_in(batches: Iterable[Batch], accumulate: int) -> int:
    """How many updates these batches make, so many at a time; 0 if nobody knows."""
    return -(-operator.length_hint(batches) // accumulate)
