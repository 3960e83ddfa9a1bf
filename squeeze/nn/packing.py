"""Whole numbers in as few bits as they need: which centroid stands for each kernel.

Of every input feature map with q kernels left, each of its N numbers takes ⌈log2 q⌉ bits, the highest bit first, map
after map without gaps. Maps that keep none or all of their kernels take none. The last byte ends in zero bits.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

LARGEST = 2**15 - 1
"""Kernels of one map: what an int16 holds, and what three bytes hold wherever a number begins."""

_WINDOW = 24


def code_bytes(counts: Sequence[int], size: int) -> int:
    """How long the packed numbers are, in bytes."""
    return (sum((q - 1).bit_length() * size for q in counts if 0 < q < size) + 7) // 8


def pack(index: Tensor, counts: Tensor) -> Tensor:
    """(bytes,) uint8 from the numbers (C, N), each below its map's count (C,)."""
    bits = widths(counts.to(torch.int64), index.shape[1]).cpu()
    places = torch.arange(int(bits.max()) if len(bits) else 0, dtype=torch.int16).flip(0)
    used = (places < bits.view(-1, 1, 1)).expand(-1, index.shape[1], -1)
    stream = (index.to(torch.int16).cpu().unsqueeze(-1) >> places & 1).to(torch.uint8)[used]
    return torch.from_numpy(np.packbits(stream.numpy())).to(index.device)


def unpack(codes: Tensor, counts: Tensor, size: int) -> Tensor:
    """(C, size) int64, the inverse of `pack`; maps that keep all of their kernels count up from 0.

    Nothing is read out of bounds, but a number may be too large for its map: see `fault`.
    """
    places = torch.arange(size, device=codes.device)
    return decode(padded(codes), widths(counts, size), (counts == size).to(torch.int64), places)


def padded(codes: Tensor) -> Tensor:
    """With as many zeros behind as `decode` may look beyond the end."""
    return functional.pad(codes, (0, 3))


def decode(stream: Tensor, bits: Tensor, whole: Tensor, places: Tensor) -> Tensor:
    """(C, N) int64 from a `padded` stream; in few operators, all of which ONNX has.

    Args:
        stream: (bytes + 3,).
        bits: (C,) of each number of a map.
        whole: (C,) 1 where a map keeps all of its kernels, else 0.
        places: (N,) 0, 1, 2 …
    """
    wide = bits.to(torch.int64).unsqueeze(1).expand(-1, len(places))
    flat = wide.reshape(-1)
    starts = flat.cumsum(0) - flat
    byte = _divided(starts, 8)
    content = stream.to(torch.int64)
    window = content.index_select(0, byte) * 256 + content.index_select(0, byte + 1)
    window = window * 256 + content.index_select(0, byte + 2)
    powers = torch.tensor([2**i for i in range(_WINDOW + 1)], device=stream.device)
    over = powers.index_select(0, _WINDOW - starts % 8 - flat)
    value = _divided(window, over) % powers.index_select(0, flat)
    return value.view(wide.shape) + whole.to(torch.int64).unsqueeze(1) * places.to(torch.int64)


def _divided(number: Tensor, by: Tensor | int) -> Tensor:
    """Rounded down; by powers of two this is exact, and takes fewer operators of ONNX than whole numbers do."""
    return torch.floor(number.double() / by).to(torch.int64)


def fault(codes: Tensor, index: Tensor, counts: Tensor) -> str:
    """What is wrong with packed numbers, in a few words; "" if nothing is."""
    wrong = (index >= counts.to(torch.int64).clamp(min=1).unsqueeze(1)).any(1)
    if bool(wrong.any()):
        number = int(wrong.nonzero()[0])
        return f"a number as large as {int(index[number].max())} for input channel {number} with {int(counts[number])}"
    used = int(widths(counts.to(torch.int64), index.shape[1]).sum()) * index.shape[1]
    left = -used % 8
    return "bits behind the end" if left and int(codes[-1]) & (1 << left) - 1 else ""


def widths(counts: Tensor, size: int) -> Tensor:
    """(C,) int64, ⌈log2 q⌉ where numbers are stored, else 0."""
    powers = torch.tensor([2**i for i in range(size.bit_length())], device=counts.device)
    bits = (counts.unsqueeze(1) > powers).to(torch.int64).sum(1)
    return bits * (counts < size)
