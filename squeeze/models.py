"""From the argument MODEL of the command line to a model and its task."""

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from squeeze.architectures import Builder, builder, runs_code
from squeeze.artifact import is_artifact, named_builder, read, restore, size_limit
from squeeze.data_task import DataTask
from squeeze.datasets import load_task
from squeeze.errors import InputError, quoted
from squeeze.plan import Plan
from squeeze.task import Task, check_inputs
from squeeze.weights import Checkpoint, load_into, read_weights

_MAX_INPUT = 2**24
"""Numbers in one sample, when a file says its shape."""


@dataclass(frozen=True, eq=False)
class Opened:
    """A model from a file.

    Attributes:
        model: With its weights, in eval mode.
        task: Its data, or only its inputs.
        about: "arch", "data" and "input_shape", as far as they are known; the others are None.
        plan: What it was compressed with; an empty one for a dense model.
    """

    model: nn.Module
    task: Task
    about: dict[str, Any]
    plan: Plan


def open_model(
    path: Path | str,
    arch: str | None = None,
    data: str | None = None,
    input_shape: tuple[int, ...] | None = None,
    trust_pickle: bool = False,
) -> Opened:
    """Open weights with the architecture they belong to, a checkpoint that names its own, or an artefact.

    What a file says of itself is used where nothing else is said, but code that it names does not run.

    Args:
        path: Of the file.
        arch: See `squeeze.architectures.builder`; the file's own word if None.
        data: See `squeeze.datasets.load_task`; the file's own word if None.
        input_shape: Of one sample; the data's, or the file's word, if None.
        trust_pickle: Open pickled modules; runs the code in them.

    Raises:
        InputError: The file, the architecture or the data cannot be had, or do not fit.
        ArtifactError: An artefact is damaged, or of another architecture.

    Warns:
        UserWarning: Data that the file names cannot be had.
    """
    path = Path(path)
    model, build, plan, known = _read(path, arch, trust_pickle)
    shape = _shape(path, known) if input_shape is None and data is None else input_shape
    if data is not None:
        task: Task | None = load_task(data, build, shape)
    else:
        task = _named_task(path, known, build, shape)
        data = None if task is None else known["data"]
    task = task or _inputs_only(path, build, shape, model)
    check_inputs(model, task.example_inputs)
    about = {"arch": known.get("arch") if arch is None else arch, "data": data, "input_shape": _sample(task, shape)}
    return Opened(model, task, about, plan)


def _read(path: Path, arch: str | None, trust_pickle: bool) -> tuple[nn.Module, Builder, Plan, Mapping[str, Any]]:
    """The model, what builds its dense form, its plan, and what the file says of itself."""
    if (path / "model.safetensors").is_file():
        raise InputError(f"{path}: must be a file, got the folder of a run; name {path / 'model.safetensors'}.")
    if is_artifact(path):
        found = read(path)
        build = builder(arch) if arch is not None else named_builder(found)
        return restore(found, build), build, found.plan, found.about
    checkpoint = read_weights(path, trust_pickle)
    build = builder(arch) if arch is not None else _named(checkpoint)
    return load_into(build(), checkpoint).eval(), build, Plan(), checkpoint.meta


def _named(checkpoint: Checkpoint) -> Builder:
    """What makes the dense model, by a checkpoint's own word."""
    path, arch = checkpoint.path, checkpoint.meta.get("arch")
    if not isinstance(arch, str):
        raise InputError(
            f"{path}: must come with its architecture, got weights alone; add --arch, e.g. --arch torchvision:resnet50."
        )
    if runs_code(arch):
        raise InputError(
            f"{path}: must not choose the code that runs, got the architecture {quoted(arch)}; add --arch if you "
            "trust it."
        )
    return builder(arch, limit=size_limit(checkpoint.size))


def _named_task(path: Path, known: Mapping[str, Any], build: Builder, shape: tuple[int, ...] | None) -> Task | None:
    """The task that a file names; None if it names none, or none that can be had."""
    data = known.get("data")
    if not isinstance(data, str) or not data:
        return None
    if ".py:" in data:
        _warn(f"{path}: names its data {quoted(data)}, which is code and does not run unasked; add --data to use it.")
        return None
    try:
        return load_task(data, build, shape)
    except InputError as error:
        if shape is None:
            raise
        _warn(f"{path}: goes without the data it names: {quoted(error, 400)}")
        return None


def _warn(text: str) -> None:
    warnings.warn(text, UserWarning, stacklevel=4)


def _inputs_only(path: Path, build: Builder, shape: tuple[int, ...] | None, model: nn.Module) -> Task:
    if shape is None:
        raise InputError(
            f"{path}: must come with data or the shape of its inputs, got neither; add --data, or --input-shape "
            "3,224,224."
        )
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    inputs = torch.randn(1, *shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    return DataTask(build, inputs, name="inputs")


def _shape(path: Path, known: Mapping[str, Any]) -> tuple[int, ...] | None:
    """The shape of one sample, by the file's own word."""
    shape = known.get("input_shape")
    if shape is None:
        return None
    sizes = shape if isinstance(shape, list) else [0]
    if not all(type(size) is int and 0 < size <= _MAX_INPUT for size in sizes) or math.prod(sizes) > _MAX_INPUT:
        raise InputError(
            f"{path}: input_shape must be a few whole numbers from 1, got {quoted(shape, 60)}; add --input-shape."
        )
    return tuple(sizes)


def _sample(task: Task, shape: tuple[int, ...] | None) -> list[int] | None:
    """The shape of one sample, for those who open the model later and have no data."""
    inputs = task.example_inputs
    return list(inputs.shape[1:]) if isinstance(inputs, torch.Tensor) else list(shape) if shape else None
