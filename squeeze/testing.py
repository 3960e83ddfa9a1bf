"""The contract of a pass, as checks that anybody's pass can run."""

import dataclasses
import re
import warnings
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from squeeze.data_task import DataTask
from squeeze.edits import rewrite
from squeeze.errors import ArtifactError, NoEffectWarning
from squeeze.passes.base import Found, Keeps, Pass
from squeeze.plan import Plan, Step
from squeeze.randomness import randomness_kept, seed_all
from squeeze.report.findings import found_by
from squeeze.structure.trace import trace
from squeeze.training import Run
from squeeze.weights import checksum

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


class _Net(nn.Module):
    """A stem, a residual block, two branches that are joined, a head: something of everything a pass may cut."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(16, 24, 3, padding=1), nn.ReLU(), nn.Conv2d(24, 16, 3, padding=1))
        self.left = nn.Sequential(nn.Conv2d(16, 16, 1), nn.ReLU())
        self.right = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.ReLU())
        self.head = nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.relu(x + self.body(x))
        x = torch.cat([self.left(x), self.right(x)], 1)
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


def check_pass(chosen: Pass) -> None:
    """Check that an object is a pass as `squeeze.compress` expects one.

    It must be a frozen dataclass with a name; its search must leave the given model bit-identical, decide the same
    twice, and return edits that survive JSON and give a model that runs and trains; its objective must be a context
    manager of a differentiable loss; if it has a method `keep`, that must leave shapes alone. A small network and
    random images are used: give the pass settings that make it quick.

    Raises:
        AssertionError: Says which part of the contract does not hold.
    """
    _require(isinstance(chosen, Pass), "has the attribute name and the methods search and objective")
    _require(dataclasses.is_dataclass(chosen) and not isinstance(chosen, type), "is an instance of a dataclass")
    _require(type(chosen).__dataclass_params__.frozen, "is frozen: settings do not change")  # type: ignore[attr-defined]
    _require(
        isinstance(chosen.name, str) and _NAME.fullmatch(chosen.name) is not None,
        "has a name of letters, digits, hyphens and underscores, by which files and folders can go",
    )
    with randomness_kept():
        seed_all(0)
        model = _Net().eval()
        images, labels = torch.randn(40, 3, 8, 8), torch.randint(0, 4, (40,))
    batches = [(images[i : i + 10], labels[i : i + 10]) for i in range(0, 40, 10)]
    task = DataTask(_Net, images[:2], batches, batches[:1], batches[1:2], "random")
    before, hooks = checksum(model.state_dict()), _hooks(model)
    first, second = _searched(chosen, model, task), _searched(chosen, model, task)
    _require(checksum(model.state_dict()) == before, "leaves the weights of the given model alone")
    _require(
        _hooks(model) == hooks and not any(m.training for m in model.modules()), "leaves no hook, and no other mode"
    )
    _require(first.edits == second.edits, "decides the same twice, with the same seed")
    plan = Plan((Step(chosen.name, {}, first.edits),))
    _require(Plan.from_json(plan.to_json()).edits == first.edits, "returns edits that JSON can hold")
    if not first.edits:
        warnings.warn(f"{chosen.name}: removed nothing, so little was checked.", NoEffectWarning, stacklevel=2)
    _require(_can_be_shown(first.history), "leaves in its history a finding that a report can show, or none")
    small = rewrite(first.model, first.edits)
    if first.tensors:
        missing = small.load_state_dict(dict(first.tensors), strict=False)
        _require(not missing.unexpected_keys, "returns tensors that its edits make room for")
    _check_small(chosen, small, task, images)


def _searched(chosen: Pass, model: nn.Module, task: DataTask) -> Found:
    with randomness_kept():
        seed_all(0)
        found = chosen.search(model, trace(model, task.example_inputs), task, Run())
    _require(isinstance(found, Found), "returns a Found")
    _require(found.model is not model, "returns a copy of the model, not the model")
    return found


def _check_small(chosen: Pass, small: nn.Module, task: DataTask, images: Tensor) -> None:
    with torch.no_grad():
        _require(small.eval()(images).shape == (40, 4), "gives a model whose output keeps its shape")
    batch = next(iter(task.train_batches(0)))

    def loss(model: nn.Module, batch: object) -> Tensor:
        found = task.loss(model, batch)
        return torch.zeros(()) if found is None else found

    context = chosen.objective(small, loss)
    _require(isinstance(context, AbstractContextManager), "has an objective that is a context manager")
    with context as wrapped:
        value = wrapped(small.train(), batch)
    _require(value.dim() == 0 and bool(torch.isfinite(value)), "has an objective that gives one finite number")
    gradients = torch.autograd.grad(value, [p for p in small.parameters() if p.requires_grad], allow_unused=True)
    _require(
        any(g is not None and bool(g.abs().sum() > 0) for g in gradients), "has an objective that can be trained on"
    )
    if isinstance(chosen, Keeps):
        _check_kept(chosen, small, task)


def _check_kept(chosen: Keeps, small: nn.Module, task: DataTask) -> None:
    before = {name: value.shape for name, value in small.state_dict().items()}
    told = chosen.keep(small, task)
    after = {name: value.shape for name, value in small.state_dict().items()}
    _require(after == before, "has a method keep that changes values, not shapes")
    _require(isinstance(told, Mapping) and _can_be_shown(told), "has a method keep that returns entries of its history")


def _can_be_shown(history: Mapping[str, Any]) -> bool:
    try:
        findings = found_by([("pass", history)])
    except ArtifactError:
        return False
    return not any(finding.problem() for finding in findings)


def _hooks(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise AssertionError(f"check_pass: a pass {what}; this one does not.")
