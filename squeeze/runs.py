"""The folder of a run: everything that came out of it, each file whole."""

import json
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from squeeze.artifact import save
from squeeze.compress import Result
from squeeze.errors import ExportError
from squeeze.export import FixedBatchWarning, export_onnx, export_pt2
from squeeze.files import write_text
from squeeze.latency import compare
from squeeze.plan import Plan
from squeeze.report import Stages, render


def write_run(
    result: Result, folder: Path, about: Mapping[str, Any], command: str = "", earlier: Plan | None = None
) -> Result:
    """Export, measure in ONNX Runtime, and write all files of a run.

    Args:
        result: Of `squeeze.compress`.
        folder: Is there and may be written to; see `squeeze.folders.claim_folder`.
        about: What the artefact says of itself: "arch", "data", "input_shape".
        command: The command line that started the run.
        earlier: What the model had behind it when it was given; the plan that is written starts with that.

    Returns:
        The result with what was measured here: file sizes, and latency of the ONNX files.

    Raises:
        ExportError: The ONNX file does not compute what the model computes.
        InputError: The folder cannot be written to.
    """
    notes = [*result.notes]
    plan = replace(result.plan, steps=(*(earlier or Plan()).steps, *result.plan.steps))
    artifact = save(replace(result, plan=plan), folder / "model.safetensors", about)
    onnx = _exported(result, folder, notes)
    sizes = {"onnx": onnx.stat().st_size, "safetensors": artifact.stat().st_size}
    origin = replace(result.origin, command=command, model=str(about.get("arch") or result.origin.model))
    final = replace(result, stages=_beside_dense(result, onnx, sizes, notes), origin=origin, notes=tuple(notes))
    write_text(folder / "plan.json", plan.to_json())
    write_text(folder / "report.json", json.dumps(final.report.to_dict(), indent=1))
    write_text(folder / "report.html", render(final.report))
    return final


def _exported(result: Result, folder: Path, notes: list[str]) -> Path:
    """Both exports; a program that torch.export cannot write is a note, an ONNX file an error."""
    inputs = result.task.example_inputs
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
    return onnx


def _beside_dense(result: Result, onnx: Path, sizes: Mapping[str, int], notes: list[str]) -> Stages:
    """What was measured, with the files of the dense model and the small one side by side."""
    inputs, stages = result.task.example_inputs, result.stages
    with tempfile.TemporaryDirectory() as scratch:
        dense = save(replace(result, model=result.dense, plan=Plan()), Path(scratch) / "dense.safetensors")
        bytes_before, candidates = {"safetensors": dense.stat().st_size}, {"after": onnx}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FixedBatchWarning)
                candidates["before"] = export_onnx(result.dense, inputs, Path(scratch) / "dense.onnx")
            bytes_before["onnx"] = candidates["before"].stat().st_size
        except ExportError as error:
            notes.append(f"The dense model was not exported: {error}")
        times = compare(candidates, inputs)
    first = (*stages.before.latency, times["before"]) if "before" in times else stages.before.latency
    last = (*stages.after.latency, times["after"])
    before, after = replace(stages.before, latency=first, bytes=bytes_before), stages.after
    return replace(stages, before=before, after=replace(after, latency=last, bytes=sizes))
