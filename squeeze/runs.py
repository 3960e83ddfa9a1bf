"""The folder of a run: everything that came out of it, each file whole."""

import json
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import nn

from squeeze.artifact import save
from squeeze.compress import Result
from squeeze.errors import ExportError
from squeeze.export import FixedBatchWarning, export_onnx, export_pt2
from squeeze.files import write_text
from squeeze.latency import Latency, compare
from squeeze.plan import Plan
from squeeze.report import render

FILES = ("model.safetensors", "model.onnx", "model.pt2", "plan.json", "report.json", "report.html")


def write_run(result: Result, folder: Path, about: Mapping[str, Any], command: str = "") -> Result:
    """Export, measure in ONNX Runtime, and write all files of a run.

    Args:
        result: Of `squeeze.compress`.
        folder: Is there and may be written to; see `squeeze.files.claim_folder`.
        about: What the artefact says of itself: "arch", "data", "input_shape".
        command: The command line that started the run.

    Returns:
        The result with what was measured here: file sizes, and latency of the ONNX files.

    Raises:
        ExportError: The ONNX file does not compute what the model computes.
        InputError: The folder cannot be written to.
    """
    inputs = result.task.example_inputs
    notes = [*result.notes]
    artifact = save(result, folder / "model.safetensors", about)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", FixedBatchWarning)
        onnx = export_onnx(result.model, inputs, folder / "model.onnx")
    notes += [str(warning.message) for warning in caught if issubclass(warning.category, FixedBatchWarning)]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FixedBatchWarning)
            export_pt2(result.model, inputs, folder / "model.pt2")
    except ExportError as error:
        notes.append(str(error))
    before, after, sizes = _in_onnxruntime(result.dense, onnx, inputs, notes)
    stages, size = result.stages, _size_as_artifact(result.dense)
    stages = replace(
        stages,
        before=replace(stages.before, latency=(*stages.before.latency, *before), bytes={**sizes, "safetensors": size}),
        after=replace(
            stages.after,
            latency=(*stages.after.latency, *after),
            bytes={"onnx": onnx.stat().st_size, "safetensors": artifact.stat().st_size},
        ),
    )
    origin = replace(result.origin, command=command, model=str(about.get("arch") or result.origin.model))
    final = replace(result, stages=stages, origin=origin, notes=tuple(notes))
    write_text(folder / "plan.json", final.plan.to_json())
    write_text(folder / "report.json", json.dumps(final.report.to_dict(), indent=1))
    write_text(folder / "report.html", render(final.report))
    return final


def _in_onnxruntime(
    dense: nn.Module, onnx: Path, inputs: Any, notes: list[str]
) -> tuple[tuple[Latency, ...], tuple[Latency, ...], dict[str, int]]:
    """The dense and the small model side by side, and the dense file's size."""
    with tempfile.TemporaryDirectory() as scratch:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FixedBatchWarning)
                first = export_onnx(dense, inputs, Path(scratch) / "dense.onnx")
        except ExportError as error:
            notes.append(f"The dense model was not exported: {error}")
            return (), (compare({"after": onnx}, inputs)["after"],), {}
        times = compare({"before": first, "after": onnx}, inputs)
        return (times["before"],), (times["after"],), {"onnx": first.stat().st_size}


@dataclass(frozen=True, eq=False)
class _Dense:
    """A model that nothing was done to, to be saved for its size."""

    model: nn.Module
    plan: Plan = field(default_factory=Plan)


def _size_as_artifact(dense: nn.Module) -> int:
    with tempfile.TemporaryDirectory() as scratch:
        return save(_Dense(dense), Path(scratch) / "dense.safetensors").stat().st_size
