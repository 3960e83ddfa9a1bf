"""`squeeze.compress` from end to end on a tiny network and scikit-learn's digits."""

import copy
import random
import warnings
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import squeeze
from squeeze import GAL, FineTune, Magnitude, Result, Run, finetune
from squeeze.errors import BudgetError, InputError, NoEffectWarning, PlanError, TrainingError
from squeeze.passes.base import Found, Loss
from squeeze.plan import Slice
from squeeze.structure.groups import Structure
from squeeze.task import Task
from tests.law import fingerprint
from tests.tasks import ToyTask, digits_task, noise_task, tiny_net

UNTUNED = FineTune(epochs=0)
SHORT = FineTune(epochs=1)


@cache
def trained(seed: int) -> nn.Module:
    """Briefly, on the digits, so that its statistics are those of its data."""
    torch.manual_seed(seed)
    model = tiny_net(16)
    task = digits_task(200)
    finetune(model, None, task, FineTune(epochs=20, lr=0.1, distill=0), (), Run())
    return model.train()


def net(seed: int = 0) -> nn.Module:
    return copy.deepcopy(trained(seed))


@dataclass
class Digits(ToyTask):
    """As `digits_task`, with the last fifth as its test set as well, and a network of 16 channels."""

    def build(self) -> nn.Module:
        return net()

    def evaluate(self, model: nn.Module, split: str) -> dict[str, float]:
        assert split == "holdout" or not model.training
        return super().evaluate(model, "holdout")


def digits() -> Digits:
    found = digits_task(200)
    return Digits(found.images, found.labels, batch=64)


@cache
def by_magnitude() -> Result:
    return squeeze.compress(net(), Magnitude(macs=0.5, round_to=1), digits(), finetuning=SHORT)


@cache
def by_gal() -> Result:
    return squeeze.compress(net(), GAL(macs=0.5, epochs=2, round_to=1), digits(), finetuning=SHORT)


RESULTS = {"magnitude": by_magnitude, "gal": by_gal}
everyone = pytest.mark.parametrize("name", RESULTS)


def shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def macs_by_hand(model: nn.Module) -> int:
    """Of the tiny network on one image of 8 × 8; its second convolution halves height and width."""
    first, second, head = model[0], model[3], model[-1]
    return first.weight.numel() * 64 + second.weight.numel() * 16 + head.weight.numel()


@everyone
def test_the_model_is_smaller_and_the_budget_is_met(name: str) -> None:
    result = RESULTS[name]()
    before, after = macs_by_hand(net()), macs_by_hand(result.model)
    assert 0.4 * before <= after <= 0.5 * before
    batch = len(result.task.example_inputs)
    assert (result.stages.before.profile.macs, result.stages.after.profile.macs) == (batch * before, batch * after)
    assert result.model(torch.randn(3, 1, 8, 8)).shape == (3, 10)
    assert not any(module.training for module in result.model.modules())


@everyone
def test_the_plan_replays_to_the_same_model(name: str) -> None:
    result = RESULTS[name]()
    plan = squeeze.Plan.from_json(result.plan.to_json())
    again = squeeze.rewrite(net(seed=7), plan.edits)
    assert shapes(again) == shapes(result.model)
    again.load_state_dict(result.model.state_dict())
    x = torch.randn(5, 1, 8, 8)
    assert torch.equal(again.eval()(x), result.model(x))
    assert repr(again) == repr(result.model)


@everyone
def test_the_plan_says_where_it_comes_from(name: str) -> None:
    result = RESULTS[name]()
    (step,) = result.plan.steps
    assert step.method == name
    assert (step.settings["macs"], step.settings["round_to"]) == (0.5, 1)
    assert (result.plan.provenance["seed"], result.plan.provenance["model"]) == (0, "Sequential")
    assert "torch" in result.plan.provenance["versions"]


