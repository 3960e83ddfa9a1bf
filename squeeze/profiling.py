"""What a model costs: multiply-accumulates, parameters, bytes and activation memory, layer by layer."""

import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from squeeze.attention import plain_attention
from squeeze.copying import eval_copy
from squeeze.counting import ModuleCounter, PeakMemory
from squeeze.task import Inputs, call, check_inputs, tensors_of

CONVENTION = "1 MAC = 2 FLOPs; bias, normalisation and activations are not counted"


@dataclass(frozen=True)
class LayerProfile:
    """What one module costs by itself, without the modules inside it.

    Attributes:
        name: Dotted name; "" is the model itself.
        kind: The class of the module.
        macs: Multiply-accumulates of all of its calls in one forward pass.
        paper_macs: As the method's paper counts them, where that differs (clustered kernels); else the same.
        params: Numbers in its parameters; a shared parameter counts where it is first met.
        bytes: Of its parameters and buffers.
        output: Shape of the first tensor it returned last; None if it returned none or was never called.
        thop_macs: What thop says of it, as a cross-check; None where thop has no rule. By thop's own convention,
            which counts normalisation.
    """

    name: str
    kind: str
    macs: int
    paper_macs: int
    params: int
    bytes: int
    output: tuple[int, ...] | None
    thop_macs: int | None


@dataclass(frozen=True)
class Profile:
    """What a model costs on its example inputs, in eval mode.

    Attributes:
        layers: Every module that owns parameters or buffers or multiplied and accumulated, in the model's order.
        macs: Multiply-accumulates of one forward pass, as executed.
        paper_macs: The same by the accounting of the methods' papers.
        params: Numbers in all parameters.
        bytes: Of all parameters and buffers.
        activation_bytes: The peak: the most bytes of inputs, intermediate results and outputs alive at one time.
            Scratch memory inside of an operator is not seen.
        inputs: Shapes of the example inputs, to which all figures belong.
        unknown: Operators that may multiply and accumulate but cannot be counted: `macs` is too small by theirs.
        thop_macs: What thop says of the whole model; None if it failed.
        thop_note: Why it failed, or "".
    """

    layers: tuple[LayerProfile, ...]
    macs: int
    paper_macs: int
    params: int
    bytes: int
    activation_bytes: int
    inputs: tuple[tuple[int, ...], ...]
    unknown: tuple[str, ...]
    thop_macs: int | None
    thop_note: str

    def to_dict(self) -> dict[str, Any]:
        """All figures and their convention, ready for JSON."""
        return {"convention": CONVENTION, **asdict(self)}

    def table(self) -> Table:
        """The figures for people."""
        caption = f"{CONVENTION} (but by thop, which counts normalisation). "
        caption += f"Inputs: {', '.join(map(str, self.inputs)) or 'no tensor'}. "
        caption += f"Peak activation memory: {self.activation_bytes / 2**20:,.2f} MiB."
        if self.paper_macs != self.macs:
            caption += f" By the accounting of the paper: {self.paper_macs:,} MACs."
        if self.unknown:
            caption += f" NOT counted: {', '.join(self.unknown)}."
        if self.thop_note:
            caption += f" No figures from thop: {self.thop_note}."
        table = Table(title="Profile", caption=caption, caption_justify="left", show_footer=True)
        table.add_column("layer", footer="total", overflow="fold")
        table.add_column("kind")
        table.add_column("output")
        totals = {"MACs": self.macs, "parameters": self.params, "bytes": self.bytes, "MACs by thop": self.thop_macs}
        for title, total in totals.items():
            table.add_column(title, footer=_figure(total), justify="right")
        for layer in self.layers:
            output = "-" if layer.output is None else "x".join(map(str, layer.output))
            figures = map(_figure, (layer.macs, layer.params, layer.bytes, layer.thop_macs))
            table.add_row(layer.name or "(model)", layer.kind, output, *figures)
        return table


