"""Detectors judged by inputs that they were not fitted on."""

import json
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import squeeze
from squeeze.detection import FGSM, Box, DeepFool, Detection, Threats, detect
from squeeze.detection.attacks import Logits
from squeeze.detection.examples import examples, sides_of
from squeeze.detection.judging import auc
from squeeze.errors import InputError
from squeeze.nn import GatedConv2d
from tests.gated_nets import quick_net, quick_task, telling_inputs, telling_net
from tests.tasks import noise_task

ATTACKS = (FGSM(0.1), DeepFool(steps=5))


@dataclass(frozen=True)
class Idle:
    """An attack that does nothing, and so never succeeds."""

    name: ClassVar[str] = "Idle"

    def __call__(self, logits: Logits, inputs: Tensor, classes: Tensor, box: Box) -> Tensor:
        return inputs


@dataclass(frozen=True)
class Swapped:
    """Makes of each input of `telling_net` one of the next class, which switches on a filter that no clean one does."""

    name: ClassVar[str] = "Swapped"

    def __call__(self, logits: Logits, inputs: Tensor, classes: Tensor, box: Box) -> Tensor:
        moved = telling_inputs((classes + 1) % 3)
        moved[:, 3] = 0.6
        return moved


@pytest.fixture(scope="module")
def found() -> Detection:
    return detect(quick_net(), quick_task(), attacks=ATTACKS)


def test_auc_by_hand() -> None:
    assert auc(np.array([1.0, 2.0, 3.0]), np.array([2.5, 4.0])) == pytest.approx(5 / 6)
    assert auc(np.zeros(3), np.zeros(2)) == 0.5


def test_a_filter_that_attacks_alone_switch_on_gives_them_away() -> None:
    labels = torch.arange(30) % 3
    data = [(telling_inputs(labels), labels)]
    task = squeeze.DataTask(telling_net, data[0][0][:1], holdout=data, test=data)
    verdict = detect(telling_net(), task, attacks=(Swapped(),)).verdicts[0]
    assert verdict.success == 1 and verdict.inputs == 30
    for name in ("random forest", "AdaBoost", "gradient boosting", "logistic regression", "the one that is kept"):
        assert verdict.auc[name] == 1
    assert verdict.auc["distance to its class, no attack seen"] == 1
    assert set(verdict.depth) == {"random forest", "AdaBoost", "gradient boosting", "logistic regression"}
    assert all(areas == {1: 1} for areas in verdict.depth.values())
    assert verdict.flagged == 1


def test_gates_that_say_the_same_of_every_input_tell_nothing() -> None:
    labels = torch.arange(30) % 3
    data = [(telling_inputs(labels), labels)]
    net = telling_net()
    nn.init.constant_(net.get_submodule("0.gate.expand").bias, 100)
    task = squeeze.DataTask(telling_net, data[0][0][:1], holdout=data, test=data)
    verdict = detect(net, task, attacks=(Swapped(),)).verdicts[0]
    assert verdict.success == 1  # as many attacked inputs as clean ones: no guess is better than another
    assert all(areas == {1: 0.5} for areas in verdict.depth.values())


def test_every_attack_is_judged_by_every_detector_and_depth(found: Detection) -> None:
    assert [verdict.attack for verdict in found.verdicts] == ["FGSM", "DeepFool"]
    assert found.sources == ("holdout", "test") and (found.fit, found.judged) == (60, 60)
    for verdict in found.verdicts:
        assert 0 < verdict.success <= 1
        assert len(verdict.depth) == 4 and all(set(areas) == {1, 2} for areas in verdict.depth.values())
        assert all(areas[2] == verdict.auc[name] for name, areas in verdict.depth.items())
        assert all(0 <= value <= 1 for value in verdict.auc.values())
        assert [count for count, _ in verdict.by_depth()] == [1, 2]
    assert len({tuple(verdict.auc) for verdict in found.verdicts}) == 1
    assert found.detector is not None and found.alarms is not None
    assert json.loads(json.dumps(found.to_dict()))["labelled"] is False
    assert "no labels" in found.notes[0]


def test_the_same_again(found: Detection) -> None:
    assert detect(quick_net(), quick_task(), attacks=ATTACKS).to_dict() == found.to_dict()


def test_an_attack_that_never_succeeds_is_said_and_does_no_harm() -> None:
    found = detect(quick_net(), quick_task(), attacks=(Idle(), DeepFool(steps=5)))
    idle, other = found.verdicts
    assert (idle.success, idle.auc, idle.depth, idle.flagged) == (0, {}, {}, None)
    assert other.auc and found.detector is not None
    assert any(note.startswith("Idle never made the network see something else") for note in found.notes)
    none = detect(quick_net(), quick_task(), attacks=(Idle(),))
    assert (none.detector, none.alarms) == (None, None)


def test_only_what_was_seen_rightly_is_attacked_and_only_what_fooled_counts() -> None:
    net = quick_net()
    task = quick_task()
    (images, *_) = task.test
    predicted = net(images).argmax(1)
    labels = torch.where(torch.arange(len(images)) % 4 == 0, (predicted + 1) % 10, predicted)
    made = examples(net, task, [(images, labels)], (DeepFool(steps=1),), Box.of(images))
    assert len(made.clean) == 24  # three of four
    assert np.array_equal(made.clean.predicted, made.clean.labels)
    fooled = made.attacked["DeepFool"]
    assert fooled is not None and 0 < len(fooled) <= 24
    assert (fooled.predicted != fooled.labels).all()
    assert made.success["DeepFool"] == len(fooled) / 24


def test_so_many_of_each_class_are_fitted_on() -> None:
    task = quick_task()
    box = Box.of(*task.test)
    made = examples(quick_net(), task, list(task.test), (), box, per_class=2)
    whole = examples(quick_net(), task, list(task.test), (), box)
    assert np.bincount(made.clean.predicted).tolist() == np.bincount(whole.clean.predicted).clip(max=2).tolist()


