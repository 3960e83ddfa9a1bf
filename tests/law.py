"""The law of removal, as functions: what is masked and what is removed compute the same."""

import copy
import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from squeeze.contractions import macs_of
from squeeze.structure.decisions import Deciding, Decisions, Disagreement
from squeeze.structure.groups import Structure
from squeeze.structure.parts import Block, Branch, Choice
from squeeze.structure.precision import Widened
from squeeze.task import Inputs, call, tensors_of

TOLERANCE = 1e-5


def doubled(inputs: Inputs) -> Inputs:
    """The inputs with float64 in place of float32."""
    return pytree.tree_map_only(Tensor, lambda t: t.double() if t.is_floating_point() else t, inputs)


def choose(structure: Structure, seed: int, share: float = 0.3, exact_only: bool = True) -> Choice:
    """A random share of each group's units, at least one where there are two, never all."""
    random = np.random.default_rng(seed)
    units = []
    for group in structure.groups:
        gone = random.random(group.size) < share
        if group.size < 2 or (exact_only and not group.exact):
            gone[:] = False
        else:
            first, second = random.permutation(group.size)[:2]
            gone[first], gone[second] = True, False
        units.append(gone)
    return Choice(tuple(units))


def reading_less(structure: Structure, choice: Choice, seed: int, share: float = 0.4) -> Choice:
    """The choice, and a random share of each layer's inputs, at least one if there are two, never all that are left."""
    random, kept, inputs = np.random.default_rng(seed), structure.kept(choice), {}
    for edge in structure.inputs:
        left = np.flatnonzero(kept.get((edge.tensor, edge.dim), np.ones(edge.size, dtype=bool)))
        gone = random.random(edge.size) < share
        gone[left[-1]], gone[left[0]] = True, False
        inputs[edge.tensor] = gone
    return replace(choice, inputs=inputs)


def copied(model: nn.Module) -> nn.Module:
    """A deep copy, also where a weight norm's hook left a computed weight, which torch refuses to copy."""
    computed = [v for m in model.modules() for v in vars(m).values() if isinstance(v, Tensor) and not v.is_leaf]
    return copy.deepcopy(model, {id(tensor): tensor.detach().clone() for tensor in computed})


def masked(model: nn.Module, structure: Structure, choice: Choice) -> nn.Module:
    """A copy in which readers multiply what goes by 0 (and nothing is produced where readers are not all)."""
    reference = copied(model)
    tensors = reference.state_dict(keep_vars=True) | dict(reference.named_buffers())
    with torch.no_grad():
        for group, gone in zip(structure.groups, choice.units, strict=True):
            for axis in group.axes:
                if axis.reads or not group.maskable:
                    for index in np.flatnonzero(np.isin(axis.units, np.flatnonzero(gone))):
                        tensors[axis.tensor].select(axis.dim, int(index)).zero_()
        for edge in structure.inputs:
            if edge.tensor in choice.inputs:
                tensors[edge.tensor].movedim(edge.dim, 0)[torch.from_numpy(choice.inputs[edge.tensor])] = 0
    return reference


def silenced(model: nn.Module, ends: Iterable[str]) -> nn.Module:
    """A copy in which these modules or parameters are zero, so that what ends in them contributes nothing."""
    reference = copied(model)
    with torch.no_grad():
        for name, parameter in reference.named_parameters():
            if any(name == end or name.startswith(f"{end}.") for end in ends):
                parameter.zero_()
    return reference


def run(model: nn.Module, inputs: Inputs) -> list[Tensor]:
    """All tensors of the output, in eval mode, without gradients."""
    model.eval()
    with torch.no_grad():
        return tensors_of(call(model, inputs))


def distance(expected: list[Tensor], found: list[Tensor]) -> float:
    """``max|expected − found| / max|expected|``, the worst output; infinite where shapes differ."""
    if [t.shape for t in expected] != [t.shape for t in found]:
        return math.inf
    worst = 0.0
    for a, b in zip(expected, found, strict=True):
        if a.numel():
            gap = float((a.double() - b.double()).abs().max())
            worst = max(worst, gap / max(float(a.double().abs().max()), 1e-30))
    return worst


