"""The pass: judge, choose how many kernels each input channel keeps, cluster."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from squeeze.copying import copied
from squeeze.edits import rewrite
from squeeze.errors import InputError
from squeeze.nn import ClusteredConv2d
from squeeze.passes.base import Found, Loss
from squeeze.passes.kse.findings import claims, finding, judged
from squeeze.passes.kse.layers import Costs, Counts, Kind, Layer, layers_of
from squeeze.passes.kse.levels import Setting, Settings, counts_of, fitted, within_budget
from squeeze.passes.kse.sensitivity import PAIRS, SHIFTS, chosen, measured
from squeeze.plan import Cluster, Edit, Slice
from squeeze.selection import widths
from squeeze.structure.groups import Structure
from squeeze.structure.parts import Choice
from squeeze.task import Task
from squeeze.training import Run

ALIGNMENT = 8
"""Channels: on other widths ONNX Runtime convolves so much slower that a smaller network takes longer."""


@dataclass(frozen=True)
class KSE:
    """Cluster the kernels that read each input channel, by kernel sparsity and entropy (Li et al., CVPR 2019).

    Needs no data. The first convolution and linear layers stay dense. Give G and T as in the
    paper, or a budget, by the paper's accounting: a multiplication for each centroid, without the sums of its results.

    Attributes:
        G: Levels of importance: channels of the lowest are dropped, of the highest stay dense; 4 if nothing is given.
        T: Halves the kernels of the levels between so many times more; 0 if nothing is given.
        macs: Share of the MACs that stays.
        params: Share of the parameters that stays.
        size_mb: Megabytes (of a million bytes) that the artefact may take.
        ignore: Name patterns of layers to leave alone.
        by_layer: With a budget and data, each layer has a G and a T of its own: it is measured, without labels, how far
            the features move on one training batch when that layer alone is clustered. Else all have the same.
        released: Judge and level as the authors' code does, not as the paper says.
    """

    name: ClassVar[str] = "kse"
    G: int | None = None
    T: float | None = None
    macs: float | None = None
    params: float | None = None
    size_mb: float | None = None
    ignore: tuple[str, ...] = ()
    by_layer: bool = True
    released: bool = False

    def __post_init__(self) -> None:
        if self.G is not None and (isinstance(self.G, bool) or not isinstance(self.G, int) or not 2 <= self.G <= 64):
            raise ValueError(f"KSE: G must be a whole number from 2 to 64, got {self.G!r}; the paper takes 4 to 6.")
        if self.T is not None and not 0 <= self.T <= 16:
            raise ValueError(f"KSE: T must be from 0 to 16, got {self.T!r}; the paper takes 0 or 1.")
        for kind in ("macs", "params"):
            value = getattr(self, kind)
            if value is not None and not 0 < value < 1:
                raise ValueError(f"KSE: {kind} must be between 0 and 1, got {value}; it is the share that stays.")
        if self.size_mb is not None and not 0 < self.size_mb < float("inf"):
            raise ValueError(f"KSE: size_mb must be above 0, got {self.size_mb}; say the megabytes that are allowed.")
        if len(self._budget()) > 1 or (self._budget() and self.T is not None):
            raise ValueError(
                f"KSE: one of T, macs, params and size_mb may be given, got {self._budget()} and T {self.T}; a budget "
                "finds T itself."
            )

    def _budget(self) -> dict[Kind, float]:
        given: dict[Kind, float | None] = {"macs": self.macs, "params": self.params, "size_mb": self.size_mb}
        return {kind: value for kind, value in given.items() if value is not None}

    def search(self, model: nn.Module, structure: Structure, task: Task, run: Run) -> Found:
        """Judge, level, and cluster a copy of the model.

        Raises:
            InputError: There is nothing to cluster, or a layer's weights are not finite real numbers.
            BudgetError: The budget cannot be reached.
        """
        structure = structure.ignoring(self.ignore)
        layers, left_out = self.judged(model, structure)
        settings = self._settings(model, structure, layers, task, run.seed)
        counts = counts_of(layers, settings)
        slices = structure.edits(unread(structure, layers, counts))
        dense, edits, tensors = clustered(model, slices, counts, run.seed)
        history = {
            "settings": {name: [setting.levels, setting.shift] for name, setting in settings.items()},
            "left_out": [list(pair) for pair in left_out],
            "finding": finding(layers, counts, model, dense),
        }
        return Found(dense, (*slices, *edits), tensors, history)

    def judged(self, model: nn.Module, structure: Structure) -> tuple[tuple[Layer, ...], tuple[tuple[str, str], ...]]:
        """The convolutions to cluster, and the names and reasons of those that stay as they are.

        Raises:
            InputError: There is nothing to cluster, or a layer's weights are not finite real numbers.
        """
        layers, left_out = layers_of(model, structure, self.ignore, self.released)
        if not layers:
            reasons = "; ".join(dict.fromkeys(reason for _, reason in left_out)) or "no convolution ran"
            raise InputError(
                f"KSE: {type(model).__name__} must have a convolution that can be clustered, got none ({reasons}); "
                "choose another pass."
            )
        return layers, left_out

    def overview(self, model: nn.Module, structure: Structure) -> dict[str, Any]:
        """How each layer is judged and what would be left of it, without data and without clustering; JSON values.

        Returns:
            "claims" and "layers" as in a `squeeze.report.findings.Finding`, "left_out": pairs of a name and a reason.

        Raises:
            InputError: There is nothing to cluster, or a layer's weights are not finite real numbers.
            BudgetError: The budget cannot be reached.
        """
        layers, left_out = self.judged(model, structure)
        counts = counts_of(layers, self._settings(model, structure, layers, None, 0))
        told = [judged(layer, counts[layer.name]) for layer in layers]
        return {"claims": claims(layers, counts), "layers": told, "left_out": [list(pair) for pair in left_out]}

    def objective(self, model: nn.Module, loss: Loss) -> AbstractContextManager[Loss]:
        """Fine-tuning trains the centroids; nothing else is to be kept up."""
        return nullcontext(loss)

    def _settings(
        self, model: nn.Module, structure: Structure, layers: tuple[Layer, ...], task: Task | None, seed: int
    ) -> Settings:
        budget = self._budget()
        if not budget:
            return {layer.name: Setting(self.G or 4, self.T or 0.0, self.released) for layer in layers}
        kind, value = next(iter(budget.items()))
        costs = Costs(model, structure, layers)
        target = value if kind == "size_mb" else value * costs.dense(kind)
        same = within_budget(costs, kind, target, self.G, self.released)
        if task is None or not self.by_layer:
            return same
        pairs = PAIRS if self.G is None else tuple((self.G, shift) for shift in SHIFTS)
        tried = [Setting(levels, shift, self.released) for levels, shift in pairs]
        ladders = measured(model, task, costs, kind, tried, seed)
        return fitted(costs, kind, target, chosen(ladders, costs.dense(kind) - target)) or same


def unread(structure: Structure, layers: tuple[Layer, ...], counts: Counts) -> Choice:
    """The channels that no layer reads any more: their producers need not make them. Widths stay aligned, none is 0."""
    dropped = {f"{layer.name}.weight": counts[layer.name] == 0 for layer in layers if layer.conv.groups == 1}
    units = list(structure.nothing().units)
    for number, group in enumerate(structure.groups):
        readers = [axis for axis in group.axes if axis.reads]
        if not (group.exact and group.maskable and readers):
            continue
        gone = np.ones(group.size, dtype=bool)
        for axis in readers:
            here = np.zeros(group.size, dtype=bool)
            if axis.tensor in dropped and axis.dim == 1:
                inside = axis.units >= 0
                here[:] = True
                np.logical_and.at(here, axis.units[inside], dropped[axis.tensor][inside])
            gone &= here
        kept = min(width for width in widths(group, ALIGNMENT) if width >= (~gone).sum())
        gone[np.flatnonzero(gone)[: kept - (~gone).sum()]] = False
        units[number] = gone
    return Choice(tuple(units))


def clustered(
    model: nn.Module, slices: tuple[Edit, ...], counts: Counts, seed: int
) -> tuple[nn.Module, tuple[Edit, ...], Mapping[str, Tensor]]:
    """Cluster what the slices leave.

    Returns:
        A dense copy of the model that computes what the clustered one will, the edits, and the values for them.
    """
    dense, small = copied(model), rewrite(model, slices)
    kept = {(e.tensor, e.dim): torch.as_tensor(e.indices()) for e in slices if isinstance(e, Slice)}
    edits: list[Edit] = []
    tensors: dict[str, Tensor] = {}
    for name, before in counts.items():
        given, conv = dense.get_submodule(name), small.get_submodule(name)
        if not (isinstance(given, nn.Conv2d) and isinstance(conv, nn.Conv2d)):
            raise TypeError(f"{name} is no convolution")
        weight = given.weight
        rows = kept.get((f"{name}.weight", 0), torch.arange(weight.shape[0]))
        columns = kept.get((f"{name}.weight", 1), torch.arange(weight.shape[1]))
        now = _after(before, (rows.numpy(), columns.numpy()), given, conv)
        size = conv.out_channels // conv.groups
        if (now == size).all():
            continue
        made = ClusteredConv2d.from_conv(conv, now.tolist(), seed)
        edits.append(Cluster(name, size, tuple(now.tolist())))
        tensors |= {f"{name}.{key}": value for key, value in made.state_dict().items() if key != "bias"}
        with torch.no_grad():
            new = torch.zeros_like(weight)
            new[rows.unsqueeze(1), columns] = made.dense_weight()
            weight.copy_(new)
    return dense, tuple(edits), tensors


def _after(counts: np.ndarray, kept: tuple[np.ndarray, np.ndarray], given: nn.Conv2d, conv: nn.Conv2d) -> np.ndarray:
    """The counts of the channels that are left, in a convolution that may have fewer kernels than before."""
    before, size = given.out_channels // given.groups, conv.out_channels // conv.groups
    rows, columns = kept
    # A grouped convolution is cut by whole groups.
    groups = np.unique(rows // before) if given.groups > 1 else np.arange(1)
    left = counts.reshape(given.groups, -1)[groups][:, columns].reshape(-1)
    return np.where(left == before, size, np.minimum(left, size))
