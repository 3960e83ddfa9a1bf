"""Labels carried through a tape: what a run says about the nodes of the model's weights."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from squeeze.structure import rules
from squeeze.structure.context import Context
from squeeze.structure.labels import Nodes
from squeeze.structure.tape import ModuleCall, Ran, Tape


@dataclass
class Record:
    """What ran, in order, and what it says.

    Attributes:
        context: Labels, ledger and contractions.
        nodes: Of the model's weights.
        tape: What ran.
        operands: For each concatenation's number, the ids of each operand along the joined dim.
        used: Names of the parameters and buffers that some op used.
    """

    context: Context
    nodes: Nodes
    tape: Tape
    operands: dict[int, list[Tensor | None]] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)

    @property
    def ops(self) -> list[Ran]:
        """Every op."""
        return self.tape.ops

    @property
    def calls(self) -> list[ModuleCall]:
        """Every call of a module."""
        return self.tape.modules

    @property
    def shapes(self) -> Mapping[str, torch.Size]:
        """Of all parameters and buffers."""
        return {name: operand.shape for name, operand in self.tape.named.items()}


def labelled(tape: Tape, readings: Mapping[int, int]) -> Record:
    """Carry the labels of all weights through what ran.

    Args:
        tape: What ran.
        readings: For the ops that can be read in several ways, which one to take.
    """
    context, nodes = Context(readings), Nodes.of(tape.named.items())
    context.selections = {selection.index for selection in tape.selections}
    record = Record(context, nodes, tape, used=set(tape.used))
    for name, operand in tape.named.items():
        context.set(operand, nodes.labels(name, operand))
    for number, call in enumerate(tape.calls):
        context.number, context.call = number, call
        if call.name == "cat" and call.outputs:
            dim = call.arg("dim", 0) % max(call.outputs[0].dim(), 1)
            record.operands[number] = [context.labels(part).along(dim) for part in call.args[0]]
        rules.apply(context, call)
    _tie_recurrent(record)
    _tie_selections(record)
    for operand in tape.results:
        for layer in context.labels(operand).layers:
            context.ledger.pin(layer.ids, "reaches the model's output", "")
    return record


def _tie_recurrent(record: Record) -> None:
    """nn.LSTM and its like have one hidden size for all layers and directions."""
    for weights in record.tape.hidden:
        hidden = [record.context.labels(weight).along(1) for weight in weights]
        for other in hidden[1:]:
            if hidden[0] is not None and other is not None:
                record.context.tie(hidden[0], other)


def _tie_selections(record: Record) -> None:
    """A layer that reads some of its inputs must know when any of them goes."""
    for selection in record.tape.selections:
        record.used.add(selection.reads)
        ids = record.context.labels(selection.given).along(selection.dim)
        marks = record.context.labels(record.tape.named[selection.reads]).along(0)
        if ids is not None and marks is not None:
            record.context.tie(ids, marks)
