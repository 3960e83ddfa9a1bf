"""A budget that is spent by layer: where the outputs do not notice, less stays."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import squeeze
from squeeze.passes.kse.levels import Setting
from squeeze.passes.kse.sensitivity import Rung, chosen, hull
from squeeze.plan import Cluster

IMAGES = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Two(nn.Module):
    """Two equal layers, of which the second hardly reaches the output."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, padding=1)
        self.loud = nn.Conv2d(32, 32, 3, padding=1)
        self.quiet = nn.Conv2d(32, 32, 3, padding=1)
        self.norm = nn.BatchNorm2d(32)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        return (self.norm(self.loud(x)) + 0.01 * self.quiet(x)).mean((2, 3))


def two() -> nn.Module:
    torch.manual_seed(0)
    return Two().eval()


def search(model: nn.Module, **settings: object) -> squeeze.Found:
    task = squeeze.DataTask(Two, IMAGES[:1], [IMAGES])
    return squeeze.KSE(**settings).search(model, squeeze.trace(model, IMAGES[:1]), task, squeeze.Run())


def kernels(found: squeeze.Found) -> dict[str, int]:
    """How many are left of each layer."""
    return {"loud": 1024, "quiet": 1024} | {e.module: sum(e.counts) for e in found.edits if isinstance(e, Cluster)}


def moved(found: squeeze.Found) -> float:
    with torch.no_grad():
        return float((found.model.eval()(IMAGES) - two()(IMAGES)).square().mean())


@pytest.mark.parametrize("settings", [{"params": 0.6}, {"macs": 0.6}, {"params": 0.6, "G": 4}, {"size_mb": 0.06}])
def test_less_stays_where_the_outputs_do_not_notice(settings: dict[str, float]) -> None:
    by_layer, same = search(two(), **settings), search(two(), **settings, by_layer=False)
    assert kernels(by_layer)["quiet"] < kernels(same)["quiet"]
    assert kernels(by_layer)["loud"] > kernels(same)["loud"]
    assert moved(by_layer) < moved(same)


def test_the_budget_is_met_and_the_model_left_alone() -> None:
    model = two()
    state, random = {k: v.clone() for k, v in model.state_dict().items()}, torch.get_rng_state()
    found = search(model, params=0.6)
    after = squeeze.profile(squeeze.rewrite(found.model, found.edits), IMAGES[:1]).params
    assert 0.55 <= after / squeeze.profile(model, IMAGES[:1]).params <= 0.6
    assert all(torch.equal(state[k], v) for k, v in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)


def test_without_data_all_layers_have_the_same_setting() -> None:
    task, model = squeeze.DataTask(Two, IMAGES[:1]), two()
    found = squeeze.KSE(macs=0.6).search(model, squeeze.trace(model, IMAGES[:1]), task, squeeze.Run())
    assert len({tuple(pair) for pair in found.history["settings"].values()}) == 1


def rung(saved: float, harm: float) -> Rung:
    return Rung(Setting(4, saved) if saved else None, saved, harm)


def test_a_ladder_is_the_lower_convex_hull() -> None:
    points = [(0.0, 0.0), (1.0, 3.0), (2.0, 2.0), (3.0, 4.5), (3.0, 9.0), (4.0, 6.0), (5.0, 20.0), (6.0, 20.0)]
    kept = [(r.saved, r.harm) for r in hull([rung(*p) for p in points])]
    assert kept == [(0, 0), (2, 2), (4, 6), (6, 20)]
    for saved, harm in points:
        assert np.interp(saved, *zip(*kept, strict=True)) <= harm + 1e-12


def test_the_cheapest_steps_come_first() -> None:
    ladders = {"a": hull([rung(0, 0), rung(2, 1), rung(4, 9)]), "b": hull([rung(0, 0), rung(3, 6), rung(5, 30)])}
    assert chosen(ladders, 0) == {}
    assert chosen(ladders, 1) == {"a": Setting(4, 2)}
    assert chosen(ladders, 4) == {"a": Setting(4, 2), "b": Setting(4, 3)}
    assert chosen(ladders, 6) == {"a": Setting(4, 4), "b": Setting(4, 3)}
    assert chosen(ladders, 99) == {"a": Setting(4, 4), "b": Setting(4, 5)}
