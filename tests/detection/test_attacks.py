"""Attacks: against linear models, whose best attacks are known, and within what they may do."""

import pytest
import torch
from torch import Tensor, nn

from squeeze.detection import BIM, FGSM, PGD, Attack, Box, DeepFool
from tests.gated_nets import quick_net

IMAGES = torch.randn(40, 1, 8, 8, generator=torch.Generator().manual_seed(3))
BOX = Box.of(IMAGES)
NET = quick_net()
CLASSES = NET(IMAGES).argmax(1)
OPEN = Box(torch.tensor(-100.0), torch.tensor(100.0))


def seen(inputs: Tensor, chosen: Tensor | None = None) -> Tensor:
    return NET(inputs)


def fooled(attack: Attack) -> float:
    return float((NET(attack(seen, IMAGES, CLASSES, BOX)).argmax(1) != CLASSES).double().mean())


def test_the_range_is_that_of_each_channel() -> None:
    inputs = torch.tensor([[[0.0, 2.0], [5.0, 5.0]], [[1.0, 1.0], [7.0, 6.0]]])
    box = Box.of(inputs)
    assert (box.low.flatten().tolist(), box.high.flatten().tolist()) == ([0, 5], [2, 7])
    moved = box.within(inputs + 10, inputs, 0.25)
    assert torch.equal(moved, torch.minimum(inputs + 0.5, box.high))


@pytest.mark.parametrize("attack", [FGSM(0.05), BIM(0.05), PGD(0.05)], ids=lambda a: a.name)
def test_attacks_stay_near_and_in_the_range(attack: Attack) -> None:
    found = attack(seen, IMAGES, CLASSES, BOX)
    size = float((BOX.high - BOX.low).max())
    assert found.shape == IMAGES.shape
    assert 0 < float((found - IMAGES).abs().max()) <= 0.05 * size + 1e-6
    assert torch.equal(found, BOX.clipped(found))
    assert not found.requires_grad


def test_deepfool_stays_in_the_range() -> None:
    found = DeepFool()(seen, IMAGES, CLASSES, BOX)
    assert torch.equal(found, BOX.clipped(found))


def test_success_rises_with_epsilon_and_with_steps() -> None:
    rates = [fooled(FGSM(epsilon)) for epsilon in (0.001, 0.03, 0.1)]
    assert rates[0] < rates[1] < rates[2]
    assert fooled(BIM(0.03)) >= fooled(FGSM(0.03)) > 0
    assert fooled(DeepFool()) > 0.9


def test_fgsm_of_a_linear_model_is_the_sign_of_the_difference_of_weights() -> None:
    """Of two classes the gradient of the loss of class 0 is p₁ (w₁ - w₀)."""
    weight = torch.tensor([[1.0, -2.0, 0.7], [0.0, 1.0, 0.5]])
    inputs = torch.tensor([[0.2, 0.1, 0.3]])
    found = FGSM(0.01)(lambda x, chosen=None: x @ weight.T, inputs, torch.tensor([0]), OPEN)
    assert found == pytest.approx(inputs + 2 * torch.tensor([[-1.0, 1.0, -1.0]]))


@pytest.mark.parametrize("attack", [BIM(0.01, 7), PGD(0.01, 7)], ids=lambda a: a.name)
def test_iterated_attacks_of_a_linear_model_end_where_fgsm_does(attack: Attack) -> None:
    weight = torch.tensor([[1.0, -2.0, 0.7], [0.0, 1.0, 0.5]])
    inputs, classes = torch.tensor([[0.2, 0.1, 0.3]]), torch.tensor([0])
    found = attack(lambda x, chosen=None: x @ weight.T, inputs, classes, OPEN)
    assert found == pytest.approx(FGSM(0.01)(lambda x, chosen=None: x @ weight.T, inputs, classes, OPEN), abs=1e-5)


def test_pgd_begins_at_random_and_bim_at_the_input() -> None:
    assert not torch.equal(PGD(0.03)(seen, IMAGES, CLASSES, BOX), PGD(0.03)(seen, IMAGES, CLASSES, BOX))
    assert torch.equal(BIM(0.03)(seen, IMAGES, CLASSES, BOX), BIM(0.03)(seen, IMAGES, CLASSES, BOX))


def test_deepfool_of_a_linear_model_is_the_projection_onto_the_nearest_boundary() -> None:
    torch.manual_seed(2)
    weight, inputs = torch.randn(5, 6), torch.randn(20, 6)
    classes = (inputs @ weight.T).argmax(1)
    found = DeepFool(overshoot=0.0)(lambda x, chosen=None: x @ weight.T, inputs, classes, OPEN)
    for x, moved, label in zip(inputs, found, classes.tolist(), strict=True):
        others = [k for k in range(5) if k != label]
        ways = {k: ((weight[label] - weight[k]) @ x) / (weight[label] - weight[k]).norm() for k in others}
        nearest = min(ways, key=lambda k: float(ways[k]))
        direction = (weight[nearest] - weight[label]) / (weight[nearest] - weight[label]).norm()
        assert moved - x == pytest.approx(float(ways[nearest]) * direction, abs=1e-3)
        assert int((weight @ moved).argmax()) == nearest


def test_what_is_fooled_already_stays_as_it_is() -> None:
    wrong = (CLASSES + 1) % 10
    assert torch.equal(DeepFool()(seen, IMAGES, wrong, OPEN), IMAGES)


def test_a_network_without_slope_is_left_alone() -> None:
    flat = nn.Linear(4, 3)
    nn.init.zeros_(flat.weight)
    inputs = torch.rand(5, 4)
    classes = flat(inputs).argmax(1)
    for attack in (FGSM(), BIM(), DeepFool()):
        moved = attack(lambda x, chosen=None: flat(x), inputs, classes, Box.of(inputs))
        assert torch.equal(moved, inputs)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FGSM(0), "FGSM: epsilon must be above 0 and at most 1, got 0"),
        (lambda: BIM(1.5), "BIM: epsilon must be above 0"),
        (lambda: PGD(steps=0), "PGD: steps must be at least 1, got 0"),
        (lambda: DeepFool(rivals=0), "DeepFool: steps and rivals must be at least 1"),
    ],
)
def test_settings_that_cannot_be(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]
