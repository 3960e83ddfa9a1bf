"""GAL: one step against the formulas written out by hand, and what a whole search promises."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid
from torch.utils.flop_counter import FlopCounterMode

from squeeze.edits import rewrite
from squeeze.errors import BudgetError, InputError
from squeeze.masks import SoftMasks
from squeeze.passes.base import Found
from squeeze.passes.gal import GAL
from squeeze.passes.gal.discriminator import Discriminator, discriminator_loss
from squeeze.passes.gal.learner import GALLearner
from squeeze.passes.gal.sensitivity import Sensitivity
from squeeze.passes.gal.steering import Steering
from squeeze.passes.gal.teacher import frozen_baseline
from squeeze.selection import Budget
from squeeze.training import Run
from squeeze.updates import Precision, Update
from tests.passes.tiny import Tiny, built, structure_of

QUICK: dict[str, Any] = {"epochs": 2, "round_to": 1}


class Noise:
    """Random images; the labels are there to be left alone."""

    name = "noise"
    metric = "accuracy"
    example_inputs = torch.zeros(1, 3, 6, 6)

    def __init__(self, steps: int = 8, label: float = 0.0, stop: tuple[int, int] | None = None) -> None:
        self.steps, self.label, self.stop = steps, label, stop

    def build(self) -> nn.Module:
        return Tiny()

    def train_batches(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(epoch)
        for step in range(self.steps):
            if self.stop == (epoch, step):
                raise KeyboardInterrupt
            yield torch.randn(8, 3, 6, 6, generator=generator), torch.full((8,), self.label)

    def features(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return model(batch[0])

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        raise AssertionError("GAL asked for labels")

    def evaluate(self, model: nn.Module, split: str) -> dict[str, float]:
        raise AssertionError("GAL asked for an evaluation")


class Sized(Noise):
    """The same batches in a list, whose length is known."""

    def train_batches(self, epoch: int) -> Any:
        return list(super().train_batches(epoch))


def search(settings: GAL, task: Noise | None = None, run: Run | None = None) -> tuple[Tiny, Found]:
    model = built().eval()
    return model, settings.search(model, structure_of(model), task or Sized(), run or Run())


def macs(model: nn.Module) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, 3, 6, 6))
    return counter.get_total_flops() // 2


def learner_for(settings: GAL) -> tuple[GALLearner, Tensor]:
    model = built()
    masks = SoftMasks(structure_of(model))
    x = next(Noise().train_batches(0))[0]
    baseline, width = frozen_baseline(model, Noise(), Noise().train_batches(0))
    steering = Steering(masks, structure_of(model), None, Sensitivity(17))
    return GALLearner(model, baseline, Discriminator(width, 0), steering, settings, 8), x


def judge(weights: list[Tensor], features: Tensor) -> Tensor:
    """The discriminator, as matrix products."""
    for i in range(0, len(weights) - 2, 2):
        features = torch.clamp(features @ weights[i].T + weights[i + 1], min=0)
    return (features @ weights[-2].T + weights[-1])[:, 0]


def test_one_step_is_what_the_formulas_say() -> None:
    settings = GAL(lambda_=0.3, mu=0.7, lr_mask=0.05, lr_generator=0.02, lr_discriminator=0.03)
    learner, x = learner_for(settings)
    generator, d = built().train(), [p.detach().clone().requires_grad_() for p in learner.discriminator.parameters()]
    learner.start_epoch(0)
    logged = learner.step(Update([(x, torch.zeros(8))], Precision("no", torch.device("cpu"))))

    real = built().eval()(x).detach()
    scale = real.std(correction=0)
    m = torch.ones(17, requires_grad=True)
    names = ("stem", "body.conv1", "left", "right", "body", "branch left", "branch right")
    fake = generator.masked(x, dict(zip(names, m.split([4, 5, 2, 3, 1, 1, 1]), strict=True))) / scale
    zr, zf = judge(d, real / scale), judge(d, fake.detach())
    d_loss = -(logsigmoid(zr).mean() + torch.log(1 - torch.sigmoid(zf)).mean() + logsigmoid(zf).mean())
    assert logged["discriminator"] == pytest.approx(d_loss.item(), rel=1e-5)
    d = [w.detach() - 0.03 * (g + 2e-4 * w.detach()) for w, g in zip(d, torch.autograd.grad(d_loss, d), strict=True)]
    for ours, theirs in zip(learner.discriminator.parameters(), d, strict=True):
        torch.testing.assert_close(ours.detach(), theirs)

    adversarial = -logsigmoid(judge(d, fake)).mean()
    data = 0.7 * sum((a - b).square().sum() for a, b in zip(real / scale, fake, strict=True)) / (2 * len(x))
    assert logged["adversarial"] == pytest.approx(adversarial.item(), rel=1e-5)
    assert logged["data"] == pytest.approx(data.item(), rel=1e-4)
    parameters = list(generator.parameters())
    gradient, *others = torch.autograd.grad(adversarial + data, [m, *parameters])
    with torch.no_grad():
        before = norms(generator)
        for w, g in zip(parameters, others, strict=True):
            w -= 0.02 * (g + (2e-4 if w.dim() > 1 else 0.0) * w)
        growth = norms(generator) / before
        growth[-2:] = 1  # the columns behind the branches are those behind their filters
        cost = SoftMasks(structure_of(built())).macs
        w = (cost / cost.mean()).float()
        step = 0.05 / w.clamp(min=0.1)
        moved = (growth - step * gradient / growth - step * 0.3 * w).clamp(min=0)
        groups = zip(moved[:14].split([4, 5, 2, 3]), before[:14].square().split([4, 5, 2, 3]), strict=True)
        levelled = [m / ((m.square() * energy).sum() / energy.sum()).sqrt() for m, energy in groups]
        torch.testing.assert_close(learner.masks.values.detach(), torch.cat([*levelled, moved[14:]]))
        for part, factor in zip(slices(generator), 1 / growth, strict=True):
            for view in part:
                view *= factor
    for ours, theirs in zip(learner.generator.model.parameters(), parameters, strict=True):
        torch.testing.assert_close(ours.detach(), theirs.detach())


def slices(model: Tiny) -> list[list[Tensor]]:
    """What each of the 17 masks multiplies, written out."""
    readers = (model.body.conv1, model.left, model.right)
    found = [[conv.weight.data[:, i] for conv in readers] for i in range(4)]
    found += [[model.body.conv2.weight.data[:, i]] for i in range(5)]
    found += [[model.head.weight.data[:, i]] for i in range(5)]
    return [*found, [model.body.bn2.weight.data, model.body.bn2.bias.data], [], []]


def norms(model: Tiny) -> Tensor:
    return torch.stack([sum((v.square().sum() for v in part), torch.zeros(())) for part in slices(model)]).sqrt()


def test_growth_of_the_weights_is_the_masks_and_their_energy_stays_the_dense_networks() -> None:
    learner, x = learner_for(GAL(lambda_=0.1))
    model, masks = learner.generator.model, learner.masks
    dense = masks.norms(model)
    with torch.no_grad():
        masks.values.uniform_(0.1, 2, generator=torch.Generator().manual_seed(0))
        masks.values[4], masks.values[-2:] = 0, 1
        for parameter in model.parameters():
            parameter.mul_(torch.rand(len(parameter)).view(-1, *[1] * (parameter.dim() - 1)) + 0.5)
    expected = torch.func.functional_call(model.eval(), masks.scaled(model), (x,))
    learner.balance.absorb(learner.fista)
    torch.testing.assert_close(masks.norms(model), dense)
    torch.testing.assert_close(torch.func.functional_call(model, masks.scaled(model), (x,)), expected)
    before = masks.values.detach().clone()
    learner.balance.level(learner.fista)
    masks.fold(model)
    for span in (slice(0, 4), slice(4, 9), slice(9, 11), slice(11, 14)):
        assert masks.norms(model)[span].square().sum().item() == pytest.approx(
            dense[span].square().sum().item(), rel=1e-4
        )
        torch.testing.assert_close(masks.values[span] / masks.values[span].sum(), before[span] / before[span].sum())
    assert masks.values[4] == 0


def test_after_the_decision_masks_stand_still_and_weights_go_on() -> None:
    settings = GAL(macs=0.6, **QUICK)
    model = built()
    structure = structure_of(model)
    masks = SoftMasks(structure)
    baseline, width = frozen_baseline(model, Noise(), Noise().train_batches(0))
    steering = Steering(masks, structure, Budget(macs=0.6), Sensitivity(17), round_to=1)
    learner = GALLearner(model, baseline, Discriminator(width, 0), steering, settings, steps=5)
    learner.start_epoch(0)
    seen = []
    for batch in Noise(steps=10).train_batches(0):
        learner.step(Update([batch], Precision("no", torch.device("cpu"))))
        seen.append((learner.removed is not None, masks.values.detach().clone(), model.stem.weight.detach().clone()))
    assert [decided for decided, _, _ in seen] == [False] * 7 + [True] * 3
    assert torch.equal(seen[7][1], seen[9][1])
    assert not torch.equal(seen[7][2], seen[9][2])
    assert np.array_equal(seen[7][1].numpy() == 0, learner.removed)
    assert structure.cost(masks.choice(learner.removed)).macs <= 0.6 * structure.cost().macs


def test_masks_move_along_the_mean_gradient_of_several_steps() -> None:
    every, _ = learner_for(GAL(lambda_=0.1, mask_step=3))
    precision = Precision("no", torch.device("cpu"))
    batches = list(Noise(steps=3).train_batches(0))
    every.start_epoch(0)
    gradients = []
    for batch in batches[:2]:
        every.step(Update([batch], precision))
        gradients.append(every.masks.values.grad.clone())
    assert torch.equal(every.masks.values.detach(), torch.ones(17))
    once, _ = learner_for(GAL(lambda_=0.1, mask_step=1))
    once.start_epoch(0)
    once.step(Update(batches[:1], precision))
    assert not torch.equal(gradients[0], gradients[1])
    every.step(Update(batches[2:], precision))
    assert (every.masks.values != 1).all()
    assert every.masks.values.grad is None


@pytest.mark.parametrize("regularizer", ["l1", "l2"])
def test_norms_regularise_the_discriminator(regularizer: Any) -> None:
    discriminator = Discriminator(4, 0)
    real, fake = torch.randn(6, 4), torch.randn(6, 4)
    weights = [p for p in discriminator.parameters() if p.dim() > 1]
    norm = sum(w.abs().sum() if regularizer == "l1" else w.square().sum() / 2 for w in weights)
    plain = -logsigmoid(discriminator(real)).mean() - logsigmoid(-discriminator(fake)).mean()
    loss = discriminator_loss(discriminator, real, fake, regularizer, 0.01)
    torch.testing.assert_close(loss, plain + 0.01 * norm)


def test_discriminator_has_the_papers_shape() -> None:
    discriminator = Discriminator(10, 0)
    weights = [p for p in discriminator.parameters() if p.dim() > 1]
    assert [tuple(w.shape) for w in weights] == [(128, 10), (256, 128), (128, 256), (1, 128)]
    assert all((p == 0).all() for p in discriminator.parameters() if p.dim() == 1)
    assert torch.cat([w.flatten() for w in weights]).var().item() == pytest.approx(0.01, rel=0.02)
    assert discriminator(torch.randn(3, 10)).shape == (3,)


@pytest.mark.parametrize("structures", [("filters",), ("filters", "blocks"), ("filters", "blocks", "branches")])
def test_budget_is_met_and_the_removal_is_exact(structures: Any) -> None:
    model, found = search(GAL(macs=0.6, structures=structures, **QUICK))
    dense = structure_of(model).cost().macs
    smaller = rewrite(found.model, found.edits)
    assert macs(model) == dense
    assert macs(smaller) <= 0.6 * dense
    x = torch.randn(4, 3, 6, 6)
    torch.testing.assert_close(smaller(x), found.model(x), rtol=1e-4, atol=1e-5)


def test_params_budget_is_met() -> None:
    model, found = search(GAL(params=0.6, **QUICK))
    before, after = (sum(p.numel() for p in m.parameters()) for m in (model, rewrite(found.model, found.edits)))
    assert after <= 0.6 * before


def test_a_tiny_lambda_removes_nothing_and_a_huge_one_all_but_one_of_each() -> None:
    assert search(GAL(lambda_=1e-8, lr_mask=1e-3, **QUICK))[1].edits == ()
    _, found = search(GAL(lambda_=1e4, **QUICK))
    smaller = rewrite(found.model, found.edits)
    assert [edit.name for edit in found.edits if edit.kind == "drop"][0] == "body"
    assert smaller.stem.out_channels == 1
    left = [getattr(smaller, name) for name in ("left", "right") if isinstance(getattr(smaller, name), nn.Conv2d)]
    assert [(conv.in_channels, conv.out_channels) for conv in left] == [(1, 1)]
    assert smaller.head.in_features == 1
    assert (smaller.head.weight != 0).any()


def test_the_given_model_is_left_alone() -> None:
    model, found = search(GAL(macs=0.6, **QUICK))
    assert all(
        torch.equal(a, b) for a, b in zip(model.state_dict().values(), built().state_dict().values(), strict=True)
    )
    assert not any(module.training for module in (*model.modules(), *found.model.modules()))
    assert any(not torch.equal(a, b) for a, b in zip(model.parameters(), found.model.parameters(), strict=True))


def same(a: Found, b: Found) -> bool:
    states = zip(a.model.state_dict().values(), b.model.state_dict().values(), strict=True)
    return a.edits == b.edits and a.history == b.history and all(torch.equal(x, y) for x, y in states)


def test_labels_are_never_looked_at() -> None:
    settings = GAL(macs=0.6, **QUICK)
    assert same(search(settings)[1], search(settings, Sized(label=float("nan")))[1])


@pytest.mark.parametrize("stop", [(0, 4), (1, 1), (1, 5)])
def test_resumes_bit_for_bit_in_the_middle_of_a_gathered_gradient(tmp_path: Path, stop: tuple[int, int]) -> None:
    settings = GAL(macs=0.6, mask_step=3, **QUICK)
    expected = search(settings, Noise())[1]
    with pytest.raises(KeyboardInterrupt):
        search(settings, Noise(stop=stop), Run(tmp_path))
    assert same(search(settings, Noise(), Run(tmp_path, resume=True))[1], expected)


def test_masks_begin_as_told() -> None:
    still = {"lambda_": 1.0, "mask_step": 1000, **QUICK}
    ones = search(GAL(**still))[1].history["masks"]
    assert ones["filters"]["stem"] == [1.0] * 4
    drawn = search(GAL(init="normal", **still), run=Run(seed=3))[1].history["masks"]
    values = [v for kind in drawn.values() for part in kind.values() for v in part]
    expected = torch.empty(17).normal_(generator=torch.Generator().manual_seed(3))
    assert values == pytest.approx(expected.tolist(), abs=1e-5)


def test_history_is_json() -> None:
    history = json.loads(json.dumps(search(GAL(macs=0.6, **QUICK))[1].history))
    assert len(history["epochs"]) == 2
    assert {"lambda", "share", "data", "adversarial", "discriminator", "mask_50%"} <= set(history["epochs"][0])
    assert len(history["masks"]["filters"]["body.conv1"]) == 5


def test_no_data_is_an_error_and_nothing_to_remove_is_not() -> None:
    with pytest.raises(InputError, match="GAL: needs data"):
        search(GAL(macs=0.6), Sized(steps=0))
    assert search(GAL(macs=0.6, ignore=("*",)))[1].edits == ()


def test_a_budget_out_of_reach_fails_before_training() -> None:
    with pytest.raises(BudgetError, match="must be at least"):
        search(GAL(macs=0.001, epochs=10**9))


def test_features_without_gradient_are_refused() -> None:
    class Detached(Sized):
        def features(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
            return super().features(model, batch).detach()

    with pytest.raises(InputError, match="differentiable"):
        search(GAL(macs=0.6, **QUICK), Detached())


def test_what_all_masks_of_a_group_have_in_common_gives_no_momentum() -> None:
    learner, _ = learner_for(GAL(lambda_=0.3))
    for _ in range(5):
        learner.masks.values.grad, learner._gathered = torch.zeros(17), 1
        learner._update_masks()
    torch.testing.assert_close(learner.masks.values.detach()[:14], torch.ones(14))


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({}, "exactly one"),
        ({"macs": 0.5, "params": 0.5}, "exactly one"),
        ({"macs": 0.0}, "macs"),
        ({"macs": 1.0}, "macs"),
        ({"params": 1.5}, "params"),
        ({"lambda_": 0.0}, "lambda_"),
        ({"macs": 0.5, "lr_mask": -1.0}, "lr_mask"),
        ({"macs": 0.5, "mu": -1.0}, "mu"),
        ({"macs": 0.5, "epochs": 0}, "epochs"),
        ({"macs": 0.5, "round_to": 1.5}, "round_to"),
        ({"macs": 0.5, "structures": ()}, "structures"),
        ({"macs": 0.5, "structures": ("filter",)}, "structures"),
        ({"macs": 0.5, "regularizer": "l3"}, "regularizer"),
        ({"macs": 0.5, "init": "zeros"}, "init"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], field: str) -> None:
    with pytest.raises(ValueError, match=f"GAL: {field}"):
        GAL(**settings)
