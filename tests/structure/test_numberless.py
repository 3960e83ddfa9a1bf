"""Where a run takes long, what is to blame is looked for without numbers."""

import pytest
import torch
from torch import Tensor, nn

from squeeze.structure import trace as tracing
from squeeze.structure.dense import Dense
from squeeze.structure.smaller import shapes_of
from squeeze.structure.watch import Watch
from tests.models import HARD


def dense(model: nn.Module, x: Tensor, long: bool = True) -> Dense:
    return Dense(model, x, shapes_of([model(x)]), Watch(), long=long)


def test_the_same_shapes_come_out_without_numbers() -> None:
    model = nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7)).eval()
    found = dense(model, torch.randn(3, 5)).numberless
    assert {tensor.device.type for tensor in found.model.state_dict().values()} == {"meta"}
    assert found.shapes == [torch.Size([3, 7])]
    assert {tensor.device.type for tensor in model.state_dict().values()} == {"cpu"}


class Counting(nn.Module):
    """Its outputs are as many as there are positive numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(5, 7)

    def forward(self, x: Tensor) -> Tensor:
        y = self.fc(x)
        return y[y > 0]


def test_code_that_wants_numbers_runs_with_them() -> None:
    wants = dense(Counting().eval(), torch.randn(3, 5))
    assert wants.numberless is wants


def test_what_does_not_take_long_runs_with_numbers() -> None:
    short = dense(nn.Linear(5, 7), torch.randn(3, 5), long=False)
    assert short.numberless is short


@pytest.mark.parametrize("name", ["number_of_heads", "number_of_width", "generative", "attention_derived_width"])
def test_the_same_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = HARD[name].build(), HARD[name].inputs()
    expected = tracing.trace(model, x)
    monkeypatch.setattr(tracing, "LONG", 0)
    found = tracing.trace(model, x)
    assert [(g.name, g.size, g.sizes) for g in found.groups] == [(g.name, g.size, g.sizes) for g in expected.groups]
    assert [(p.tensor, p.dim, p.count) for p in found.pinned] == [(p.tensor, p.dim, p.count) for p in expected.pinned]
