"""The law on one net of the zoo: what can go, what is pinned and why, and whether masked is removed."""

import collections
import resource
import tempfile
import time
import warnings
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import squeeze
from benchmarks.zoo.nets import Net
from tests import law


@dataclass
class Checked:
    """What was found.

    Attributes:
        net: Its name.
        groups: How many.
        units: In all groups.
        blocks: How many residual bodies.
        branches: How many.
        macs: Dense.
        params: Dense.
        pinned: Share of the MACs in contractions that no unit's removal makes cheaper.
        reasons: For the pinned contractions, why: share of the MACs by reason.
        smallest: MACs if one unit of each group stays, over dense.
        error: ``max|masked − removed| / max|out|`` in float64, over exact groups; the worst of two seeds.
        moved: What masking itself changed, by the same measure: where it is 0, `error` says nothing.
        bodies: The same error without half of the blocks.
        symmetry: The same error after the units of every group have changed places: no weight may notice, be a group
            exact or not.
        losses: The same error of a detector's losses, in training mode; None where they do not run in float64, as
            torchvision's of keypoints.
        seconds: Of the trace; of computing, as all times here.
        total: Seconds of everything.
        memory: GB at the most.
        faults: What is wrong; empty if the law holds.
        onnx: "same", "not tried", or why the dense model itself does not export.
    """

    net: str
    groups: int = 0
    units: int = 0
    blocks: int = 0
    branches: int = 0
    macs: int = 0
    params: int = 0
    pinned: float = 0.0
    reasons: dict[str, float] = field(default_factory=dict)
    smallest: float = 1.0
    error: float = 0.0
    moved: float = 0.0
    bodies: float = 0.0
    symmetry: float = 0.0
    losses: float | None = 0.0
    seconds: float = 0.0
    total: float = 0.0
    memory: float = 0.0
    faults: list[str] = field(default_factory=list)
    onnx: str = "not tried"

    def record(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {k: round(v, 3) if isinstance(v, float) and v > 1e-3 else v for k, v in asdict(self).items()}


def check(net: Net, onnx: bool = False) -> Checked:
    """Put one net through the law."""
    begun = time.process_time()
    model = net.build()
    before = law.fingerprint(model)
    started = time.process_time()
    structure = squeeze.trace(model, net.inputs)
    found = Checked(net.name, seconds=time.process_time() - started)
    if law.fingerprint(model) != before:
        found.faults.append("trace changes the given model")
    del before
    _describe(found, structure)
    _costs(found, net, model, structure)
    _exactness(found, net, structure)
    _training(found, net, structure)
    if onnx:
        _export(found, net, structure)
    found.total = time.process_time() - begun
    found.memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return found


def _describe(found: Checked, structure: squeeze.Structure) -> None:
    dense, least = structure.cost(), _least(structure)
    found.groups, found.units = len(structure.groups), sum(group.size for group in structure.groups)
    found.blocks, found.branches = len(structure.blocks), len(structure.branches)
    found.macs, found.params = dense.macs, dense.params
    found.smallest = structure.cost(least).macs / max(dense.macs, 1)
    alive = np.ones(structure.costs.nodes + 1, dtype=bool)
    for group in structure.groups:
        for axis in group.axes if group.size > 1 else ():
            first, size = structure.costs.spans[axis.tensor, axis.dim]
            alive[first : first + size] &= axis.units < 0
    why: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for pin in structure.pinned:
        if pin.dim < 2:
            why[pin.tensor.rpartition(".")[0]][pin.reason] += pin.count
    shares: collections.Counter[str] = collections.Counter()
    for op in structure.costs.ops:
        if all(alive[axis].all() for axis in op.axes):
            reasons = why[op.name] or why.get(op.name.rpartition(".")[0]) or {"products of activations": 1}
            shares[max(reasons, key=lambda r: reasons[r])] += op.macs
    found.pinned = sum(shares.values()) / max(dense.macs, 1)
    found.reasons = {r: round(n / max(dense.macs, 1), 3) for r, n in shares.most_common() if n > 0.01 * dense.macs}


def _least(structure: squeeze.Structure) -> Any:
    choice = structure.nothing()
    for units in choice.units:
        units[1:] = True
    return choice


def _costs(found: Checked, net: Net, model: nn.Module, structure: squeeze.Structure) -> None:
    half = replace(
        law.choose(structure, 1, 0.5, exact_only=False), blocks=frozenset(b.name for b in structure.blocks[::2])
    )
    for what, choice in (("dense", None), ("units", law.choose(structure, 2, 0.3, exact_only=False)), ("bodies", half)):
        smaller = model if choice is None else squeeze.rewrite(model, structure.edits(choice))
        predicted = structure.cost(choice)
        if (predicted.macs, predicted.params) != (counted := law.counted(smaller, net.inputs)):
            found.faults.append(f"cost of {what}: predicted {(predicted.macs, predicted.params)}, counted {counted}")


def _exactness(found: Checked, net: Net, structure: squeeze.Structure) -> None:
    dense, inputs = net.build().double(), law.doubled(net.inputs)
    expected = law.precise(dense, inputs)
    for seed in (0, 1):
        choice = law.choose(structure, seed)
        masked, removed = law.masked(dense, structure, choice), squeeze.rewrite(dense, structure.edits(choice))
        found.error = max(found.error, law.apart(masked, removed, inputs))
        found.moved = max(found.moved, law.distance(expected, law.precise(masked, inputs)))
        if not net.shapes and found.losses is not None:
            losses = _losses(net, masked, removed)
            found.losses = None if losses is None else max(found.losses, losses)
    going = [b for b in structure.blocks if b.scales][::2]
    if going:
        choice = replace(law.choose(structure, 2), blocks=frozenset(b.name for b in going))
        reference = law.silenced(law.masked(dense, structure, choice), [s for b in going for s in b.scales])
        found.bodies = law.apart(reference, squeeze.rewrite(dense, structure.edits(choice)), inputs)
    found.symmetry = law.apart(dense, permuted(dense, structure), inputs)
    choice = law.choose(structure, 3, exact_only=False)
    smaller = law.precise(squeeze.rewrite(dense, structure.edits(choice)), inputs)
    shape = [t.shape if net.shapes else t.dim() for t in smaller]
    if shape != [t.shape if net.shapes else t.dim() for t in expected]:
        found.faults.append("the smaller model's output has another shape")
    if not (found.error <= law.TOLERANCE and found.bodies <= law.TOLERANCE):
        found.faults.append(f"wrong cut: masked is not removed, {found.error:.2g}, bodies {found.bodies:.2g}")
    if found.losses is not None and not found.losses <= law.TOLERANCE:
        found.faults.append(f"wrong cut: the losses of masked are not those of removed, {found.losses:.2g}")
    if not found.symmetry <= law.TOLERANCE:
        found.faults.append(f"wrong cut: units cannot change places, {found.symmetry:.2g}")


def _losses(net: Net, masked: nn.Module, removed: nn.Module) -> float | None:
    try:
        return law.apart(masked, removed, law.doubled(net.training), training=True)
    except TypeError:  # torchvision takes keypoints of float32 only
        return None


def permuted(model: nn.Module, structure: squeeze.Structure, only: int | None = None) -> nn.Module:
    """A copy in which the units of each group (or of one) stand in another order: it computes the same."""
    other = law.copied(model)
    tensors = other.state_dict(keep_vars=True) | dict(other.named_buffers())
    for number, group in enumerate(structure.groups):
        order = np.random.default_rng(number).permutation(group.size)
        for axis in group.axes if only in (None, number) else ():
            places = [np.flatnonzero(axis.units == unit) for unit in range(group.size)]
            index = np.arange(len(axis.units))
            index[np.concatenate(places)] = np.concatenate([places[unit] for unit in order])
            with torch.no_grad():
                tensor = tensors[axis.tensor]
                tensor.copy_(tensor.index_select(axis.dim, torch.from_numpy(index)))
    return other


def _training(found: Checked, net: Net, structure: squeeze.Structure) -> None:
    dense = net.build()
    smaller = squeeze.rewrite(dense, structure.edits(law.choose(structure, 4, exact_only=False)))
    if set(law.gradients(smaller, net.training)) != set(law.gradients(dense, net.training)):
        found.faults.append("the smaller model trains other parameters")


def _export(found: Checked, net: Net, structure: squeeze.Structure) -> None:
    smaller = squeeze.rewrite(net.build(), structure.edits(law.choose(structure, 5, exact_only=False)))
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found.onnx = "same"
        try:
            squeeze.export_onnx(smaller, net.inputs, Path(folder) / "small.onnx")
        except squeeze.ExportError as error:
            try:
                squeeze.export_onnx(net.build(), net.inputs, Path(folder) / "dense.onnx")
            except squeeze.ExportError as same:
                found.onnx = f"the dense model does not export: {str(same).replace(f'{folder}/', '')[:300]}"
            else:
                found.onnx = "fails"
                text = str(error).replace(f"{folder}/", "")[:300]
                found.faults.append(f"only the smaller model does not export: {text}")


def prepare() -> None:
    """What is imported once, before nets are checked in processes of their own."""
    import timm as timm
    import torchvision as torchvision

    torch.set_num_threads(1)
