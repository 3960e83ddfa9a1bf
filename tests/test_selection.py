"""From scores to a choice, on small traced networks: budgets are met, and the grid and the scores are respected."""

import math
import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from squeeze.edits import rewrite
from squeeze.errors import BudgetError
from squeeze.selection import TIGHT, Budget, Scores, select, select_evenly, widths
from squeeze.structure.groups import Structure
from squeeze.structure.parts import Choice
from squeeze.structure.trace import trace


class Joined(nn.Module):
    """A stem, a residual body, three branches that are joined, a hidden layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, padding=1)
        self.body = nn.Sequential(nn.Conv2d(32, 24, 3, padding=1), nn.ReLU(), nn.Conv2d(24, 32, 3, padding=1))
        self.parts = nn.ModuleList(nn.Conv2d(32, width, 1) for width in (16, 24, 20))
        self.hidden = nn.Linear(60, 40)
        self.head = nn.Linear(40, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = torch.relu(x + self.body(x))
        x = torch.relu(torch.cat([part(x) for part in self.parts], 1))
        return self.head(torch.relu(self.hidden(x.mean((2, 3)))))


@cache
def joined() -> tuple[nn.Module, Structure]:
    torch.manual_seed(0)
    model = Joined()
    return model, trace(model, torch.randn(1, 3, 8, 8))


@cache
def fine() -> Structure:
    """Four wide layers: a grid on which any budget can be met closely."""
    layers = [nn.Linear(40, 64), *(layer for _ in range(3) for layer in (nn.ReLU(), nn.Linear(64, 64)))]
    return trace(nn.Sequential(*layers, nn.ReLU(), nn.Linear(64, 4)), torch.randn(1, 40))


def scores_of(structure: Structure, seed: int, bodies: bool = True) -> Scores:
    random = np.random.default_rng(seed)
    units = tuple(random.random(group.size) for group in structure.groups)
    if not bodies:
        return Scores(units)
    blocks, branches = (
        {item.name: float(random.random()) for item in x} for x in (structure.blocks, structure.branches)
    )
    return Scores(units, blocks, branches)


def left(choice: Choice) -> list[int]:
    return [int((~gone).sum()) for gone in choice.units]


def smallest(structure: Structure, select: Callable[..., Choice], scores: Scores, **kwargs: int) -> float:
    """The least share of the MACs that an error names."""
    with pytest.raises(BudgetError) as caught:
        select(structure, scores, Budget(macs=1e-6), **kwargs)
    message = str(caught.value)
    assert message.startswith("budget: macs must be at least ") and message.isprintable() and "1e-06" in message
    return float(re.findall(r"at least ([0-9.]+) ", message)[0])


def test_the_network_has_what_is_meant() -> None:
    structure = joined()[1]
    assert (len(structure.blocks), len(structure.branches)) == (1, 3)
    assert sorted(g.size for g in structure.groups) == [16, 20, 24, 24, 32, 40]


@given(st.integers(0, 10**6), st.floats(0.1, 0.99), st.sampled_from(["macs", "params", "units"]))
def test_budgets_are_met_closely_from_below(seed: int, target: float, kind: str) -> None:
    budget = Budget(**{kind: target})
    choice = select(fine(), scores_of(fine(), seed), budget, round_to=1)
    assert target - TIGHT <= budget.share(fine(), choice) <= target


@pytest.mark.parametrize("target", [0.3, 0.5, 0.8])
def test_the_model_has_what_was_counted(target: float) -> None:
    model, structure = joined()
    choice = select(structure, scores_of(structure, 1), Budget(params=target))
    small = rewrite(model, structure.edits(choice))
    share = sum(p.numel() for p in small.parameters()) / sum(p.numel() for p in model.parameters())
    assert share <= target
    assert small(torch.randn(2, 3, 8, 8)).shape == (2, 4)


@given(
    st.integers(0, 10**6),
    st.floats(0.45, 0.99),
    st.sampled_from([1, 2, 4, 8, 16]),
    st.sampled_from([select, select_evenly]),
)
def test_widths_are_aligned_or_as_they_were(
    seed: int, target: float, round_to: int, choose: Callable[..., Choice]
) -> None:
    structure = joined()[1]
    choice = choose(structure, scores_of(structure, seed), Budget(macs=target), round_to)
    assert structure.cost(choice).macs <= target * structure.cost().macs
    for group, kept in zip(structure.groups, left(choice), strict=True):
        assert kept > 0
        assert kept == group.size or kept % round_to == 0


def test_a_unit_of_several_channels_counts_as_several() -> None:
    """Heads of 4 channels: two heads are 8 channels."""
    model = nn.Sequential(nn.Conv2d(3, 32, 1), nn.Conv2d(32, 32, 3, groups=8), nn.ReLU(), nn.Conv2d(32, 4, 1))
    group = next(g for g in trace(model, torch.randn(1, 3, 5, 5)).groups if g.size == 8)
    assert group.step == 4
    assert widths(group, 8) == [8, 6, 4, 2]
    assert widths(group, 16) == [8, 4]
    assert widths(group, 4) == [8, 7, 6, 5, 4, 3, 2, 1]
    assert widths(group, 3) == [8, 6, 3]


@pytest.mark.parametrize("round_to", [1, 8])
@pytest.mark.parametrize("choose", [select, select_evenly])
def test_an_unreachable_budget_names_one_that_can_be_reached(choose: Callable[..., Choice], round_to: int) -> None:
    structure = joined()[1]
    scores = scores_of(structure, 3)
    least = smallest(structure, choose, scores, round_to=round_to)
    choice = choose(structure, scores, Budget(macs=least), round_to)
    assert structure.cost(choice).macs <= least * structure.cost().macs
    with pytest.raises(BudgetError):
        choose(structure, scores, Budget(macs=least - 0.0011), round_to)


def test_units_can_be_unreachable_as_well() -> None:
    structure = joined()[1]
    with pytest.raises(
        BudgetError,
        match=r"budget: the share of the units that stays must be at least 0\.\d+ for this model, got 0\.01;",
    ):
        select(structure, scores_of(structure, 3), Budget(units=0.01))


@given(st.integers(0, 10**6), st.floats(0.55, 0.95))
def test_what_scores_infinity_stays(seed: int, target: float) -> None:
    structure = joined()[1]
    scores, random = scores_of(structure, seed), np.random.default_rng(seed)
    units = tuple(np.where(random.random(len(s)) < 0.2, math.inf, s) for s in scores.units)
    body = structure.blocks[0].name
    scores = replace(scores, units=units, blocks={body: math.inf})
    try:
        choice = select(structure, scores, Budget(macs=target), round_to=1)
    except BudgetError:
        return
    assert not choice.blocks
    assert not any(gone[np.isinf(s)].any() for gone, s in zip(choice.units, units, strict=True))


def test_the_least_important_units_go_first() -> None:
    scores = Scores(tuple(np.random.default_rng(0).permutation(g.size).astype(float) for g in fine().groups))
    choice = select(fine(), scores, Budget(macs=0.5), round_to=1)
    for gone, score in zip(choice.units, scores.units, strict=True):
        assert 0 < gone.sum() < len(gone)
        assert score[gone].max() < score[~gone].min()


@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.75])
def test_evenly_takes_the_same_share_of_every_group(ratio: float) -> None:
    choice = select_evenly(fine(), scores_of(fine(), 0), Budget(units=1 - ratio), round_to=8)
    assert left(choice) == [64 * (1 - ratio)] * 4
    structure = joined()[1]
    for group, kept in zip(
        structure.groups,
        left(select_evenly(structure, scores_of(structure, 0), Budget(units=1 - ratio), 1)),
        strict=True,
    ):
        assert kept == math.ceil(group.size * (1 - ratio))


def test_evenly_leaves_bodies_alone() -> None:
    structure = joined()[1]
    choice = select_evenly(structure, scores_of(structure, 0), Budget(macs=0.5))
    assert not choice.blocks and not choice.branches


@given(st.integers(0, 10**6))
def test_one_branch_of_a_concatenation_stays(seed: int) -> None:
    structure = joined()[1]
    scores = scores_of(structure, seed)
    scores = replace(scores, branches={name: -1.0 - score for name, score in scores.branches.items()})
    least = smallest(structure, select, scores, round_to=1)
    choice = select(structure, scores, Budget(macs=least), round_to=1)
    assert len(choice.branches) == 2
    assert structure.edits(choice)
    best = max(scores.branches, key=lambda name: scores.branches[name])
    assert best not in choice.branches


def test_all_branches_may_go_where_an_operand_is_spare() -> None:
    class Grown(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.grow, self.head = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(16, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(self.stem(x))
            return self.head(torch.cat([x, torch.relu(self.grow(x))], 1))

    model = Grown()
    structure = trace(model, torch.randn(1, 3, 6, 6))
    (branch,) = structure.branches
    scores = Scores(tuple(np.full(g.size, math.inf) for g in structure.groups), {}, {branch.name: 0.0})
    choice = select(structure, scores, Budget(macs=0.5))
    assert branch.spare and choice.branches == {branch.name}
    assert rewrite(model, structure.edits(choice)).head.in_channels == 8


def test_bodies_without_a_score_stay() -> None:
    structure = joined()[1]
    choice = select(structure, scores_of(structure, 0, bodies=False), Budget(macs=0.5))
    assert not choice.blocks and not choice.branches


@pytest.mark.parametrize(
    "given", [{}, {"macs": 0.5, "params": 0.5}, *({"macs": x} for x in (0, 1, -0.5, 1.5, True, "x"))]
)
def test_budgets_that_cannot_be(given: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="budget: exactly one|macs: must be a share"):
        Budget(**given)


def test_nan_is_not_a_budget() -> None:
    with pytest.raises(ValueError, match="between 0 and 1, got nan"):
        Budget(units=math.nan)


class Shared(nn.Module):
    """A trunk that several layers read; two of its channels more than is aligned."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(8, 26)
        self.readers = nn.ModuleList(nn.Linear(26, 16) for _ in range(3))
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        return self.head(torch.relu(self.readers[0](x)) + torch.relu(self.readers[1](x)) * self.readers[2](x))


