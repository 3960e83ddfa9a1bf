"""The operator of PyTorch: values, gradients, caching, and which way it takes."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import squeeze.kernels
from squeeze.kernels import ClusteredOperands, choice, native, operator
from squeeze.kernels.choice import Cache, Kept
from squeeze.nn import ClusteredConv2d
from tests.kernels.convolutions import random_operands


def clustered_conv2d(x: Tensor, operands: ClusteredOperands, kept: Kept | None = None) -> Tensor | None:
    return squeeze.kernels.clustered_conv2d(x, lambda: operands, kept or Kept(), operands.centroids, operands.bias)


def way(x: Tensor, operands: ClusteredOperands) -> str:
    return squeeze.kernels.way(x, lambda: operands, Kept(), operands.centroids, operands.bias)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # opcheck's own
def test_it_is_a_well_behaved_operator_with_the_gradients_of_the_convolution() -> None:
    operands = random_operands((5, 6, 4))
    operands.centroids.requires_grad_()
    operands.bias.requires_grad_()
    x = torch.randn(2, 5, 7, 8, requires_grad=True)
    numbers = [1, 1, 1, 1, 1, 1, *operands.clusters]
    arguments = (x, operands.centroids, operands.index, None, operands.bias, numbers)
    torch.library.opcheck(operator.clustered_conv2d, arguments)
    wanted = [x, operands.centroids, operands.bias]
    ours = torch.autograd.grad(operator.call(x, operands).square().sum(), wanted)
    theirs = torch.autograd.grad(operands.convolve(x).square().sum(), wanted)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_the_first_call_of_a_shape_measures_and_the_faster_way_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    operands, x = random_operands(), torch.randn(1, 16, 8, 8)
    prepared, asked = Cache().get(operands), []
    for answer in (True, False):
        monkeypatch.setattr(choice, "faster", lambda one, other, answer=answer: bool(asked.append(answer)) or answer)
        found = prepared.convolve(x[:, :, : 8 - answer])
        again = prepared.convolve(x[:, :, : 8 - answer])
        assert torch.equal(found, again)
        torch.testing.assert_close(found, operands.convolve(x[:, :, : 8 - answer]), rtol=1e-4, atol=1e-4)
    assert asked == [True, False]
    assert list(prepared.faster.values()) == [True, False]


def test_of_two_ways_the_one_with_the_shorter_best_time_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(choice.time, "perf_counter", lambda: now[0])

    def takes(*seconds: float):
        left = iter(seconds * 10)

        def way() -> Tensor:
            now[0] += next(left)
            return torch.empty(0)

        return way

    assert choice.faster(takes(9, 2, 9), takes(3))
    assert not choice.faster(takes(3), takes(9, 2, 9))


def test_changed_weights_are_packed_anew_and_nothing_is_kept_of_the_dead() -> None:
    cache, operands, x = Cache(), random_operands(), torch.randn(1, 16, 8, 8)
    first = cache.get(operands)
    assert cache.get(operands) is first
    with torch.no_grad():
        operands.centroids.mul_(2)
    second = cache.get(operands)
    assert second is not first
    torch.testing.assert_close(second.packed.run(x, 1), operands.convolve(x), rtol=1e-4, atol=1e-4)
    assert len(cache) == 1
    del operands, first, second
    assert len(cache) == 0


def test_empty_batches_and_other_types_are_computed_all_the_same() -> None:
    operands = random_operands()
    assert operator.call(torch.randn(0, 16, 8, 8), operands).shape == (0, 24, 8, 8)
    x = torch.randn(1, 16, 8, 8)
    dilated = replace(operands, dilation=(2, 2), padding=(2, 2))
    torch.testing.assert_close(clustered_conv2d(x, dilated), dilated.convolve(x))
    wide = replace(operands, centroids=operands.centroids.double(), bias=operands.bias.double())
    torch.testing.assert_close(clustered_conv2d(x.double(), wide), wide.convolve(x.double()))


def test_without_a_native_kernel_the_caller_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(squeeze.kernels, "code", lambda: None)
    monkeypatch.setattr(choice, "code", lambda: None)
    operands, x = random_operands(), torch.randn(1, 16, 8, 8)
    torch.testing.assert_close(clustered_conv2d(x, operands), operands.convolve(x))
    assert "compiler" in way(x, operands)
    assert "compiler" in squeeze.kernels.why_not(random_operands())


def test_a_child_process_has_threads_of_its_own() -> None:
    operands, x = random_operands((32, 64, 4)), torch.randn(4, 32, 28, 28)
    prepared = Cache().get(operands)
    wanted = prepared.packed.run(x, 2)
    context = torch.multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    child = context.Process(target=lambda: queue.put(bool(torch.equal(prepared.packed.run(x, 2), wanted))))
    child.start()
    assert queue.get() is True
    child.join()
    assert child.exitcode == 0


def test_the_way_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(1, 16, 8, 8)
    for answer, expected in ((True, f"native: {native.code().name}"), (False, "dense: measured to be faster")):
        monkeypatch.setattr(choice, "faster", lambda one, other, answer=answer: answer)
        assert way(x, random_operands()) == expected
    assert "float32" in way(x.double(), random_operands())
    assert "dilated" in way(x, replace(random_operands(), dilation=(2, 2)))


def test_what_is_counted_runs_once_and_is_not_measured() -> None:
    operands, x = random_operands(), torch.randn(1, 16, 8, 8)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        assert clustered_conv2d(x, operands) is None
        operands.convolve(x)
    assert counter.get_total_flops() == 2 * 24 * 16 * 9 * 64


def test_what_is_kept_follows_its_tensors_and_is_not_copied() -> None:
    operands, x, kept = random_operands(), torch.randn(1, 16, 8, 8), Kept()
    first = kept.get(lambda: operands, (operands.centroids,))
    assert kept.get(lambda: pytest.fail("nothing has changed"), (operands.centroids,)) is first
    with torch.no_grad():
        operands.centroids.mul_(2)
    torch.testing.assert_close(clustered_conv2d(x, operands, kept), operands.convolve(x), rtol=1e-4, atol=1e-4)
    operands.centroids.data.mul_(2)
    kept.forget()
    torch.testing.assert_close(clustered_conv2d(x, operands, kept), operands.convolve(x), rtol=1e-4, atol=1e-4)
    assert kept._prepared.faster is first.faster
    assert kept.__reduce__()[0]()._prepared is None and copy.deepcopy(kept)._prepared is None
    with torch.inference_mode():
        assert kept.get(lambda: operands, (torch.zeros(1),)) is None


@pytest.mark.parametrize("groups", [1, 2])
def test_densely_channels_may_be_picked_or_all_be_read(groups: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """On ResNet-50 the copy of the channels that are read took longer than the rest of the convolution."""
    torch.manual_seed(0)
    conv = nn.Conv2d(8, 8, 3, padding=1, groups=groups)
    size = 8 // groups
    clustered = ClusteredConv2d.from_conv(conv, [0, 2, size, 0, 1, 0, size, 2]).eval()
    x = torch.randn(2, 8, 6, 6)
    expected = nn.functional.conv2d(x, clustered.dense_weight(), clustered.bias, padding=1, groups=groups)
    monkeypatch.setattr(choice, "code", lambda: None)
    for picks in (True, False):
        monkeypatch.setattr(choice, "faster", lambda one, other, picks=picks: picks)
        with torch.no_grad():
            assert torch.allclose(copy.deepcopy(clustered)(x), expected, atol=1e-5)
