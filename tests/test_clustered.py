"""A clustered convolution against the ordinary one that it stands for."""

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from squeeze.errors import InputError
from squeeze.nn import ClusteredConv2d
from squeeze.nn.packing import code_bytes, fault, pack, unpack

CLUSTERS = [0, 1, 2, 3, 4, 4, 0, 3]
FORMS: dict[str, dict[str, Any]] = {
    "plain": {"padding": 1},
    "strided, dilated, no bias": {"stride": (1, 2), "padding": (2, 0), "dilation": (2, 1), "bias": False},
    "same": {"padding": "same", "dilation": 2},
    "valid, even kernel": {"padding": "valid", "kernel_size": (2, 4)},
    "reflect": {"padding": (1, 2), "padding_mode": "reflect"},
    "circular, same": {"padding": "same", "padding_mode": "circular", "kernel_size": (3, 4)},
    "replicate, valid": {"padding": "valid", "padding_mode": "replicate"},
    "pointwise": {"kernel_size": 1},
    "groups": {"groups": 2, "out_channels": 8, "padding": 1},
    "groups, reflect": {"groups": 4, "out_channels": 16, "padding": 1, "padding_mode": "reflect", "stride": 2},
}


def convolution(**form: Any) -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(**{"in_channels": 8, "out_channels": 4, "kernel_size": 3, **form}).double()


def dense(clustered: ClusteredConv2d, conv: nn.Conv2d) -> nn.Conv2d:
    """The ordinary convolution with the same kernels."""
    twin = copy.deepcopy(conv)
    with torch.no_grad():
        twin.weight.copy_(clustered.dense_weight())
    return twin


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_computes_and_trains_as_the_dense_one_does(form: dict[str, Any]) -> None:
    conv = convolution(**form)
    clustered = ClusteredConv2d.from_conv(conv, CLUSTERS)
    twin, marker = dense(clustered, conv), torch.arange(len(clustered.centroids)).double()
    x = torch.randn(2, 8, 9, 10, dtype=torch.float64)
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    y, expected = clustered(ours), twin(theirs)
    assert torch.allclose(y, expected, atol=1e-12)
    upstream = torch.randn_like(y)
    y.backward(upstream)
    expected.backward(upstream)
    assert torch.allclose(ours.grad, theirs.grad, atol=1e-12)
    # Kernels that show their own number tell which centroid stands where.
    with torch.no_grad():
        clustered.centroids.copy_((marker + 1).view(-1, 1, 1).expand_as(clustered.centroids))
    owner = clustered.dense_weight()[..., 0, 0].long() - 1
    summed = torch.zeros_like(clustered.centroids)
    summed.index_add_(0, owner[owner >= 0], twin.weight.grad[owner >= 0])
    assert torch.allclose(clustered.centroids.grad, summed, atol=1e-12)
    if conv.bias is not None:
        assert torch.allclose(clustered.bias.grad, twin.bias.grad, atol=1e-12)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_all_kernels_are_the_layer_itself(form: dict[str, Any]) -> None:
    conv = convolution(**form)
    assert torch.equal(ClusteredConv2d.from_conv(conv, [4] * 8).dense_weight(), conv.weight)


def test_no_kernel_is_the_bias() -> None:
    conv = convolution()
    y = ClusteredConv2d.from_conv(conv, [0] * 8)(torch.randn(1, 8, 5, 5).double())
    assert torch.equal(y, conv.bias.view(1, -1, 1, 1).expand_as(y))


def test_what_is_dropped_is_not_there() -> None:
    clustered = ClusteredConv2d.from_conv(convolution(), CLUSTERS)
    assert clustered.centroids.shape == (sum(CLUSTERS), 3, 3)
    assert clustered.reads.tolist() == [1, 2, 3, 4, 5, 7]
    x = torch.randn(1, 8, 5, 5).double()
    changed = x.clone()
    changed[:, [0, 6]] = torch.nan
    assert torch.equal(clustered(x), clustered(changed))


def test_clustering_is_better_than_the_first_kernels() -> None:
    conv = convolution(out_channels=32)
    gaps = [
        float((made.dense_weight() - conv.weight).detach().square().sum())
        for made in (ClusteredConv2d.from_conv(conv, [8] * 8), ClusteredConv2d(conv, [8] * 8))
    ]
    assert gaps[0] < 0.5 * gaps[1]


def test_state_goes_into_another_of_the_same_counts() -> None:
    conv, x = convolution(), torch.randn(1, 8, 6, 6).double()
    clustered = ClusteredConv2d.from_conv(conv, CLUSTERS)
    other = ClusteredConv2d(convolution(), CLUSTERS)
    other.load_state_dict(copy.deepcopy(clustered.state_dict()))
    assert set(other.state_dict()) == {"centroids", "codes", "bias"}
    assert torch.equal(other(x), clustered(x))
    assert torch.equal(copy.deepcopy(clustered)(x), clustered(x))


