"""Carrying out edits: `rewrite` makes the smaller model."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from squeeze.attributes import Shapes, bring_up_to_date, shapes_of
from squeeze.copying import Holders, copied, layout
from squeeze.errors import InputError, PlanError, quoted
from squeeze.nn import Absent, ClusteredConv2d, Passing, Removed, Selecting, reading_dim, selecting
from squeeze.plan import Cluster, Drop, Edit, Gate, Resize, Select, Slice
from squeeze.put_gate import put_gate

Cutter = Callable[[Tensor, Slice], Tensor]


def rewrite(model: nn.Module, edits: Iterable[Edit]) -> nn.Module:
    """A smaller copy of a model; the model itself is left as it is.

    Needs no data and no tracing. Tied parameters stay tied, and attributes that repeat a shape
    (``in_channels``, ``num_features``, ``normalized_shape`` …) stay true.

    Raises:
        PlanError: An edit does not fit the model.
    """
    edits = tuple(edits)
    cut = {edit.tensor for edit in edits if isinstance(edit, Slice)}
    cut |= {f"{edit.module}.weight" for edit in edits if isinstance(edit, Select)}
    named = [*model.named_parameters(), *model.named_buffers()]
    return carry_out(copied(model, [tensor for name, tensor in named if name in cut]), edits)


def _kept(tensor: Tensor, edit: Slice) -> Tensor:
    index = torch.as_tensor(edit.indices(), device=tensor.device)
    return tensor.index_select(edit.dim, index).contiguous(memory_format=layout(tensor))


def _first(tensor: Tensor, edit: Slice) -> Tensor:
    if tensor.dtype is torch.bool:  # which inputs a layer reads: how many are left is in the values
        return _kept(tensor, edit)
    return tensor.narrow(edit.dim, 0, sum(stop - start for start, stop in edit.keep))


def carry_out_shapes(model: nn.Module, edits: Iterable[Edit]) -> nn.Module:
    """As `carry_out`, but cut tensors have the right shapes only: they are views of the given ones."""
    return carry_out(model, edits, _first)


def carry_out(model: nn.Module, edits: Iterable[Edit], cut: Cutter = _kept) -> nn.Module:
    """As `rewrite`, on the modules given; no tensor is written to, cut ones are replaced.

    Args:
        model: Is changed.
        edits: As a plan says.
        cut: What is left of a tensor after a slice.
    """
    before, holders = {module: shapes for module in model.modules() if (shapes := shapes_of(module))}, None
    for edit in edits:
        if isinstance(edit, Slice):
            holders = holders or Holders(model)
            _slice(model, edit, holders, cut)
            continue
        holders = None
        if isinstance(edit, Drop):
            _drop(model, edit)
        elif isinstance(edit, Resize):
            _resize(model, edit)
        elif isinstance(edit, Select):
            _select(model, edit, before)
        elif isinstance(edit, Gate):
            for module in model.modules():
                bring_up_to_date(module, before)
            put_gate(model, edit)
        else:
            _cluster(model, edit, before)
    for module in model.modules():
        bring_up_to_date(module, before)
    return model


def _owner(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    path, _, leaf = name.rpartition(".")
    try:
        return model.get_submodule(path), leaf
    except AttributeError as error:
        raise PlanError(_unknown(model, name)) from error


def _unknown(model: nn.Module, name: str) -> str:
    where = f"rewrite: {quoted(name, 80)}"
    return f"{where} must exist in {type(model).__name__}, got nothing there; use the plan's own architecture."


def _drop(model: nn.Module, edit: Drop) -> None:
    for position, name in enumerate(edit.modules):
        if _is_gone(model, name):
            continue
        owner, leaf = _owner(model, name)
        if leaf not in owner._modules:
            raise PlanError(_unknown(model, name))
        parts = edit.parts[position] if position < len(edit.parts) else 0
        owner._modules[leaf] = Removed(parts)
        for beside, module in owner._modules.items():
            if module is not None and _only_passes(module):
                owner._modules[beside] = Passing(module)
    for name in edit.parameters:
        if _is_gone(model, name):
            continue
        owner, leaf = _owner(model, name)
        store: dict[str, Any] = owner._parameters if leaf in owner._parameters else owner._buffers
        if leaf not in store:
            raise PlanError(_unknown(model, name))
        del store[leaf]
        setattr(owner, leaf, Absent())  # None would tell the code around it that there never was one


def _only_passes(module: nn.Module) -> bool:
    """A user's module without weights, which may ask for the shape of what it is given; torch's own do not."""
    own = isinstance(module, Passing | Removed) or type(module).__module__.startswith("torch.nn.")
    return not own and not [*module.children(), *module.parameters(), *module.buffers()]


def _is_gone(model: nn.Module, name: str) -> bool:
    """It lies within a module that was dropped before: bodies may hold bodies."""
    for part in name.split(".")[:-1]:
        model = model._modules.get(part) or model
        if isinstance(model, Removed):
            return True
    return False


def _cluster(model: nn.Module, edit: Cluster, before: dict[nn.Module, Shapes]) -> None:
    owner, leaf = _owner(model, edit.module)
    conv = owner._modules.get(leaf)
    where = f"rewrite: {quoted(edit.module, 80)}"
    if not isinstance(conv, nn.Conv2d) or isinstance(conv, Selecting) or not isinstance(conv.weight, nn.Parameter):
        got = "nothing" if conv is None else type(conv).__name__
        raise PlanError(
            f"{where} must be a convolution with a weight, got {got}; use the architecture the plan was made for."
        )
    bring_up_to_date(conv, before)
    if edit.size != conv.out_channels // conv.groups:
        raise PlanError(
            f"{where} must have {edit.size} kernels for each input channel, got "
            f"{conv.out_channels // conv.groups}; use the architecture the plan was made for."
        )
    try:
        clustered = ClusteredConv2d(conv, edit.counts)
    except InputError as error:
        raise PlanError(f"{where}: {error}") from error
    clustered.train(conv.training)
    _put(model, conv, clustered)


def _put(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """In the place of another module, wherever it is."""
    for module in model.modules():
        for name, child in module._modules.items():
            if child is old:
                module._modules[name] = new


def _select(model: nn.Module, edit: Select, before: dict[nn.Module, Shapes]) -> None:
    owner, leaf = _owner(model, edit.module)
    layer = owner._modules.get(leaf)
    where = f"rewrite: {quoted(edit.module, 80)}"
    if layer is None:
        raise PlanError(_unknown(model, edit.module))
    bring_up_to_date(layer, before)
    weight: Any = layer._parameters.get("weight")
    if weight is not None and sum(weight is p for m in model.modules() for p in m._parameters.values()) > 1:
        raise PlanError(
            f"{where} must have a weight of its own, got one that another layer holds, too; leave it whole."
        )
    dim = reading_dim(layer)
    if dim is None:
        raise PlanError(
            f"{where} must be a linear layer or a convolution in one group, with a plain weight, got "
            f"{type(layer).__name__}; use the architecture the plan was made for."
        )
    columns = weight.shape[dim]
    if columns != edit.size or not edit.keep:
        raise PlanError(
            f"{where} must read {edit.size} inputs, and keep one at least, got {columns} inputs, of which "
            f"{'some' if edit.keep else 'none'} are kept; use the architecture the plan was made for."
        )
    kept = np.zeros(columns, dtype=bool)
    kept[edit.indices()] = True
    narrow = selecting(layer, kept)
    _put(model, layer, narrow)
    before[narrow] = shapes_of(narrow)


def own_sizes(module: nn.Module) -> dict[str, int]:
    """Whole numbers of a user's module that may be sizes (``heads``, ``shape.0``); torch's modules and ours follow."""
    if type(module).__module__.startswith(("torch.nn.", "squeeze.nn.")):
        return {}
    found = {}
    for name, value in vars(module).items():
        several = (
            {f"{name}.{i}": part for i, part in enumerate(value)} if type(value) in (tuple, list) else {name: value}
        )
        found.update({place: part for place, part in several.items() if type(part) is int and part > 1})
    return found


def _resize(model: nn.Module, edit: Resize) -> None:
    place = f"{edit.module}.{edit.attribute}".lstrip(".")
    if _is_gone(model, place):
        return
    name, _, position = edit.attribute.partition(".")
    module, _ = _owner(model, f"{edit.module}.{name}".lstrip("."))
    value = own_sizes(module).get(edit.attribute)
    if value != edit.size:
        raise PlanError(
            f"rewrite: {quoted(place, 80)} must be the size {edit.size}, got {'none' if value is None else value}; use "
            "the architecture the plan was made for."
        )
    numbers = getattr(module, name)
    if position:
        parts = [edit.left if str(i) == position else part for i, part in enumerate(numbers)]
    setattr(module, name, type(numbers)(parts) if position else edit.left)


def _slice(model: nn.Module, edit: Slice, holders: Holders, cut: Cutter) -> None:
    path, _, leaf = edit.tensor.rpartition(".")
    owner = holders.modules.get(path)
    if owner is None:
        raise PlanError(_unknown(model, edit.tensor))
    store: dict[str, Any] = owner._parameters if owner._parameters.get(leaf) is not None else owner._buffers
    tensor = store.get(leaf)
    if tensor is None:
        raise PlanError(_unknown(model, edit.tensor))
    if edit.dim >= tensor.dim() or tensor.shape[edit.dim] != edit.size:
        raise PlanError(
            f"rewrite: {quoted(edit.tensor, 80)} must have size {edit.size} in dim {edit.dim}, got shape "
            f"{tuple(tensor.shape)}; use the architecture the plan was made for."
        )
    if not edit.keep:
        raise PlanError(
            f"rewrite: {quoted(edit.tensor, 80)} must keep an index of dim {edit.dim}, got none of {edit.size}; keep "
            "one, or drop the block or branch."
        )
    with torch.no_grad():
        left = cut(tensor.detach(), edit)
    small = nn.Parameter(left, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else left
    holders.replace(tensor, small)
