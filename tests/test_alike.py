"""A state takes the place of another if it holds the same kinds of values."""

import pytest
import torch
from torch import nn

from squeeze.alike import require_alike, require_fitting

OURS = {"lr": 0.1, "on": True, "name": "sgd", "groups": [{"betas": (0.9, 0.99)}], "best": {}, "w": torch.ones(2)}


@pytest.mark.parametrize(
    "theirs",
    [
        *({}, OURS, {"lr": 1}, {"lr": None}, {"groups": [{"betas": [0.5, 1]}]}, {"groups": []}, {"more": "x"}),
        *({"best": {"a": torch.ones(1)}}, {"w": nn.Parameter(torch.ones(3))}),
    ],
)
def test_the_same_kinds_pass(theirs):
    assert require_alike(OURS, theirs) is None


@pytest.mark.parametrize(
    ("theirs", "where"),
    [
        *(({"lr": "0.1"}, "state.lr"), ({"lr": True}, "state.lr"), ({"on": 1}, "state.on"), ({"best": []}, "best")),
        *(({"groups": [{"betas": (0.9, "x")}]}, "state.groups.betas"), ({"w": 1.0}, "state.w"), ([], "state")),
    ],
)
def test_other_kinds_are_named(theirs, where):
    with pytest.raises(TypeError, match=where):
        require_alike(OURS, theirs)


def trained(kind) -> torch.optim.Optimizer:
    torch.manual_seed(0)
    net = nn.Linear(3, 2)
    optimizer = kind(net.parameters())

    def closure() -> float:
        optimizer.zero_grad()
        loss = net(torch.ones(4, 3)).square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return optimizer


@pytest.mark.parametrize("name", ["SGD", "AdamW", "Adamax", "RMSprop", "Rprop", "ASGD", "NAdam", "Adadelta", "LBFGS"])
def test_every_optimizer_fits_itself(name):
    optimizer = trained(getattr(torch.optim, name))
    before = optimizer.state_dict()
    optimizer.load_state_dict(before)
    assert require_fitting(optimizer, before) is None


def test_what_does_not_fit_is_refused():
    before = trained(torch.optim.SGD).state_dict()
    buffer = trained(lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9))
    for wrong in (torch.ones(7), 3, "x"):
        first = next(iter(buffer.state))
        buffer.state[first]["momentum_buffer"] = wrong
        with pytest.raises(TypeError, match="momentum_buffer"):
            require_fitting(buffer, before)
    buffer.state.clear()
    del buffer.param_groups[0]["momentum"]
    with pytest.raises(TypeError, match="settings"):
        require_fitting(buffer, before)
