"""From a clustered convolution to the arrays that the kernel reads."""

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from squeeze.kernels.native import Call, Code, Layer
from squeeze.kernels.operands import ClusteredOperands

MOST = 4095
"""Clusters of a channel: rows of Z are numbered in 16 bits, in units of 8 bytes."""
ENOUGH = 5
"""Channels that one chunk should hold at least."""
STAGE = 512 * 1024
"""Bytes of centroids, offsets and weights that are gone through for every tile of a band: they should stay in the
second-level cache."""


@dataclass(frozen=True, eq=False)
class Group:
    """One group of the convolution: the structure that the kernel gets, and the arrays it points into."""

    layer: Layer
    arrays: tuple[np.ndarray, ...]


@dataclass(frozen=True, eq=False)
class Packed:
    """A convolution, ready for one code.

    Attributes:
        code: Which.
        groups: One after the other in the output's channels.
        outputs: Channels of the output.
        kernel: K.
        stride: In both directions.
        padding: On all sides.
        known: For each shape of input that of the output, and what the kernel is told.
    """

    code: Code
    groups: tuple[Group, ...]
    outputs: int
    kernel: int
    stride: int
    padding: int
    known: dict[torch.Size, tuple[tuple[int, ...], Call]] = field(default_factory=dict)

    def run(self, x: Tensor, threads: int) -> Tensor:
        """(batch, C, H, W) float32 on the CPU to (batch, outputs, H', W')."""
        x = x.contiguous()
        found = self.known.get(x.shape)
        if found is None:
            found = self.known[x.shape] = self._call(x.shape)
        shape, call = found
        call, y = Call.from_buffer_copy(call), x.new_empty(shape)
        call.input, to = x.data_ptr(), y.data_ptr()
        for group in self.groups:
            call.output = to
            self.code.run(group.layer, call, threads)
            to += 4 * group.layer.outputs * shape[2] * shape[3]
        return y

    def _call(self, shape: torch.Size) -> tuple[tuple[int, ...], Call]:
        """The shape of the output, and the call without its tensors."""
        batch, channels, height, width = shape
        tall, wide = ((size + 2 * self.padding - self.kernel) // self.stride + 1 for size in (height, width))
        images = (channels * height * width, self.outputs * tall * wide)
        return (batch, self.outputs, tall, wide), Call(0, 0, batch, height, width, tall, wide, *images)


def fits(operands: ClusteredOperands) -> str:
    """Why the kernel cannot compute this convolution; "" if it can."""
    kernel, stride, padding = operands.centroids.shape[1:], operands.stride, operands.padding
    if operands.centroids.dtype is not torch.float32 or operands.centroids.device.type != "cpu":
        return "its weights are not float32 on the CPU"
    if kernel[0] != kernel[1] or kernel[0] % 2 == 0 or kernel[0] > 15:
        return "its kernels are not square, of an odd size up to 15"
    if stride[0] != stride[1] or stride[0] > 2 or operands.dilation != (1, 1):
        return "its stride is not 1 or 2, or it is dilated"
    if max((q for q in operands.clusters if q < operands.index.shape[2]), default=0) > MOST:
        return f"an input channel has more than {MOST} clusters"
    if padding[0] != padding[1] or not kernel[0] // 2 <= padding[0] < kernel[0]:
        return "its padding leaves out rows at the border"
    return ""


def packed(operands: ClusteredOperands, code: Code) -> Packed:
    """Lay out centroids and offsets for one code; the convolution must fit (`fits`)."""
    groups, width, outputs = operands.index.shape
    reads = np.arange(groups * width) if operands.reads is None else operands.reads.numpy()
    kernel, stride, padding = operands.centroids.shape[-1], operands.stride[0], operands.padding[0]
    made = []
    for g in range(groups):
        layer = Layer(outputs=outputs, kernel=kernel, stride=stride, padding=padding)
        layer.vectors, arrays = _arrays(operands, g, reads[g * width : (g + 1) * width], code)
        for name, array in arrays.items():
            setattr(layer, name, array.ctypes.data)
        layer.clustered, layer.dense = len(arrays["channel"]), len(arrays["dense_channel"])
        layer.chunks, layer.stages = len(arrays["chunk"]) - 1, len(arrays["stage"])
        counted = np.append(arrays["count"].cumsum(), 0)  # the last is read for a chunk that begins at 0
        layer.rows = int(np.diff(counted[arrays["chunk"] - 1]).max(initial=0))
        made.append(Group(layer, tuple(arrays.values())))
    return Packed(code, tuple(made), groups * outputs, kernel, stride, padding)


_Arrays = tuple[int, dict[str, np.ndarray]]


def _arrays(operands: ClusteredOperands, group: int, channels: np.ndarray, code: Code) -> _Arrays:
    """The vectors of a tile, and what `Layer` points into, by the names of its fields."""
    table, index = operands.centroids.detach().flatten(1).numpy(), operands.index[group].numpy()
    clusters = np.array(operands.clusters, dtype=np.int64)
    begins, counts = (clusters.cumsum() - clusters)[channels], clusters[channels]
    outputs, taps = index.shape[1], table.shape[1]
    clustered, dense = np.flatnonzero((counts > 0) & (counts < outputs)), np.flatnonzero(counts == outputs)
    # Channels with equally many centroids lie side by side: the kernel takes them in one go.
    clustered = clustered[np.argsort(-counts[clustered], kind="stable")]
    sizes, begin = counts[clustered], begins[clustered]
    vectors, rows = _tile(sizes, outputs, code)
    chunk, above = _chunks(sizes, rows)
    offsets = (index[clustered] - begin[:, None] + above[:, None]) * (vectors * code.vector_bytes // 8)
    arrays = {
        "channel": channels[clustered].astype(np.int32),
        "count": sizes.astype(np.int32),
        "start": (sizes.cumsum() - sizes) * taps,
        "centroids": _joined([table[b : b + q].T for b, q in zip(begin, sizes, strict=True)]),
        # The kernel reads four at a time, so beyond the end.
        "offsets": np.concatenate((offsets.ravel(), np.zeros(4, dtype=np.int64))).astype(np.uint16),
        "chunk": chunk,
        "stage": _stages(chunk, (taps * 4 * sizes + 2 * outputs).cumsum(), taps * 4 * outputs, len(dense)),
        "dense_channel": channels[dense].astype(np.int32),
        "dense_weight": _joined([table[index[c]].T for c in dense]),
    }
    if operands.bias is not None:
        bias = operands.bias.detach().numpy()[group * outputs : (group + 1) * outputs]
        arrays["bias"] = np.ascontiguousarray(bias, dtype=np.float32)
    return vectors, arrays


def _tile(counts: np.ndarray, outputs: int, code: Code) -> tuple[int, int]:
    """How many vectors a tile has, and how many rows of Z a chunk has: they fill most of the first-level cache.

    Two vectors halve the offsets that are read for each, unless so few channels fit into the cache beside the sums of
    all outputs that these are taken up and put down again for nearly every one.
    """
    vectors = 2
    beside = max(code.cache_bytes - outputs * 2 * code.vector_bytes, code.cache_bytes // 2)
    if beside < ENOUGH * counts.sum() / max(len(counts), 1) * 2 * code.vector_bytes:
        vectors = 1
    return vectors, 4 * code.cache_bytes // 5 // (vectors * code.vector_bytes)


def _chunks(sizes: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Where chunks begin (and the last ends), and how many rows of Z lie above each channel's in its chunk."""
    begins, above, rows = [0], [], 0
    for number, size in enumerate(sizes.tolist()):
        if rows and rows + size > most:
            begins.append(number)
            rows = 0
        above.append(rows)
        rows += size
    ends = [*begins, len(sizes)] if len(sizes) else [0]
    return np.array(ends, dtype=np.int32), np.array(above, dtype=np.int64)


def _stages(chunk: np.ndarray, bytes_before: np.ndarray, bytes_of_dense: int, dense: int) -> np.ndarray:
    """(stages, 4) Runs of chunks, then of dense channels, that each read about `STAGE` bytes, or one chunk or channel.

    Args:
        chunk: Where chunks begin and end.
        bytes_before: Bytes of the clustered channels up to and with each.
        bytes_of_dense: Of a dense channel.
        dense: How many there are.
    """
    ends = bytes_before[chunk[1:] - 1] if len(chunk) > 1 else bytes_before[:0]
    stages, begin, read = list[tuple[int, int, int, int]](), 0, 0
    for number, end in enumerate(ends.tolist()):
        if number > begin and end - read > STAGE:
            stages.append((begin, number, 0, 0))
            begin, read = number, int(ends[number - 1])
    at_once, chunks = max(STAGE // bytes_of_dense, 1), len(ends)
    if chunks:
        stages.append((begin, chunks, 0, 0))
    stages += [(chunks, chunks, first, min(first + at_once, dense)) for first in range(0, dense, at_once)]
    return np.array(stages or [(0, 0, 0, 0)], dtype=np.int32)


def _joined(arrays: list[np.ndarray]) -> np.ndarray:
    flat = [np.zeros(0, dtype=np.float32), *(array.ravel() for array in arrays)]
    return np.concatenate(flat).astype(np.float32, copy=False)
