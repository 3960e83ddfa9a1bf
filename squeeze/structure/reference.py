"""What a cut is compared with: the masked model, on numbers that are different everywhere."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from squeeze.copying import Holders, copied, sharing
from squeeze.structure.groups import Structure
from squeeze.structure.parts import Axis, Choice

TOLERANCE = 1e-3
"""How far float32 may be off in a badly conditioned model."""
NOISE = 1e-6
"""A relative change of the inputs that no cut can be blamed for."""
_LARGE = 2**14
"""Tensors of more elements are only copied where they must be changed."""
_PROBES = 16


def masked(model: nn.Module, structure: Structure, choice: Choice, before: Choice | None = None) -> nn.Module | None:
    """A model in which nothing is read of what a choice removes; None if that is not the same as removing it.

    Tensors that are not masked are those of the given model.

    Args:
        model: The dense model, or one that is cut already.
        structure: The dense model's.
        choice: What is masked.
        before: What is cut already.
    """
    groups = [(g, gone) for g, gone in zip(structure.groups, choice.units, strict=True) if gone.any()]
    blocks = [b for b in structure.blocks if b.name in choice.blocks]
    if any(not group.exact for group, _ in groups) or any(not block.scales for block in blocks):
        return None
    axes = [(axis, gone) for group, gone in groups for axis in group.axes if axis.reads or not group.maskable]
    dropped = [b for b in structure.branches if b.name in choice.branches]
    axes += [(axis, np.ones(1, dtype=bool)) for b in dropped for axis in b.reads if axis.reads]
    reference = sharing(model)
    holders, tensors = Holders(reference), dict([*reference.named_parameters(), *reference.named_buffers()])
    left = {} if before is None else structure.kept(before)
    masks = _gone(axes, left)
    kept = structure.kept(choice) if choice.inputs else {}
    for edge in structure.inputs if choice.inputs else ():
        if edge.tensor in choice.inputs:
            masks.setdefault(edge.tensor, {})[edge.dim] = ~kept[edge.tensor, edge.dim]
    for name, gone in masks.items():
        twin = _twin(tensors[name], _masked(tensors[name], gone))
        holders.replace(tensors[name], twin)
        tensors[name] = twin
    for name in {name for block in blocks for name in block.scales}:
        holders.replace(tensors[name], _twin(tensors[name], torch.zeros_like(tensors[name])))
    return reference


def _gone(
    axes: Sequence[tuple[Axis, np.ndarray]], left: Mapping[tuple[str, int], np.ndarray]
) -> dict[str, dict[int, np.ndarray]]:
    """For each tensor and dim, True where nothing is read."""
    found: dict[str, dict[int, np.ndarray]] = {}
    for axis, gone in axes:
        here = axis.of(gone)
        if (axis.tensor, axis.dim) in left:
            here = here[left[axis.tensor, axis.dim]]
        dims = found.setdefault(axis.tensor, {})
        dims[axis.dim] = dims.get(axis.dim, False) | here
    return found


def _masked(tensor: Tensor, gone: Mapping[int, np.ndarray]) -> Tensor:
    """The tensor with zeros, whatever was there, in one pass over it."""
    keep = torch.ones((1,) * tensor.dim(), dtype=torch.bool, device=tensor.device)
    for dim, indices in gone.items():
        shape = [1] * tensor.dim()
        shape[dim] = -1
        keep = keep & torch.from_numpy(~indices).to(tensor.device).view(shape)
    return torch.where(keep, tensor.detach(), torch.zeros((), dtype=tensor.dtype, device=tensor.device))


def _twin(tensor: Tensor, values: Tensor) -> Tensor:
    return nn.Parameter(values, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else values


def stirred(model: nn.Module) -> nn.Module:
    """A copy with slightly different floating-point numbers everywhere: equal channels become unequal.

    Large parameters in which all channels differ already are the given ones: the copy must not be written to.
    """
    kept = [tensor for tensor in model.parameters() if tensor.numel() > _LARGE and _uneven(tensor)]
    twin, shared = copied(model, kept), {id(tensor) for tensor in kept}
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in [*twin.parameters(), *twin.buffers()]:
            if tensor.is_floating_point() and tensor.numel() and id(tensor) not in shared:
                noise = torch.rand(tensor.shape, generator=generator).to(tensor)
                tensor.mul_(0.9 + 0.2 * noise).add_(0.02 * noise.flip(0) if tensor.dim() else 0.02 * noise)
    return twin


def _uneven(tensor: Tensor) -> bool:
    """No two channels are alike, along any dimension: by what is found in a few places, to some hundredths."""
    random = np.random.default_rng(0)
    for dim, size in enumerate(tensor.shape):
        others = [torch.as_tensor(random.integers(n, size=_PROBES)) for d, n in enumerate(tensor.shape) if d != dim]
        places: Any = (slice(None), *others)
        rows = tensor.detach().movedim(dim, 0)[places].double().cpu()
        rough = (rows / (rows.square().mean().sqrt() * 0.03)).round().numpy()
        if size > 1 and not (np.isfinite(rough).all() and len(np.unique(rough @ random.random(_PROBES))) == size):
            return False
    return tensor.is_floating_point()


def shaken(tensor: Tensor) -> Tensor:
    """Slightly other numbers, if they are numbers."""
    if not tensor.is_floating_point():
        return tensor
    generator = torch.Generator().manual_seed(1)
    return tensor * (1 + NOISE * torch.randn(tensor.shape, generator=generator).to(tensor))


def swapped(model: nn.Module, structure: Structure, groups: Sequence[int], before: Choice) -> nn.Module:
    """A model in which the units of some groups have changed places, after `before` was cut."""
    twin, left = sharing(model), structure.kept(before)
    holders, tensors = Holders(twin), dict([*twin.named_parameters(), *twin.named_buffers()])
    for number in groups:
        for axis in structure.groups[number].axes:
            here = left.get((axis.tensor, axis.dim))
            order = torch.from_numpy(_turned(axis.units if here is None else axis.units[here]))
            tensor = tensors[axis.tensor]
            moved = _twin(tensor, tensor.detach().index_select(axis.dim, order.to(tensor.device)))
            holders.replace(tensor, moved)
            tensors[axis.tensor] = moved
    return twin


def _turned(units: np.ndarray) -> np.ndarray:
    """An order of indices in which every unit stands where the one before it stood."""
    order = np.arange(len(units))
    inside = np.flatnonzero(units >= 0)
    rows = len(np.unique(units[inside]))
    places = inside[np.argsort(units[inside], kind="stable")].reshape(rows, -1)
    order[places] = np.roll(places, -1, axis=0)
    return order


def agree(expected: Sequence[Tensor], found: Sequence[Tensor], tolerance: float) -> bool:
    """``max|expected − found| ≤ tolerance · max|expected|``, output by output; NaN agrees with NaN."""
    for a, b in zip(expected, found, strict=True):
        if a.shape != b.shape:
            return False
        if not a.is_floating_point():
            continue
        scale = float(torch.nan_to_num(a, 0, 0, 0).abs().max()) if a.numel() else 0.0
        if math.isfinite(scale) and not torch.allclose(a, b, rtol=0, atol=tolerance * scale + 1e-30, equal_nan=True):
            return False
    return True
