"""What a convolution with fewer filters or channels costs in ONNX Runtime: a rule for the form it is exported in.

There, weights that are known when a file is loaded are laid out for a kernel of their own. Weights that are picked at
run time are multiplied with the unfolded input, and picking them takes time, most of all in small pieces.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from statistics import mean
from typing import Literal

from torch import nn

Way = Literal["all", "some", "transposed"]
"""All filters, multiplied by the code; those that are on; the same as a transposed convolution."""

SHARES = (0.25, 0.5)
"""Of the filters, for which forms are chosen: the mean of both counts."""

# Nanoseconds in ONNX Runtime 1.32, one thread of a Xeon with AVX-512; what counts are their ratios.
_KNOWN, _PICKED = 0.0118, 0.0145
"""A multiply-accumulate with weights that are known, and with such as are picked."""
_UNFOLDED = 0.5
"""A number of the unfolded input."""
_ROW, _FOLDED = 8.0, 0.25
"""A row of what a transposed convolution adds up, and a number in it."""
_PIECE, _NUMBER = 9.0, 0.3
"""A piece of a weight that is picked alone, and a number of one that is picked in one go."""
_PASS = 0.35
"""A number of an output that is read and written again."""
_NODES = 18_000.0
"""What it takes to know which filters are on."""


@dataclass(frozen=True)
class Sizes:
    """Of a convolution.

    Attributes:
        inputs: Channels, all or those that come.
        outputs: Filters, all or those that are on.
        kernel: Positions in a filter.
        height: Of its output.
        width: Of its output.
        unfolds: It reads more positions than one at once, or leaves some out.
    """

    inputs: float
    outputs: float
    kernel: int
    height: int
    width: int
    unfolds: bool

    @staticmethod
    def of(conv: nn.Conv2d, height: int, width: int) -> "Sizes":
        """With an input of this height and width; what borders change is not counted."""
        kernel, (down, right) = conv.kernel_size[0] * conv.kernel_size[1], conv.stride
        size = max(1, height // down), max(1, width // right)
        return Sizes(conv.in_channels, conv.out_channels, kernel, *size, unfolds=kernel * down * right > 1)


@dataclass(frozen=True)
class Form:
    """How a gated convolution is exported.

    Attributes:
        way: Of computing.
        narrow: Its output holds only what is on.
    """

    way: Way
    narrow: bool = False


def form_of(sizes: Sizes, comes_narrow: bool, readers: Iterable[tuple[int, int]] | None, can_transpose: bool) -> Form:
    """In which form a gated convolution and those that read it take the least time.

    Args:
        sizes: With all channels and filters.
        comes_narrow: Its input holds only channels that are on.
        readers: Filters, and positions in one, of those that read its output, if all can do with fewer channels.
        can_transpose: There is a transposed convolution that computes the same.
    """
    forms = [Form("all"), Form("some")] + [Form("transposed")] * can_transpose
    if readers is not None:
        forms += [replace(form, narrow=True) for form in forms[1:]]
    known = [replace(sizes, inputs=sizes.outputs, outputs=n, kernel=k, unfolds=k > 1) for n, k in readers or ()]
    return min(forms, key=lambda form: mean(_nanoseconds(form, sizes, comes_narrow, known, s) for s in SHARES))


def _nanoseconds(form: Form, sizes: Sizes, comes_narrow: bool, readers: list[Sizes], share: float) -> float:
    """With a share of the filters on, here and before; readers included."""
    came = replace(sizes, inputs=sizes.inputs * share) if comes_narrow else sizes
    some, whole = replace(came, outputs=sizes.outputs * share), _PASS * sizes.outputs * sizes.height * sizes.width
    if form.way == "all":
        return (_picked(came, True) if comes_narrow else _known(sizes)) + whole + sum(map(_known, readers))
    own = (_transposed(some) if form.way == "transposed" else _picked(some, comes_narrow)) + _NODES
    if form.narrow:
        narrow = [replace(reader, inputs=reader.inputs * share) for reader in readers]
        return own + share * whole + sum(_picked(reader, True) for reader in narrow)
    return own + 2 * whole + sum(map(_known, readers))


def _known(sizes: Sizes) -> float:
    return _KNOWN * _macs(sizes)


def _picked(sizes: Sizes, by_channel: bool) -> float:
    """With the picking of filters and, if not all come, of their channels."""
    unfolding = _UNFOLDED * sizes.inputs * sizes.kernel * sizes.height * sizes.width if sizes.unfolds else 0.0
    one_by_one = by_channel and sizes.kernel > 1
    picking = sizes.inputs * sizes.outputs * (_PIECE if one_by_one else _NUMBER * sizes.kernel)
    return _PICKED * _macs(sizes) + unfolding + picking


def _transposed(sizes: Sizes) -> float:
    rows = sizes.outputs * sizes.kernel * sizes.height
    return _PICKED * _macs(sizes) + rows * (_ROW + _FOLDED * sizes.width) + _PIECE * sizes.inputs * sizes.outputs


def _macs(sizes: Sizes) -> float:
    return sizes.inputs * sizes.outputs * sizes.kernel * sizes.height * sizes.width