def test_is_exported_and_compiled_whole() -> None:
    clustered = ClusteredConv2d.from_conv(convolution(padding=1).float(), CLUSTERS).eval()
    x = torch.randn(2, 8, 6, 6)
    with torch.no_grad():
        expected = clustered(x)
        program = torch.export.export(clustered, (x,)).module()
        compiled = torch.compile(clustered, backend="aot_eager", fullgraph=True)
        assert torch.allclose(program(x), expected, atol=1e-6)
        assert torch.allclose(compiled(x), expected, atol=1e-6)
        assert torch.allclose(clustered.onnx_form()(x), expected, atol=1e-6)


@pytest.mark.parametrize("bias", [True, False])
def test_computes_in_eval_mode_as_the_dense_one_does(bias: bool) -> None:
    conv = convolution(padding=1, bias=bias).float()
    clustered = ClusteredConv2d.from_conv(conv, CLUSTERS).eval()
    x = torch.randn(2, 8, 6, 6)
    with torch.no_grad():
        assert torch.allclose(clustered(x), dense(clustered, conv)(x), atol=1e-6)


def test_autocast_computes_in_low_precision_and_trains() -> None:
    clustered = ClusteredConv2d.from_conv(convolution().float(), CLUSTERS)
    x = torch.randn(2, 8, 6, 6)
    with torch.autocast("cpu", torch.bfloat16):
        y = clustered(x)
    assert y.dtype is torch.bfloat16
    y.float().square().sum().backward()
    assert clustered.centroids.grad.dtype is torch.float32
    assert torch.allclose(y.float(), clustered(x), atol=0.05)


def test_works_under_ddp() -> None:
    from torch import distributed

    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        wrapped = nn.parallel.DistributedDataParallel(ClusteredConv2d.from_conv(convolution(), CLUSTERS))
        wrapped(torch.randn(2, 8, 6, 6).double()).square().sum().backward()
        assert bool(wrapped.module.centroids.grad.abs().sum() > 0)
    finally:
        distributed.destroy_process_group()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_precision_is_that_of_the_convolution(dtype: torch.dtype) -> None:
    clustered = ClusteredConv2d.from_conv(convolution().to(dtype), CLUSTERS)
    assert clustered.centroids.dtype is clustered.dense_weight().dtype is dtype


@pytest.mark.parametrize(
    "x",
    [
        torch.randn(6, 8, 7, 2).double().transpose(2, 3),
        torch.randn(2, 8, 6, 6).double().to(memory_format=torch.channels_last),
        torch.randn(4, 16, 6, 6).double()[::2, ::2],
        torch.randn(8, 6, 6).double(),
        torch.empty(0, 8, 6, 6).double(),
    ],
    ids=["transposed", "channels last", "every second", "no batch", "empty batch"],
)
@pytest.mark.parametrize("grad", [True, False])
def test_any_input_that_a_convolution_takes(x: Tensor, grad: bool) -> None:
    conv = convolution(padding=1)
    clustered = ClusteredConv2d.from_conv(conv, CLUSTERS).eval()
    with torch.set_grad_enabled(grad):
        assert torch.allclose(clustered(x), dense(clustered, conv)(x), atol=1e-12)


def test_macs_of_the_paper_and_of_what_runs() -> None:
    clustered = ClusteredConv2d.from_conv(convolution(padding=1), CLUSTERS)
    macs = clustered.macs(torch.Size((2, 4, 5, 5)))
    assert macs.paper == sum(CLUSTERS) * 9 * 2 * 25
    assert macs.executed == 4 * 6 * 9 * 2 * 25
    assert macs.additions == 4 * 6 * 2 * 25


@pytest.mark.parametrize(
    ("conv", "clusters", "words"),
    [
        (convolution(), [4] * 7, "8 numbers from 0 to 4 .*got 7 numbers"),
        (convolution(), [4] * 7 + [5], "got 5"),
        (convolution(), [4] * 7 + [-1], "got -1"),
        (nn.ConvTranspose2d(8, 4, 3), [4] * 8, "Conv2d .*got ConvTranspose2d"),
        (nn.utils.parametrizations.weight_norm(convolution()), [4] * 8, "parametrizations"),
    ],
)
def test_what_cannot_be_clustered_is_told(conv: nn.Module, clusters: list[int], words: str) -> None:
    with pytest.raises(InputError, match=words):
        ClusteredConv2d.from_conv(conv, clusters)  # type: ignore[arg-type]


