"""Magnitude pruning: what has small weights goes. Needs no data."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import nn

from squeeze.copying import copied
from squeeze.passes.base import Found, Loss
from squeeze.selection import Budget, Scores, select, select_evenly
from squeeze.structure.groups import Structure
from squeeze.structure.parts import Group
from squeeze.task import Task
from squeeze.training import Run

Place = tuple[str, int]
"""A dimension of a tensor."""


@dataclass(frozen=True)
class Magnitude:
    """Remove the units whose coupled weights have the smallest L1 norm (Li et al., ICLR 2017, on whole groups).

    Attributes:
        macs: Share of the MACs that stays.
        params: Share of the parameters that stays.
        ratio: Share of the units that goes; with ``scope="local"``, of every group.
        scope: Compare units over the whole model, each group's scores divided by their mean; or within their group.
        structures: What goes: any of "filters", whole units, and "inputs", which lets a layer read less of a tensor
            that keeps its width, by an index-select.
        ignore: Name patterns of layers to leave alone.
        round_to: Widths end on multiples of this.
    """

    name: ClassVar[str] = "magnitude"
    macs: float | None = None
    params: float | None = None
    ratio: float | None = None
    scope: Literal["global", "local"] = "global"
    structures: tuple[Literal["filters", "inputs"], ...] = ("filters",)
    ignore: tuple[str, ...] = ()
    round_to: int = 8

    def __post_init__(self) -> None:
        given = [name for name in ("macs", "params", "ratio") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                f"magnitude: exactly one of macs, params and ratio must be given, got {' and '.join(given) or 'none'}; "
                "say macs=0.5."
            )
        if self.ratio is not None and not 0 < self.ratio < 1:
            raise ValueError(f"ratio: must be a share that goes, between 0 and 1, got {self.ratio!r}; 0.5 cuts half.")
        if self.scope not in ("global", "local"):
            raise ValueError(f"scope: must be 'global' or 'local', got {self.scope!r}; pass one of them.")
        if self.structures not in (("filters",), ("inputs",), ("filters", "inputs"), ("inputs", "filters")):
            raise ValueError(
                f"structures: must be of 'filters' and 'inputs', got {self.structures!r}; pass a tuple of one or both."
            )
        if "inputs" in self.structures and self.ratio is not None:
            raise ValueError("ratio: must be left out with the structures 'inputs', got both; say macs=0.5.")
        if isinstance(self.round_to, bool) or not isinstance(self.round_to, int) or self.round_to < 1:
            raise ValueError(f"round_to: must be a whole number from 1, got {self.round_to!r}; 1 allows any width.")
        self._budget()

    def _budget(self) -> Budget:
        return Budget(self.macs, self.params, None if self.ratio is None else 1 - self.ratio)

    def search(self, model: nn.Module, structure: Structure, task: Task, run: Run) -> Found:
        """Score, select; the weights stay as they are."""
        structure = structure.ignoring(self.ignore)
        edges = structure.inputs if "inputs" in self.structures else ()
        if not structure.removable and not edges:
            return Found(copied(model), ())
        norms = _norms(model, structure)
        units = tuple(importance(group, norms) for group in structure.groups)
        if "filters" not in self.structures:
            units = tuple(np.full_like(scores, np.inf) for scores in units)
        scores = Scores(units, inputs={edge.tensor: _relative(norms[edge.tensor, edge.dim]) for edge in edges})
        choose = select if self.scope == "global" else select_evenly
        return Found(copied(model), structure.edits(choose(structure, scores, self._budget(), self.round_to)))

    def objective(self, model: nn.Module, loss: Loss) -> AbstractContextManager[Loss]:
        """Fine-tuning need not do anything for this pass."""
        return nullcontext(loss)


def _norms(model: nn.Module, structure: Structure) -> dict[Place, np.ndarray]:
    """The L1 norm of what each index of a dimension holds: in float64, each once, however many groups share it."""
    weights = {name: weight.detach() for name, weight in model.named_parameters() if weight.dim() > 1}
    places = dict.fromkeys((axis.tensor, axis.dim) for group in structure.groups for axis in group.axes)
    places |= dict.fromkeys((edge.tensor, edge.dim) for edge in structure.inputs)
    norms = {}
    for name, dim in places:
        if name in weights:
            others = [d for d in range(weights[name].dim()) if d != dim]
            found = torch.linalg.vector_norm(weights[name], ord=1, dim=others, dtype=torch.float64)
            norms[name, dim] = found.cpu().numpy()
    return norms


def importance(group: Group, norms: Mapping[Place, np.ndarray]) -> np.ndarray:
    """(units,) the L1 norm of everything that goes with each unit, over the group's mean."""
    total = np.zeros(group.size)
    for axis in group.axes:
        if (axis.tensor, axis.dim) in norms:
            inside = axis.units >= 0
            total += np.bincount(axis.units[inside], norms[axis.tensor, axis.dim][inside], group.size)
    return _relative(total)


def _relative(norms: np.ndarray) -> np.ndarray:
    """Over their mean."""
    return norms / max(norms.mean(), float(torch.finfo(torch.float64).tiny))
