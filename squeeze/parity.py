"""Whether an exported model computes what the PyTorch model computes."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from squeeze.blame import first_line
from squeeze.errors import ExportError
from squeeze.gating.explained import has_gates
from squeeze.task import Inputs, call, tensors_of

Run = Callable[[Inputs], Sequence[Tensor]]
"""An exported model: from inputs to its output tensors, in order."""

BATCHES = (1, 2, 3)
"""The sizes on which an export with a dynamic batch is checked."""

TOLERANCE = 1e-4
"""The largest difference, as a share of the largest output, in float32 and wider."""

COARSE_TOLERANCE = 1e-2
"""The same for float16 and bfloat16."""

FLIPS = 1e-3
"""The share of whole numbers (an argmax, say) that rounding may turn into others."""


def is_batched(tensor: Tensor, batch: int) -> bool:
    """Whether dim 0 is the batch."""
    return tensor.dim() > 0 and tensor.shape[0] == batch


def batch_of(inputs: Inputs) -> int:
    """The size of dim 0 of the first tensor that has one; 0 if there is none."""
    return next((tensor.shape[0] for tensor in tensors_of(inputs) if tensor.dim()), 0)


def with_batch(inputs: Inputs, batch: int) -> Inputs:
    """The inputs repeated or cut to another batch size."""
    before = batch_of(inputs)

    def resize(tensor: Tensor) -> Tensor:
        if not is_batched(tensor, before):
            return tensor
        return tensor[torch.arange(batch, device=tensor.device) % before]

    return pytree.tree_map_only(Tensor, resize, inputs)


def random_like(inputs: Inputs, seed: int) -> Inputs:
    """Other inputs of the same shapes and ranges: uniform numbers, and whole numbers out of those that are there."""
    generator = torch.Generator().manual_seed(seed)

    def draw(tensor: Tensor) -> Tensor:
        if not tensor.numel():
            return tensor
        if not tensor.is_floating_point():
            index = torch.randint(tensor.numel(), tensor.shape, generator=generator)
            return tensor.flatten()[index.to(tensor.device)]
        low, high = tensor.min().float().item(), tensor.max().float().item()
        if low == high:
            return torch.randn(tensor.shape, generator=generator).to(tensor)
        return (low + (high - low) * torch.rand(tensor.shape, generator=generator)).to(tensor)

    return pytree.tree_map_only(Tensor, draw, inputs)


def check_parity(model: nn.Module, run: Run, inputs: Inputs, dynamic: bool, name: str) -> None:
    """Compare an exported model with the model in PyTorch, on the example inputs and on random ones.

    Args:
        model: In eval mode.
        run: The exported model.
        inputs: Example inputs.
        dynamic: Whether any batch size must do; `BATCHES` are tried.
        name: Of the exported model, for the message.

    Raises:
        ExportError: They differ, with the figures.
    """
    sizes = BATCHES if dynamic else (batch_of(inputs),) * len(BATCHES)
    for trial in (inputs, *(random_like(with_batch(inputs, size), seed) for seed, size in enumerate(sizes))):
        shapes = ", ".join(str(tuple(t.shape)) for t in tensors_of(trial))
        try:
            with torch.no_grad():
                # A model may write into its inputs, and must not thereby change what is compared.
                ours = tensors_of(call(model, _cloned(trial)))
            theirs = run(_cloned(trial))
        except Exception as error:
            raise ExportError(
                f"{name}: must run on inputs of shape {shapes}, got {type(error).__name__}: {first_line(error)}; "
                "export with inputs that are typical of use."
            ) from error
        if has_gates(model) and ours[-1].shape == theirs[-1].shape and not torch.equal(ours[-1], theirs[-1]):
            # A gate at its threshold fell the other way by rounding: what follows is another network's output.
            ours, theirs = ours[-1:], theirs[-1:]
        if fault := _difference(ours, theirs):
            raise ExportError(
                f"{name}: must compute what {type(model).__name__} computes in PyTorch, got {fault} on inputs of shape "
                f"{shapes}; no file was written: look for randomness, or for code that depends on the inputs' values."
            )


def _cloned(inputs: Inputs) -> Any:
    return pytree.tree_map_only(Tensor, lambda tensor: tensor.detach().clone(), inputs)


def _difference(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> str:
    """What differs, in a few words; "" if nothing does."""
    if len(ours) != len(theirs):
        return f"{len(theirs)} outputs instead of {len(ours)}"
    for number, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        a, b = a.detach().cpu(), b.detach().cpu()
        if a.shape != b.shape or a.dtype != b.dtype:
            return f"{tuple(b.shape)} {b.dtype} instead of {tuple(a.shape)} {a.dtype} in output {number}"
        if fault := _numbers_differ(a, b):
            return f"{fault} in output {number}"
    return ""


def _numbers_differ(a: Tensor, b: Tensor) -> str:
    if not a.numel():
        return ""
    if not a.is_floating_point():
        share = (a != b).double().mean().item()
        return f"{share:.2%} other values" if share > FLIPS else ""
    tolerance = COARSE_TOLERANCE if a.element_size() < 4 else TOLERANCE
    finite = a.isfinite()
    if not torch.equal(finite, b.isfinite()):
        return "infinite or undefined values in other places"
    a, b = a[finite].double(), b[finite].double()
    if not a.numel():
        return ""
    allowed, difference = tolerance * a.abs().max().item(), (a - b).abs().max().item()
    return f"a difference of {difference:.3g} where {allowed:.3g} is allowed" if difference > allowed else ""
