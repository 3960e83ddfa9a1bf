"""Batch norm over the batch of all processes, of which each sees a part."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from squeeze import processes
from squeeze.task import widened

_ARGUMENTS = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")
_DEFAULTS: Mapping[str, Any] = {"weight": None, "bias": None, "training": False, "momentum": 0.1, "eps": 1e-5}


class SharedStatistics(TorchFunctionMode):
    """While entered, every batch norm that takes its statistics from the batch takes them from all processes' parts.

    Works for every module and function that ends in `torch.nn.functional.batch_norm`, on any device, and is
    differentiable. All processes must run the same batch norms in the same order.

    Args:
        present: False where this process has no part, and runs on a stand-in that must not count.
    """

    def __init__(self, present: bool = True) -> None:
        super().__init__()
        self._present = present

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is functional.batch_norm:
            given = {**_DEFAULTS, **dict(zip(_ARGUMENTS, args, strict=False)), **(kwargs or {})}
            if given["training"]:
                return _normalised(given, self._present)
        return func(*args, **(kwargs or {}))


class _Sum(torch.autograd.Function):
    """The sum over processes; so its gradient is one, too."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        return processes.add_up(tensor.clone())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _Sum.apply(gradient.contiguous())


def _normalised(given: Mapping[str, Any], present: bool) -> Tensor:
    """`torch.nn.functional.batch_norm` in training, with sums over processes in place of sums."""
    x: Tensor = given["input"]
    wide = widened(x)
    dims, shape = [0, *range(2, x.dim())], [1, -1] + [1] * (x.dim() - 2)
    counts = 1.0 if present else 0.0
    local = wide.new_tensor([counts * (x.numel() // max(1, x.shape[1]))])
    sums = _Sum.apply(torch.cat((counts * wide.sum(dims), local)))
    size = float(sums[-1].detach())
    if size <= 1:
        raise ValueError(f"Expected more than 1 value per channel when training, got input size {tuple(x.shape)}")
    mean = sums[:-1] / size
    centred = wide - mean.view(shape)
    variance = _Sum.apply(counts * centred.square().sum(dims)) / size
    with torch.no_grad():
        for name, now in (("running_mean", mean), ("running_var", variance * (size / (size - 1)))):
            if given[name] is not None:
                given[name].lerp_(now.to(given[name].dtype), given["momentum"])
    scale = (variance + given["eps"]).rsqrt()
    if given["weight"] is not None:
        scale = scale * given["weight"]
    out = centred * scale.view(shape)
    if given["bias"] is not None:
        out = out + given["bias"].view(shape)
    return out.to(x.dtype)
