"""Other example inputs: smaller ones, on which the same is proved in less time, and two samples for training."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from squeeze.errors import TraceError
from squeeze.structure.labels import Ledger
from squeeze.structure.run import labelled
from squeeze.structure.tape import Ran, Tape, recorded
from squeeze.structure.watch import Watch
from squeeze.task import Inputs, tensors_of

_SMALL, _STEP = 64, 32
"""Positions along a dimension that stay at least, and what their number stays a multiple of."""
LONG = 10**10
"""Multiply-accumulates of a run from which another, shorter one saves more than it costs."""


def smaller(model: nn.Module, inputs: Inputs, tape: Tape, watch: Watch) -> tuple[Inputs, list[torch.Size]] | None:
    """Inputs of fewer positions and samples on which a model runs in the same way, and the shapes of its outputs there.

    They must lead to the same ops on the same weights, and to the same labels throughout: the same ties and pins.

    Args:
        model: Left as it was.
        inputs: Its example inputs.
        tape: What ran on these.
        watch: Is told what runs.

    Returns:
        None if there are none.
    """
    if sum(call.macs or 0 for call in tape.calls) < LONG or (reduced := fewer(inputs)) is None:
        return None
    try:
        other = recorded(model, reduced, watch, like=tape)
    except TraceError:
        return None
    if [_wiring(ran) for ran in tape.ops] != [_wiring(ran) for ran in other.ops]:
        return None
    same = _plain(labelled(tape, {}).context.ledger) == _plain(labelled(other, {}).context.ledger)
    return (reduced, shapes_of(other.results)) if same else None


def fewer(inputs: Inputs) -> Inputs | None:
    """The first positions of images and volumes, and at most two samples; None if that is what there is."""
    reduced: Inputs = pytree.tree_map_only(Tensor, _fewer, inputs)
    return None if shapes_of(tensors_of(reduced)) == shapes_of(tensors_of(inputs)) else reduced


def twice(inputs: Inputs) -> Inputs:
    """Every sample two times: batch norm trains on no single value."""
    repeated: Inputs = pytree.tree_map_only(Tensor, lambda t: torch.cat([t, t]) if t.dim() else t, inputs)
    return repeated


def shapes_of(tensors: Sequence[Any]) -> list[torch.Size]:
    """Their shapes, in order."""
    return [tensor.shape for tensor in tensors]


def _fewer(tensor: Tensor) -> Tensor:
    if tensor.dim() < 4 or not tensor.is_floating_point():
        return tensor
    for dim, size in enumerate(tensor.shape):
        most = max(_SMALL, -(-size // (4 * _STEP)) * _STEP) if dim >= 2 else size if dim else 2
        tensor = tensor.narrow(dim, 0, min(size, most))
    return tensor.contiguous()


def _wiring(ran: Ran) -> tuple[Any, ...]:
    return ran.name, ran.inputs, ran.parameters


def _plain(ledger: Ledger) -> Any:
    """In which arrays are bytes, so that it can be compared."""
    return pytree.tree_map_only(np.ndarray, np.ndarray.tobytes, vars(ledger))
