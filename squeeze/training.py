"""The one training loop."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from accelerate import Accelerator
from torch import nn
from torch.optim import Optimizer

from squeeze.task import Batch


@dataclass(frozen=True)
class Run:
    """Where and how a run happens; passed to everything that trains.

    Attributes:
        folder: Checkpoints and TensorBoard scalars go there; None writes nothing.
        seed: Of every random number in the run.
        resume: Continue from the folder's checkpoints.
        quiet: No progress bar.
        checkpoint_seconds: At least this long between checkpoints within an epoch.
    """

    folder: Path | None = None
    seed: int = 0
    resume: bool = False
    quiet: bool = True
    checkpoint_seconds: float = 60.0


class Learner(Protocol):
    """What the loop trains: some modules, their optimisers, and one step.

    Attributes:
        modules: Everything with state, by name; saved and restored.
        optimizers: By name; saved and restored.
    """

    modules: Mapping[str, nn.Module]
    optimizers: Mapping[str, Optimizer]

    def start_epoch(self, epoch: int) -> None:
        """Set modes and learning rates."""

    def step(self, batch: Batch, accelerator: Accelerator) -> dict[str, float]:
        """One update; returns scalars to log. Back-propagates with ``accelerator.backward``."""

    def end_epoch(self, epoch: int) -> dict[str, float]:
        """Judge the epoch; returns scalars to log."""

    def state_dict(self) -> dict[str, Any]:
        """What else must survive: JSON values and tensors."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Undo `state_dict`."""


def train(learner: Learner, batches: Callable[[int], Iterable[Batch]], epochs: int, run: Run, name: str) -> list[dict[str, float]]:
    """Train for some epochs, checkpointing atomically; a killed run resumes bit for bit on CPU.

    Args:
        learner: What is trained, in place.
        batches: The batches of an epoch, given its number.
        epochs: How many.
        run: Where and how.
        name: Of this phase; its checkpoint is ``<folder>/checkpoints/<name>.safetensors``.

    Returns:
        The scalars of each epoch (means over its steps, and what `end_epoch` gave).

    Raises:
        TrainingError: A logged scalar or parameter is not finite; a checkpoint does not fit.
        KeyboardInterrupt: Passed on after a checkpoint was written.
    """
