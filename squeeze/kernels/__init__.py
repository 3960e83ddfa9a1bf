"""Native code behind `squeeze.nn`, and the exact portable path that is taken without it."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from squeeze.kernels.choice import Kept as Kept
from squeeze.kernels.native import code
from squeeze.kernels.operands import ClusteredOperands as ClusteredOperands
from squeeze.kernels.packing import fits

MakesOperands = Callable[[], ClusteredOperands]


def clustered_conv2d(x: Tensor, operands: MakesOperands, kept: Kept, *tensors: Tensor | None) -> Tensor | None:
    """Y_n = Σ_c Z_{I(n,c), c}, with Z_{k,c} = X_c * B_{k,c} computed once a centroid.

    Called in eval mode without gradients, for each forward pass. Whether a native kernel runs is decided here: by the
    processor, by type, device and shape, and by what was measured to be faster in the first call of a shape.

    Args:
        x: (batch, C, H, W).
        operands: Makes the convolution, where it is needed.
        kept: What is kept of it from call to call.
        tensors: Those of the convolution that may change.

    Returns:
        (batch, N, H', W'), or None where nothing can be kept; then the caller convolves with expanded kernels.
    """
    # Where somebody counts or traces what runs, measuring would be counted, too.
    if torch.compiler.is_exporting() or is_in_torch_dispatch_mode():
        return None
    if torch.compiler.is_compiling():
        made = operands()
        if x.dtype is not torch.float32 or x.device.type != "cpu" or fits(made):
            return None
        from squeeze.kernels import operator

        return operator.call(x, made)
    prepared = kept.get(operands, tensors)  # at a third of what a call of an operator costs
    return None if prepared is None else prepared.convolve(x)


def way(x: Tensor, operands: MakesOperands, kept: Kept, *tensors: Tensor | None) -> str:
    """How such an input is convolved in eval mode without gradients, for people; measures if that was not yet done."""
    prepared = kept.get(operands, tensors)
    if prepared is None:
        return "dense: the weights were made in inference mode"
    reason = why_not(prepared.operands)
    if reason or (x.dtype, x.device.type) != (torch.float32, "cpu"):
        return f"dense: {reason or 'the input is not float32 on the CPU'}"
    if not x.numel():
        return "dense: the input is empty"
    return f"native: {prepared.code_name}" if prepared.choice(x) else "dense: measured to be faster"


def why_not(operands: ClusteredOperands) -> str:
    """Why no native kernel computes this convolution; "" if one can."""
    if code() is None:
        return "squeeze was installed without a C++ compiler, or its kernel is another version's: install it again"
    return fits(operands)
