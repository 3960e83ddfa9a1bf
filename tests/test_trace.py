"""`trace`: what it says when a model fails, what it leaves alone, and how a structure turns into edits and back."""

import copy
import inspect
import random
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from squeeze.edits import rewrite
from squeeze.errors import PlanError, TraceError
from squeeze.plan import Plan, Step
from squeeze.structure.groups import Structure
from squeeze.structure.parts import Choice
from squeeze.structure.trace import trace
from tests.law import fingerprint

X = torch.linspace(-1, 1, 2 * 3 * 8 * 8).view(2, 3, 8, 8)


def line_of(function: Callable[..., Any], text: str) -> str:
    """``file:line in name`` of the line of a function that contains a text."""
    lines, first = inspect.getsourcelines(function)
    (offset,) = [i for i, line in enumerate(lines) if text in line]
    return f"test_trace.py:{first + offset} in {function.__name__}"


class Net(nn.Module):
    """A stem, a residual body that holds another, two branches, a head; keywords or positions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU())
        self.outer = Outer()
        self.left = nn.Conv2d(12, 6, 1)
        self.right = nn.Conv2d(12, 10, 3, padding=1)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor, scale: Tensor | None = None) -> Tensor:
        x = self.outer(self.stem(x if scale is None else x * scale))
        x = torch.relu(torch.cat([self.left(x), self.right(x)], 1))
        return self.head(self.drop(x.mean((2, 3))))


class Inner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(12, 8, 1), nn.ReLU(), nn.Conv2d(8, 12, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class Outer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter, self.inner, self.leave = nn.Conv2d(12, 12, 1), Inner(), nn.Conv2d(12, 12, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.leave(self.inner(torch.relu(self.enter(x))))


def net() -> Net:
    torch.manual_seed(0)
    return Net()


@cache
def structure() -> Structure:
    return trace(net(), X)


def shown(structure: Structure) -> tuple[Any, ...]:
    """Everything a structure says, as plain values."""
    axes = lambda found: [(a.tensor, a.dim, a.units.tolist(), a.reads) for a in found]  # noqa: E731
    groups = [(g.name, g.size, axes(g.axes), g.exact, g.maskable, g.note) for g in structure.groups]
    branches = [(b.name, b.concat, axes(b.reads), b.modules, b.parameters, b.ops, b.spare) for b in structure.branches]
    return groups, structure.blocks, branches, structure.edges, structure.pinned, structure.cost()


class Failing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.head = nn.Linear(9, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.sigmoid(self.conv(x))
        return self.head(x.mean((2, 3)))  # 8 channels meet 9


def test_a_model_that_fails_is_told_with_its_op_and_line() -> None:
    with pytest.raises(TraceError) as caught:
        trace(Failing(), X)
    message = str(caught.value)
    assert (
        message.startswith("trace: Failing must run on the example inputs, got RuntimeError") and message.isprintable()
    )
    assert "aten.mean" in message or "aten.t" in message
    assert line_of(Failing.forward, "meet 9") in message


@pytest.mark.parametrize(
    "inputs", [torch.randn(2, 4, 8, 8), "text", None, (), {"y": X}, torch.randint(0, 9, (2, 3, 8, 8))]
)
def test_inputs_that_do_not_fit(inputs: Any) -> None:
    with pytest.raises(TraceError, match="^trace: Net must run on the example inputs, got .*; pass inputs") as caught:
        trace(net(), inputs)
    assert str(caught.value).isprintable()


def test_a_model_that_fails_is_left_alone() -> None:
    model = Failing().train()
    before = fingerprint(model)
    with pytest.raises(TraceError):
        trace(model, X)
    assert fingerprint(model) == before
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_tensor_tuple_and_dict_are_the_same_inputs() -> None:
    expected = shown(structure())
    assert shown(trace(net(), (X,))) == shown(trace(net(), [X])) == shown(trace(net(), {"x": X})) == expected
    scaled = trace(net(), {"x": X, "scale": torch.ones(1)})
    assert [g.size for g in scaled.groups] == [g.size for g in structure().groups]
    assert shown(trace(net(), (X, torch.ones(1)))) == shown(scaled)


def test_two_traces_are_equal_whatever_the_seed() -> None:
    torch.manual_seed(1)
    np.random.seed(1)
    assert shown(trace(net(), X)) == shown(structure())


def flags() -> tuple[Any, ...]:
    cudnn = torch.backends.cudnn
    return (
        *(torch.backends.mha.get_fastpath_enabled(), torch.backends.mkldnn.enabled, cudnn.enabled, cudnn.benchmark),
        *(torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_num_threads()),
        *(torch.are_deterministic_algorithms_enabled(), cudnn.deterministic),
    )


class Everything(nn.Module):
    """Batch norm, an LSTM, attention, dropout, and a counter that every call moves."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(3, 8, 1)
        self.norm = nn.BatchNorm1d(8)
        self.attention = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.lstm = nn.LSTM(8, 6, batch_first=True, dropout=0.0)
        self.head = nn.Linear(6, 2)
        self.spare = nn.Linear(6, 2)
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        x = self.attention(self.norm(self.conv(x)).transpose(1, 2))
        x = self.lstm(x)[0][:, -1]
        return self.spare(x) if self.training else self.head(x)


