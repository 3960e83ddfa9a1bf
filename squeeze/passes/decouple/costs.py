"""What a gated network computes for one input, from the codes of its gates."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from squeeze.parity import batch_of
from squeeze.plan import Gate
from squeeze.structure.groups import Structure
from squeeze.task import Inputs, tensors_of


@dataclass(frozen=True, eq=False)
class GateCosts:
    """Multiply-accumulates of one sample, as executed where what is off is skipped, controllers included.

    Attributes:
        gates: The gated convolutions, in the order in which their codes are given.
        dense: Of the network without gates, for one sample.
        macs: Of each convolution that matters, by name, for one sample.
        inputs: Channels that each gated convolution reads.
        outputs: Filters of each.
    """

    gates: tuple[Gate, ...]
    dense: float
    macs: dict[str, float]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]

    @classmethod
    def of(cls, gates: Sequence[Gate], model: nn.Module, structure: Structure, example: Inputs) -> "GateCosts":
        """From what a trace counted.

        Args:
            gates: To be put into the model.
            model: Dense.
            structure: Of the model.
            example: The inputs that it was traced on.
        """
        batch = max(1, batch_of(tensors_of(example)))
        macs: dict[str, float] = {}
        for op in structure.costs.ops:
            macs[op.name] = macs.get(op.name, 0.0) + op.macs / batch
        weights = [model.get_submodule(gate.module).weight for gate in gates]
        sizes = [(int(w.shape[1]), int(w.shape[0])) for w in weights if isinstance(w, Tensor)]
        inputs, outputs = tuple(size[0] for size in sizes), tuple(size[1] for size in sizes)
        return cls(tuple(gates), structure.cost().macs / batch, macs, inputs, outputs)

    @cached_property
    def _source(self) -> dict[str, int]:
        """For each convolution that reads a gated one and nothing else, the number of that."""
        return {name: number for number, gate in enumerate(self.gates) for name, _ in gate.reads}

    def shares(self, codes: Sequence[Tensor], reading: bool = True) -> Tensor:
        """(B,) the MACs of each sample, as a share of those of the network without gates; differentiable.

        Args:
            codes: (B, N) of each gate.
            reading: Readers that need not read what is off do not; False counts the filters alone.
        """
        on = [code.mean(1) for code in codes]
        read = {name: on[number] for name, number in self._source.items()} if reading else {}
        saved = torch.zeros_like(on[0])
        for number, gate in enumerate(self.gates):
            channels = read.get(gate.module)
            used = on[number] if channels is None else on[number] * channels
            controller = gate.hidden * (self.inputs[number] * (1 if channels is None else channels))
            saved = saved + self.macs[gate.module] * (1 - used) - controller - gate.hidden * self.outputs[number]
            for name, _ in gate.follows:
                saved = saved + self.macs[name] * (1 - on[number])
        gated = {gate.module for gate in self.gates}
        for name, channels in read.items():
            if name not in gated:
                saved = saved + self.macs[name] * (1 - channels)
        return 1 - saved / self.dense
