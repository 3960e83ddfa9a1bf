"""What a native kernel is given, and what it must compute."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


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

    def convolve(self, x: Tensor, weight: Tensor | None = None) -> Tensor:
        """The convolution with expanded kernels: exact, differentiable, and the reference for everything faster.

        Args:
            x: (batch, C, H, W).
            weight: `expanded`, if it is at hand.
        """
        if self.reads is not None:
            x = x.index_select(1, self.reads)
        weight = self.expanded() if weight is None else weight
        groups = self.index.shape[0]
        return functional.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, groups)

    def expanded(self) -> Tensor:
        """(N, W, K, K) all kernels that are read."""
        return expanded(self.centroids, self.index, spare=True)

    def whole(self) -> Tensor:
        """(N, C / groups, K, K) the kernels of all channels; zeros where one is not read."""
        narrow = self.expanded()
        if self.reads is None:
            return narrow
        groups, _, size = self.index.shape
        per_group, taps = len(self.clusters) // groups, narrow.shape[2:]
        weight = narrow.new_zeros(groups, size, per_group, *taps)
        places = self.reads.view(groups, -1).long() % per_group
        for group, maps in enumerate(places):
            weight[group, :, maps] = narrow.view(groups, size, -1, *taps)[group]
        return weight.flatten(0, 1)


def expanded(centroids: Tensor, index: Tensor, spare: bool) -> Tensor:
    """All kernels, (N, W, K, K).

    Args:
        centroids: (Q, K, K).
        index: (groups, W, N / groups) their rows.
        spare: Some are Q, a kernel of zeros.
    """
    groups, reads, size = index.shape
    if spare:
        centroids = torch.cat((centroids, centroids.new_zeros(1, *centroids.shape[1:])))
    kernels = centroids.index_select(0, index.reshape(-1)).view(groups, reads, size, *centroids.shape[1:])
    return kernels.transpose(1, 2).reshape(groups * size, reads, *centroids.shape[1:])