@pytest.mark.parametrize("fast", [True, False])
def test_the_given_model_and_the_world_are_left_alone(fast: bool) -> None:
    model = Everything().train()
    model.norm.eval()
    model.conv.register_forward_hook(lambda *_: None)
    model.head.weight.grad = torch.ones(2, 6)
    modes = [m.training for m in model.modules()]
    tensors = model.state_dict(keep_vars=True)
    ids, values = {n: id(t) for n, t in tensors.items()}, copy.deepcopy(model.state_dict())
    hooks = [(*m._forward_hooks, *m._forward_pre_hooks) for m in model.modules()]
    torch.backends.mha.set_fastpath_enabled(fast)
    try:
        before, draws = flags(), (torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate())
        trace(model, torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0)))
        assert flags() == before
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
    assert torch.equal(torch.get_rng_state(), draws[0])
    assert (np.random.get_state()[1].tolist(), random.getstate()) == draws[1:]
    after = model.state_dict(keep_vars=True)
    assert {n: id(t) for n, t in after.items()} == ids
    assert all(torch.equal(after[n], values[n]) for n in values)
    assert [m.training for m in model.modules()] == modes
    assert [(*m._forward_hooks, *m._forward_pre_hooks) for m in model.modules()] == hooks
    assert model.head.weight.grad is not None and bool((model.head.weight.grad == 1).all())


def test_a_model_with_nothing_to_remove() -> None:
    for model, inputs in ((nn.Linear(3, 4), torch.randn(2, 3)), (nn.ReLU(), X), (nn.Flatten(), X)):
        found = trace(model, inputs)
        assert not (found.groups or found.blocks or found.branches)
    pins = trace(nn.Linear(3, 4), torch.randn(2, 3)).pinned
    assert ("weight", 0, 4, "reaches the model's output") in [(p.tensor, p.dim, p.count, p.reason) for p in pins]


class Written(nn.Module):
    """Two layers whose widths are written in the code, and one whose width is not."""

    def __init__(self) -> None:
        super().__init__()
        self.free, self.viewed = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1)
        self.split = nn.Conv2d(8, 8, 1)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.viewed(torch.relu(self.free(x)))).view(-1, 8, 64)
        x = torch.relu(self.split(x.view(len(x), 8, 8, 8)))
        a, b = x.split([3, 5], 1)
        return self.head(torch.cat([b, a], 1).mean((2, 3)))


def test_sizes_written_in_the_code_are_pinned_with_the_users_line() -> None:
    found = trace(Written(), X)
    wheres = {pin.tensor: pin.where for pin in found.pinned if pin.dim == 0 and pin.where}
    assert wheres["viewed.weight"] == line_of(Written.forward, "view(-1, 8, 64)")
    assert wheres["split.weight"] == line_of(Written.forward, "split([3, 5], 1)")
    assert [g.name for g in found.groups] == ["free"]
    assert all(pin.reason for pin in found.pinned)


@pytest.mark.parametrize(
    ("pattern", "left"),
    [
        ("left", {"right", "outer.inner.body.0", "outer.enter", "stem.0"}),
        ("left.weight", {"right", "outer.inner.body.0", "outer.enter", "stem.0"}),
        ("outer.inner", {"left", "right"}),
        ("outer.*", {"left", "right"}),
        ("*.body", {"left", "right"}),
        ("head", {"outer.inner.body.0", "outer.enter", "stem.0"}),
        ("nobody", {"left", "right", "outer.inner.body.0", "outer.enter", "stem.0"}),
    ],
)
def test_ignored_layers_are_touched_by_nothing(pattern: str, left: set[str]) -> None:
    found = structure().ignoring([pattern])
    ignored = {"outer.inner": "outer.inner.", "outer.*": "outer.", "*.body": "outer.inner.body."}.get(pattern, pattern)
    touched = {a.tensor for g in found.groups for a in g.axes}
    touched |= {n for item in (*found.blocks, *found.branches) for n in found.owned(item)}
    touched |= {a.tensor for b in found.branches for a in b.reads}
    assert not [name for name in touched if name.startswith(ignored)]
    assert {g.name for g in found.groups} <= {g.name for g in structure().groups}
    reasons = {p.reason for p in found.pinned} - {p.reason for p in structure().pinned}
    assert reasons == (set() if pattern == "nobody" else {"ignored by name"})
    cuttable = {a.tensor.removesuffix(".weight") for g in found.groups for a in g.axes if not a.reads}
    assert left - {"stem.0", "outer.enter", "outer.inner.body.0"} <= cuttable
    assert found.cost() == structure().cost()


def test_ignoring_several_is_ignoring_one_after_the_other() -> None:
    both, after = structure().ignoring(["left", "stem"]), structure().ignoring(["left"]).ignoring(["stem"])
    assert shown(both)[:3] == shown(after)[:3]
    assert shown(structure().ignoring([])) == shown(structure())


