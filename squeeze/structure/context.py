"""What a rule sees: one op that ran, the labels of its operands, and the ledger it writes to."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from squeeze.blame import line_at
from squeeze.structure.labels import Labels, Layer, Ledger
from squeeze.structure.tape import Call, Operand


@dataclass(frozen=True, eq=False)
class Site:
    """A place where labels alone do not say what the code holds constant.

    Attributes:
        key: Number of the op in the run.
        options: How many readings there are.
        ids: The nodes concerned.
        eager: Try the next reading as soon as all of `ids` are pinned, not only when a trial fails.
    """

    key: int
    options: int
    ids: np.ndarray
    eager: bool


@dataclass(frozen=True, eq=False)
class Contraction:
    """A contraction that ran: who called it, its dense MACs, and the ids that size it."""

    module: str
    macs: int
    axes: tuple[np.ndarray, ...]
    number: int


_UNLABELLED = Labels()


@dataclass
class Context:
    """The state of one pass of labels through what ran.

    Attributes:
        readings: For the sites where the first reading failed, which one to take.
        number: Of the op at hand.
        call: The op at hand.
        selections: What layers that read some of their inputs select with: it follows when inputs go.
        pieces: Ids of what was cut from a tensor, or joined to one, along the dim: a number in the code may count it.
    """

    readings: Mapping[int, int] = field(default_factory=dict)
    ledger: Ledger = field(default_factory=Ledger)
    sites: list[Site] = field(default_factory=list)
    contractions: list[Contraction] = field(default_factory=list)
    pieces: list[np.ndarray] = field(default_factory=list)
    number: int = 0
    call: Call | None = None
    selections: Collection[Operand] = ()
    _labels: dict[Operand, Labels] = field(default_factory=dict)

    def labels(self, operand: Operand) -> Labels:
        """What is known of a tensor; nothing if it was not seen before."""
        return self._labels.get(operand, _UNLABELLED)

    def set(self, operand: Operand, labels: Labels) -> None:
        """Note the labels of a tensor; those along dimensions of size 1 mean nothing and are left out."""
        if all(layer.any for layer in labels.layers):
            self._labels[operand] = labels
        else:
            layers = tuple(layer for layer in labels.layers if layer.any)
            self._labels[operand] = Labels(layers, labels.wild, labels.fixed)

    def give(self, call: Call, layers: Sequence[Layer], output: int = 0) -> None:
        """Label one output of a call; it is `fixed` if all operands are."""
        self.set(call.outputs[output], Labels(tuple(layers), fixed=self.all_fixed(call)))

    def all_fixed(self, call: Call) -> bool:
        """No operand depends on the model's inputs."""
        return all(self.labels(t).fixed or self.labels(t).wild for t in call.tensors)

    def tie(self, a: Tensor, b: Tensor) -> None:
        """See `Ledger.tie`."""
        if a is not b:
            self.ledger.tie(a, b, self._line)

    def pin(self, ids: Tensor, reason: str) -> None:
        """These nodes stay, because of the op at hand."""
        self.ledger.pin(ids, reason, self._line())

    def _line(self) -> str:
        """Of the user's code, where the op at hand is."""
        return line_at(self.call.place) if self.call is not None else ""

    def pin_all(self, operand: Operand, reason: str) -> None:
        """All labels of a tensor stay."""
        for layer in self.labels(operand).layers:
            self.pin(layer.ids, reason)

    def reading(self, options: int, ids: Tensor, eager: bool = False) -> int:
        """Which of several readings of the op at hand to take."""
        self.sites.append(Site(self.number, options, np.unique(ids.numpy()), eager))
        return self.readings.get(self.number, 0)

    def counted(self, outputs: Sequence[Operand], dim: int) -> None:
        """Note what a number in the code may count."""
        found = (self.labels(output).along(dim) for output in outputs)
        self.pieces += [ids.numpy() for ids in found if ids is not None]

    def cost(self, macs: int, axes: Sequence[Tensor | None]) -> None:
        """Note a contraction and the ids that size it."""
        arrays = tuple(ids.numpy().copy() for ids in axes if ids is not None)
        self.contractions.append(Contraction(self.call.module if self.call else "", macs, arrays, self.number))


Rule = Callable[[Context, Call], None]
