"""Carrying out one kind of edit: gates are put into a model, and taken out again."""

import math
from typing import Any

from torch import nn

from squeeze.errors import PlanError, quoted
from squeeze.nn.absent import Moved
from squeeze.nn.gated import FollowingConv2d, GatedConv2d, ReadingConv2d
from squeeze.nn.gates import Wire
from squeeze.plan import Gate

FEW = 16
"""Neurons that a gate's bottleneck may have however few channels its layer reads; else as many as these."""


def put_gate(model: nn.Module, edit: Gate) -> None:
    """Replace a convolution by a gated one, and those around it by such as know of the gate; changes the model.

    Raises:
        PlanError: The edit does not fit the model.
    """
    pair = edit.module, edit.norm
    conv, norm = _taken(model, pair, depthwise=False)
    most = max(FEW, conv.in_channels)
    if not 1 <= edit.hidden <= most:
        raise PlanError(
            f"rewrite: {quoted(edit.module, 80)} must have a gate with a bottleneck of 1 to {most} "
            f"neurons, got {edit.hidden}; the plan was altered."
        )
    gated = GatedConv2d(conv, norm, edit.hidden, edit.relu).train(conv.training)
    before = model.get_submodule(edit.module)
    gated.source = before.source if isinstance(before, ReadingConv2d) else None
    _replace(model, pair, gated)
    if not edit.reads:
        return
    wire = gated.sink = Wire(bool(edit.follows))
    for pair in edit.follows:
        conv, norm = _taken(model, pair, depthwise=True)
        following = FollowingConv2d(conv, norm).train(conv.training)
        following.source = following.sink = wire
        _replace(model, pair, following)
    for pair in edit.reads:
        reader = model.get_submodule(pair[0]) if _is_there(model, pair[0]) else None
        if not isinstance(reader, GatedConv2d | ReadingConv2d):
            conv, norm = _taken(model, pair, depthwise=False)
            reader = ReadingConv2d(conv, norm).train(conv.training)
            _replace(model, pair, reader)
        if reader.source is not None or reader.conv.in_channels != gated.conv.out_channels:
            raise PlanError(
                f"rewrite: {quoted(pair[0], 80)} must read what {quoted(edit.module, 80)} makes, got another layer; "
                "use the architecture the plan was made for."
            )
        reader.source = wire
        wire.reading += ((reader.conv.out_channels, math.prod(reader.conv.kernel_size)),)


def _taken(model: nn.Module, pair: tuple[str, str], depthwise: bool) -> tuple[nn.Conv2d, nn.BatchNorm2d | None]:
    """A convolution and the batch norm behind it, which an earlier edit may have put into one module already."""
    where = f"rewrite: {quoted(pair[0], 80)}"
    found: Any = model.get_submodule(pair[0]) if _is_there(model, pair[0]) else None
    norm: Any = model.get_submodule(pair[1]) if pair[1] and _is_there(model, pair[1]) else None
    if isinstance(found, ReadingConv2d) and not depthwise:
        if bool(pair[1]) != (found.norm is not None) or (pair[1] and not isinstance(norm, Moved)):
            raise _not_its_norm(pair, norm)
        return found.conv, found.norm
    if not isinstance(found, nn.Conv2d) or (1 < found.groups == found.in_channels) != depthwise:
        got = "nothing" if found is None else type(found).__name__
        kind = "a depthwise" if depthwise else "a"
        raise PlanError(f"{where} must be {kind} convolution, got {got}; use the architecture the plan was made for.")
    if found.groups > 1 and not depthwise:
        raise PlanError(f"{where} must be a convolution in one group, got {found.groups}; the plan was altered.")
    fits = isinstance(norm, nn.BatchNorm2d) and norm.num_features == found.out_channels
    if pair[1] and not (fits and norm.running_mean is not None):
        raise _not_its_norm(pair, norm)
    return found, norm


def _not_its_norm(pair: tuple[str, str], got: nn.Module | None) -> PlanError:
    return PlanError(
        f"rewrite: {quoted(pair[1], 80)} must be the batch norm of {quoted(pair[0], 80)}, got "
        f"{'nothing' if got is None else type(got).__name__}; use the architecture the plan was made for."
    )


def _is_there(model: nn.Module, name: str) -> bool:
    return name in dict(model.named_modules(remove_duplicate=False))


def _replace(model: nn.Module, pair: tuple[str, str], new: nn.Module) -> None:
    """Put a module in the place of a convolution, and one that does nothing in that of its batch norm."""
    model.set_submodule(pair[0], new)
    if pair[1] and not isinstance(model.get_submodule(pair[1]), Moved):
        model.set_submodule(pair[1], Moved())