def profile(model: nn.Module, example_inputs: Inputs) -> Profile:
    """Count what a model costs on example inputs, in eval mode, on a copy.

    Operators are counted as they run, whatever module or function called them. thop's figures stand beside ours.

    Args:
        model: Any module; left as it is.
        example_inputs: A tensor, a tuple of positional arguments or a dict of keyword arguments.

    Raises:
        InputError: The model cannot be copied, or does not accept these inputs.
    """
    inputs = pytree.tree_map_only(Tensor, lambda tensor: tensor.detach().clone(), example_inputs)
    twin = eval_copy(model)
    with plain_attention():
        counter = ModuleCounter(PeakMemory([*twin.parameters(), *twin.buffers()]))
        counter.memory.see(tensors_of(inputs))
        with counter.watching(twin):
            check_inputs(twin, inputs)
        sizes, kinds = _sizes(twin), {name: type(module).__name__ for name, module in twin.named_modules()}
        thop_macs, by_thop, thop_note = _ask_thop(twin, inputs)
    paper = {name: counter.paper.get(name, counter.macs[name]) for name in kinds}
    layers = [
        LayerProfile(
            name, kind, counter.macs[name], paper[name], *sizes[name], counter.outputs.get(name), by_thop.get(name)
        )
        for name, kind in kinds.items()
        if counter.macs[name] or any(sizes[name])
    ]
    return Profile(
        layers=tuple(layers),
        macs=sum(counter.macs.values()),
        paper_macs=sum(paper.values()),
        params=sum(params for params, _ in sizes.values()),
        bytes=sum(size for _, size in sizes.values()),
        activation_bytes=counter.memory.peak,
        inputs=tuple(tuple(tensor.shape) for tensor in tensors_of(example_inputs)),
        unknown=tuple(sorted(counter.unknown)),
        thop_macs=thop_macs,
        thop_note=thop_note,
    )


def _figure(number: int | None) -> str:
    return "-" if number is None else f"{number:,}"


def _sizes(model: nn.Module) -> dict[str, tuple[int, int]]:
    """For every module the numbers in its own parameters, and the bytes of its own parameters and buffers."""
    seen: set[int] = set()
    sizes = {}
    for name, module in model.named_modules():
        params = [t for t in module.parameters(recurse=False) if id(t) not in seen]
        buffers = [t for t in module.buffers(recurse=False) if id(t) not in seen]
        seen.update(id(t) for t in (*params, *buffers))
        size = sum(t.numel() * t.element_size() for t in (*params, *buffers))
        sizes[name] = (sum(t.numel() for t in params), size)
    return sizes


class _Bound(nn.Module):
    """A model with its inputs: thop passes positional arguments only."""

    def __init__(self, model: nn.Module, inputs: Inputs) -> None:
        super().__init__()
        self.model = model
        self.inputs = inputs

    def forward(self) -> Any:
        return call(self.model, self.inputs)


def _ask_thop(model: nn.Module, inputs: Inputs) -> tuple[int | None, dict[str, int], str]:
    """Its total, its figure for every module that it has a rule for, and why there are none.

    Spoils the model: thop leaves buffers behind.
    """
    modules = {f"model.{name}".removesuffix("."): module for name, module in model.named_modules()}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from thop.profile import profile as thop_profile
            from thop.profile import register_hooks

            total, _, tree = thop_profile(_Bound(model, inputs), inputs=(), verbose=False, ret_layer_info=True)
    except Exception as error:  # noqa: BLE001 - a cross-check may fail in any way, and its failure is reported
        return None, {}, f"{type(error).__name__}: {error}"
    figures = {name: round(macs) for name, macs in _leaves(tree, "") if type(modules[name]) in register_hooks}
    return round(total), {name.removeprefix("model").removeprefix("."): macs for name, macs in figures.items()}, ""


def _leaves(tree: dict[str, Any], prefix: str) -> Iterator[tuple[str, float]]:
    """Dotted names and figures of thop's nested answer."""
    for name, (macs, _, inner) in tree.items():
        yield f"{prefix}{name}", macs
        yield from _leaves(inner, f"{prefix}{name}.")