def apart(expected: nn.Module, found: nn.Module, inputs: Inputs, training: bool = False) -> float:
    """How far two models' outputs, or losses, are apart, over the largest.

    Where they differ, the second one takes the first one's decisions (an order, a threshold, a selection), if these are
    made of the same numbers: a detector with random weights finds boxes that are alike, of which rounding keeps one.
    """
    begun = distance(precise(expected, inputs, training), precise(found, inputs, training))
    if begun <= TOLERANCE:
        return begun
    with Decisions() as decisions:
        outputs = precise(expected, inputs, training)
    try:
        with Deciding(decisions.made, TOLERANCE):
            return distance(outputs, precise(found, inputs, training))
    except Disagreement:
        return begun


def precise(model: nn.Module, inputs: Inputs, training: bool = False) -> list[Tensor]:
    """All tensors of the output of a model in float64, also where its code says float32; or of its losses."""
    own = copied(model).train() if training else model.eval()  # training writes to statistics
    with Widened(), torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        return tensors_of(call(own, inputs))


def owner_of(items: Sequence[Block | Branch], end: str) -> Block | Branch:
    """The one block or branch that computes what ends in this module or parameter."""
    found = [
        item
        for item in items
        if end in item.parameters or any(end == module or end.startswith(f"{module}.") for module in item.modules)
    ]
    assert len(found) == 1, f"{end} belongs to {[item.name for item in found]}"
    return found[0]


def half_of(items: Sequence[Block | Branch], ends: Sequence[str], seed: int) -> list[str]:
    """A random half of the ends; of every concatenation one branch stays."""
    going = random.Random(seed).sample(ends, len(ends) // 2)
    staying = {end for end in ends if end not in going}
    kept = {item.concat for item in (owner_of(items, end) for end in staying) if isinstance(item, Branch)}
    for end in list(going):
        item = owner_of(items, end)
        if isinstance(item, Branch) and item.concat not in kept:
            kept.add(item.concat)
            going.remove(end)
    return going


class Counter(TorchDispatchMode):
    """Adds up the MACs of everything that runs."""

    def __init__(self) -> None:
        super().__init__()
        self.macs = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.macs += macs_of(func, args, kwargs, out) or 0
        return out


def counted(model: nn.Module, inputs: Inputs) -> tuple[int, int]:
    """MACs as executed on the inputs, and parameters."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with Counter() as counter:
            run(model, inputs)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return counter.macs, sum(p.numel() for p in model.parameters())


def gradients(model: nn.Module, inputs: Inputs) -> dict[str, Tensor]:
    """The gradient of the sum of squares of all outputs, for every parameter that gets one, in training mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        outputs = [t for t in tensors_of(call(model.train(), inputs)) if t.requires_grad]
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    total = torch.stack([t.square().sum() for t in outputs]).sum()
    found = torch.autograd.grad(total, list(named.values()), allow_unused=True)
    return {name: gradient for name, gradient in zip(named, found, strict=True) if gradient is not None}


def fingerprint(model: nn.Module) -> dict[str, Any]:
    """Everything about a model that a tool could leave changed."""
    return {
        name: (
            type(module),
            module.training,
            sorted(vars(module)),
            [len(hooks) for key, hooks in sorted(vars(module).items()) if key.endswith("_hooks")],
            [
                (key, id(tensor), tensor.requires_grad, tensor.grad is None, tensor.detach().clone().numpy().tobytes())
                for key, tensor in (
                    *module.named_parameters(recurse=False, remove_duplicate=False),
                    *module.named_buffers(recurse=False, remove_duplicate=False),
                )
            ],
        )
        for name, module in model.named_modules(remove_duplicate=False)
    }
