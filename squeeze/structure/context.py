"""What a rule sees: one op that ran, the labels of its operands, and the ledger it writes to."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from squeeze.blame import user_line
from squeeze.structure.labels import NONE, Labels, Layer, Ledger


@dataclass(frozen=True)
class Call:
    """One op as it was dispatched.

    Attributes:
        func: The overload, such as ``aten.add.Tensor``.
        args: Positional arguments.
        kwargs: Keyword arguments.
        out: What it returned.
        shape: Of the first operand before the op, which may have changed it in place.
    """

    func: Any
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    out: Any
    shape: torch.Size

    @property
    def name(self) -> str:
        """The op's name without namespace and overload: ``add``; in-place twins keep their underscore."""
        return self.func._schema.name.split("::")[-1]

    def arg(self, name: str, default: Any = None) -> Any:
        """An argument by its name in the op's schema."""
        if name in self.kwargs:
            return self.kwargs[name]
        for position, argument in enumerate(self.func._schema.arguments):
            if argument.name == name:
                if position < len(self.args):
                    return self.args[position]
                return argument.default_value if argument.has_default_value() else default
        return default

    @cached_property
    def tensors(self) -> list[Tensor]:
        """All tensor operands, those in lists included."""
        return [*_tensors(self.args), *_tensors(self.kwargs.values())]

    @cached_property
    def outputs(self) -> list[Tensor]:
        """All tensors it returned."""
        return list(_tensors((self.out,)))


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    """The tensors among an op's arguments or results, which are at most lists."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


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


@dataclass
class Context:
    """The state of one run on labels.

    Attributes:
        readings: For the sites where the first reading failed, which one to take.
        number: Of the op at hand.
        module: Dotted name of the innermost module at hand.
    """

    readings: Mapping[int, int] = field(default_factory=dict)
    ledger: Ledger = field(default_factory=Ledger)
    sites: list[Site] = field(default_factory=list)
    contractions: list[Contraction] = field(default_factory=list)
    number: int = 0
    module: str = ""
    _labels: WeakIdKeyDictionary = field(default_factory=WeakIdKeyDictionary)

    def labels(self, tensor: Tensor) -> Labels:
        """What is known of a tensor; nothing if it was not seen before."""
        return self._labels.get(tensor, Labels())

    def set(self, tensor: Tensor, labels: Labels) -> None:
        """Note the labels of a tensor; those along dimensions of size 1 mean nothing and are left out."""
        layers = tuple(layer for layer in labels.layers if bool((layer.ids != NONE).any()))
        self._labels[tensor] = Labels(layers, labels.wild, labels.fixed)

    def give(self, call: Call, layers: Sequence[Layer], output: int = 0) -> None:
        """Label one output of a call; it is `fixed` if all operands are."""
        self.set(call.outputs[output], Labels(tuple(layers), fixed=self.all_fixed(call)))

    def all_fixed(self, call: Call) -> bool:
        """No operand depends on the model's inputs."""
        return all(self.labels(t).fixed or self.labels(t).wild for t in call.tensors)

    def tie(self, a: Tensor, b: Tensor) -> None:
        """See `Ledger.tie`."""
        self.ledger.tie(a, b, user_line)

    def pin(self, ids: Tensor, reason: str) -> None:
        """These nodes stay, because of the op at hand."""
        if bool((ids != NONE).any()):
            self.ledger.pin(ids, reason, user_line())

    def pin_all(self, tensor: Tensor, reason: str) -> None:
        """All labels of a tensor stay."""
        for layer in self.labels(tensor).layers:
            self.pin(layer.ids, reason)

    def reading(self, options: int, ids: Tensor, eager: bool = False) -> int:
        """Which of several readings of the op at hand to take."""
        self.sites.append(Site(self.number, options, np.unique(ids.numpy()), eager))
        return self.readings.get(self.number, 0)

    def cost(self, macs: int, axes: Sequence[Tensor | None]) -> None:
        """Note a contraction and the ids that size it."""
        arrays = tuple(ids.numpy().copy() for ids in axes if ids is not None)
        self.contractions.append(Contraction(self.module, macs, arrays, self.number))


Rule = Callable[[Context, Call], None]
