"""A convolution in which the kernels that read one input channel are few, and shared by the output channels."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from squeeze.clustering import kmeans
from squeeze.errors import InputError
from squeeze.kernels import ClusteredOperands, Kept, clustered_conv2d, way
from squeeze.kernels.operands import expanded
from squeeze.nn.duties import Macs
from squeeze.nn.input_kernels import distinct_kernels, kernels_of
from squeeze.nn.packing import LARGEST, code_bytes, decode, fault, pack, padded, unpack, widths


class ClusteredConv2d(nn.Module):
    """A 2-D convolution with q_c kernels for input channel c: 0 of a channel that is not read, all of a dense one.

    Computes what `dense_weight` computes as an ordinary convolution, and trains the centroids: each gets the sum of
    the gradients of the kernels that it stands for.

    Args:
        like: The convolution it stands for; its first q_c kernels are the centroids to begin with, in turn.
            `from_conv` clusters.
        clusters: One whole number for each input channel, from 0 to the kernels that read it (out_channels / groups).

    Attributes:
        centroids: (Q, K, K) parameter: all kernels that are left, those of the first input channel first.
        codes: (bytes,) uint8, which centroid stands for each kernel, packed as in `squeeze.nn.packing`.
        bias: (N,) or None.
        clusters: As given.

    Raises:
        InputError: The convolution cannot be clustered, or the counts do not fit it.
    """

    bias: Tensor | None
    codes: Tensor
    counts: Tensor
    index: Tensor
    reads: Tensor

    def __init__(self, like: nn.Conv2d, clusters: Sequence[int]) -> None:
        super().__init__()
        weight = _weight_of(like)
        groups, self.size = like.groups, weight.shape[0] // like.groups
        self.clusters = _checked(clusters, weight.shape[1] * groups, self.size)
        self.in_channels, self.out_channels, self.groups = weight.shape[1] * groups, weight.shape[0], groups
        self.kernel_size, self.stride, self.dilation = tuple(weight.shape[2:]), like.stride, like.dilation
        self.padding, self.padding_mode = like.padding, like.padding_mode
        self.centroids = nn.Parameter(
            weight.new_empty(sum(self.clusters), *self.kernel_size), requires_grad=weight.requires_grad
        )
        self.bias = like.bias
        self._kept = Kept()
        counts = torch.tensor(self.clusters, dtype=torch.int32, device=weight.device)
        self.register_buffer("counts", counts, persistent=False)
        self.register_buffer("codes", weight.new_empty(code_bytes(self.clusters, self.size), dtype=torch.uint8))
        reads, self._spare = _reads(self.clusters, groups)
        self.register_buffer("reads", torch.tensor(reads, dtype=torch.int32, device=weight.device), persistent=False)
        self._reads_all = reads == list(range(self.in_channels))
        turn = torch.arange(self.size, device=weight.device).expand(self.in_channels, -1)
        index = turn % counts.long().clamp(min=1).unsqueeze(1)
        self._assign(_first(kernels_of(weight, groups), self.clusters).view_as(self.centroids), index)

    @classmethod
    def from_conv(cls, conv: nn.Conv2d, clusters: Sequence[int], seed: int = 0) -> "ClusteredConv2d":
        """Cluster the kernels of every input channel by k-means; the convolution is left as it is.

        Args:
            conv: Any 2-D convolution, in any precision.
            clusters: How many kernels each input channel keeps; 0 drops it, all keep it dense.
            seed: Of k-means.

        Raises:
            InputError: Weights are not finite real numbers, the counts do not fit, or are more than a channel has
                distinct kernels.
        """
        made = cls(conv, clusters)
        made.bias = None if conv.bias is None else nn.Parameter(conv.bias.detach().clone(), conv.bias.requires_grad)
        flat = kernels_of(conv.weight, conv.groups)
        _require_distinct(flat, made.clusters)
        flat = flat if flat.dtype is torch.float64 else flat.float()
        by_count: dict[int, list[int]] = defaultdict(list)
        for channel, count in enumerate(made.clusters):
            by_count[count].append(channel)
        index = torch.arange(made.size, device=flat.device).repeat(made.in_channels, 1)
        index[[channel for channel, count in enumerate(made.clusters) if count == 0]] = 0
        centroids: dict[int, Tensor] = {channel: flat[channel] for channel in by_count.get(made.size, ())}
        for count, channels in by_count.items():
            if 0 < count < made.size:
                found = kmeans(flat[channels], count, seed=seed)
                index[channels] = found.index
                centroids.update(zip(channels, found.centroids, strict=True))
        rows = [centroids[channel] for channel in range(made.in_channels) if channel in centroids]
        made._assign(torch.cat([*rows, flat[0, :0]]).view_as(made.centroids), index)
        return made.train(conv.training)

    def train(self, mode: bool = True) -> Self:
        """What is kept of the weights is made anew: they may have changed through `.data`, which nothing tells of."""
        self._kept.forget()
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, in_channels, H, W) to (batch, out_channels, H', W'); without the batch, too."""
        x, padding = self._padded_by_mode(x)
        if not (self.training or torch.is_grad_enabled() or isinstance(padding, str) or x.dim() != 4):
            found = clustered_conv2d(x, partial(self.operands, padding), self._kept, *self._changing())
            if found is not None:
                return found
        if not self._reads_all:
            x = x.index_select(-3, self.reads)
        weight = expanded(self.centroids, self.index, self._spare)
        return functional.conv2d(x, weight, self.bias, self.stride, padding, self.dilation, self.groups)

    @torch.no_grad()
    def way(self, x: Tensor) -> str:
        """How an input like this one is convolved in eval mode: natively or densely, and why."""
        x, padding = self._padded_by_mode(x)
        if isinstance(padding, str) or x.dim() != 4:
            return "dense: the padding is given by a word, or there is no batch"
        return way(x, partial(self.operands, padding), self._kept, *self._changing())

    def _changing(self) -> tuple[Tensor | None, ...]:
        own = self._parameters  # past nn.Module.__getattr__, which takes as long as all else that is done in a call
        return own["centroids"], self._buffers["index"], own.get("bias")

    def operands(self, padding: tuple[int, ...]) -> ClusteredOperands:
        """What a native kernel takes."""
        return ClusteredOperands(
            self.centroids,
            self.index,
            None if self._reads_all else self.reads,
            self.clusters,
            self.bias,
            self.stride,
            padding,
            self.dilation,
        )

    @torch.no_grad()
    def dense_weight(self) -> Tensor:
        """(N, C / groups, K, K) the weight of an ordinary convolution that computes the same."""
        return self.operands((0, 0)).whole()

    def macs(self, output: torch.Size) -> Macs:
        """See `squeeze.nn.duties`: the paper counts a multiplication for each centroid, not the sums of its results."""
        pixels = output.numel() // self.out_channels
        taps = self.kernel_size[0] * self.kernel_size[1]
        dense = self.size * taps * len(self.reads)
        paper = taps * sum(self.clusters)
        return Macs(paper * pixels, dense * pixels, self.size * sum(0 < q for q in self.clusters) * pixels)

    def onnx_form(self) -> nn.Module:
        """The same with the packed numbers as they are: ONNX Runtime unpacks them when it loads the file."""
        return _Packed(self)

    def extra_repr(self) -> str:
        """What the convolution is, and how many of its kernels are left."""
        kept = f"{sum(self.clusters)} of {self.in_channels * self.size} kernels"
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"padding={self.padding}, dilation={self.dilation}, groups={self.groups}, {kept}"
        )

    def _assign(self, centroids: Tensor, index: Tensor) -> None:
        """Take over centroids (Q, K, K) and which stands for each kernel, (C, N) from 0 in every channel."""
        with torch.no_grad():
            self.centroids.copy_(centroids)
        self.codes = pack(index, self.counts)
        self._look_up(index)

    def _look_up(self, index: Tensor) -> None:
        rows = table_rows(index, self.counts, self._spare)[self.reads.long()]
        self.register_buffer("index", rows.view(self.groups, -1, self.size).to(torch.int32), persistent=False)

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Any], prefix: str, local_metadata: Any, *args: Any, **kwargs: Any
    ) -> None:
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args, **kwargs)
        index = unpack(self.codes, self.counts, self.size)
        if problem := fault(self.codes, index, self.counts):
            args[-1].append(
                f"{prefix}codes: must number the centroids of each channel, got {problem}; take a good copy."
            )
        else:
            self._look_up(index)

    def _padded_by_mode(self, x: Tensor) -> tuple[Tensor, Any]:
        """The input, padded if it is by other than zeros, and the padding that is left to do."""
        if self.padding_mode == "zeros":
            return x, (0, 0) if self.padding == "valid" else self.padding
        if isinstance(self.padding, str):
            total = [
                0 if self.padding == "valid" else d * (k - 1)
                for d, k in zip(self.dilation, self.kernel_size, strict=True)
            ]
            sides = [(t // 2, t - t // 2) for t in total]
        else:
            sides = [(p, p) for p in self.padding]
        return functional.pad(x, (*sides[1], *sides[0]), mode=self.padding_mode), (0, 0)


class _Packed(nn.Module):
    """A `ClusteredConv2d` that unpacks its numbers in every call, from tensors as small as they are on disk."""

    def __init__(self, conv: ClusteredConv2d) -> None:
        super().__init__()
        self.conv = conv
        counts = conv.counts
        small = {
            "stream": padded(conv.codes),
            "bits": widths(counts, conv.size).to(torch.uint8),
            "whole": (counts == conv.size).to(torch.uint8),
            "places": torch.arange(conv.size, dtype=torch.int16, device=counts.device),
            "counts": counts.to(torch.int16),
        }
        for name, tensor in small.items():
            self.register_buffer(name, tensor, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """See `ClusteredConv2d.forward`."""
        conv, small = self.conv, dict(self.named_buffers(recurse=False))
        x, padding = conv._padded_by_mode(x)
        index = decode(small["stream"], small["bits"], small["whole"], small["places"])
        # Channels that are not read get kernels of zeros: picking the others out of the input would cost more than it
        # saves, as ONNX Runtime then convolves in a slower layout.
        spare = conv._spare or not conv._reads_all
        rows = table_rows(index, small["counts"], spare)
        weight = expanded(conv.centroids, rows.view(conv.groups, -1, conv.size), spare)
        return functional.conv2d(x, weight, conv.bias, conv.stride, padding, conv.dilation, conv.groups)


def table_rows(index: Tensor, counts: Tensor, spare: bool) -> Tensor:
    """(C, N) the row of the centroids for each kernel; of a channel without any the `spare` one behind, if there is."""
    wide = counts.to(torch.int64)
    ends = wide.cumsum(0)
    rows = index + (ends - wide).unsqueeze(1)
    return torch.where((wide == 0).unsqueeze(1), ends[-1], rows) if spare else rows


def _weight_of(conv: nn.Module) -> Tensor:
    weight = getattr(conv, "weight", None)
    if not isinstance(conv, nn.Conv2d) or not isinstance(weight, nn.Parameter):
        raise InputError(
            f"ClusteredConv2d: must be made from a Conv2d with a weight of its own, got {type(conv).__name__}; remove "
            "parametrizations first."
        )
    if not weight.is_floating_point() or not bool(weight.isfinite().all()):
        got = "NaN or infinity" if weight.is_floating_point() else str(weight.dtype)
        raise InputError(f"ClusteredConv2d: weight must be of finite real numbers, got {got}; check the weights.")
    return weight


def _checked(clusters: Sequence[int], channels: int, size: int) -> tuple[int, ...]:
    numbers = tuple(int(q) for q in clusters)
    wrong = [q for q in numbers if not 0 <= q <= size]
    if len(numbers) != channels or wrong or size > LARGEST:
        got = f"{wrong[0]}" if wrong else f"{len(numbers)} numbers, {size} kernels"
        raise InputError(
            f"ClusteredConv2d: clusters must be {channels} numbers from 0 to {size} (at most {LARGEST}), got {got}; "
            "give one for each input channel."
        )
    return numbers


def _reads(clusters: Sequence[int], groups: int) -> tuple[list[int], bool]:
    """Channels that are read, equally many in each group, and whether there are some without a kernel among them."""
    per_group = len(clusters) // groups
    alive = [[c for c in range(g * per_group, (g + 1) * per_group) if clusters[c]] for g in range(groups)]
    width = max(1, *(len(maps) for maps in alive))
    for group, maps in enumerate(alive):
        spare = [c for c in range(group * per_group, (group + 1) * per_group) if not clusters[c]]
        maps += spare[: width - len(maps)]
    reads = [c for maps in alive for c in sorted(maps)]
    return reads, any(not clusters[c] for c in reads)


def _first(kernels: Tensor, clusters: Sequence[int]) -> Tensor:
    """(Q, numbers) the first kernels of each channel."""
    counts = torch.tensor(clusters, device=kernels.device)
    return kernels[torch.arange(kernels.shape[1], device=kernels.device) < counts.unsqueeze(1)]


def _require_distinct(kernels: Tensor, clusters: Sequence[int]) -> None:
    for channel, (count, distinct) in enumerate(zip(clusters, distinct_kernels(kernels).tolist(), strict=True)):
        if distinct < count < kernels.shape[1]:
            raise InputError(
                f"ClusteredConv2d: clusters of input channel {channel} must be at most its {distinct} distinct "
                f"kernels, got {count}; ask for fewer, or for all."
            )