@everyone
def test_everything_was_measured_and_reported(name: str) -> None:
    result = RESULTS[name]()
    stages = result.stages
    for measured in (stages.before, stages.cut, stages.after):
        assert measured is not None and 0 <= measured.metrics["accuracy"] <= 1
    assert stages.after.metrics == result.task.evaluate(result.model, "test")
    assert stages.before.metrics == result.task.evaluate(net().eval(), "test")
    assert [phase for phase, _ in result.history] == [name, "finetune"]
    assert result.report.methods[0].name == name
    assert result.report.origin.task == "toy"
    assert all(timing.median > 0 for timing in (*stages.before.latency, *stages.after.latency))


@pytest.mark.parametrize("chosen", [Magnitude(params=0.6), GAL(params=0.6, epochs=1)])
def test_the_given_model_and_the_callers_random_numbers_are_untouched(chosen: Any) -> None:
    model = net().train()
    model[1].eval()
    before, modes = fingerprint(model), [m.training for m in model.modules()]
    torch.manual_seed(5)
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    squeeze.compress(model, chosen, noise_task(), finetuning=SHORT)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1].tolist(), random.getstate()) == states[1:]
    assert fingerprint(model) == before
    assert [m.training for m in model.modules()] == modes
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def bits(result: Result) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in result.model.state_dict().items()}


@pytest.mark.parametrize("chosen", [Magnitude(macs=0.5, round_to=1), GAL(macs=0.5, epochs=1, round_to=1)])
def test_seeds_reproduce_bit_for_bit(chosen: Any) -> None:
    first = squeeze.compress(net(), chosen, noise_task(), finetuning=SHORT, run=Run(seed=3))
    torch.rand(5)
    again = squeeze.compress(net(), chosen, noise_task(), finetuning=SHORT, run=Run(seed=3))
    other = squeeze.compress(net(), chosen, noise_task(), finetuning=SHORT, run=Run(seed=4))
    assert bits(first) == bits(again) != bits(other)
    assert first.plan.to_json().split('"steps"')[1] == again.plan.to_json().split('"steps"')[1]


def test_two_passes_follow_each_other() -> None:
    passes = [Magnitude(ratio=0.25, scope="local", round_to=1), GAL(macs=0.6, epochs=1, round_to=1)]
    result = squeeze.compress(net(), passes, digits(), finetuning=UNTUNED)
    assert [step.method for step in result.plan.steps] == ["magnitude", "gal"]
    middle = squeeze.rewrite(net(), result.plan.steps[0].edits)
    assert middle[0].out_channels == 12
    assert macs_by_hand(result.model) <= 0.6 * macs_by_hand(middle)
    assert shapes(squeeze.rewrite(net(), result.plan.edits)) == shapes(result.model)
    assert [phase for phase, _ in result.history] == ["magnitude", "gal"]


def test_without_data_the_weights_are_those_that_were_kept() -> None:
    model = net()
    result = squeeze.compress(model, Magnitude(macs=0.5, round_to=1), example_inputs=torch.randn(1, 1, 8, 8))
    expected = squeeze.rewrite(model, result.plan.edits)
    assert all(torch.equal(a, b) for a, b in zip(result.model.parameters(), expected.parameters(), strict=True))
    assert result.stages.after.metrics == {}
    assert [phase for phase, _ in result.history] == ["magnitude"]


def test_data_may_be_tensors() -> None:
    images, labels = torch.randn(50, 1, 8, 8), torch.randint(0, 10, (50,))
    result = squeeze.compress(net(), Magnitude(macs=0.5, round_to=1), (images, labels), finetuning=SHORT)
    assert macs_by_hand(result.model) <= 0.5 * macs_by_hand(net())


@dataclass(frozen=True)
class Given:
    """A pass that removes what it was told to."""

    name: ClassVar[str] = "given"
    edits: tuple[Any, ...] = ()
    scale: float = 1.0

    def search(self, model: nn.Module, structure: Structure, task: Task, run: Run) -> Found:
        found = copy.deepcopy(model)
        with torch.no_grad():
            found[-1].weight.mul_(self.scale)
        return Found(found, self.edits)

    def objective(self, model: nn.Module, loss: Loss) -> AbstractContextManager[Loss]:
        return nullcontext(loss)


