"""What a removed module returns is carried to the sum or join it ends in, and nothing there is made up."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from squeeze.nn import Absent, Removed

X = torch.arange(6.0).view(1, 2, 3)


@pytest.mark.parametrize(
    "add",
    [
        lambda x, y: x + y,
        lambda x, y: y + x,
        torch.add,
        lambda x, y: torch.add(y, x),
        lambda x, y: torch.add(x, y, alpha=2),
        lambda x, y: torch.add(x, other=y),
        lambda x, y: x.add(y),
        lambda x, y: x.add(y, alpha=0.5),
        lambda x, y: x.add_(y),
        lambda x, y: y.add(x),
        lambda x, y: y.add_(x),
        lambda x, y: sum([x, y]),
        lambda x, y: sum([y, x]),
    ],
)
def test_a_sum_is_its_other_term(add: Callable[[Any, Any], Any]) -> None:
    assert torch.equal(add(X.clone(), Absent()), X)


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_a_sum_in_place_leaves_the_tensor_alone(scale: float) -> None:
    x = X.clone()
    y: Any = x
    y += Absent() * scale
    assert y is x and torch.equal(x, X)


def test_the_other_term_keeps_its_factor() -> None:
    assert torch.equal(torch.add(Absent(), X, alpha=2), 2 * X)
    assert torch.equal(Absent().add_(X, alpha=2), 2 * X)


@pytest.mark.parametrize("add", [lambda x, y: x + y, lambda x, y: y + x, torch.add, lambda x, y: y.add_(x)])
def test_a_sum_is_a_tensor_of_its_own(add: Callable[[Any, Any], Tensor]) -> None:
    x = X.clone()
    assert torch.equal(add(x, Absent()).zero_(), torch.zeros_like(X))
    assert torch.equal(x, X)


def test_activations_in_place_around_removed_blocks_can_be_trained() -> None:
    first = torch.ones(3, requires_grad=True)
    x = torch.relu_(2 * first)
    y: Any = Absent()
    y += x
    torch.relu_(y).sum().backward()
    assert first.grad is not None and torch.equal(first.grad, torch.full((3,), 2.0))


def test_two_absent_terms_are_absent() -> None:
    for found in (Absent() + Absent(), torch.add(Absent(), Absent()), torch.cat([Absent(), Absent()], 1)):
        assert isinstance(found, Absent)


@pytest.mark.parametrize("join", [torch.cat, torch.concat, torch.concatenate])
def test_a_join_has_the_other_parts(join: Callable[..., Tensor]) -> None:
    assert torch.equal(join([X, Absent(), 2 * X], 1), torch.cat([X, 2 * X], 1))
    assert torch.equal(join((Absent(), X), dim=1), X)
    assert torch.equal(join(tensors=[Absent(), X], dim=1), X)


@pytest.mark.parametrize(
    "function",
    [
        torch.relu,
        functional.silu,
        lambda y: functional.dropout(y, 0.5, True),
        lambda y: functional.interpolate(y, scale_factor=2),
        lambda y: functional.layer_norm(y, (3,)),
        lambda y: y.relu().view(2, 3).permute(1, 0).contiguous(),
        lambda y: y * torch.ones(3),
        lambda y: torch.ones(3) * y,
        lambda y: torch.ones(3) @ y,
        lambda y: 2 * -y / 3,
        lambda y: y + 3,
        lambda y: 3 + y,
        lambda y: torch.add(y, 3),
        lambda y: torch.nn.functional.relu6(y + 3) / 6,
        lambda y: 1 - y,
        lambda y: X - y,
        lambda y: torch.sub(X, y),
        lambda y: y - 1.0 * y,
        lambda y: 1 / y,
        lambda y: y**2,
        lambda y: y[:, 1:],
        lambda y: torch.sigmoid(y).mul_(2).mean((2, 3), keepdim=True),
        nn.Linear(3, 3),
        nn.Conv2d(3, 3, 1),
        nn.Dropout(0.5),
        lambda y: y.to(torch.float64).flatten(1),
    ],
)
def test_whatever_is_computed_from_it_is_absent(function: Callable[[Any], Any]) -> None:
    found = function(Absent())
    assert isinstance(found, Absent)
    assert torch.equal(X + found, X)


def test_several_values_are_unpacked() -> None:
    first, second = Removed(2)(X, mask=None)
    assert torch.equal(X + first, X) and torch.equal(torch.cat([second, X], 1), X)
    assert len([*Absent(3)]) == 3
    assert isinstance(Removed(2)(X)[0], Absent)


@pytest.mark.parametrize(
    ("ask", "word"),
    [
        (lambda y: y.shape, "shape"),
        (lambda y: y.size(0), "size"),
        (lambda y: y.dim(), "dim"),
        (lambda y: y.dtype, "dtype"),
        (lambda y: y.item(), "item"),
        (lambda y: bool(y), "value"),
        (lambda y: 1 if y else 2, "value"),
        (lambda y: [*y], "length"),
        (lambda y: len(y), "len"),
        (lambda y: float(y), "float"),
    ],
)
def test_it_has_no_size_and_no_value(ask: Callable[[Any], Any], word: str) -> None:
    with pytest.raises(TypeError) as caught:
        ask(Absent())
    assert word in str(caught.value)


def test_a_wrong_number_of_values_is_an_error() -> None:
    with pytest.raises(ValueError, match="not enough values"):
        _, _, _ = Removed(2)(X)


def test_a_removed_module_has_no_tensors_and_says_what_it_is() -> None:
    assert [*Removed(2).state_dict()] == []
    assert (repr(Removed()), repr(Removed(2))) == ("Removed()", "Removed(parts=2)")


def test_in_a_network_the_shortcut_is_what_is_left() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body: nn.Module = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
            self.scale = nn.Parameter(torch.ones(3))

        def forward(self, x: Tensor) -> Tensor:
            x = x + self.scale * self.body(x)
            return torch.cat([x, self.body(x).neg()], 1)

    net = Net()
    net.body = Removed()
    assert torch.equal(net(X), X)