@st.composite
def choices(draw: st.DrawFn) -> Choice:
    """Any units but all of a group; any blocks; at most one of the branches."""
    units = []
    for group in structure().groups:
        gone = np.array(draw(st.lists(st.booleans(), min_size=group.size, max_size=group.size)), dtype=bool)
        gone[draw(st.integers(0, group.size - 1))] = False
        units.append(gone)
    blocks = draw(st.sets(st.sampled_from([b.name for b in structure().blocks])))
    branches = draw(st.sets(st.sampled_from([b.name for b in structure().branches]), max_size=1))
    return Choice(tuple(units), frozenset(blocks), frozenset(branches))


@given(choices())
def test_a_choice_comes_back_from_its_edits(choice: Choice) -> None:
    found = structure()
    edits = found.edits(choice)
    again = found.choice(edits)
    assert (again.blocks, again.branches) == (choice.blocks, choice.branches)
    owned = {
        n for i in (*found.blocks, *found.branches) if i.name in choice.blocks | choice.branches for n in found.owned(i)
    }
    for group, gone, back in zip(found.groups, choice.units, again.units, strict=True):
        if not any(axis.tensor in owned for axis in group.axes):  # what goes with a body has gone with it
            assert back.tolist() == gone.tolist()
    assert found.cost(again) == found.cost(choice)
    assert found.edits(again) == edits
    assert Plan.from_json(Plan((Step("x", {}, edits),)).to_json()).edits == edits


@given(choices())
def test_any_choice_can_be_carried_out_and_costs_what_was_said(choice: Choice) -> None:
    found, model = structure(), net()
    small = rewrite(model, found.edits(choice))
    assert small.eval()(X).shape == (2, 4)
    assert sum(p.numel() for p in small.parameters()) == found.cost(choice).params


def test_nothing_is_no_edit() -> None:
    assert structure().nothing().empty
    assert structure().edits(structure().nothing()) == ()
    assert structure().choice(()).empty
    assert structure().cost(structure().nothing()) == structure().cost()


def test_bodies_within_bodies_can_go_together() -> None:
    found = structure()
    assert len(found.blocks) == 2
    choice = replace(found.nothing(), blocks=frozenset(b.name for b in found.blocks))
    small = rewrite(net(), found.edits(choice))
    assert not [name for name, _ in small.named_parameters() if name.startswith("outer")]
    assert small(X).shape == (2, 4)


def test_a_choice_of_another_structure_is_refused() -> None:
    found, nothing = structure(), structure().nothing()
    other = trace(nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2)), torch.randn(1, 3)).nothing()
    for wrong in (
        other,
        replace(nothing, blocks=frozenset({"nobody"})),
        replace(nothing, branches=frozenset({found.blocks[0].name})),
        replace(nothing, units=(*nothing.units[:-1], np.zeros(999, dtype=bool))),
    ):
        with pytest.raises(PlanError, match="^choice: must be made for this structure, got .*; trace again"):
            found.edits(wrong)


def test_a_concatenation_keeps_one_branch() -> None:
    found = structure()
    names = {b.name for b in found.branches}
    assert names == {"left", "right"}
    with pytest.raises(PlanError, match="^choice: .* must stay, got all of them; keep one"):
        found.edits(replace(found.nothing(), branches=frozenset(names)))
    for name in names:
        small = rewrite(net(), found.edits(replace(found.nothing(), branches=frozenset({name}))))
        assert small(X).shape == (2, 4)


def test_a_group_keeps_one_unit() -> None:
    found = structure()
    for number, group in enumerate(found.groups):
        units = list(found.nothing().units)
        units[number] = np.ones(group.size, dtype=bool)
        with pytest.raises(PlanError, match="must keep an index"):
            rewrite(net(), found.edits(Choice(tuple(units))))


class Restless(nn.Module):
    """Fails in every run in another place: no trial can be trusted."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.relu(self.first(x)) * torch.rand(()))


def test_a_model_that_draws_in_eval_mode_ends_without_a_wrong_cut() -> None:
    found = trace(Restless(), torch.randn(2, 3))
    assert not [a for g in found.groups for a in g.axes if a.dim == 0 and a.tensor.startswith("second")]


class NormedHead(nn.Module):
    """An auxiliary head with a batch norm over single values, which trains on two samples at least, as Inception's."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, 4)
        self.aux = nn.Sequential(nn.Linear(8, 4, bias=False), nn.BatchNorm1d(4))

    def forward(self, x: Tensor) -> Any:
        y = torch.relu(self.trunk(x)).mean((2, 3))
        return (self.head(y), self.aux(y)) if self.training else self.head(y)


def test_a_head_that_trains_on_two_samples_at_least_is_cut_along() -> None:
    net = NormedHead()
    structure = trace(net, torch.randn(1, 3, 8, 8))
    choice = structure.nothing()
    next(units for group, units in zip(structure.groups, choice.units, strict=True) if group.name == "trunk")[:3] = True
    small = rewrite(net, structure.edits(choice)).train()
    main, aux = small(torch.randn(2, 3, 8, 8))
    assert main.shape == aux.shape == (2, 4)
    assert small.aux[0].in_features == 5  # type: ignore[union-attr, index]
