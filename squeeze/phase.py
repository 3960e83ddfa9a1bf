"""A phase of training: how far it has come, and the checkpoint from which it goes on."""

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from squeeze import checkpoint, processes
from squeeze.alike import require_alike, require_fitting
from squeeze.blame import first_line
from squeeze.errors import TrainingError, quoted
from squeeze.randomness import random_state, randomness_kept, restore_random_state
from squeeze.task import Batch
from squeeze.updates import Precision

if TYPE_CHECKING:
    from squeeze.training import Learner, Run


@dataclass
class Position:
    """How far a phase has come.

    Attributes:
        epoch: Which is under way, from 0.
        step: Updates made in it.
        total: Updates made in all epochs.
        sums: By name of a scalar, its sum over the updates of this epoch, and how many there were.
        history: The scalars of the epochs that are done.

    Raises:
        TypeError: A count that is none, or a scalar that is not finite.
    """

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


class Phase:
    """What is trained in a phase, how far it has come, and the file in which that survives.

    Args:
        learner: What is trained.
        epochs: How many.
        run: Where and how.
        name: Of the phase, and of its checkpoint.

    Attributes:
        at: How far it has come.
        precision: In which updates are made.
    """

    def __init__(self, learner: "Learner", epochs: int, run: "Run", name: str) -> None:
        self.at = Position()
        self._learner, self._epochs, self._run, self._name = learner, epochs, run, name
        self._path = None if run.folder is None else run.folder / "checkpoints" / f"{name}.safetensors"
        parameters = [p for module in learner.modules.values() for p in module.parameters()]
        self.precision = Precision(run.precision, parameters[0].device if parameters else torch.device("cpu"))
        self._random = random_state()
        self._saved_at = time.monotonic()
        self._saved = (0, 0)

    def begin(self) -> None:
        """Take up the checkpoint, or make sure that a later resume does not find one of an earlier run.

        Raises:
            ArtifactError: The checkpoint is damaged.
            TrainingError: It does not fit, or is not the same for all processes.
        """
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

    def catch_up(self, iterator: Iterator[Batch]) -> None:
        """Pass over the batches that were consumed, then be where the checkpoint was written.

        Raises:
            TrainingError: There are fewer batches than then.
        """
        together = self._learner.accumulate
        wanted = self.at.step * together
        passed = sum(1 for _ in zip(range(wanted), iterator, strict=False))
        if passed <= wanted - together:  # the last update of an epoch may have had fewer than the others
            raise self._unfit(f"{wanted} batches in epoch {self.at.epoch + 1}", f"{passed}, so other data")
        if self._path is not None:
            restore_random_state(self._restore(self._path))

    def advance(self, scalars: Mapping[str, float]) -> None:
        """Count an update that was made.

        Raises:
            TrainingError: A scalar is not finite.
        """
        scalars = self._finite(scalars, self.at.step + 1)
        at = self.at
        for key, value in scalars.items():
            total, count = at.sums.get(key, (0.0, 0))
            at.sums[key] = (total + value, count + 1)
        at.step, at.total = at.step + 1, at.total + 1
        self._random = random_state()

    def end_epoch(self, scalars: Mapping[str, float]) -> None:
        """Count an epoch that is done, of which these scalars are told besides the means over its updates.

        Raises:
            TrainingError: A scalar is not finite.
        """
        at = self.at
        means = {key: total / count for key, (total, count) in at.sums.items()}
        at.history.append({**means, **self._finite(scalars, at.step)})
        at.epoch, at.step, at.sums = at.epoch + 1, 0, {}

    @property
    def due(self) -> bool:
        """It is time for a checkpoint within the epoch."""
        return time.monotonic() - self._saved_at >= self._run.checkpoint_seconds

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
        return {**setup, "accumulate": self._learner.accumulate, "precision": self.precision.kind}

    def _trained(self) -> dict[str, Any]:
        learner = self._learner
        return {
            "modules": {key: module.state_dict() for key, module in learner.modules.items()},
            "optimizers": {key: optimizer.state_dict() for key, optimizer in learner.optimizers.items()},
            "learner": learner.state_dict(),
            "scaler": self.precision.state_dict(),
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
            self.precision.load_state_dict(state["scaler"])
            self.at, self._random = Position(**state["at"]), state["random"]
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
