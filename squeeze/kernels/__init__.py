"""Native code behind `squeeze.nn`, and the exact portable path that is taken without it."""

import torch
from torch import Tensor
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from squeeze.kernels.native import code
from squeeze.kernels.operands import ClusteredOperands as ClusteredOperands
from squeeze.kernels.packing import fits


def clustered_conv2d(x: Tensor, operands: ClusteredOperands) -> Tensor | None:
    """Y_n = Σ_c Z_{I(n,c), c}, with Z_{k,c} = X_c * B_{k,c} computed once a centroid.

    Called in eval mode without gradients, for each forward pass. Whether a native kernel runs is decided here: by the
    processor, by type, device and shape, and by what was measured to be faster in the first call of a shape.

    Args:
        x: (batch, C, H, W).
        operands: The convolution.

    Returns:
        (batch, N, H', W'), or None where no native kernel applies; then the caller convolves with expanded kernels.
    """
    if torch.compiler.is_exporting() or x.dtype is not torch.float32 or x.device.type != "cpu" or fits(operands):
        return None
    if is_in_torch_dispatch_mode():  # somebody counts or traces what runs: measuring would be counted, too
        return None
    from squeeze.kernels import operator

    if torch.compiler.is_compiling():
        return operator.call(x, operands)
    if code() is None:
        return None
    return operator.PREPARED.get(operands).convolve(x)  # at a third of what a call of an operator costs


def way(x: Tensor, operands: ClusteredOperands) -> str:
    """How such an input is convolved in eval mode without gradients, for people."""
    reason = why_not(operands)
    if reason or (x.dtype, x.device.type) != (torch.float32, "cpu"):
        return f"dense: {reason or 'the input is not float32 on the CPU'}"
    from squeeze.kernels import operator

    prepared = operator.PREPARED.get(operands)
    if not x.numel() or prepared.native is None:
        return "dense: the input is empty, or was made in inference mode"
    chosen = prepared.choice(x)
    return f"native: {prepared.native.name}" if chosen else "dense: measured to be faster"


def why_not(operands: ClusteredOperands) -> str:
    """Why no native kernel computes this convolution; "" if one can."""
    if code() is None:
        return "squeeze was installed without a C++ compiler, so there is no native kernel"
    return fits(operands)