@cache
def shared() -> Structure:
    torch.manual_seed(0)
    return trace(Shared(), torch.randn(1, 8))


def readers() -> list[str]:
    return [f"readers.{number}.weight" for number in range(3)]


@pytest.mark.parametrize("choose", [select, select_evenly])
@pytest.mark.parametrize("seed", range(4))
def test_layers_read_less_within_the_budget_on_aligned_widths(choose: Callable[..., Choice], seed: int) -> None:
    structure, random = shared(), np.random.default_rng(seed)
    still = tuple(np.full(group.size, np.inf) for group in structure.groups)
    scores = Scores(still, inputs={name: random.random(26) for name in readers()})
    choice = choose(structure, scores, Budget(macs=0.7), 4)
    assert 0.6 < structure.cost(choice).macs / structure.cost().macs <= 0.7
    assert not any(units.any() for units in choice.units)
    for name in readers():
        gone, score = choice.inputs.get(name, np.zeros(26, dtype=bool)), scores.inputs[name]
        assert (26 - gone.sum()) % 4 == 0 or not gone.any()
        assert not gone.any() or score[gone].max() < score[~gone].min()


@pytest.mark.parametrize("seed", range(6))
def test_what_is_read_stays_aligned_where_units_go_too(seed: int) -> None:
    structure, random = shared(), np.random.default_rng(seed)
    units = tuple(random.random(group.size) for group in structure.groups)
    scores = Scores(units, inputs={name: random.random(26) for name in readers()})
    choice = select(structure, scores, Budget(macs=0.4), 4)
    kept = structure.kept(choice)
    cut = structure.kept(replace(choice, inputs={}))
    assert structure.cost(choice).macs <= 0.4 * structure.cost().macs
    for name in readers():
        read, there = (int(found[name, 1].sum()) if (name, 1) in found else 26 for found in (kept, cut))
        assert read % 4 == 0 or read == there


def test_layers_without_a_score_read_all() -> None:
    structure = shared()
    units = tuple(np.zeros(group.size) for group in structure.groups)
    assert select(structure, Scores(units), Budget(macs=0.5), 4).inputs == {}
