"""Dropped bodies, and edits that do not fit: `squeeze.edits`."""

import pytest
import torch
from torch import Tensor, nn

from squeeze.edits import rewrite
from squeeze.errors import PlanError
from squeeze.nn import Absent, Removed
from squeeze.plan import Drop, Edit, Slice

Cuts = dict[str, dict[int, list[int]]]
"""For each tensor and dim, the indices that stay."""


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 4))
        self.gamma = nn.Parameter(torch.full((4,), 2.0))
        self.register_buffer("decay", torch.full((4,), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.decay * (self.gamma * self.body(x))


def test_drop_replaces_modules_and_parameters() -> None:
    dense, x = Residual(), torch.randn(3, 4)
    small = rewrite(dense, [Drop("body", ("body",), ("gamma", "decay"), (0,))])
    assert isinstance(small.body, Removed) and small.state_dict() == {}
    assert torch.equal(small(x), x)
    assert not torch.equal(dense(x), x)


def test_a_dropped_parameter_is_absent_and_not_none() -> None:
    """Code may ask whether there is one, and do something else if there never was; copies know it, too."""
    small = rewrite(Residual(), [Drop("body", ("body",), ("gamma",), (0,))])
    again = rewrite(small, [])
    assert isinstance(small.gamma, Absent) and isinstance(again.gamma, Absent)
    with pytest.raises(PlanError):
        rewrite(nn.Sequential(nn.LayerNorm(4)), [Drop("norm", (), ("0.weight",)), Slice("0.bias", 0, 4, ((0, 2),))])


def test_drop_says_how_many_values_a_module_returned() -> None:
    model = nn.ModuleDict({"lstm": nn.LSTM(3, 3), "linear": nn.Linear(3, 3)})
    small = rewrite(model, [Drop("both", ("lstm", "linear"), (), (2,))])
    assert (small["lstm"].parts, small["linear"].parts) == (2, 0)


def test_a_body_within_a_body_may_go_as_well() -> None:
    model = nn.Sequential(nn.Sequential(nn.Linear(3, 3), Residual()), nn.Linear(3, 3))
    inner = Drop("inner", ("0.1.body",), ("0.1.gamma",))
    outer = Drop("outer", ("0",))
    for order in ((inner, outer), (outer, inner)):
        small = rewrite(model, order)
        assert isinstance(small[0], Removed) and [*small.state_dict()] == ["1.weight", "1.bias"]


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (Slice("body.9.weight", 0, 6, ((0, 3),)), ("body.9.weight", "Residual")),
        (Slice("nobody.weight", 0, 6, ((0, 3),)), ("nobody.weight",)),
        (Slice("body.0.wait", 0, 6, ((0, 3),)), ("body.0.wait",)),
        (Slice("body.0", 0, 6, ((0, 3),)), ("body.0 ",)),
        (Slice("", 0, 6, ((0, 3),)), ("Residual",)),
        (Slice("gamma.x", 0, 4, ((0, 3),)), ("gamma.x",)),
        (Slice("body.0.weight", 0, 8, ((0, 3),)), ("size 8 in dim 0", "(6, 4)")),
        (Slice("body.0.weight", 2, 6, ((0, 3),)), ("in dim 2", "(6, 4)")),
        (Slice("body.0.weight", 0, 6, ()), ("body.0.weight must keep an index", "none of 6")),
        (Drop("x", ("body.9",)), ("body.9",)),
        (Drop("x", ("nobody.0",)), ("nobody.0",)),
        (Drop("x", ("gamma",)), ("gamma",)),
        (Drop("x", ("",)), ("Residual",)),
        (Drop("x", (), ("delta",)), ("delta",)),
        (Drop("x", (), ("body.0.wait",)), ("body.0.wait",)),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(edit: Edit, words: tuple[str, ...]) -> None:
    with pytest.raises(PlanError) as caught:
        rewrite(Residual(), [edit])
    message = str(caught.value)
    assert message.startswith("rewrite: ") and message.isprintable()
    assert [word for word in words if word not in message] == []