def test_what_is_fitted_on_is_not_judged_by() -> None:
    task = quick_task()
    sides = sides_of(task, 1000)
    assert sides.sources == ("holdout", "test")
    unheld = sides_of(replace(task, train=task.holdout, holdout=task.test, test=()), 1000)
    assert unheld.sources == ("train", "holdout")
    halves = sides_of(noise_task(160), 50)  # shows its training data alone
    fit, judge = (torch.cat([images for images, _ in part]) for part in (halves.fit, halves.judge))
    assert halves.sources == ("train", "train") and (len(fit), len(judge)) == (50, 50)
    assert not any(bool((image == judge).flatten(1).all(1).any()) for image in fit)


def test_one_class_alone_can_be_defended() -> None:
    images = torch.randn(200, 1, 8, 8, generator=torch.Generator().manual_seed(2))
    net = quick_net()
    kept = images[net(images).argmax(1) == net(images).argmax(1).mode().values]
    half = len(kept) // 2
    found = detect(net, quick_task(holdout=[kept[:half]], test=[kept[half:]]), attacks=(DeepFool(steps=5),))
    assert found.verdicts[0].auc


def test_more_classes_than_samples_can_be_judged() -> None:
    found = detect(quick_net(), quick_task(6), attacks=(DeepFool(steps=5),))
    assert found.judged == 6 and found.verdicts[0].auc


def test_gates_weights_and_random_numbers_are_left_alone() -> None:
    net = quick_net()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    state = torch.get_rng_state()
    detect(net, quick_task(8), Threats(0.1))
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in net.parameters())


def test_attacks_stay_in_the_range_of_all_data() -> None:
    task = quick_task()
    sides = sides_of(replace(task, test=[images + 3 for images in task.test]), 60)
    box = sides.box()
    assert (float(box.low), float(box.high)) == (
        min(float(images.min()) for images in task.holdout),
        max(float(images.max()) for images in task.test) + 3,
    )


class Named(nn.Module):
    """`quick_net`, called with two keyword arguments; the second one takes part."""

    def __init__(self) -> None:
        super().__init__()
        self.net = quick_net()

    def forward(self, pixels: Tensor, shift: Tensor) -> Tensor:
        return self.net(pixels) + shift[:, None]


def test_inputs_with_names_are_attacked_beside_others_that_stay() -> None:
    net = Named().eval()

    def named(images: Tensor) -> dict[str, Tensor]:
        shift = torch.arange(len(images))
        return {"pixels": images, "shift": shift, "labels": net(images, shift).argmax(1)}

    plain = quick_task()
    task = squeeze.DataTask(
        Named,
        {"pixels": plain.example_inputs, "shift": torch.zeros(1)},
        holdout=[named(images) for images in plain.holdout],
        test=[named(images) for images in plain.test],
    )
    found = detect(net, task, attacks=ATTACKS)
    assert found.labelled and found.judged == 60
    assert all(verdict.auc for verdict in found.verdicts)
    without = detect(quick_net(), plain, attacks=ATTACKS)
    assert [v.success for v in found.verdicts] == [v.success for v in without.verdicts]


class OneOutput(nn.Module):
    """One number for each image, behind a gate."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = GatedConv2d(nn.Conv2d(1, 4, 3), None, hidden=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).mean((1, 2, 3)).unsqueeze(1)


def test_what_cannot_be_attacked_is_refused() -> None:
    with pytest.raises(InputError, match="must have gates"):
        detect(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), quick_task())
    with pytest.raises(InputError, match="data: must be there"):
        detect(quick_net(), quick_task(holdout=(), test=()))
    with pytest.raises(InputError, match="must tell classes apart, got 1 feature"):
        detect(OneOutput(), quick_task())
    wrong = [(image, (quick_net()(image).argmax(1) + 1) % 10) for image in quick_task().test]
    with pytest.raises(InputError, match="sees rightly, got none"):
        detect(quick_net(), quick_task(holdout=wrong, test=wrong))
    two = [(image, image.flatten(1)) for image in quick_task().test]
    with pytest.raises(InputError, match="one tensor of floating-point numbers"):
        detect(quick_net(), quick_task(holdout=two, test=two))


@pytest.mark.parametrize("size", [1, 3])
def test_training_data_are_halved_whatever_the_size_of_a_batch(size: int) -> None:
    images = torch.arange(10.0).view(10, 1, 1, 1)
    sides = sides_of(squeeze.DataTask(quick_net, images[:1], train=list(images.split(size))), 5)
    assert torch.cat(sides.fit).flatten().tolist() == [0, 2, 4, 6, 8]
    assert torch.cat(sides.judge).flatten().tolist() == [1, 3, 5, 7, 9]


def test_one_training_input_is_too_few() -> None:
    images = torch.zeros(1, 1, 8, 8)
    with pytest.raises(InputError, match="must have two inputs, to fit on and to judge by, got one"):
        sides_of(squeeze.DataTask(quick_net, images, train=[images]), 5)


def test_inputs_that_are_no_numbers_and_a_network_that_makes_none_are_refused() -> None:
    images = torch.rand(20, 1, 8, 8)
    images[3, 0, 2, 2] = torch.nan
    with pytest.raises(InputError, match="inputs must be finite numbers, got nan or infinity"):
        detect(quick_net(), quick_task(test=[images]), attacks=ATTACKS)
    broken = quick_net()
    nn.init.constant_(broken[-1].bias, torch.nan)
    with pytest.raises(InputError, match="make finite numbers of every input, got nan or infinity of 60 of 60"):
        detect(broken, quick_task(), attacks=ATTACKS)
