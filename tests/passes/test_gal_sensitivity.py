"""What the features would miss, and that GAL finds what nobody would."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import squeeze
from squeeze.masks import SoftMasks
from squeeze.passes.gal import GAL
from squeeze.passes.gal.sensitivity import Sensitivity
from squeeze.training import Run
from tests.passes.tiny import built, structure_of


def test_looks_add_up_to_the_squares_of_the_jacobian() -> None:
    model = built().double().eval()
    masks = SoftMasks(structure_of(model)).double()
    x = torch.randn(4, 3, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def features(values: Tensor) -> Tensor:
        found: Tensor = torch.func.functional_call(model, masks.scaled(model, values), (x,))
        return found

    values = torch.linspace(0.2, 2, 17, dtype=torch.float64)
    jacobian = torch.func.jacrev(features)(values)
    mean = torch.zeros(17, dtype=torch.float64)
    for seed in range(4000):
        look = Sensitivity(17, seed)
        look.observe(torch.einsum("nd,ndm->m", look.signs(0, 0, jacobian[..., 0]), jacobian))
        mean += look.missed(values) / 4000
    expected = values.square() * jacobian.square().sum((0, 1))
    assert (expected > 1e-4).sum() > 8
    torch.testing.assert_close(mean, expected, rtol=0.1, atol=0)


def test_looks_count_alike_at_first_and_the_last_twenty_later() -> None:
    sensitivity = Sensitivity(1)
    for value in (1.0, 2.0, 3.0):
        sensitivity.observe(torch.tensor([value]))
    assert sensitivity.square.item() == pytest.approx(14 / 3, rel=0.05)
    for _ in range(300):
        sensitivity.observe(torch.tensor([1.0]))
    assert sensitivity.square.item() == pytest.approx(1, rel=1e-4)
    sensitivity.observe(torch.tensor([float("nan")]))
    assert sensitivity.square.item() == pytest.approx(1, rel=1e-4)


def test_what_is_missed_does_not_change_with_the_scale_of_a_mask() -> None:
    sensitivity = Sensitivity(3)
    sensitivity.observe(torch.tensor([1.0, 2.0, 0.0]))
    masks, factor = torch.tensor([1.0, 0.5, 3.0]), torch.tensor([2.0, 0.1, 7.0])
    before = sensitivity.missed(masks)
    sensitivity.follow(factor)
    torch.testing.assert_close(sensitivity.missed(masks / factor), before)
    assert before.tolist() == [1, 1, 0]


def test_signs_are_the_same_however_rows_are_divided() -> None:
    sensitivity = Sensitivity(1, seed=3)
    whole = sensitivity.signs(5, 0, torch.zeros(7, 3))
    assert set(whole.unique().tolist()) == {-1, 1}
    parts = [sensitivity.signs(5, start, torch.zeros(rows, 3)) for start, rows in ((0, 2), (2, 4), (6, 1))]
    assert torch.equal(torch.cat(parts), whole)
    assert not torch.equal(sensitivity.signs(6, 0, torch.zeros(7, 3)), whole)


class Images:
    """Random images without labels."""

    name, metric = "images", "accuracy"
    example_inputs = torch.zeros(1, 3, 8, 8)

    def build(self) -> nn.Module:
        return halfdead()

    def train_batches(self, epoch: int) -> list[Tensor]:
        generator = torch.Generator().manual_seed(epoch)
        return [torch.randn(16, 3, 8, 8, generator=generator) for _ in range(12)]

    def features(self, model: nn.Module, batch: Tensor) -> Tensor:
        return model(batch)

    def loss(self, model: nn.Module, batch: Tensor) -> Tensor:
        raise AssertionError("GAL asked for labels")

    def evaluate(self, model: nn.Module, split: str) -> dict[str, float]:
        raise AssertionError("GAL asked for an evaluation")


def halfdead() -> nn.Sequential:
    """Eight channels, four of them 0 for any input, read by a layer in front of a normalisation."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 4),
    )
    with torch.no_grad():
        model[1].weight[:4], model[1].bias[:4] = 0, -1
    return model.eval()


@pytest.fixture(params=[0, 1])
def seed(request: pytest.FixtureRequest) -> Iterator[int]:
    yield request.param


def test_channels_that_are_always_0_go_first(seed: int) -> None:
    model, task = halfdead(), Images()
    structure = squeeze.trace(model, task.example_inputs)
    settings = GAL(macs=0.51, epochs=4, round_to=1)
    found = settings.search(model, structure, task, Run(seed=seed))
    small = squeeze.rewrite(found.model, found.edits)
    assert small[0].out_channels == 4
    x = torch.randn(8, 3, 8, 8)
    assert np.isclose((small(x) - model(x)).norm().item(), 0, atol=0.3 * model(x).norm().item())
