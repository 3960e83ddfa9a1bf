"""From what a run left behind to a report."""

import os
import platform
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from squeeze.latency import Latency
from squeeze.plan import Drop, Gate, Plan, Select, Slice
from squeeze.profiling import LayerProfile, Profile
from squeeze.report.data import (
    ByInput,
    Group,
    Histogram,
    Layer,
    Method,
    Origin,
    Phase,
    Pinned,
    Removed,
    Report,
    Stage,
    Timing,
)
from squeeze.report.findings import found_by
from squeeze.structure.groups import Structure
from squeeze.structure.parts import Pin

LIBRARIES = ("squeeze", "torch", "torchvision", "onnx", "onnxruntime", "numpy")
BINS = 24


@dataclass(frozen=True)
class Measured:
    """What was measured of the model at one moment; leave out what was not.

    Attributes:
        metrics: From `Task.evaluate` on the test set.
        profile: From `squeeze.profile` on the task's example inputs.
        latency: One for each backend, batch size and number of threads.
        bytes: Size of the file, by format ("onnx", "safetensors").
        by_input: What single inputs cost, of a network with gates.
    """

    metrics: Mapping[str, float] = field(default_factory=dict)
    profile: Profile | None = None
    latency: tuple[Latency, ...] = ()
    bytes: Mapping[str, int] = field(default_factory=dict)
    by_input: ByInput | None = None


@dataclass(frozen=True)
class Stages:
    """The model as given, finished, and in between: right after the cut, before fine-tuning."""

    before: Measured
    after: Measured
    cut: Measured | None = None


History = Sequence[tuple[str, Mapping[str, Any] | Sequence[Mapping[str, float]]]]
"""In order, a pass's name with its ``Found.history``, or "finetune" with the scalars of each epoch."""


def origin(
    model: str, task: str = "", metric: str = "", command: str = "", seed: int = 0, checksum: str = ""
) -> Origin:
    """Where a report comes from: what is given, and this machine and its software, now."""
    versions = {"python": platform.python_version()} | {name: found for name in LIBRARIES if (found := _version(name))}
    return Origin(
        model=model,
        task=task,
        metric=metric,
        command=command,
        seed=seed,
        versions=versions,
        machine=_processor(),
        threads=torch.get_num_threads(),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        checksum=checksum,
    )


def build_report(
    origin: Origin,
    plan: Plan,
    structure: Structure,
    stages: Stages,
    history: History = (),
    notes: Sequence[str] = (),
) -> Report:
    """Put together what happened.

    Args:
        origin: See `origin`.
        plan: All steps of the run.
        structure: Of the dense model, before the first step.
        stages: What was measured.
        history: Of the phases that trained.
        notes: What the reader should know besides.
    """
    first, last = stages.before.profile, stages.after.profile
    unknown = sorted({name for profile in (first, last) if profile is not None for name in profile.unknown})
    told = [f"Multiply-accumulates of these operators are not counted: {', '.join(unknown)}."] if unknown else []
    told += [note for name, entry in history if isinstance(entry, Mapping) for note in _left_out(name, entry)]
    return Report(
        origin=origin if first is None else replace(origin, inputs=first.inputs),
        methods=tuple(Method(step.method, dict(step.settings)) for step in plan.steps),
        before=_stage(stages.before),
        cut=None if stages.cut is None else _stage(stages.cut),
        after=_stage(stages.after),
        layers=() if first is None or last is None else _layers(first, last, structure, plan),
        groups=_groups(structure, plan),
        removed=tuple(
            Removed(edit.name, edit.modules, step.method)
            for step in plan.steps
            for edit in step.edits
            if isinstance(edit, Drop)
        ),
        history=tuple(phase for name, entry in history if (phase := _phase(name, entry)) is not None),
        pinned=pinned_by_reason(structure.pinned),
        notes=(*notes, *told),
        findings=found_by(history),
    )


