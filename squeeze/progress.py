"""What a person sees of a training run: a progress bar, and scalars in TensorBoard."""

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column

from squeeze.events import Events


def say(line: str) -> None:
    """Tell whoever waits; standard output is left to what was asked for."""
    Console(stderr=True, markup=False, emoji=False).print(line, highlight=False)


class Monitor:
    """Shows a phase while it is entered.

    Args:
        name: Of the phase.
        epochs: How many there will be.
        quiet: No bar.
        folder: Scalars go to ``<folder>/tensorboard/<name>``; None for nowhere.
        total: Steps already made; what a killed run logged beyond them is hidden.

    Raises:
        InputError: The folder cannot be written to.
    """

    def __init__(self, name: str, epochs: int, quiet: bool, folder: Path | None, total: int = 0) -> None:
        self._name, self._epochs = name, epochs
        self._events = None if folder is None else Events(folder / "tensorboard" / name, total)
        # Standard output is the user's: the bar goes to standard error. Where it is narrow, scalars are cut off first.
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(16),
            MofNCompleteColumn(table_column=Column(no_wrap=True)),
            TimeRemainingColumn(table_column=Column(no_wrap=True)),
            TextColumn(
                "{task.fields[scalars]}",
                markup=False,
                table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis"),
            ),
            console=Console(stderr=True),
            disable=quiet,
            expand=True,
        )
        self._line = self._bar.add_task(name, total=None, scalars="")

    def __enter__(self) -> "Monitor":
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def epoch(self, epoch: int, steps: int, done: int) -> None:
        """An epoch begins or is taken up again; `steps` is 0 if nobody knows how many there will be."""
        text = f"{self._name} · epoch {epoch + 1}/{self._epochs}"
        self._bar.reset(self._line, total=steps or None, completed=done, description=text)

    def step(self, total: int, scalars: Mapping[str, float]) -> None:
        """A step ended, the `total`-th of all."""
        self._bar.update(self._line, advance=1, scalars=_listed(scalars))
        self._write("step", total, scalars)

    def epoch_ended(self, total: int, scalars: Mapping[str, float]) -> None:
        """An epoch ended after `total` steps of all."""
        self._bar.update(self._line, scalars=_listed(scalars))
        self._write("epoch", total, scalars)

    def _write(self, group: str, total: int, scalars: Mapping[str, float]) -> None:
        if self._events is not None:
            self._events.add({f"{group}/{key}": value for key, value in scalars.items()}, total)


def _listed(scalars: Mapping[str, float]) -> str:
    return "  ".join(f"{key} {value:.4g}" for key, value in scalars.items())
