"""The convolution as an operator of PyTorch: `torch.compile` keeps it whole, autograd goes through it."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from squeeze.kernels.choice import Cache
from squeeze.kernels.operands import ClusteredOperands

PREPARED = Cache()


def call(x: Tensor, operands: ClusteredOperands) -> Tensor:
    """Run the operator on operands."""
    of = operands
    numbers = [*of.stride, *of.padding, *of.dilation, *of.clusters]
    found: Tensor = clustered_conv2d(x, of.centroids, of.index, of.reads, of.bias, numbers)
    return found


@torch.library.custom_op("squeeze::clustered_conv2d", mutates_args=(), device_types="cpu")
def clustered_conv2d(
    x: Tensor, centroids: Tensor, index: Tensor, reads: Tensor | None, bias: Tensor | None, numbers: Sequence[int]
) -> Tensor:
    """See `squeeze.kernels.clustered_conv2d`; `numbers` are stride, padding, dilation (two each), and the clusters."""
    return PREPARED.get(_operands(centroids, index, reads, bias, numbers)).convolve(x)


@clustered_conv2d.register_fake
def _(
    x: Tensor, centroids: Tensor, index: Tensor, reads: Tensor | None, bias: Tensor | None, numbers: Sequence[int]
) -> Tensor:
    operands = _operands(centroids, index, reads, bias, numbers)
    sides = zip(x.shape[2:], centroids.shape[1:], operands.stride, operands.padding, operands.dilation, strict=True)
    size = [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in sides]
    return x.new_empty(x.shape[0], index.shape[0] * index.shape[2], *size)


def _remember(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.numbers = inputs
    ctx.save_for_backward(*tensors)


def _gradients(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    """Those of the dense convolution with expanded kernels: each centroid gets the sum over what it stands for."""
    wanted = ctx.needs_input_grad[:5]
    with torch.enable_grad():
        tensors: list[Any] = [
            t if t is None else t.detach().requires_grad_(want)
            for t, want in zip(ctx.saved_tensors, wanted, strict=True)
        ]
        x, centroids, index, reads, bias = tensors
        y = _operands(centroids, index, reads, bias, ctx.numbers).convolve(x)
        inputs = [t for t, want in zip(tensors, wanted, strict=True) if want]
        found = iter(torch.autograd.grad(y, inputs, gradient))
    return (*(next(found) if want else None for want in wanted), None)


clustered_conv2d.register_autograd(_gradients, setup_context=_remember)


def _operands(
    centroids: Tensor, index: Tensor, reads: Tensor | None, bias: Tensor | None, numbers: Sequence[int]
) -> ClusteredOperands:
    stride, padding, dilation = ((numbers[i], numbers[i + 1]) for i in (0, 2, 4))
    return ClusteredOperands(centroids, index, reads, tuple(numbers[6:]), bias, stride, padding, dilation)