def _stage(measured: Measured) -> Stage:
    profile = measured.profile
    latency = tuple(
        Timing(i.backend, i.batch, i.threads, i.median, i.q1, i.q3, i.device, i.runs) for i in measured.latency
    )
    macs, params, paper = (None,) * 3 if profile is None else (profile.macs, profile.params, profile.paper_macs)
    metrics = {name: float(value) for name, value in measured.metrics.items()}
    return Stage(metrics, macs, params, dict(measured.bytes), latency, paper, measured.by_input)


def _layers(before: Profile, after: Profile, structure: Structure, plan: Plan) -> tuple[Layer, ...]:
    now, wide = _as_named_before(after, _owners(plan)), _gated_widths(after, plan)
    left = {layer.name: layer for layer in now}
    known = {layer.name for layer in before.layers}
    rows = []
    for layer in before.layers:
        found = left.get(layer.name)
        width = _width(layer, structure)
        width_after = None if width is None else 0 if found is None else _width(found, structure)
        width_after = wide.get(layer.name, width_after) if found is not None else width_after
        macs, params = (0, 0) if found is None else (found.macs, found.params)
        rows.append(
            Layer(layer.name, layer.kind, layer.macs, macs, layer.params, params, width, width_after, found is None)
        )
    rows += [
        Layer(layer.name, layer.kind, 0, layer.macs, 0, layer.params, None, _width(layer, structure))
        for layer in now
        if layer.name not in known
    ]
    return tuple(rows)


def _owners(plan: Plan) -> dict[str, str]:
    """By prefix of the names of what gates put into a model, the layer that it was."""
    owners = {}
    for gate in (edit for edit in plan.edits if isinstance(edit, Gate)):
        for conv, norm in ((gate.module, gate.norm), *gate.follows, *gate.reads):
            owners[f"{conv}.norm"], owners[conv] = norm or conv, conv
    return owners


def _gated_widths(after: Profile, plan: Plan) -> dict[str, int]:
    """Filters of each gated convolution, and of depthwise ones behind it: what comes out depends on the input."""
    logits = {layer.name: layer.output for layer in after.layers if layer.output}
    widths: dict[str, int] = {}
    for gate in (edit for edit in plan.edits if isinstance(edit, Gate)):
        shape = logits.get(f"{gate.module}.gate.expand")
        if shape is not None:
            widths |= {conv: shape[-1] for conv in (gate.module, *(conv for conv, _ in gate.follows))}
    return widths


def _as_named_before(after: Profile, owners: Mapping[str, str]) -> list[LayerProfile]:
    """The layers, those that gates took in under the names that they had; a gate counts to its convolution."""
    found: dict[str, LayerProfile] = {}
    for layer in after.layers:
        parts = layer.name.split(".")
        prefixes = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
        name = next((owners[prefix] for prefix in prefixes if prefix in owners), layer.name)
        first = found.get(name, replace(layer, name=name, macs=0, params=0))
        found[name] = replace(first, macs=first.macs + layer.macs, params=first.params + layer.params)
    return list(found.values())


def _width(layer: LayerProfile, structure: Structure) -> int | None:
    """Output channels of a layer that multiplies: dim 1 of what a convolution returns, the last of what others do."""
    weight = structure.costs.shapes.get(f"{layer.name}.weight", ())
    if not layer.macs or not layer.output or len(weight) < 2:
        return None
    if len(weight) == 2:
        return layer.output[-1]
    return layer.output[len(layer.output) - len(weight) + 1]


