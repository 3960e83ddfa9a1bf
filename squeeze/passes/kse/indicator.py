"""How important each input feature map of a convolution is, from the weights alone."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from squeeze.errors import InputError
from squeeze.nn.input_kernels import kernels_of

NEIGHBOURS = 5
"""Kernels whose distances make up a kernel's density."""

_NUMBERS = 2**24
"""How many distances are held in memory at one time."""


@dataclass(frozen=True, eq=False)
class Importance:
    """Of the C input feature maps of a layer; all are (C,).

    Attributes:
        sparsity: Sum of the absolute values of all kernels that read the map.
        entropy: Of the distances of these kernels to their neighbours, in bits: high where they are spread evenly.
        indicator: √(s / (1 + e)) of both, each scaled to 0..1 within the layer.
    """

    sparsity: Tensor
    entropy: Tensor
    indicator: Tensor


def indicator(weight: Tensor, groups: int = 1, released: bool = False) -> Tensor:
    """(C,) the importance of each input feature map: see `importance`."""
    return importance(weight, groups, released).indicator


def importance(weight: Tensor, groups: int = 1, released: bool = False) -> Importance:
    """Kernel sparsity, kernel entropy and their indicator (Li et al., CVPR 2019), without data.

    What is degenerate is defined: where all maps are equally large (or there is one), s is 1; where all entropies
    are equal, e is 0; kernels that are all the same have entropy 0; with fewer than six kernels all others are
    neighbours, and a single kernel has entropy 0.

    Args:
        weight: (N, C / groups, *kernel) of a convolution, or (N, C) of a linear layer, whose kernels are numbers.
        groups: Of the convolution: each map is read by N / groups kernels; all maps of the layer are scaled together.
        released: As the authors' code does: entropies of another arrangement of the kernels (of output filters
            where N = C), and the indicator scaled to 0..1 once more.

    Raises:
        InputError: The weight is not of real finite numbers, or has no kernel.
    """
    kernels = kernels_of(_checked(weight), groups)
    maps, size, numbers = kernels.shape
    sparsity = kernels.abs().double().sum((1, 2))
    arranged = kernels.reshape(size, maps, numbers).transpose(0, 1) if released else kernels
    entropy = _entropy(_density(arranged))
    scaled = (_scaled(sparsity, 1.0) / (1 + _scaled(entropy, 0.0))).sqrt()
    return Importance(sparsity, entropy, _scaled(scaled, 1.0) if released else scaled)


def _checked(weight: Tensor) -> Tensor:
    if not weight.is_floating_point():
        raise InputError(f"indicator: weight must be of real numbers, got {weight.dtype}; convert it.")
    if weight.dim() < 2 or not weight.numel():
        raise InputError(
            f"indicator: weight must be (N, C, K, K) or (N, C) with a kernel, got shape {tuple(weight.shape)}; leave "
            "such a layer out."
        )
    if not bool(weight.isfinite().all()):
        raise InputError("indicator: weight must be finite, got NaN or infinity; train the model anew.")
    return weight if weight.dtype in (torch.float32, torch.float64) else weight.float()


def _scaled(values: Tensor, constant: float) -> Tensor:
    """To 0..1; `constant` everywhere if all values are the same."""
    low, high = values.min(), values.max()
    # What differs by rounding alone is the same.
    if not bool(high - low > 1e-7 * high.abs()):
        return torch.full_like(values, constant)
    return (values - low) / (high - low)


def _density(kernels: Tensor) -> Tensor:
    """(C, N) the sum of distances from each kernel to its nearest neighbours, in float64."""
    _, size, numbers = kernels.shape
    count = min(NEIGHBOURS, size - 1)
    if count < 1:
        return kernels.new_zeros(kernels.shape[:2], dtype=torch.float64)
    if numbers == 1:
        return _density_on_a_line(kernels[..., 0].double(), count)
    found = []
    for part in kernels.split(max(1, _NUMBERS // size**2)):
        distances = torch.cdist(part, part, compute_mode="donot_use_mm_for_euclid_dist")
        # The nearest of all is the kernel itself, or one that is equal: its distance is 0.
        found.append(distances.topk(count + 1, dim=2, largest=False).values.double().sum(2))
    return torch.cat(found)


def _density_on_a_line(values: Tensor, count: int) -> Tensor:
    """The same for numbers: once they are sorted, the nearest are so many on one side and the rest on the other."""
    ordered, places = values.sort(dim=1)
    below, above = [torch.zeros_like(ordered)], [torch.zeros_like(ordered)]
    for step in range(1, count + 1):
        gaps = ordered[:, step:] - ordered[:, :-step]
        below.append(below[-1] + functional.pad(gaps, (step, 0), value=torch.inf))
        above.append(above[-1] + functional.pad(gaps, (0, step), value=torch.inf))
    sums = [lower + upper for lower, upper in zip(below, reversed(above), strict=True)]
    return torch.empty_like(values).scatter_(1, places, torch.stack(sums).amin(0))


def _entropy(density: Tensor) -> Tensor:
    """(C,) in bits; 0 where all densities are 0."""
    total = density.sum(1, keepdim=True)
    share = density / torch.where(total > 0, total, 1)
    return -torch.special.xlogy(share, share).sum(1) / torch.log(density.new_tensor(2.0))
