"""What a model costs: multiply-accumulates, parameters, bytes and activation memory, layer by layer."""

import copy
import warnings
import weakref
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from rich.table import Table
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from squeeze.contractions import macs_of, may_hide_macs
from squeeze.errors import InputError
from squeeze.task import Inputs, call, check_inputs, tensors_of

CONVENTION = "1 MAC = 2 FLOPs; bias, normalisation and activations are not counted"


@dataclass(frozen=True)
class LayerProfile:
    """What one module costs by itself, without the modules inside it.

    Attributes:
        name: Dotted name; "" is the model itself.
        kind: The class of the module.
        macs: Multiply-accumulates of all of its calls in one forward pass.
        params: Numbers in its parameters; a shared parameter counts where it is first met.
        bytes: Of its parameters and buffers.
        output: Shape of the first tensor it returned last; None if it was never called.
        thop_macs: What thop says of it, as a cross-check; None where thop has no rule.
    """

    name: str
    kind: str
    macs: int
    params: int
    bytes: int
    output: tuple[int, ...] | None
    thop_macs: int | None


@dataclass(frozen=True)
class Profile:
    """What a model costs on its example inputs, in eval mode.

    Attributes:
        layers: Every module that owns parameters or buffers or did multiply-accumulates, in the order of the model.
        macs: Multiply-accumulates of one forward pass, as executed.
        params: Numbers in all parameters.
        bytes: Of all parameters and buffers.
        activation_bytes: The peak: most bytes of inputs, intermediate results and outputs alive at one time.
            Scratch memory inside of an operator is not seen.
        inputs: Shapes of the example inputs, to which all figures belong.
        unknown: Operators that may multiply and accumulate but could not be counted: `macs` is too small by theirs.
        thop_note: Why there are no figures from thop; "" if there are.
    """

    layers: tuple[LayerProfile, ...]
    macs: int
    params: int
    bytes: int
    activation_bytes: int
    inputs: tuple[tuple[int, ...], ...]
    unknown: tuple[str, ...]
    thop_note: str = ""

    @property
    def thop_macs(self) -> int | None:
        """The sum of what thop counted; None if it failed."""
        return None if self.thop_note else sum(layer.thop_macs or 0 for layer in self.layers)

    def to_dict(self) -> dict[str, Any]:
        """All figures and their convention, ready for JSON."""
        return {"convention": CONVENTION, **asdict(self), "thop_macs": self.thop_macs}

    def table(self) -> Table:
        """The figures for people."""
        caption = f"{CONVENTION}. Inputs: {', '.join(map(str, self.inputs)) or 'none'}."
        caption += f" Peak activation memory {self.activation_bytes / 2**20:,.2f} MiB."
        if self.unknown:
            caption += f" NOT counted: {', '.join(self.unknown)}."
        if self.thop_note:
            caption += f" {self.thop_note}."
        table = Table(title="Profile", caption=caption, show_footer=True)
        table.add_column("layer", footer="total", overflow="fold")
        table.add_column("kind")
        table.add_column("output")
        totals = (f"{self.macs:,}", f"{self.params:,}", f"{self.bytes:,}", _figure(self.thop_macs))
        for title, total in zip(("MACs", "parameters", "bytes", "thop MACs"), totals, strict=True):
            table.add_column(title, footer=total, justify="right")
        for layer in self.layers:
            output = "not called" if layer.output is None else "x".join(map(str, layer.output))
            figures = map(_figure, (layer.macs, layer.params, layer.bytes, layer.thop_macs))
            table.add_row(layer.name or "(model)", layer.kind, output, *figures)
        return table


def profile(model: nn.Module, example_inputs: Inputs) -> Profile:
    """Count what a model costs on example inputs, in eval mode, on a copy.

    Args:
        model: Any module; left as it is.
        example_inputs: A tensor, a tuple of positional arguments or a dict of keyword arguments.

    Returns:
        Totals and one line a layer. Operators are counted as they run, whatever module or function called them.

    Raises:
        InputError: The model cannot be copied, or does not accept these inputs.
    """
    inputs = pytree.tree_map_only(Tensor, lambda tensor: tensor.detach().clone(), example_inputs)
    with _slow_attention():
        counter = _Counter(_copied(model), inputs)
        check_counted(counter, inputs)
        thop_macs, note = _thop(_copied(model), inputs)
    sizes = _sizes(model)
    layers = [
        LayerProfile(
            name, type(module).__name__, counter.macs[name], *sizes[name], counter.outputs.get(name), thop_macs.get(name)
        )
        for name, module in model.named_modules()
        if counter.macs[name] or any(sizes[name])
    ]
    return Profile(
        layers=tuple(layers),
        macs=sum(counter.macs.values()),
        params=sum(params for params, _ in sizes.values()),
        bytes=sum(size for _, size in sizes.values()),
        activation_bytes=counter.memory.peak,
        inputs=tuple(tuple(tensor.shape) for tensor in tensors_of(example_inputs)),
        unknown=tuple(sorted(counter.unknown)),
        thop_note=note,
    )
