"""What a model costs, and what it will cost after a cut, from one trace."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Cost:
    """Multiply-accumulates of one forward pass on the example inputs, and parameters."""

    macs: int
    params: int


@dataclass(frozen=True, eq=False)
class Op:
    """One contraction that ran: a convolution, matrix product or attention.

    Attributes:
        name: The module that called it, dotted ("" for the model itself).
        macs: Of the dense op; bias, normalisation and activation are not counted.
        axes: What sizes the op: for each axis the node of each index (-1 where it stays). The MACs are
            proportional to the number of indices left on each.
    """

    name: str
    macs: int
    axes: tuple[np.ndarray, ...]


@dataclass(frozen=True, eq=False)
class CostModel:
    """All contractions of one run, and the shapes of all parameters.

    Attributes:
        ops: The contractions, in order.
        shapes: Of all parameters and buffers, each under its first name.
        parameters: Which of them count as parameters.
        spans: (tensor, dim) → (first node, number of nodes).
        nodes: How many nodes there are.
    """

    ops: tuple[Op, ...]
    shapes: Mapping[str, tuple[int, ...]]
    parameters: frozenset[str]
    spans: Mapping[tuple[str, int], tuple[int, int]]
    nodes: int

    def after(self, kept: Mapping[tuple[str, int], np.ndarray], ops: frozenset[int], gone: frozenset[str]) -> Cost:
        """The cost of what is left.

        Args:
            kept: For each (tensor, dim) that gets smaller, True where an index stays.
            ops: Numbers of contractions that are not computed any more.
            gone: Names of tensors that are removed.
        """
        alive = np.ones(self.nodes + 1, dtype=bool)
        sizes: dict[tuple[str, int], int] = {}
        for place, keep in kept.items():
            sizes[place] = int(keep.sum())
            if place in self.spans:
                first, size = self.spans[place]
                alive[first : first + size] &= keep
        macs = sum(_left(op, alive) for number, op in enumerate(self.ops) if number not in ops)
        params = 0
        for name, shape in self.shapes.items():
            if name in self.parameters and name not in gone:
                params += math.prod(sizes.get((name, dim), size) for dim, size in enumerate(shape))
        return Cost(macs, params)


def _left(op: Op, alive: np.ndarray) -> int:
    macs = op.macs
    for axis in op.axes:
        macs = macs * int(alive[axis].sum()) // len(axis)
    return macs
