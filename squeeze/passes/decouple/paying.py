"""Which gates make convolutions faster on this machine: measured in PyTorch, or as exported, in ONNX Runtime."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from squeeze.copying import copied
from squeeze.edits import rewrite
from squeeze.export import export_onnx
from squeeze.latency import compare
from squeeze.nn import GatedConv2d, computing
from squeeze.nn.convolving import Convolving
from squeeze.passes.decouple.gates import proved
from squeeze.plan import Gate
from squeeze.progress import say
from squeeze.randomness import randomness_kept
from squeeze.task import Inputs, call

Runtime = Literal["pytorch", "onnx"]
NAMES: Mapping[Runtime, str] = MappingProxyType({"pytorch": "PyTorch", "onnx": "ONNX Runtime"})
"""As people write them."""
PAYS = 0.97
"""A gated convolution must take less than so many times as long as without a gate."""
STRICTER = (PAYS, 0.85, 0.7)
"""The limits that gates must keep to, one after the other, until the whole network is faster as exported."""
ROUNDS = 30
"""In which an excerpt and a network are timed."""

_SURE = 1e3
"""A logit that no input moves across 0."""

LeftOut = list[tuple[str, str]]


def paying(
    gates: Sequence[Gate], model: nn.Module, example: Inputs, share: float, runtime: Runtime
) -> tuple[tuple[Gate, ...], LeftOut]:
    """The gates with which convolutions run faster on this machine; and what is left out, the nearest to it first.

    In PyTorch, what readers save besides is not counted. In ONNX Runtime each convolution is exported with those that
    read it; then the network, with the gates that pay: it must be faster, too.

    Args:
        gates: All.
        model: Dense.
        example: Its inputs.
        share: Of the filters, that may be on.
        runtime: Where it is to run.

    Raises:
        ExportError: For ONNX Runtime: the model cannot be exported.
    """
    with randomness_kept():
        gates = proved(gates, model, example) if runtime == "onnx" else gates
        seen = _seen(gates, model, example)
        if runtime == "pytorch":
            cost = {n: s.layer.cost(s.input, share) for n, s in seen.items() if isinstance(s.layer, GatedConv2d)}
        else:
            say(
                f"decouple: measures in {NAMES[runtime]} where gates pay: each different one of {len(gates)} "
                "convolutions, then the whole network, is exported and timed; that may take minutes."
            )
            cost = _exported(gates, model, seen, share)
        found = tuple(gate for gate in gates if cost[gate.module] <= PAYS)
        slower = sorted((c, name) for name, c in cost.items() if c > PAYS)
        left_out = [(name, f"it would take {c:.2f} times as long with a gate") for c, name in slower]
        if runtime == "onnx" and found:
            found, more = _whole(found, cost, model, example, share)
            left_out = more + left_out
    return found, left_out


@dataclass(frozen=True)
class _Seen:
    """A layer of the gated network, and what went through it."""

    layer: Convolving
    input: Tensor
    output: Tensor


def _seen(gates: Sequence[Gate], model: nn.Module, example: Inputs) -> Mapping[str, _Seen]:
    twin = rewrite(model, gates).eval()
    layers = {name: layer for name, layer in twin.named_modules() if isinstance(layer, Convolving)}
    seen: dict[str, _Seen] = {}

    def keep(name: str, layer: Convolving, x: Tensor, y: Tensor) -> None:
        seen[name] = _Seen(layer, x.detach().clone(), y.detach().clone())

    hooks = [
        layer.register_forward_hook(lambda layer, args, y, name=name: keep(name, layer, args[0], y))
        for name, layer in layers.items()
    ]
    with torch.no_grad(), computing("masked"):
        call(twin, example)
    for hook in hooks:
        hook.remove()
    return seen


class _Excerpt(nn.Module):
    """A convolution and those that read it; if none can do with fewer channels, something is added to its output.

    Args:
        gate: Of the convolution.
        model: Dense; layers are copied.
        pools: How many times less height and width come to a reader, by its name; those without stay away.
    """

    def __init__(self, gate: Gate, model: nn.Module, pools: Mapping[str, int]) -> None:
        super().__init__()
        pairs = [(gate.module, gate.norm), *(pair for pair in gate.reads if pair[0] in pools)]
        self.convs = nn.ModuleList(copied(model.get_submodule(conv)) for conv, _ in pairs)
        self.norms = nn.ModuleList(copied(model.get_submodule(norm)) if norm else nn.Identity() for _, norm in pairs)
        self.pools = [pools[conv] for conv, _ in pairs[1:]]
        self.relu, self.hidden = gate.relu, gate.hidden

    def forward(self, x: Tensor, added: Tensor | None = None) -> list[Tensor]:
        """(B, C, H, W), and what is added, to what the readers make."""
        conv, *readers = self.convs
        norm, *norms = self.norms
        y: Tensor = norm(conv(x))
        if added is not None:
            return [(y + added).relu()]
        y = y.relu() if self.relu else y
        pooled = [functional.max_pool2d(y, pool) if pool > 1 else y for pool in self.pools]
        return [norm(reader(y)) for reader, norm, y in zip(readers, norms, pooled, strict=True)]

    def gate(self) -> Gate:
        """As in the network."""
        pairs = [
            (f"convs.{number}", "" if isinstance(norm, nn.Identity) else f"norms.{number}")
            for number, norm in enumerate(self.norms)
        ]
        return Gate(*pairs[0], self.hidden, self.relu, reads=tuple(pairs[1:]))

    def extra_repr(self) -> str:
        """What is not seen in the modules."""
        return f"{self.pools}, {self.relu}, {self.hidden}"


def _exported(gates: Sequence[Gate], model: nn.Module, seen: Mapping[str, _Seen], share: float) -> dict[str, float]:
    """What convolutions and those that read them take with a gate, in units of what they take without.

    Those that are alike are measured once.
    """
    known: dict[str, float] = {}
    cost = {}
    for gate in gates:
        own = seen[gate.module]
        readers = () if gate.follows else [name for name, _ in gate.reads]
        pools = {name: own.output.shape[2] // max(1, seen[name].input.shape[2]) for name in readers}
        excerpt = _Excerpt(gate, model, pools).eval()
        inputs = (own.input,) if pools else (own.input, own.output)
        key = f"{excerpt} {[tuple(tensor.shape) for tensor in inputs]}"
        if key not in known:
            known[key] = _ratio([excerpt.gate()], excerpt, inputs, share)
        cost[gate.module] = known[key]
    return cost


def _whole(
    gates: Sequence[Gate], cost: Mapping[str, float], model: nn.Module, example: Inputs, share: float
) -> tuple[tuple[Gate, ...], LeftOut]:
    """Of the gates that pay, as many as make the whole network faster as exported; and what is left out.

    Between convolutions there is more that a gate changes: what was computed together with them no longer is.
    """
    ratio, tried = 0.0, 0
    for limit in STRICTER:
        found = tuple(gate for gate in gates if cost[gate.module] <= limit)
        if not found or len(found) == tried:
            continue
        ratio, tried = _ratio(found, model, example, share), len(found)
        if ratio <= PAYS:
            slow = "the network is not faster with the gates that save as little"
            return found, [(gate.module, slow) for gate in gates if gate not in found]
    reason = f"the network would take {ratio:.2f} times as long with the gates that save most, {tried} in number"
    return (), [(gate.module, reason) for gate in gates]


def _ratio(gates: Sequence[Gate], model: nn.Module, inputs: Inputs, share: float) -> float:
    """What a model takes in ONNX Runtime with gates, in units of what it takes without."""
    with tempfile.TemporaryDirectory() as folder:
        files = {
            "dense": export_onnx(model, inputs, Path(folder) / "dense.onnx"),
            "gated": export_onnx(_open(rewrite(model, gates), share), inputs, Path(folder) / "gated.onnx"),
        }
        times = compare(files, inputs, repeats=ROUNDS)
    return times["gated"].median / times["dense"].median


def _open(gated: nn.Module, share: float) -> nn.Module:
    """With this share of each layer's filters on, evenly spread, whatever the input; changes the model."""
    for layer in gated.modules():
        if isinstance(layer, GatedConv2d):
            bias = layer.gate.expand.bias
            steps = torch.arange(len(bias) + 1, device=bias.device, dtype=torch.float64).mul(share).floor()
            bias.data.copy_(torch.where(steps.diff() > 0, _SURE, -_SURE))
    return gated
