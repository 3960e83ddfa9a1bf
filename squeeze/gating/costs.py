"""What a gated network computes for one input, from the codes of its gates."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from squeeze.copying import eval_copy
from squeeze.counting import ModuleCounter, PeakMemory
from squeeze.errors import InputError
from squeeze.nn import FollowingConv2d, GatedConv2d, ReadingConv2d, computing
from squeeze.parity import batch_of
from squeeze.task import Inputs, call, tensors_of, widened


@dataclass(frozen=True)
class _Site:
    """Multiply-accumulates of one sample that hang on one gate.

    Attributes:
        name: Of the gated convolution.
        filters: How many it has, N.
        own: Of the convolution.
        behind: Of the depthwise ones behind it.
        readers: Of convolutions without a gate that read its output and nothing else.
        source: The number of the gate whose output is all that it reads; -1 if it reads anything else.
        controller: Of its gate, by input channel and in all: what hangs on the channels read, and what does not.
    """

    name: str
    filters: int
    own: float
    behind: float
    readers: float
    source: int
    controller: tuple[float, float]


@dataclass(frozen=True, eq=False)
class GateCosts:
    """Multiply-accumulates as executed where what is off is skipped, controllers included.

    Attributes:
        sites: The gated convolutions, in the model's order.
        dense: Multiply-accumulates of one sample in the network without gates.
    """

    sites: tuple[_Site, ...]
    dense: float

    @property
    def names(self) -> tuple[str, ...]:
        """Of the gated convolutions, in the model's order."""
        return tuple(site.name for site in self.sites)

    @property
    def filters(self) -> tuple[int, ...]:
        """How many each of them has."""
        return tuple(site.filters for site in self.sites)

    def shares(self, codes: Sequence[Tensor], reading: bool = True) -> Tensor:
        """(B,) what each sample costs, as a share of what it costs in the network without gates; differentiable.

        Args:
            codes: (B, N) of each gate.
            reading: Readers that need not read what is off do not; False counts the filters alone.
        """
        on = [widened(code).mean(1) for code in codes]  # millions are multiplied by it
        saved = torch.zeros_like(on[0])
        for site, here in zip(self.sites, on, strict=True):
            read = on[site.source] if reading and site.source >= 0 else torch.ones_like(here)
            saved = saved + site.own * (1 - here * read) + site.behind * (1 - here)
            saved = saved + (site.readers * (1 - here) if reading else 0.0)
            saved = saved - site.controller[0] * read - site.controller[1]
        return 1 - saved / self.dense


@dataclass(frozen=True, eq=False)
class Gated:
    """A model with gates.

    Attributes:
        model: The whole.
        layers: Its gated convolutions, in the model's order.
        costs: What they save.
    """

    model: nn.Module
    layers: tuple[GatedConv2d, ...]
    costs: GateCosts


def require_gates(model: nn.Module, example_inputs: Inputs) -> Gated:
    """A model as a gated one.

    Args:
        model: Left as it is; run once.
        example_inputs: See `squeeze.task.call`.

    Raises:
        InputError: It has no gate.
    """
    layers = tuple(module for module in model.modules() if isinstance(module, GatedConv2d))
    if not layers:
        raise InputError(
            f"model: {type(model).__name__} must have gates, got none; make some with squeeze prune --method decouple."
        )
    return Gated(model, layers, _costs(model, example_inputs))


def _costs(model: nn.Module, example_inputs: Inputs) -> GateCosts:
    twin, batch = eval_copy(model), max(1, batch_of(tensors_of(example_inputs)))
    counter = ModuleCounter(PeakMemory([]))
    with torch.no_grad(), computing("masked"), counter.watching(twin):
        call(twin, example_inputs)
    macs = {name: count / batch for name, count in counter.macs.items()}
    named = dict(twin.named_modules())
    gated = {name: module for name, module in named.items() if isinstance(module, GatedConv2d)}
    makers = {id(module.sink): number for number, module in enumerate(gated.values()) if module.sink is not None}
    sites, controllers = [], 0.0
    for name, module in gated.items():
        behind, readers = 0.0, 0.0
        for other, reader in named.items():
            if module.sink is None or getattr(reader, "source", None) is not module.sink:
                continue
            behind += macs.get(f"{other}.conv", 0.0) if isinstance(reader, FollowingConv2d) else 0.0
            readers += macs.get(f"{other}.conv", 0.0) if isinstance(reader, ReadingConv2d) else 0.0
        gate = module.gate
        controller = float(gate.reduce.weight.numel()), float(gate.expand.weight.numel())
        controllers += sum(controller)
        own, source = macs.get(f"{name}.conv", 0.0), makers.get(id(module.source), -1)
        sites.append(_Site(name, module.conv.out_channels, own, behind, readers, source, controller))
    return GateCosts(tuple(sites), sum(macs.values()) - controllers)
