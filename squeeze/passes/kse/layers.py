"""Which convolutions are clustered, and what they cost with so many kernels left."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from torch import nn
from torch.nn.utils import parametrize

from squeeze.errors import InputError
from squeeze.nn import partly_computed
from squeeze.nn.input_kernels import distinct_kernels, kernels_of
from squeeze.nn.packing import LARGEST, code_bytes
from squeeze.passes.kse.indicator import Importance, importance
from squeeze.structure.groups import Structure, matches

Kind = Literal["macs", "params", "size_mb"]
Counts = Mapping[str, np.ndarray]
"""By name of the convolution: (C,) how many kernels each input channel keeps."""

_HEADER = 110
"""Bytes that a tensor's name, type and place take in an artefact, about."""


@dataclass(frozen=True, eq=False)
class Layer:
    """A convolution that can be clustered.

    Attributes:
        name: Dotted.
        conv: Of the given model.
        size: N / groups: how many kernels read each input channel.
        macs: Of one run on the example inputs.
        importance: Of its input channels.
        distinct: (C,) how many different kernels each input channel has.
    """

    name: str
    conv: nn.Conv2d
    size: int
    macs: int
    importance: Importance
    distinct: np.ndarray

    @property
    def channels(self) -> int:
        """C, of all groups."""
        return len(self.distinct)

    @property
    def taps(self) -> int:
        """Numbers in a kernel."""
        return self.conv.kernel_size[0] * self.conv.kernel_size[1]

    def feasible(self, counts: np.ndarray) -> np.ndarray:
        """No more clusters than there are different kernels, but for what is dense."""
        return np.where(counts < self.size, np.minimum(counts, self.distinct), counts)


def layers_of(
    model: nn.Module, structure: Structure, ignore: tuple[str, ...], released: bool
) -> tuple[tuple[Layer, ...], tuple[tuple[str, str], ...]]:
    """The convolutions to cluster, and the names and reasons of those that stay as they are.

    Raises:
        InputError: Weights are not finite real numbers; names the layer.
    """
    macs: Counter[str] = Counter()
    for op in structure.costs.ops:
        macs[op.name] += op.macs
    convolutions = {name: module for name, module in model.named_modules() if isinstance(module, nn.Conv2d)}
    first = next((op.name for op in structure.costs.ops if op.name in convolutions), "")
    found, left_out, gated = [], [], partly_computed(model)
    for name, conv in convolutions.items():
        skips = "it is gated, or reads what is" if conv in gated else ""
        reason = "it is the first" if name == first else skips or _reason(model, conv, macs[name])
        if reason or matches(f"{name}.weight", ignore):
            left_out.append((name, reason or "ignored by name"))
            continue
        try:
            judged = importance(conv.weight, conv.groups, released)
        except InputError as error:
            raise InputError(f"{name}: {error}") from error
        distinct = distinct_kernels(kernels_of(conv.weight, conv.groups)).cpu().numpy()
        found.append(Layer(name, conv, conv.out_channels // conv.groups, macs[name], judged, distinct))
    return tuple(found), tuple(left_out)


def _reason(model: nn.Module, conv: nn.Conv2d, macs: int) -> str:
    """Why a convolution stays as it is; "" if it does not."""
    holders = [p for m in model.modules() for p in m._parameters.values() if p is conv.weight]
    if parametrize.is_parametrized(conv) or not isinstance(conv.weight, nn.Parameter):
        return "its weight is computed"
    if type(conv).forward is not nn.Conv2d.forward or type(conv)._conv_forward is not nn.Conv2d._conv_forward:
        return "it has a forward of its own"
    if len(holders) > 1:
        return "its weight is used by another layer, too"
    if not macs:
        return "it does not run on the example inputs"
    size = conv.out_channels // conv.groups
    if not 1 < size <= LARGEST:
        return f"each input channel has {size} kernel{'s' if size > 1 else ''}"
    return ""


class Costs:
    """What a model costs by the paper's accounting, with so many kernels left; all else is dense."""

    def __init__(self, model: nn.Module, structure: Structure, layers: tuple[Layer, ...]) -> None:
        self.layers = layers
        dense = structure.cost()
        tensors = model.state_dict()
        size = sum(t.numel() * t.element_size() for t in tensors.values()) + _HEADER * len(tensors)
        self._dense: dict[Kind, float] = {"macs": dense.macs, "params": dense.params, "size_mb": size / 1e6}

    def of(self, kind: Kind, counts: Counts) -> float:
        """MACs (multiplications of centroids, without the sums of their results), parameters, or the file's size."""
        return self._dense[kind] - sum(self.saved(kind, layer, counts[layer.name]) for layer in self.layers)

    def dense(self, kind: Kind) -> float:
        """Of the given model."""
        return self._dense[kind]

    def saved(self, kind: Kind, layer: Layer, counts: np.ndarray) -> float:
        """What one layer costs less than as it was given."""
        total = layer.size * layer.channels
        gone = total - int(counts.sum())
        if kind == "macs":
            return layer.macs * gone / total
        if kind == "params":
            return gone * layer.taps
        stored = code_bytes(counts.tolist(), layer.size) + 4 * layer.channels + 2 * _HEADER
        return (gone * layer.taps * layer.conv.weight.element_size() - stored) / 1e6