def test_bad_weights_are_told() -> None:
    conv = convolution()
    with torch.no_grad():
        conv.weight[0, 0, 0, 0] = torch.nan
    with pytest.raises(InputError, match="finite real numbers, got NaN"):
        ClusteredConv2d.from_conv(conv, CLUSTERS)
    conv.weight = nn.Parameter(torch.zeros(4, 8, 3, 3, dtype=torch.complex128))
    with pytest.raises(InputError, match="got torch.complex128"):
        ClusteredConv2d.from_conv(conv, CLUSTERS)


@pytest.mark.parametrize("kernel", [1, 3])
def test_more_clusters_than_different_kernels_are_refused(kernel: int) -> None:
    conv = convolution(out_channels=16, kernel_size=kernel)
    with torch.no_grad():
        conv.weight[4:, 3] = conv.weight[:4, 3].repeat(3, 1, 1)
    with pytest.raises(InputError, match="input channel 3 must be at most its 4 distinct kernels, got 5"):
        ClusteredConv2d.from_conv(conv, [5] * 8)
    exact = ClusteredConv2d.from_conv(conv, [16, 16, 16, 4, 16, 16, 16, 16])
    assert torch.allclose(exact.dense_weight(), conv.weight, atol=1e-12)


COUNTS = st.lists(st.integers(0, 20), min_size=1, max_size=6)


@settings(max_examples=60, deadline=None)
@given(COUNTS, st.integers(0, 2**16))
def test_numbers_are_packed_to_the_bit_and_come_back(numbers: list[int], seed: int) -> None:
    size, counts = 20, torch.tensor(numbers, dtype=torch.int16)
    random = torch.randint(0, 2**20, (len(numbers), size), generator=torch.Generator().manual_seed(seed))
    index = random % counts.clamp(min=1).long().unsqueeze(1)
    index[counts == size] = torch.arange(size)
    codes = pack(index, counts)
    bits = sum(len(f"{q - 1:b}") * size for q in numbers if 1 < q < size)
    assert len(codes) == code_bytes(numbers, size) == -(-bits // 8)
    text = "".join(f"{byte:08b}" for byte in codes.tolist())
    first = next((c for c, q in enumerate(numbers) if 1 < q < size), None)
    if first is not None:
        assert int(text[: len(f"{numbers[first] - 1:b}")], 2) == int(index[first, 0])
    assert torch.equal(unpack(codes, counts, size), index)
    assert fault(codes, index, counts) == ""


@settings(max_examples=60, deadline=None)
@given(st.binary(min_size=9, max_size=9), st.lists(st.integers(0, 6), min_size=8, max_size=8))
def test_a_corrupt_stream_is_refused_and_never_read_out_of_bounds(noise: bytes, clusters: list[int]) -> None:
    conv = nn.Conv2d(8, 6, 1)
    clustered = ClusteredConv2d(conv, clusters)
    length = code_bytes(clusters, 6)
    state = clustered.state_dict() | {"codes": torch.tensor(list(noise), dtype=torch.uint8).repeat(3)[:length]}
    try:
        clustered.load_state_dict(state)
    except RuntimeError as error:
        assert "take a good copy" in str(error)
    else:
        again = pack(unpack(clustered.codes, clustered.counts, 6), clustered.counts)
        assert torch.equal(again, state["codes"])
    assert int(clustered.index.max()) <= len(clustered.centroids)
    assert bool(functional.relu(clustered(torch.randn(1, 8, 2, 2))).isfinite().all())


@pytest.mark.parametrize(("length", "words"), [(-1, "size mismatch"), (1, "size mismatch")])
def test_a_stream_of_another_length_is_refused(length: int, words: str) -> None:
    clustered = ClusteredConv2d(convolution(), CLUSTERS)
    wrong = torch.zeros(len(clustered.codes) + length, dtype=torch.uint8)
    with pytest.raises(RuntimeError, match=words):
        clustered.load_state_dict(clustered.state_dict() | {"codes": wrong})


def test_a_number_without_centroid_is_named() -> None:
    clustered = ClusteredConv2d(convolution(), [3] * 8)
    wrong = torch.full_like(clustered.codes, 255)
    with pytest.raises(RuntimeError, match="number as large as 3 for input channel 0 with 3"):
        clustered.load_state_dict(clustered.state_dict() | {"codes": wrong})


def test_after_eval_weights_are_prepared_anew() -> None:
    """As every evaluation begins, also one of averaged weights, which may be written to through `data`."""
    torch.manual_seed(0)
    clustered = ClusteredConv2d.from_conv(nn.Conv2d(8, 8, 3, padding=1), [2] * 8).eval()
    x = torch.randn(1, 8, 6, 6)
    with torch.no_grad():
        before = clustered(x)
        clustered.centroids.data.mul_(2)
        clustered.bias.data.mul_(2)
        assert torch.allclose(clustered.eval()(x), 2 * before, atol=1e-5)
