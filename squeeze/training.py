"""The one training loop: it checkpoints, resumes bit for bit, and stops before a bad state replaces a good one."""

import math
import operator
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from squeeze import checkpoint, processes
from squeeze.alike import require_alike, require_fitting
from squeeze.blame import first_line
from squeeze.errors import InputError, ProcessError, TrainingError, quoted
from squeeze.interrupts import Interrupts
from squeeze.locks import locked
from squeeze.progress import Monitor
from squeeze.randomness import random_state, randomness_kept, restore_random_state, seed_all
from squeeze.task import Batch, tensors_of
from squeeze.updates import Kind, Precision, Update, rows


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

    Attributes:
        modules: Everything with state, by name; saved and restored.
        optimizers: By name; saved and restored.
        accumulate: So many batches are one update.
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
    loop = _Loop(learner, epochs, run, name)
    first = processes.is_first()
    with locked(run.folder), randomness_kept(), Interrupts(processes.count() > 1) as interrupts:
        loop.begin()
        folder = run.folder if first else None
        with Monitor(name, epochs, run.quiet or not first, folder, loop.at.total) as monitor:
            try:
                while loop.at.epoch < epochs:
                    loop.epoch(batches, monitor, interrupts)
            except KeyboardInterrupt:
                if not interrupts.torn:
                    loop.save()
                raise KeyboardInterrupt(loop.farewell()) from None
            except ProcessError as error:
                told = str(error).removesuffix(".")
                raise ProcessError(f"{name}, epoch {loop.at.epoch + 1}: {told} ({loop.kept()}).") from error
    return loop.at.history


@dataclass
class _Position:
    """How far a phase has come; `step` counts the batches consumed in `epoch`, `total` those in all epochs."""

    epoch: int = 0
    step: int = 0
    total: int = 0
    sums: dict[str, tuple[float, int]] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        for count in (self.epoch, self.step, self.total):
            if not isinstance(count, int) or count < 0:
                raise TypeError(f"a position of {count!r}")
        for total, counted in self.sums.values():
            self._require_numbers(total, counted - 1)
        for row in self.history:
            self._require_numbers(*row.values())

    @staticmethod
    def _require_numbers(*values: Any) -> None:
        if not all(isinstance(value, int | float) and math.isfinite(value) for value in values):
            raise TypeError("a scalar that is no number")


