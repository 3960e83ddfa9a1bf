"""Native code behind `squeeze.nn`. There is none yet: everything takes the exact portable path."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class ClusteredOperands:
    """A convolution whose kernels are clustered, as `squeeze.nn.ClusteredConv2d` holds it.

    Attributes:
        centroids: (Q, K, K) all kernels that are left, those of the first input channel first.
        index: (groups, W, M) int32, which row of `centroids` is the kernel from the w-th channel that its group reads
            to the m-th output of the group; Q itself stands for a kernel of zeros.
        reads: (groups · W,) int32 which input channels are read, or None for all of them in order.
        clusters: How many kernels each input channel keeps; M where it is dense.
        bias: (N,) or None.
        stride: Two numbers, as are the next two.
        padding: Zeros on either side; other paddings are carried out before.
        dilation: Distance between taps.
    """

    centroids: Tensor
    index: Tensor
    reads: Tensor | None
    clusters: tuple[int, ...]
    bias: Tensor | None
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]


def clustered_conv2d(x: Tensor, operands: ClusteredOperands) -> Tensor | None:
    """Y_n = Σ_c Z_{I(n,c), c}, with Z_{k,c} = X_c * B_{k,c} computed once a centroid.

    Called in eval mode without gradients, for each forward pass. Whether a native kernel runs is decided here: by the
    processor, by type, device and shape, and by what was measured to be faster.

    Args:
        x: (batch, C, H, W).
        operands: The convolution.

    Returns:
        (batch, N, H', W'), or None where no native kernel applies; then the caller convolves with expanded kernels.
    """
    return None
