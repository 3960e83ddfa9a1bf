"""Which convolutions can be gated, and what a trace says of those around them."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import squeeze
from squeeze.nn import GatedConv2d, computing
from squeeze.plan import Gate
from squeeze.structure.parts import Gateable


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.conv1, self.bn1 = nn.Conv2d(8, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12)
        self.conv2, self.bn2 = nn.Conv2d(12, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        return x + self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))


class Inverted(nn.Module):
    """As in MobileNet: widened, depthwise, narrowed."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.bn1 = nn.Conv2d(3, 12, 1), nn.BatchNorm2d(12)
        self.depth, self.bn2 = nn.Conv2d(12, 12, 3, padding=1, groups=12), nn.BatchNorm2d(12)
        self.narrow = nn.Conv2d(12, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = nn.functional.relu6(self.bn1(self.wide(x)))
        return self.narrow(nn.functional.relu6(self.bn2(self.depth(y))))


class Branching(nn.Module):
    """Two convolutions read the first, and nothing else does; pooling lies between."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3)
        self.left, self.right = nn.Conv2d(8, 4, 1), nn.Conv2d(8, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.max_pool2d(nn.functional.hardswish(self.first(x)), 2)
        return torch.cat([self.left(x), self.right(x)], 1)


class Sigmoid(nn.Module):
    """0 does not stay 0."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.sigmoid(self.first(x)))


class Twice(nn.Module):
    """One convolution, called twice; one whose weight somebody else uses."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.again, self.shared = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.again(torch.relu(self.again(torch.relu(self.stem(x)))))
        return self.shared(x) + self.shared.weight.mean()


class NormTwice(nn.Module):
    """The batch norm's input is read by something else as well."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv, self.bn = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(torch.relu(self.stem(x)))
        return self.bn(y) + y


EXPECTED: dict[Callable[[], nn.Module], dict[str, Gateable]] = {
    Residual: {
        "stem": Gateable("stem", "", True, (), (), True),
        "conv1": Gateable("conv1", "bn1", True, (), (("conv2", "bn2"),), False),
        "conv2": Gateable("conv2", "bn2", False, (), (), False),
    },
    Inverted: {
        "wide": Gateable("wide", "bn1", False, (("depth", "bn2"),), (("narrow", ""),), True),
        "narrow": Gateable("narrow", "", False, (), (), False),
    },
    Branching: {
        "first": Gateable("first", "", False, (), (("left", ""), ("right", "")), True),
        "left": Gateable("left", "", False, (), (), False),
        "right": Gateable("right", "", False, (), (), False),
    },
    Sigmoid: {
        "first": Gateable("first", "", False, (), (), True),
        "second": Gateable("second", "", False, (), (), False),
    },
    Twice: {"stem": Gateable("stem", "", True, (), (), True)},
    NormTwice: {
        "stem": Gateable("stem", "", True, (), (("conv", ""),), True),
        "conv": Gateable("conv", "", False, (), (), False),
    },
}


def built(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    model = make().double().eval()
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            for tensor in (part.weight, part.bias, part.running_mean):
                nn.init.normal_(tensor)
    return model


@pytest.mark.parametrize("make", EXPECTED, ids=lambda make: make.__name__)
def test_what_lies_around_each_convolution(make: Callable[[], nn.Module]) -> None:
    found = squeeze.trace(built(make), torch.randn(1, 3, 8, 8, dtype=torch.float64)).gateable
    assert {site.conv: site for site in found} == EXPECTED[make]


@pytest.mark.parametrize("make", EXPECTED, ids=lambda make: make.__name__)
def test_gated_as_it_says_skipped_is_masked(make: Callable[[], nn.Module]) -> None:
    model, x = built(make), torch.randn(2, 3, 8, 8, dtype=torch.float64)
    sites = squeeze.trace(model, x).gateable
    gates = [Gate(s.conv, s.norm, 2, s.relu, s.follows, s.reads) for s in sites]
    gated = squeeze.rewrite(model, gates)
    layers = [m for m in gated.modules() if isinstance(m, GatedConv2d)]
    assert len(layers) == len(sites)
    with torch.no_grad():
        for layer in layers:
            nn.init.constant_(layer.gate.expand.bias, 1e3)
        assert torch.allclose(gated(x), model(x), atol=1e-12)
        for layer in layers:
            nn.init.normal_(layer.gate.expand.bias)
        with computing("masked"):
            expected = gated(x)
        with computing("conditional"):
            assert torch.allclose(gated(x), expected, atol=1e-12)
        assert not torch.allclose(expected, model(x), atol=1e-3)


def test_ignored_layers_are_not_gated() -> None:
    structure = squeeze.trace(built(Residual), torch.randn(1, 3, 8, 8, dtype=torch.float64)).ignoring(["conv1"])
    assert [site.conv for site in structure.gateable] == ["stem", "conv2"]


def _doubled(module: nn.Module, args: Any, output: Tensor) -> Tensor:
    return 2 * output


def test_a_norm_with_a_hook_or_a_forward_of_its_own_is_not_folded() -> None:
    """What a hook makes of its output would be lost."""
    hooked, own = built(Residual), built(Residual)
    hooked.get_submodule("bn1").register_forward_hook(_doubled)
    norm = own.get_submodule("bn1")
    norm.forward = lambda x: 3 * nn.functional.batch_norm(x, norm.running_mean, norm.running_var)
    for model in (hooked, own):
        sites = {s.conv: s for s in squeeze.trace(model, torch.randn(1, 3, 8, 8, dtype=torch.float64)).gateable}
        assert (sites["conv1"].norm, sites["conv1"].reads) == ("", ())
        assert sites["conv2"].norm == "bn2"


def test_a_cast_keeps_channels_apart() -> None:
    """`x.to(dtype)` had no rule: everything around it was pinned."""

    class Casting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.second(torch.relu(self.first(x)).to(torch.float64))

    model = Casting().eval()
    model.second.double()
    structure = squeeze.trace(model, torch.randn(1, 3, 8, 8))
    assert [group.name for group in structure.groups] == ["first"]
    assert structure.groups[0].exact
