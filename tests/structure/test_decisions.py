"""Two runs are compared where they take the same decisions: rounding decides among candidates that are alike."""

from functools import partial

import pytest
import torch
from torch import Tensor, nn

import squeeze
from squeeze.structure.decisions import same_decided
from squeeze.structure.precision import Widened, widened
from tests import law

X = torch.randn(1, 3, 12, 12, generator=torch.Generator().manual_seed(0))


class Detector(nn.Module):
    """Scores and boxes by position, of which the best are kept; on an even background most are alike.

    Args:
        by_inputs: Rounding follows the inputs, too, not only the widths.
    """

    def __init__(self, by_inputs: bool = True) -> None:
        super().__init__()
        self.by_inputs = by_inputs
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 24, 1), nn.Hardswish(), nn.Conv2d(24, 32, 1), nn.ReLU())
        self.score, self.box = nn.Conv2d(32, 1, 1), nn.Conv2d(32, 4, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        features = self.body(x * 0 + x.mean())
        scores, boxes = self.score(features).flatten(), self.box(features)[0].flatten(1).t()
        places = torch.arange(len(boxes), device=x.device).unsqueeze(1)
        # Kernels round in another way for other numbers and other widths: that decides here.
        wave = 1e8 * x.mean() * self.by_inputs + features.shape[1] * places[:, 0]
        scores = scores * (1 + 1e-6 * torch.sin(wave))
        best, order = scores[scores > -10].topk(5)
        return best, (boxes + places)[order], order


def scored(scores: Tensor, places: Tensor) -> list[Tensor]:
    return [places[scores.topk(2).indices]]


def test_like_candidates_may_change_places_and_others_may_not() -> None:
    places = torch.arange(4.0)
    scores, rounded = torch.tensor([3.0, 1.0, 3.0, 3.0]), torch.tensor([3.0, 1.0, 3.0 - 1e-6, 3.0 + 1e-6])
    assert scored(rounded, places)[0].tolist() != scored(scores, places)[0].tolist()
    same = partial(same_decided, partial(scored, scores, places))
    assert same(partial(scored, rounded, places), 1e-5)
    assert not same(partial(scored, torch.tensor([3.0, 1.0, 3.0, 3.1]), places), 1e-5)  # another decision
    assert not same(partial(scored, rounded, places + torch.tensor([0, 0, 0.1, 0])), 1e-5)  # another result of it


def test_another_number_of_decisions_is_another_run() -> None:
    def twice(x: Tensor) -> list[Tensor]:
        return [x[x.argsort()[x.argsort()]]]

    x = torch.arange(4.0)
    assert not same_decided(lambda: [x[x.argsort()]], lambda: twice(x), 1e-5)


def test_decisions_along_what_is_cut_stand_for_themselves() -> None:
    x = torch.randn(1, 6, 4, 4)
    pool = nn.MaxPool2d(2, return_indices=True)

    def kept(values: Tensor) -> list[Tensor]:
        return [pool(values)[0][:, :3]]

    assert same_decided(partial(kept, x), partial(kept, x[:, :3]), 1e-5)
    assert not same_decided(partial(kept, x), partial(kept, x[:, 3:]), 1e-5)


@pytest.mark.parametrize("by_inputs", [True, False])
def test_heads_are_cut_where_rounding_decides_which_box_is_kept(by_inputs: bool) -> None:
    structure = squeeze.trace(Detector(by_inputs).eval(), X)
    assert sorted(group.size for group in structure.groups) == [24, 32]


def test_cut_heads_of_a_detector_take_the_same_decisions() -> None:
    model = Detector().eval()
    structure = squeeze.trace(model, X)
    choice = law.choose(structure, 0)
    wide, x = widened(model, X)
    masked, removed = law.masked(wide, structure, choice), squeeze.rewrite(wide, structure.edits(choice))
    assert same_decided(partial(law.run, masked, x), partial(law.run, removed, x), law.TOLERANCE)


class Gridded(nn.Module):
    """Adds a grid that its code makes in float32, and is called on one type only."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        flow = self.second(self.first(x).relu())
        grid = torch.stack(torch.meshgrid(torch.arange(12), torch.arange(12), indexing="ij")).float()
        return nn.functional.grid_sample(x, (grid + flow.float())[0:1].permute(0, 2, 3, 1), align_corners=True)


def test_code_that_says_float32_runs_in_float64() -> None:
    model = Gridded().eval()
    model(X)
    wide, x = widened(model, X)
    with pytest.raises(RuntimeError, match="Double"):
        wide(x)
    with Widened(), torch.no_grad():
        found = wide(x)
    assert found.dtype is torch.float64
    assert found.sub(model(X)).abs().max() < 1e-4
    with Widened(), torch.no_grad():  # nothing is rounded to float32 on the way
        assert wide(x + 1e-9).sub(found).abs().max() > 1e-12


class Chosen(nn.Module):
    """Joins what a threshold lets through, here nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.second(self.first(x).relu())
        kept = y.flatten()[y.flatten() > 1e6]
        return y, torch.cat([kept, kept])


def test_nothing_may_be_joined_to_nothing() -> None:
    structure = squeeze.trace(Chosen().eval(), torch.randn(2, 4))
    assert [group.size for group in structure.groups] == [8]
