"""From the argument MODEL of the command line to a model and its task."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from squeeze.architectures import builder
from squeeze.artifact import is_artifact, read, restore
from squeeze.data_task import DataTask
from squeeze.datasets import load_task
from squeeze.errors import InputError
from squeeze.plan import Plan
from squeeze.task import Task, check_inputs
from squeeze.weights import checksum, load_into, read_weights


@dataclass(frozen=True, eq=False)
class Opened:
    """A model from a file.

    Attributes:
        model: With its weights, in eval mode.
        task: Its data, or only its inputs.
        about: "arch", "data" and "input_shape", as far as they are known.
        plan: What it was compressed with; an empty one for a dense model.
        checksum: Of its weights.
    """

    model: nn.Module
    task: Task
    about: dict[str, Any]
    plan: Plan
    checksum: str


def open_model(
    path: Path | str,
    arch: str | None = None,
    data: str | None = None,
    input_shape: tuple[int, ...] | None = None,
    trust_pickle: bool = False,
) -> Opened:
    """Open weights with the architecture they belong to, a checkpoint that names its own, or an artefact.

    Args:
        path: Of the file.
        arch: See `squeeze.architectures.builder`; the file's own word if None.
        data: See `squeeze.datasets.load_task`; the file's own word if None.
        input_shape: Of one sample; the file's word, or the data's, if None.
        trust_pickle: Open pickled modules; runs the code in them.

    Raises:
        InputError: The file, the architecture or the data cannot be had, or do not fit.
        ArtifactError: An artefact is damaged, or of another architecture.
    """
    path = Path(path)
    about: dict[str, Any]
    if is_artifact(path):
        found = read(path)
        about, weights, plan = _about(found.about, arch, data, input_shape), found.weights, found.plan
        build = builder(_arch(path, about))
        model = restore(found, build, str(path))
    else:
        checkpoint = read_weights(path, trust_pickle)
        about, weights, plan = _about(checkpoint.meta, arch, data, input_shape), checkpoint.weights, Plan()
        build = builder(_arch(path, about))
        model = load_into(build(), checkpoint).eval()
    task = _task(path, about, build)
    check_inputs(model, task.example_inputs)
    return Opened(model, task, about, plan, checksum(weights))


def _about(known: Any, arch: str | None, data: str | None, shape: tuple[int, ...] | None) -> dict[str, Any]:
    given = {"arch": arch, "data": data, "input_shape": None if shape is None else list(shape)}
    replaced = {"input_shape"} if data is not None and shape is None else set()
    kept = {name: known.get(name) for name in given if name not in replaced}
    return {**kept, **{name: value for name, value in given.items() if value is not None}}


def _arch(path: Path, about: dict[str, Any]) -> str:
    if not isinstance(about.get("arch"), str):
        raise InputError(
            f"{path}: must say which architecture it is for, got weights alone; add --arch, e.g. --arch torchvision:resnet50."
        )
    return str(about["arch"])


def _task(path: Path, about: dict[str, Any], build: Callable[[], nn.Module]) -> Task:
    shape = about.get("input_shape")
    if shape is not None and not (isinstance(shape, list) and all(isinstance(n, int) and n > 0 for n in shape)):
        raise InputError(f"{path}: input_shape must be whole numbers above 0, got {shape!r}; add --input-shape.")
    if about.get("data"):
        return load_task(str(about["data"]), build, None if shape is None else tuple(shape))
    if shape is None:
        raise InputError(
            f"{path}: must come with data or the shape of its inputs, got neither; add --data or --input-shape 3,224,224."
        )
    return DataTask(build, torch.zeros(1, *shape) + 0.5, name="inputs")
