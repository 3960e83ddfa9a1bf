"""What a model costs, and what it will cost after a cut, from one trace."""

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
        axes: The tensor dims that size the op, as (tensor, dim, divisor): its MACs are proportional to
            what is kept of each. Several dims may belong to the same unit.
    """

    name: str
    macs: int
    axes: tuple[np.ndarray, ...]


@dataclass(frozen=True, eq=False)
class CostModel:
    """All contractions of one run, and the shapes of all parameters."""

    ops: tuple[Op, ...]
    shapes: Mapping[str, tuple[int, ...]]

    def after(self, kept: Mapping[tuple[str, int], np.ndarray], ops: frozenset[int], gone: frozenset[str]) -> Cost:
        """The cost once `kept` is cut, `ops` are not computed and tensors in `gone` are removed."""
        raise AssertionError
