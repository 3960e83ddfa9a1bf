"""Gated convolutions keep what they computed from weights and settings until one of these changes."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from squeeze.nn.speeds import ALL, Speed
from tests.test_gated import chain, run, stirred


def test_folded_weights_follow_what_changes() -> None:
    model, x = chain(0), torch.randn(1, 3, 8, 8, dtype=torch.float64)
    run(model, x, "conditional")
    with torch.no_grad():
        model.first.conv.weight.mul_(2)
        model.first.norm.running_mean.add_(1)  # type: ignore[union-attr,operator]
        model.third.norm.bias = nn.Parameter(torch.ones(4, dtype=torch.float64))  # type: ignore[union-attr]
    assert torch.allclose(run(model, x, "conditional"), run(model, x, "masked"), atol=1e-11)


def filled(layer: nn.Module) -> None:
    nn.init.constant_(layer.bias, 20)


def given_other_memory(first: Any) -> None:
    """New numbers, at the old address if that can be had."""
    address = first.conv.weight.data_ptr()
    for _ in range(50):
        first.conv.weight.data = torch.randn_like(first.conv.weight)
        if first.conv.weight.data_ptr() == address:
            break


def widened(first: Any) -> None:
    first.conv.padding, first.conv.dilation = (2, 2), (2, 2)


CHANGES: dict[str, Callable[[Any], Any]] = {
    "weights": lambda first: first.conv.weight.mul_(2),
    "statistics": lambda first: first.norm.running_mean.add_(1),
    "a gate": lambda first: first.gate.expand.bias.neg_(),
    "a parameter": lambda first: setattr(first.norm, "bias", nn.Parameter(torch.ones(8))),
    "data": lambda first: setattr(first.conv.weight, "data", -first.conv.weight),
    "memory": given_other_memory,
    "data in place, before eval": lambda first: (first.conv.weight.data.mul_(2), first.eval()),
    "a setting": widened,
    "a norm's setting": lambda first: setattr(first.norm, "eps", 5.0),
    "a convolution": lambda first: setattr(first, "conv", stirred(nn.Conv2d(3, 8, 3, padding=1)).float()),
    "a norm": lambda first: setattr(first, "norm", stirred(nn.BatchNorm2d(8)).float()),
    "no norm": lambda first: setattr(first, "norm", None),
    "a layer of the gate": lambda first: setattr(first.gate, "reduce", nn.Linear(3, 2).apply(filled)),
    "a parametrization": lambda first: weight_norm(first.conv).parametrizations.weight.original0.mul_(2),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_the_native_kernel_follows_what_changes(change: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = chain(0).float(), torch.randn(1, 3, 8, 8)
    monkeypatch.setattr(Speed, "best", lambda speed, share: ("native" if "native" in speed.lines else ALL, 0.0))
    model.first.sink = None
    before = [run(model.first, x, way) for way in ("conditional", "fastest", "fastest")][2]
    with torch.no_grad():
        change(model.first)
    for way in ("conditional", "fastest", "fastest"):
        after = run(model.first, x, way)
        assert torch.allclose(after, run(model.first, x, "masked"), atol=1e-4)
    assert not torch.allclose(after, before, atol=1e-4)


def test_after_eval_weights_are_folded_anew() -> None:
    """As every evaluation begins, also one of averaged weights, which may be written to through `data`."""
    model, x = chain(0), torch.randn(1, 3, 8, 8, dtype=torch.float64)
    run(model, x, "conditional")
    for layer in (model.first, model.third):
        layer.conv.weight.data.mul_(2)
        layer.norm.running_mean.data.add_(1)  # type: ignore[union-attr,operator]
    model.eval()
    assert torch.allclose(run(model, x, "conditional"), run(model, x, "masked"), atol=1e-11)


def test_the_native_kernel_follows_a_gate_that_is_parametrized(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = chain(0).float(), torch.randn(1, 3, 8, 8)
    monkeypatch.setattr(Speed, "best", lambda speed, share: ("native" if "native" in speed.lines else ALL, 0.0))
    expand: Any = weight_norm(model.first.gate.expand)
    for _ in range(2):
        for _ in range(2):
            assert torch.allclose(run(model, x, "fastest"), run(model, x, "masked"), atol=1e-4)
        with torch.no_grad():
            expand.parametrizations.weight.original1.neg_()
