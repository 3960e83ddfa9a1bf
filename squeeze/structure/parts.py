"""What a structure is made of: groups of units, blocks, branches, inputs, pins; and a choice among them."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True, eq=False)
class Axis:
    """One dimension of a parameter or buffer, and which unit of a group each index belongs to.

    Attributes:
        tensor: Dotted name, as in ``state_dict``.
        dim: The dimension.
        units: (size of the dimension,) unit numbers within the group; -1 where an index is not in the group.
        reads: The dimension is summed over: here a consumer reads the unit. Multiplying these
            entries by m is the same as multiplying what the unit sends by m.
    """

    tensor: str
    dim: int
    units: np.ndarray
    reads: bool

    def of(self, gone: np.ndarray) -> np.ndarray:
        """(size of the dimension,) True where the unit is one of those that are True in `gone` (size of the group,)."""
        return np.append(gone, False)[self.units]


@dataclass(frozen=True)
class Size:
    """A whole number that a module keeps, and that shrinks with a group.

    Attributes:
        module: Dotted name of the module.
        attribute: The number's name there; with ``.0`` behind it, the first of several.
        value: In the dense model.
        step: What it loses with each unit.
    """

    module: str
    attribute: str
    value: int
    step: int


@dataclass(frozen=True, eq=False)
class Group:
    """Channels, neurons or heads that are coupled in the same way; each unit can be removed by itself.

    Attributes:
        name: The first parameter that produces the units, without its last part.
        size: How many units there are.
        axes: Everything that gets smaller when a unit goes.
        exact: Zero what the readers see, or remove: the same function. False where statistics run
            over the cut dimension (LayerNorm, softmax, mean).
        maskable: All that is read of a unit is read through `Axis.reads`, so a soft mask can scale it.
        note: Why the group is not exact or not maskable.
        sizes: Numbers in the user's modules that say how many units there are.
    """

    name: str
    size: int
    axes: tuple[Axis, ...]
    exact: bool = True
    maskable: bool = True
    note: str = ""
    sizes: tuple[Size, ...] = ()

    @property
    def step(self) -> int:
        """Channels a unit takes in the widest of its axes (1 for a plain convolution)."""
        return max(int(np.bincount(axis.units[axis.units >= 0]).max()) for axis in self.axes)


@dataclass(frozen=True)
class Block:
    """A residual body: the sum it ends in keeps another operand of the same shape, so it can go as a whole.

    Attributes:
        name: The innermost module that holds the whole body, or its first module.
        modules: What is no longer computed, outermost modules.
        parameters: Parameters outside of `modules` that nothing reads any more.
        scales: Parameters that, multiplied by m, multiply the body's output by m; empty if there is
            no such set (then the block cannot be soft-masked).
        ops: Indices into the cost model: what is not computed without the block.
        note: Why it cannot be soft-masked.
        parts: How many values each of `modules` returns; 0 for a bare one.
    """

    name: str
    modules: tuple[str, ...]
    parameters: tuple[str, ...]
    scales: tuple[str, ...]
    ops: frozenset[int]
    note: str = ""
    parts: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class Branch:
    """An operand of a concatenation, which can go with all of its channels.

    Attributes:
        name: The innermost module that holds the whole branch, or its first module.
        concat: The concatenation it feeds: branches of one concatenation share this text.
        reads: What reads the branch's channels: `Axis.units` is 0 for its entries, -1 elsewhere.
        modules: What is no longer computed.
        parameters: Parameters outside of `modules` that nothing reads any more.
        ops: Indices into the cost model: what is not computed without the branch.
        parts: How many values each of `modules` returns; 0 for a bare one.
        spare: The concatenation keeps an operand even if all of its branches go.
    """

    name: str
    concat: str
    reads: tuple[Axis, ...]
    modules: tuple[str, ...]
    parameters: tuple[str, ...]
    ops: frozenset[int]
    parts: tuple[int, ...] = ()
    spare: bool = False


@dataclass(frozen=True)
class Edge:
    """Single (layer, input channel) connections: the inputs a weight reads, one per index of `dim`.

    Attributes:
        tensor: Dotted name of the weight.
        dim: The dimension that is summed over.
        size: How many inputs there are.
        module: The layer that can read fewer of them by selecting, from a tensor that keeps its width; "" if none can.
    """

    tensor: str
    dim: int
    size: int
    module: str = ""


@dataclass(frozen=True)
class Gateable:
    """A convolution of which some filters need not be computed for some inputs.

    Attributes:
        conv: Dotted name of the convolution.
        norm: Of the batch norm that its output goes into, and nothing else does; "" for none.
        relu: A ReLU is all that reads what these give.
        follows: Depthwise convolutions behind it, each with its batch norm: what is off here is off there.
        reads: All convolutions that read what comes of it, each with its batch norm: they need not read what is off.
            Empty if something else reads it.
        stem: It reads the model's input.
    """

    conv: str
    norm: str
    relu: bool
    follows: tuple[tuple[str, str], ...]
    reads: tuple[tuple[str, str], ...]
    stem: bool


@dataclass(frozen=True)
class Pin:
    """What stays, and why.

    Attributes:
        tensor: Dotted name of a parameter or buffer.
        dim: The dimension.
        count: How many of its indices are pinned.
        reason: In a few words.
        where: The line of the user's code that is the cause, or "".
    """

    tensor: str
    dim: int
    count: int
    reason: str
    where: str = ""


@dataclass(frozen=True, eq=False)
class Choice:
    """What goes.

    Attributes:
        units: For each group a boolean array, True where the unit goes.
        blocks: Names of blocks that go.
        branches: Names of branches that go.
        inputs: For each weight of `Structure.inputs` that shall read less a boolean array, True where an input is not
            read any more. Of what the rest of a choice leaves, a layer reads one input nevertheless.
    """

    units: tuple[np.ndarray, ...]
    blocks: frozenset[str] = frozenset()
    branches: frozenset[str] = frozenset()
    inputs: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def empty(self) -> bool:
        """Nothing goes."""
        several = (*self.units, *self.inputs.values())
        return not (self.blocks or self.branches or any(gone.any() for gone in several))
