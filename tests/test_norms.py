"""Batch norm with shared statistics is torch's, where nobody shares."""

import pytest
import torch
from torch import nn

from squeeze.norms import SharedStatistics


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize(
    ("norm", "shape"), [(nn.BatchNorm1d, (5, 3)), (nn.BatchNorm2d, (2, 3, 4, 4)), (nn.BatchNorm3d, (2, 3, 2, 2, 2))]
)
@pytest.mark.parametrize("options", [{}, {"affine": False}, {"track_running_stats": False}])
def test_is_batch_norm(norm, shape, options, momentum):
    ours, theirs = (norm(3, momentum=momentum, dtype=torch.float64, **options) for _ in range(2))
    results = []
    for module, shared in ((ours, True), (theirs, False)):
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(shape, dtype=torch.float64, generator=generator).requires_grad_()
        for _ in range(2):
            if shared:
                with SharedStatistics():
                    out = module(x)
            else:
                out = module(x)
        out.square().mul(torch.randn(shape, dtype=torch.float64, generator=generator)).sum().backward()
        gradients = [p.grad for p in module.parameters()]
        results.append([out, x.grad, *gradients, *module.buffers(), module.eval()(x)])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)


def test_gradients_are_the_derivatives():
    norm = nn.BatchNorm1d(2, dtype=torch.float64, track_running_stats=False)
    x = torch.randn(4, 2, dtype=torch.float64, requires_grad=True)
    with SharedStatistics():
        assert torch.autograd.gradcheck(norm, x)
        assert torch.autograd.gradgradcheck(norm, x)


def test_low_precision_comes_out_as_it_went_in():
    norm = nn.BatchNorm2d(3)
    x = torch.randn(4, 3, 5, 5).bfloat16()
    with SharedStatistics():
        out = norm(x)
    assert out.dtype is torch.bfloat16
    torch.testing.assert_close(out, norm(x), rtol=0.02, atol=0.02)


def test_one_value_has_no_variance():
    with SharedStatistics(), pytest.raises(ValueError, match="more than 1 value"):
        nn.BatchNorm1d(3)(torch.randn(1, 3))


def test_a_stand_in_does_not_count():
    norm = nn.BatchNorm1d(3)
    with SharedStatistics(present=False), pytest.raises(ValueError, match="more than 1 value"):
        norm(torch.randn(8, 3))
