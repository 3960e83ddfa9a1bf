"""Which convolutions get a gate, and the proof that skipping what is off changes nothing."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from squeeze.copying import copied
from squeeze.edits import rewrite
from squeeze.nn import GatedConv2d, computing
from squeeze.nn.gates import Computing
from squeeze.plan import Gate
from squeeze.randomness import randomness_kept
from squeeze.structure.groups import Structure, matches
from squeeze.structure.reference import TOLERANCE, agree
from squeeze.task import Inputs, call, tensors_of

if TYPE_CHECKING:
    from squeeze.passes.decouple.search import Decouple


def gates_of(
    settings: "Decouple", model: nn.Module, structure: Structure, example: Inputs
) -> tuple[tuple[Gate, ...], list[tuple[str, str]]]:
    """A gate for each convolution that gains from one; and names and reasons of those that have none."""
    macs: dict[str, int] = {}
    for op in structure.costs.ops:
        macs[op.name] = macs.get(op.name, 0) + op.macs
    gates, left_out = [], []
    for site in structure.gateable:
        conv = model.get_submodule(site.conv)
        if not isinstance(conv, nn.Conv2d):
            continue
        hidden = max(1, conv.in_channels // settings.reduction)
        if site.stem and not settings.stem:
            left_out.append((site.conv, "it reads the model's input"))
        elif settings.layers and not matches(f"{site.conv}.weight", settings.layers):
            left_out.append((site.conv, "it is not among the layers to gate"))
        elif macs.get(site.conv, 0) <= 2 * hidden * (conv.in_channels + conv.out_channels):  # half of its filters off
            left_out.append((site.conv, "a gate would cost as much"))
        else:
            gates.append(Gate(site.conv, site.norm, hidden, site.relu, site.follows, site.reads))
    found = _bearable(gates, model, example)
    refused = {gate.module for gate in gates} - {gate.module for gate in found}
    return found, left_out + [(name, "the model's code asks more of it than its output") for name in sorted(refused)]


def _bearable(gates: Sequence[Gate], model: nn.Module, example: Inputs) -> tuple[Gate, ...]:
    """The gates with which the model runs: its code may ask a layer for more than its output (its weight's dtype)."""
    if _runs(gates, model, example):
        return tuple(gates)
    alone = [replace(gate, follows=(), reads=()) for gate in gates]
    pairs = [(gate if _runs([gate], model, example) else own, own) for gate, own in zip(gates, alone, strict=True)]
    return tuple(gate for gate, own in pairs if gate is not own or _runs([own], model, example))


def _runs(gates: Sequence[Gate], model: nn.Module, example: Inputs) -> bool:
    try:
        with randomness_kept():
            _outputs(rewrite(model, gates).eval(), example, "masked")
    except Exception:  # noqa: BLE001 - whatever the model's code does with layers that are others than before
        return False
    return True


def proved(gates: Sequence[Gate], model: nn.Module, example: Inputs) -> tuple[Gate, ...]:
    """The gates, without readers that cannot do with fewer channels.

    The model is run, in float64, with gates at random. What a trace says of readers is right for what ran; that the
    code between does not ask for the number of channels is seen here.
    """
    if _same(gates, model, example):
        return tuple(gates)
    fine = [gate for gate in gates if not gate.reads or _same([gate], model, example)]
    kept = [gate if gate in fine else replace(gate, follows=(), reads=()) for gate in gates]
    if _same(kept, model, example):
        return tuple(kept)
    return tuple(replace(gate, follows=(), reads=()) for gate in gates)


def _same(gates: Sequence[Gate], model: nn.Module, example: Inputs) -> bool:
    """Skipped is masked: in float64, or in the model's own precision where its code will have no other."""
    own = rewrite(model, gates).eval()
    for module in own.modules():
        if isinstance(module, GatedConv2d):
            nn.init.normal_(module.gate.expand.bias)
    double = pytree.tree_map_only(Tensor, lambda t: t.double() if t.is_floating_point() else t, example)
    try:
        twin, inputs = copied(own).double(), double
        expected = _outputs(twin, inputs, "masked")
    except Exception:  # noqa: BLE001 - in its own precision it is known to run
        twin, inputs = own, example
        expected = _outputs(twin, inputs, "masked")
    try:
        got = _outputs(twin, inputs, "conditional")
    except Exception:  # noqa: BLE001 - whatever the model's code makes of fewer channels, it cannot do with them
        return False
    same_shapes = [t.shape for t in got] == [t.shape for t in expected]
    return same_shapes and agree(expected, got, TOLERANCE)


def _outputs(model: nn.Module, inputs: Inputs, how: Computing) -> list[Tensor]:
    with torch.no_grad(), computing(how):
        return tensors_of(call(copied(model), inputs))