def _groups(structure: Structure, plan: Plan) -> tuple[Group, ...]:
    """How much of each group, and of the inputs of layers, the whole plan leaves: later steps cut what earlier left."""
    kept: dict[tuple[str, int], np.ndarray] = {}
    reading = {edge.module: (edge.tensor, edge.dim) for edge in structure.edges if edge.module}
    for edit in plan.edits:
        if isinstance(edit, Slice) or (isinstance(edit, Select) and edit.module in reading):
            key = (edit.tensor, edit.dim) if isinstance(edit, Slice) else reading[edit.module]
            kept[key] = kept.get(key, np.arange(edit.size))[edit.indices()]
    dropped = [edit for edit in plan.edits if isinstance(edit, Drop)]
    parameters = {name for drop in dropped for name in drop.parameters}
    prefixes = tuple(f"{module}." for drop in dropped for module in drop.modules)
    rows = []
    for group in structure.groups:
        producers = [axis for axis in group.axes if not axis.reads] or list(group.axes)
        alive = [a for a in producers if a.tensor not in parameters and not a.tensor.startswith(prefixes)]
        units: set[int] = set()
        for axis in alive:
            left = axis.units[kept[axis.tensor, axis.dim]] if (axis.tensor, axis.dim) in kept else axis.units
            units |= set(left[left >= 0].tolist())
        rows.append(Group(group.name, group.size, len(units)))
    selecting = {edit.module for edit in plan.edits if isinstance(edit, Select)}
    rows += [
        Group(f"{edge.module}, inputs", edge.size, len(kept[edge.tensor, edge.dim]))
        for edge in structure.edges
        if edge.module in selecting and not edge.tensor.startswith(prefixes)
    ]
    return tuple(rows)


def pinned_by_reason(pins: Iterable[Pin]) -> tuple[Pinned, ...]:
    """One record a reason: how many indices of which tensors, and which lines cause it; the commonest first."""
    by_reason: dict[str, list[Pin]] = {}
    for pin in pins:
        by_reason.setdefault(pin.reason, []).append(pin)
    rows = [
        Pinned(
            reason,
            sum(pin.count for pin in found),
            tuple(dict.fromkeys(f"{pin.tensor}[{pin.dim}]" for pin in found)),
            tuple(dict.fromkeys(pin.where for pin in found if pin.where)),
        )
        for reason, found in by_reason.items()
    ]
    return tuple(sorted(rows, key=lambda row: -row.count))


def _phase(name: str, entry: Mapping[str, Any] | Sequence[Mapping[str, float]]) -> Phase | None:
    """A phase's scalars turned from one dict an epoch to one series a name; None if it tells nothing."""
    epochs = entry.get("epochs", ()) if isinstance(entry, Mapping) else entry
    masks = entry.get("masks", {}) if isinstance(entry, Mapping) else {}
    series: dict[str, tuple[float | None, ...]] = {}
    quantiles: dict[str, tuple[float | None, ...]] = {}
    for key in dict.fromkeys(key for epoch in epochs for key in epoch):
        values = tuple(_finite(epoch.get(key)) for epoch in epochs)
        level = re.fullmatch(r"mask_(\d+(?:\.\d+)?)%", key)
        if level:
            quantiles[level[1]] = values
        else:
            series[key] = values
    final = tuple(_histogram(kind, parts) for kind, parts in masks.items() if parts)
    return Phase(name, series, quantiles, final) if series or quantiles or final else None


def _histogram(kind: str, parts: Mapping[str, Sequence[float]]) -> Histogram:
    values = np.concatenate([np.atleast_1d(np.asarray(part, dtype=float)) for part in parts.values()])
    rest = values[values != 0]
    low, high = min(0.0, float(rest.min(initial=0.0))), max(1e-6, float(rest.max(initial=0.0)))
    counts, edges = np.histogram(rest, bins=BINS, range=(low, high))
    return Histogram(kind, int((values == 0).sum()), tuple(map(float, edges)), tuple(map(int, counts)))


def _left_out(name: str, entry: Mapping[str, Any]) -> list[str]:
    """What a pass could not judge, one note a reason."""
    by_reason: dict[str, list[str]] = {}
    for what, reason in entry.get("left_out", ()):
        by_reason.setdefault(reason, []).append(what)
    return [f"{name}: left as it is, because {reason}: {', '.join(what)}." for reason, what in by_reason.items()]


def _finite(value: float | None) -> float | None:
    return float(value) if value is not None and np.isfinite(value) else None


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _processor() -> str:
    """The processor's name with the number of its cores, as far as the system tells."""
    names = Path("/proc/cpuinfo")
    text = names.read_text() if names.exists() else ""
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    name = found[1].strip() if found else platform.processor() or platform.machine()
    return f"{name}, {os.cpu_count()} cores"