class _Loop:
    """One phase of training, and its checkpoint."""

    def __init__(self, learner: Learner, epochs: int, run: Run, name: str) -> None:
        self.at = _Position()
        self._learner, self._epochs, self._run, self._name = learner, epochs, run, name
        self._path = None if run.folder is None else run.folder / "checkpoints" / f"{name}.safetensors"
        parameters = [p for module in learner.modules.values() for p in module.parameters()]
        self._precision = Precision(run.precision, parameters[0].device if parameters else torch.device("cpu"))
        self._random = random_state()
        self._saved_at = time.monotonic()
        self._saved = (0, 0)

    def begin(self) -> None:
        """Take up the checkpoint, or make sure that a later resume does not find one of an earlier run."""
        if self._path is not None and self._path.exists():
            if self._run.resume:
                self._restore(self._path)
            elif processes.is_first():
                self._path.unlink()
        at = (self.at.epoch, self.at.step)
        if any(tuple(theirs) != at for theirs in processes.gathered(at)):
            raise TrainingError(
                f"{self._path}: must be one file for all {processes.count()} processes, got another state in some; "
                "put the folder of the run where all see it."
            )

    def epoch(self, batches: Callable[[int], Iterable[Batch]], monitor: Monitor, interrupts: Interrupts) -> None:
        """The rest of the current epoch, and a checkpoint at its end."""
        learner, epoch = self._learner, self.at.epoch
        seeds = (self._run.seed, zlib.crc32(self._name.encode()), epoch)
        seed_all(*seeds, 0)
        with interrupts.whole():
            learner.start_epoch(epoch)
        seed_all(*seeds, 1)
        source = batches(epoch)
        if isinstance(source, DataLoader) and source.generator is not None:
            source.generator.manual_seed(zlib.crc32(repr(seeds).encode()))
        monitor.epoch(epoch, updates_in(source, learner.accumulate), self.at.step)
        iterator = iter(source)
        if self.at.step:
            self._catch_up(iterator)
        at = self.at
        while group := self._next(iterator, interrupts):
            with interrupts.whole():
                with randomness_kept():
                    # What the model draws is no matter of the data's, which must be the same in all processes.
                    seed_all(*seeds, 2, at.step, processes.rank())
                    update = Update(group, self._precision)
                    scalars = learner.step(update)
                    update.finish()
                self._advance(self._finite(scalars, at.step + 1))
            monitor.step(at.total, scalars)
            if time.monotonic() - self._saved_at >= self._run.checkpoint_seconds:
                self.save()
        if not at.step:
            raise InputError(f"{self._name}: needs data to train on, got no batch in epoch {epoch + 1}; pass data=.")
        with interrupts.whole():
            means = {key: total / count for key, (total, count) in at.sums.items()}
            at.history.append({**means, **self._finite(learner.end_epoch(epoch), at.step)})
            at.epoch, at.step, at.sums = epoch + 1, 0, {}
        states = (module.state_dict() for module in learner.modules.values())
        self._meet(interrupts, f"state after epoch {epoch + 1}", [t for state in states for t in tensors_of(state)])
        monitor.epoch_ended(at.total, at.history[-1])
        self.save()

    def _next(self, iterator: Iterator[Batch], interrupts: Interrupts) -> list[Batch]:
        """The batches of the next update; none at the end of the epoch."""
        group = list(islice(iterator, self._learner.accumulate))
        if processes.count() > 1:
            what = f"batch {self.at.step + 1} of epoch {self.at.epoch + 1}"
            self._meet(interrupts, what, tensors_of(group) if not self.at.step else (), sum(map(rows, group)))
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

    def _catch_up(self, iterator: Iterator[Batch]) -> None:
        """Pass over the batches that were consumed, then be where the checkpoint was written."""
        wanted = self.at.step * self._learner.accumulate
        passed = sum(1 for _ in zip(range(wanted), iterator, strict=False))
        if passed < wanted:
            raise self._unfit(f"{wanted} batches in epoch {self.at.epoch + 1}", f"{passed}, so other data")
        if self._path is not None:
            restore_random_state(self._restore(self._path))

    def _advance(self, scalars: Mapping[str, float]) -> None:
        at = self.at
        for key, value in scalars.items():
            total, count = at.sums.get(key, (0.0, 0))
            at.sums[key] = (total + value, count + 1)
        at.step, at.total = at.step + 1, at.total + 1
        self._random = random_state()

    def _finite(self, scalars: Mapping[str, float], step: int) -> dict[str, float]:
        for key, value in scalars.items():
            if not math.isfinite(value):
                raise self._diverged(f"{key} must be finite, got {float(value)} at step {step}")
        return {key: float(value) for key, value in scalars.items()}

    def save(self) -> None:
        """Write the checkpoint if anything happened since the last one; never write a bad state.

        Raises:
            TrainingError: A parameter is not finite.
            InputError: The file cannot be written.
        """
        position = (self.at.epoch, self.at.step)
        if self._path is None or position == self._saved:
            return
        if not processes.is_first():
            self._saved, self._saved_at = position, time.monotonic()
            return
        for module_name, module in self._learner.modules.items():
            for parameter_name, parameter in module.named_parameters():
                if not torch.isfinite(parameter.detach()).all():
                    name = f"{module_name}.{parameter_name}"
                    raise self._diverged(f"parameter {name} must be finite, got inf or nan after step {self.at.step}")
        state = {"at": asdict(self.at), "random": self._random, **self._setup(), **self._trained()}
        checkpoint.save(self._path, state)
        self._saved, self._saved_at = position, time.monotonic()

    def _setup(self) -> dict[str, Any]:
        """What must be the same when the run is resumed."""
        setup = {"name": self._name, "epochs": self._epochs, "seed": self._run.seed}
        return {**setup, "accumulate": self._learner.accumulate, "precision": self._precision.kind}

    def _trained(self) -> dict[str, Any]:
        learner = self._learner
        return {
            "modules": {key: module.state_dict() for key, module in learner.modules.items()},
            "optimizers": {key: optimizer.state_dict() for key, optimizer in learner.optimizers.items()},
            "learner": learner.state_dict(),
            "scaler": self._precision.state_dict(),
        }

    def _restore(self, path: Path) -> dict[str, Any]:
        """Load everything but the random state, and return that."""
        state = checkpoint.load(path)
        try:
            self._compare(state)
            require_alike(self._trained(), state)
            for key, module in self._learner.modules.items():
                module.load_state_dict(state["modules"][key])
            for key, optimizer in self._learner.optimizers.items():
                before = optimizer.state_dict()
                optimizer.load_state_dict(state["optimizers"][key])
                require_fitting(optimizer, before)
            self._learner.load_state_dict(state["learner"])
            self._precision.load_state_dict(state["scaler"])
            self.at, self._random = _Position(**state["at"]), state["random"]
            with randomness_kept():
                restore_random_state(self._random)
        except (OverflowError, LookupError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            raise self._unfit("the state of this run", f"{type(error).__name__}: {first_line(error)}") from error
        self._saved = (self.at.epoch, self.at.step)
        return self._random

    def _compare(self, state: Mapping[str, Any]) -> None:
        """Find what differs between the checkpoint and this run, before anything is loaded."""
        ours, theirs = dict(self._setup()), {key: state[key] for key in self._setup()}
        for tree, flat in ((self._trained(), ours), (state, theirs)):
            flat["modules"] = sorted(tree["modules"])
            flat["optimizers"] = sorted(tree["optimizers"])
            for key, values in tree["modules"].items():
                shaped = {n: (tuple(v.shape), v.dtype) for n, v in values.items() if isinstance(v, torch.Tensor)}
                flat.update({f"{key}.{name}": shape for name, shape in shaped.items()})
        for key in (*ours, *theirs):
            if ours.get(key) != theirs.get(key):
                raise self._unfit(f"{key} {ours.get(key, 'not at all')}", f"{theirs.get(key, 'none')}")

    def _unfit(self, must: str, got: str) -> TrainingError:
        remedy = "go back to the settings, model and data it was made with, or start over (force)"
        return TrainingError(f"{self._path}: must hold {quoted(must)}, got {quoted(got)}; {remedy}.")

    def _diverged(self, what: str) -> TrainingError:
        return TrainingError(
            f"{self._name}: {what} of epoch {self.at.epoch + 1}; lower the learning rate, or look for bad values in "
            f"the data ({self.kept()})."
        )

    def kept(self) -> str:
        """Where to go on from; not only the process that writes may be asked."""
        there = self._path is not None and self._path.exists()
        return f"the last good checkpoint is {self._path}" if there else "there is no checkpoint yet"

    def farewell(self) -> str:
        """What to tell someone who pressed Ctrl-C."""
        where = f"{self._name}: stopped in epoch {self.at.epoch + 1} after step {self.at.step}"
        if not any(self._saved):
            return f"{where}; nothing was saved."
        epoch, step = self._saved
        return f"{where}; saved to {self._path} (epoch {epoch + 1}, step {step}), resume the run to continue."


def updates_in(batches: Iterable[Batch], accumulate: int) -> int:
    """How many updates these batches make, so many at a time; 0 if nobody knows."""
    return -(-operator.length_hint(batches) // accumulate)
