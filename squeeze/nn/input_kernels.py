"""The kernels that read one input channel."""

import torch
from torch import Tensor


def kernels_of(weight: Tensor, groups: int = 1) -> Tensor:
    """(C, N / groups, numbers in a kernel) the kernels that read each input feature map."""
    outputs, inputs = weight.shape[0], weight.shape[1]
    grouped = weight.detach().reshape(groups, outputs // groups, inputs, -1)
    return grouped.transpose(1, 2).reshape(groups * inputs, outputs // groups, -1)


def distinct_kernels(kernels: Tensor) -> Tensor:
    """(C,) how many different kernels each of C channels has, of (C, N, numbers)."""
    _, size, numbers = kernels.shape
    # Where one number of each kernel is different, all kernels are: as good as always, and quickly seen.
    found = (kernels[..., 0].sort(dim=1).values.diff(dim=1) != 0).sum(1) + 1
    unsure = (found < size).nonzero()[:, 0]
    if numbers == 1 or not len(unsure):
        return found
    owner = torch.arange(len(unsure), device=kernels.device, dtype=torch.float64).repeat_interleave(size)
    rows = torch.cat((owner.unsqueeze(1), kernels[unsure].reshape(-1, numbers).double()), 1)
    found[unsure] = torch.unique(rows, dim=0)[:, 0].long().bincount(minlength=len(unsure))
    return found
