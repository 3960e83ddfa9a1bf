"""MACs of single operators, each against arithmetic done by hand or an explicit count."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from squeeze.contractions import macs_of, may_hide_macs


class Counter(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.macs = 0
        self.suspects: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.macs += macs_of(func, args, kwargs, out) or 0
        if may_hide_macs(func):
            self.suspects.append(str(func))
        return out


def count(function: Callable[[], Any]) -> Counter:
    counter = Counter()
    with torch.no_grad(), counter:
        function()
    return counter


def r(*shape: int) -> Tensor:
    return torch.randn(*shape)


CASES = {
    "mm": (lambda: r(3, 5) @ r(5, 7), 3 * 5 * 7),
    "vectors": (lambda: r(5) @ r(5), 5),
    "dot": (lambda: torch.dot(r(5), r(5)), 5),
    "mv": (lambda: r(3, 5) @ r(5), 15),
    "addmv": (lambda: torch.addmv(r(3), r(3, 5), r(5)), 15),
    "linear": (lambda: F.linear(r(2, 4, 5), r(7, 5), r(7)), 2 * 4 * 5 * 7),
    "bmm": (lambda: torch.bmm(r(2, 3, 5), r(2, 5, 7)), 2 * 3 * 5 * 7),
    "broadcast matmul": (lambda: r(6, 1, 3, 5) @ r(2, 5, 7), 6 * 2 * 3 * 5 * 7),
    "baddbmm": (lambda: torch.baddbmm(r(2, 3, 7), r(2, 3, 5), r(2, 5, 7)), 2 * 3 * 5 * 7),
    "addbmm": (lambda: torch.addbmm(r(3, 7), r(2, 3, 5), r(2, 5, 7)), 2 * 3 * 5 * 7),
    "in place": (lambda: r(3, 7).addmm_(r(3, 5), r(5, 7)), 3 * 5 * 7),
    "out=": (lambda: torch.mm(r(3, 5), r(5, 7), out=torch.empty(3, 7)), 3 * 5 * 7),
    "einsum": (lambda: torch.einsum("bhid,bhjd->bhij", r(2, 3, 4, 5), r(2, 3, 6, 5)), 2 * 3 * 4 * 6 * 5),
    "conv1d": (lambda: F.conv1d(r(2, 3, 9), r(8, 3, 3)), 2 * 7 * 8 * 3 * 3),
    "conv3d": (lambda: F.conv3d(r(1, 2, 4, 4, 4), r(3, 2, 2, 2, 2)), 27 * 3 * 2 * 8),
    "depthwise": (lambda: F.conv2d(r(1, 6, 8, 8), r(6, 1, 3, 3), groups=6), 36 * 6 * 9),
    "padding by name": (lambda: F.conv2d(r(1, 3, 8, 8), r(5, 3, 3, 3), padding="same"), 64 * 5 * 27),
    "transposed, grouped": (
        lambda: F.conv_transpose2d(r(1, 4, 5, 5), r(4, 3, 2, 2), stride=2, groups=2),
        25 * 4 * 3 * 4,
    ),
    "attention": (
        lambda: F.scaled_dot_product_attention(r(2, 3, 4, 8), r(2, 3, 6, 8), r(2, 3, 6, 8)),
        2 * 3 * 4 * 6 * 16,
    ),
    "attention, V of another width": (
        lambda: F.scaled_dot_product_attention(r(2, 3, 4, 8), r(2, 3, 6, 8), r(2, 3, 6, 5)),
        2 * 3 * 4 * 6 * (8 + 5),
    ),
    "attention, dropout": (
        lambda: F.scaled_dot_product_attention(r(1, 2, 4, 8), r(1, 2, 4, 8), r(1, 2, 4, 8), dropout_p=0.5),
        2 * 16 * 16,
    ),
    "bilinear": (lambda: F.bilinear(r(3, 4), r(3, 5), r(7, 4, 5)), 3 * 4 * 5 * 7),
    "deformable": (
        lambda: torchvision.ops.deform_conv2d(r(1, 4, 6, 6), r(1, 18, 4, 4), r(8, 4, 3, 3)),
        16 * 8 * 4 * 9,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_operator(case: str) -> None:
    function, truth = CASES[case]
    counter = count(function)
    assert counter.macs == truth
    assert not counter.suspects


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])  # fused by oneDNN, and cell by cell
@pytest.mark.parametrize(("kind", "gates"), [(nn.RNN, 1), (nn.LSTM, 4), (nn.GRU, 3)])
def test_recurrent_layers(kind: type[nn.RNNBase], gates: int, dtype: torch.dtype) -> None:
    steps, batch, width, hidden = 5, 2, 8, 6
    model = kind(width, hidden, 2, bidirectional=True).to(dtype)
    counter = count(lambda: model(r(steps, batch, width).to(dtype)))
    first, second = gates * hidden * (width + hidden), gates * hidden * (2 * hidden + hidden)
    assert counter.macs == steps * batch * 2 * (first + second)
    assert not counter.suspects


def test_projected_lstm_on_packed_sequences() -> None:
    model = nn.LSTM(8, 6, proj_size=3)
    packed = nn.utils.rnn.pack_sequence([r(5, 8), r(3, 8)])
    assert count(lambda: model(packed)).macs == (5 + 3) * (4 * 6 * (8 + 3) + 3 * 6)


@given(st.tuples(st.integers(1, 2), st.integers(5, 8), *[st.integers(1, 3)] * 5))
@settings(max_examples=30, deadline=None)
def test_a_convolution_costs_what_its_transpose_costs(sizes: tuple[int, ...]) -> None:
    batch, size, groups, narrow, wide, kernel, stride = sizes
    weight = r(groups * wide, narrow, kernel, kernel)
    image = r(batch, groups * narrow, size, size)
    out = F.conv2d(image, weight, stride=stride, groups=groups)
    forward = count(lambda: F.conv2d(image, weight, stride=stride, groups=groups)).macs
    assert forward == sum(narrow * kernel * kernel for _ in range(out.numel()))
    assert count(lambda: F.conv_transpose2d(out, weight, stride=stride, groups=groups)).macs == forward


def test_shapes_are_enough() -> None:
    with torch.device("meta"):
        counter = count(lambda: F.conv2d(r(1, 3, 224, 224), r(64, 3, 7, 7), stride=2, padding=3))
    assert counter.macs == 112 * 112 * 64 * 147


def test_elementwise_operators_are_neither_counted_nor_suspected() -> None:
    def work() -> None:
        image = F.interpolate(F.batch_norm(r(1, 2, 4, 4), r(2), r(2).abs()), scale_factor=2, mode="bilinear")
        F.softmax(F.layer_norm(image, image.shape[1:]), dim=1).relu().sum().lgamma()
        F.normalize(image).conj().resolve_conj()

    counter = count(work)
    assert counter.macs == 0
    assert not counter.suspects


def test_unknown_contractions_are_suspected() -> None:
    assert count(lambda: torch.linalg.solve(torch.eye(3), r(3, 2))).suspects
    assert count(lambda: torch.fft.rfft(r(8))).suspects
    assert count(lambda: torch.cdist(r(3, 4), r(5, 4))).suspects


def test_custom_operators_are_suspected() -> None:
    @torch.library.custom_op("squeeze_tests::twice", mutates_args=())
    def twice(x: Tensor) -> Tensor:
        return x * 2

    assert count(lambda: twice(r(3))).suspects == ["squeeze_tests.twice.default"]