def test_a_pass_that_removes_nothing_is_warned_of() -> None:
    with pytest.warns(NoEffectWarning, match="^given: removed nothing") as caught:
        result = squeeze.compress(net(), Given(scale=2.0), digits(), finetuning=UNTUNED)
    assert len([w for w in caught if w.category is NoEffectWarning]) == 1
    assert result.plan.edits == () and shapes(result.model) == shapes(net())
    assert torch.equal(result.model[-1].weight, 2 * net()[-1].weight)


def test_no_warning_where_something_went() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = squeeze.compress(net(), Magnitude(macs=0.5), digits(), finetuning=UNTUNED)
    assert result.plan.edits


def test_edits_that_do_not_fit_are_refused() -> None:
    with pytest.raises(PlanError, match=r"rewrite: 0\.weight must have size 99"):
        squeeze.compress(net(), Given((Slice("0.weight", 0, 99, ((0, 3),)),)), digits(), finetuning=UNTUNED)


@pytest.mark.parametrize("passes", [[], ()])
def test_no_pass_is_refused(passes: Any) -> None:
    with pytest.raises(InputError, match="^compress: needs at least one pass, got none"):
        squeeze.compress(net(), passes, digits())


def test_nothing_to_remove_says_why() -> None:
    rigid = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    with pytest.raises(InputError, match="^Sequential: must have something that can be removed, got none .*output"):
        squeeze.compress(rigid, Magnitude(macs=0.5), digits())


def test_inputs_that_do_not_fit_are_refused() -> None:
    with pytest.raises(
        InputError, match=r"^example_inputs: Sequential must accept them, got inputs of shape \(1, 3, 8, 8\)"
    ):
        squeeze.compress(net(), Magnitude(macs=0.5), example_inputs=torch.randn(1, 3, 8, 8))


def test_budgets_that_are_out_of_reach_are_refused() -> None:
    with pytest.raises(BudgetError, match="^budget: macs must be at least"):
        squeeze.compress(net(), Magnitude(macs=0.001), digits())


class Fragile(nn.Module):
    """Cannot be copied."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 4)
        self.generator = (i for i in range(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x)


def test_a_model_that_cannot_be_copied_is_refused() -> None:
    with pytest.raises(InputError, match="^model: Fragile must be copyable"):
        squeeze.compress(Fragile(), Magnitude(macs=0.5), example_inputs=torch.randn(1, 3))


def test_checkpoints_of_a_second_pass_have_a_folder_of_their_own(tmp_path: Path) -> None:
    passes = [GAL(macs=0.8, epochs=1, round_to=1), GAL(macs=0.8, epochs=1, round_to=1)]
    squeeze.compress(net(), passes, noise_task(), finetuning=UNTUNED, run=Run(folder=tmp_path))
    assert (tmp_path / "checkpoints").is_dir() and (tmp_path / "pass2" / "checkpoints").is_dir()


@dataclass(frozen=True)
class Explodes:
    """A pass whose training ran away."""

    factor: float
    name: ClassVar[str] = "explodes"

    def search(self, model: nn.Module, structure: Structure, task: Task, run: Run) -> Found:
        found = Magnitude(macs=0.7).search(model, structure, task, run)
        with torch.no_grad():
            for parameter in found.model.parameters():
                parameter.mul_(self.factor)
        return found

    def objective(self, model: nn.Module, loss: Any) -> Any:
        return nullcontext(loss)


@pytest.mark.parametrize("factor", [1e12, float("nan")])
def test_a_pass_that_diverges_is_told_to_slow_down(factor: float) -> None:
    with pytest.raises(TrainingError, match="lower the learning rates"):
        squeeze.compress(tiny_net(16).eval(), Explodes(factor), noise_task())
