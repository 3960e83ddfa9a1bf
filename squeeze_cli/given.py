"""What was said on the command line, as frozen records."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

COMMAND = "squeeze_cli.command"
"""Key of the click context's `meta`: the command as it was typed."""

ON_INTERRUPT = "squeeze_cli.on_interrupt"
"""Key of the click context's `meta`: what to add to "interrupted"."""


@dataclass(frozen=True)
class Source:
    """A model as it is named on the command line.

    Attributes:
        model: The path of a checkpoint or artefact.
        arch: How to build the network; None if the file says so itself.
        data: The data set; None if the file says so itself, or if there is none.
        input_shape: Of one sample; None if the file or the data say so.
        trust_pickle: Run the code that a pickled module holds.
        threads: How many PyTorch computes with; None leaves it to PyTorch.
    """

    model: str
    arch: str | None
    data: str | None
    input_shape: tuple[int, ...] | None
    trust_pickle: bool
    threads: int | None


@dataclass(frozen=True)
class Method:
    """How to prune, as it is said on the command line.

    Attributes:
        method: A pass by name, or ``file.py:Pass``.
        macs: The share of MACs that stays.
        params: The share of parameters that stays.
        ignore: Name patterns of layers that stay as they are.
        assignments: ``field=value`` texts.
        epochs: Of the pass.
        finetune_epochs: Of fine-tuning.
    """

    method: str
    macs: float | None
    params: float | None
    ignore: tuple[str, ...]
    assignments: tuple[str, ...]
    epochs: int | None
    finetune_epochs: int | None


@dataclass(frozen=True)
class Target:
    """Where the run goes, and how it begins.

    Attributes:
        out: The folder; None for one named after the model and the method.
        force: Replace an earlier run, when this one is whole.
        resume: Go on with an interrupted run.
        seed: Of every random number.
        precision: Of the forward pass in training; None for what ``accelerate launch`` was told.
    """

    out: Path | None
    force: bool
    resume: bool
    seed: int
    precision: Literal["no", "bf16", "fp16"] | None


@dataclass(frozen=True)
class Look:
    """What of a gated network's paths is asked for.

    Attributes:
        sample: The input whose path is shown; None for none.
        most: Inputs in all.
        silence: Filters of a class to silence; None for the default.
        codes: A file of codes that were gathered before.
    """

    sample: int | None
    most: int
    silence: int | None
    codes: Path | None


@dataclass(frozen=True)
class Guard:
    """What to defend against.

    Attributes:
        epsilon: How far attacks go, as a share of the range of the data.
        most: Inputs to fit on, and as many to judge by.
        per_class: Fit on so many inputs of each class; None for no limit.
        detector: A detector that was kept, to be used as it is.
    """

    epsilon: float
    most: int
    per_class: int | None
    detector: Path | None
