"""The native kernel against an ordinary convolution in double precision, for every instruction set that runs here."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from squeeze.kernels import ClusteredOperands, native, packing
from squeeze.kernels.packing import fits, packed
from tests.kernels.convolutions import random_operands

CODES = [name for name in ("avx512", "avx2", "neon", "portable") if native.code(name) is not None]


def expected(x: Tensor, operands: ClusteredOperands) -> Tensor:
    """Kernel by kernel, in float64."""
    groups, channels, outputs = operands.index.shape
    table = torch.cat((operands.centroids, torch.zeros_like(operands.centroids[:1]))).double()
    rows = [operands.index[g, :, n] for g in range(groups) for n in range(outputs)]
    weight = torch.stack([torch.stack([table[row[c]] for c in range(channels)]) for row in rows])
    bias = None if operands.bias is None else operands.bias.double()
    return functional.conv2d(x.double(), weight, bias, operands.stride, operands.padding, operands.dilation, groups)


def close(found: Tensor, wanted: Tensor) -> bool:
    return float((found - wanted).abs().max()) <= 1e-5 * float(wanted.abs().max())


def test_the_kernel_was_built_here() -> None:
    assert "portable" in CODES or "neon" in CODES
    assert native.code().name == CODES[0]
    assert native.code("no such code") is None


@pytest.mark.parametrize("name", CODES)
@settings(max_examples=60, deadline=None)
@given(
    layer=st.tuples(st.sampled_from([1, 3, 5, 7]), st.integers(1, 2), st.sampled_from([1, 2]), st.booleans()),
    size=st.tuples(st.integers(1, 3), st.integers(1, 40), st.integers(1, 40)),
    shape=st.tuples(st.integers(1, 20), st.integers(1, 40), st.integers(1, 30)),
    threads=st.integers(1, 3),
)
def test_it_computes_the_convolution(name: str, layer: Any, size: Any, shape: Any, threads: int) -> None:
    kernel, groups, stride, wide = layer
    batch, height, width = size
    operands = random_operands(shape, kernel, groups, stride, kernel - 1 if wide else kernel // 2)
    assert fits(operands) == ""
    x = torch.randn(batch, shape[0] * groups, height, width, generator=torch.Generator().manual_seed(1))
    found = packed(operands, native.code(name)).run(x, threads)
    assert close(found, expected(x, operands))


@pytest.mark.parametrize("name", CODES)
def test_more_rows_of_z_than_the_cache_holds_and_more_positions_than_a_band(name: str) -> None:
    operands = random_operands((6, 700, 600), seed=3)
    x = torch.randn(2, 6, 33, 31)
    assert close(packed(operands, native.code(name)).run(x, 2), expected(x, operands))


@pytest.mark.parametrize("name", CODES)
@pytest.mark.parametrize("stage", [1, 3000])
def test_a_layer_in_stages(name: str, stage: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "STAGE", stage)
    monkeypatch.setattr(packing, "ENOUGH", 1)
    operands = random_operands((23, 150, 140), seed=4)
    ready = packed(operands, native.code(name))
    assert ready.groups[0].layer.stages > 3
    x = torch.randn(2, 23, 9, 11)
    assert close(ready.run(x, 2), expected(x, operands))


def test_channels_that_are_read_may_lie_anywhere() -> None:
    operands = random_operands((4, 24, 4), seed=5)
    clusters = (0, operands.clusters[0], 0, 0, *operands.clusters[1:])
    moved = replace(operands, reads=torch.tensor([1, 4, 5, 6], dtype=torch.int32), clusters=clusters)
    x = torch.randn(1, 7, 8, 8)
    found = packed(moved, native.code()).run(x, 1)
    assert close(found, expected(x[:, [1, 4, 5, 6]], operands))


def test_the_number_of_threads_does_not_change_a_bit() -> None:
    operands = random_operands((32, 64, 8))
    x = torch.randn(3, 32, 28, 28)
    ready = packed(operands, native.code())
    one = ready.run(x, 1)
    assert all(torch.equal(one, ready.run(x, threads)) for threads in (2, 5, 64))


def test_input_of_any_layout() -> None:
    operands = random_operands()
    ready, x = packed(operands, native.code()), torch.randn(2, 16, 9, 10)
    for other in (x.to(memory_format=torch.channels_last), x.transpose(2, 3).contiguous().transpose(2, 3)):
        assert torch.equal(ready.run(other, 1), ready.run(x, 1))


@pytest.mark.parametrize("name", CODES)
def test_many_clusters_in_many_outputs_and_few_in_few(name: str) -> None:
    """Tiles of one vector, and of two."""
    made = [packed(random_operands(shape, seed=4), native.code(name)) for shape in ((8, 260, 250), (8, 20, 3))]
    assert [group.layer.vectors for ready in made for group in ready.groups] == [1, 2]
    for ready, shape in zip(made, ((8, 260, 250), (8, 20, 3)), strict=True):
        x = torch.randn(1, 8, 9, 9)
        assert close(ready.run(x, 1), expected(x, random_operands(shape, seed=4)))


def test_a_processor_without_the_instructions_is_refused() -> None:
    ready = packed(random_operands(), native.code())
    lacking = replace(ready, code=replace(ready.code, name="avx1024", _name=b"avx1024"))
    with pytest.raises(RuntimeError, match="avx1024"):
        lacking.run(torch.randn(1, 16, 8, 8), 1)


def test_a_kernel_of_another_version_is_not_called(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "LAYOUT", native.LAYOUT + 1)
    assert native.built.__wrapped__() is None


def test_no_threads_are_one_and_nothing_is_computed_of_nothing() -> None:
    operands = random_operands()
    ready, x = packed(operands, native.code()), torch.randn(2, 16, 9, 10)
    assert torch.equal(ready.run(x, 0), ready.run(x, 1)) and torch.equal(ready.run(x, -1), ready.run(x, 1))
    assert ready.run(x[:0], 2).shape == (0, 24, 9, 10)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"dilation": (2, 2)}, "dilated"),
        ({"clusters": (5000,), "index": torch.zeros(1, 1, 6000, dtype=torch.int32)}, "more than 4095"),
        ({"stride": (1, 2)}, "stride"),
        ({"stride": (3, 3)}, "stride"),
        ({"padding": (0, 0)}, "padding"),
        ({"padding": (1, 2)}, "padding"),
        ({"centroids": torch.zeros(200, 3, 5)}, "square"),
        ({"centroids": torch.zeros(200, 2, 2)}, "square"),
        ({"centroids": torch.zeros(200, 3, 3, dtype=torch.float64)}, "float32"),
    ],
)
def test_what_it_cannot_compute_is_named(change: dict, word: str) -> None:
    assert word in fits(replace(random_operands(), **change))
