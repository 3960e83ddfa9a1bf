"""Proofs on smaller inputs than the example's: only where the labels are the same, and never the last word."""

import pytest
import torch
from torch import Tensor, nn

from squeeze.structure import smaller as module
from squeeze.structure.smaller import smaller
from squeeze.structure.tape import recorded
from squeeze.structure.trace import trace
from squeeze.structure.watch import Watch

X = torch.randn(3, 3, 128, 96, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small networks count as large ones."""
    monkeypatch.setattr(module, "LONG", 0)


class Net(nn.Module):
    """Two convolutions and whatever lies between them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, stride=4), nn.Conv2d(8, 4, 1)

    def middle(self, y: Tensor, x: Tensor) -> Tensor:
        return y

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.middle(torch.relu(self.first(x)), x))


class Longer(Net):
    """Does more with large images."""

    def middle(self, y: Tensor, x: Tensor) -> Tensor:
        return y * 2 if x.shape[-2] > 64 else y


class Other(Net):
    """Does the same ops with large images, in another order of channels."""

    def middle(self, y: Tensor, x: Tensor) -> Tensor:
        return y.roll(1, 1 if x.shape[-2] > 64 else 2)


class Split(Net):
    """Splits where half of the channels are; of large images, where half of them were."""

    def middle(self, y: Tensor, x: Tensor) -> Tensor:
        half = 4 if x.shape[-2] > 64 else y.shape[1] // 2
        return torch.cat(y.split([half, y.shape[1] - half], 1), 1)


class Written(Net):
    """Knows the number of channels of large images by heart."""

    def middle(self, y: Tensor, x: Tensor) -> Tensor:
        return y.reshape(y.shape[0], 8 if x.shape[-2] > 64 else y.shape[1], *y.shape[2:])


class Flat(nn.Sequential):
    """Reads every position with weights of its own."""

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 8, 32, stride=32), nn.Flatten(), nn.Linear(8 * 4 * 3, 4))


def found(net: nn.Module) -> tuple[Tensor, list[torch.Size]] | None:
    net = net.eval()
    return smaller(net, X, recorded(net, X, Watch()), Watch())


def test_fewer_positions_and_samples_where_everything_else_is_the_same() -> None:
    proof = found(Net())
    assert proof is not None
    assert torch.equal(proof[0], X[:2, :, :64, :64])
    assert proof[1] == [(2, 4, 16, 16)]


@pytest.mark.parametrize("kind", [Longer, Other, Flat])
def test_none_where_anything_else_differs(kind: type[nn.Module]) -> None:
    assert found(kind()) is None


def test_none_where_it_would_not_pay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LONG", 10**9)
    assert found(Net()) is None


@pytest.mark.parametrize("kind", [Net, Split])
def test_a_trace_finds_the_same_as_on_whole_inputs(kind: type[nn.Module], monkeypatch: pytest.MonkeyPatch) -> None:
    by_smaller = trace(kind(), X)
    monkeypatch.setattr(module, "LONG", 10**9)
    whole = trace(kind(), X)
    assert [(g.name, g.size) for g in by_smaller.groups] == [(g.name, g.size) for g in whole.groups] != []
    assert by_smaller.cost() == whole.cost()


@pytest.mark.parametrize("worth", [0, 10**9])
def test_a_size_that_shows_on_whole_inputs_only_is_found(worth: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LONG", worth)
    structure = trace(Written(), X)
    assert structure.groups == ()
    assert {pin.tensor for pin in structure.pinned} >= {"first.weight"}


@pytest.mark.parametrize("kind", [Longer, Net])
def test_culprits_are_looked_for_on_fewer_positions(kind: type[nn.Module], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LONG", 10**9)
    heights: list[int] = []
    net = nn.Sequential(kind(), Fixed())
    net[0].register_forward_pre_hook(lambda _, args: heights.append(args[0].shape[-2]))
    structure = trace(net, X)
    assert {pin.tensor for pin in structure.pinned} >= {"0.second.weight"}
    assert [group.name for group in structure.groups] == ["0.first"]
    assert 64 in heights


class Fixed(nn.Module):
    """Knows its number of channels by heart."""

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], 2, 2, -1).sum(-1).flatten(1)
