"""Soft masks against the masked forward pass written out by hand, and against the removal itself."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from squeeze.edits import rewrite
from squeeze.masks import SoftMasks
from squeeze.structure.cost import CostModel
from squeeze.structure.groups import Structure
from squeeze.structure.parts import Axis, Group
from squeeze.structure.trace import trace
from tests.passes.tiny import Tiny, built, structure_of

ORDER = {"stem": 4, "body.conv1": 5, "left": 2, "right": 3, "body": 1, "branch left": 1, "branch right": 1}


def random_masks(seed: int = 0) -> tuple[Tiny, SoftMasks, Tensor]:
    model = built(seed).double().eval()
    masks = SoftMasks(structure_of(model)).double()
    torch.manual_seed(seed)
    with torch.no_grad():
        masks.values.uniform_(0.2, 1.8)
    return model, masks, torch.randn(4, 3, 6, 6, dtype=torch.float64)


def by_name(values: Tensor) -> dict[str, Tensor]:
    return dict(zip(ORDER, values.split(list(ORDER.values())), strict=True))


def test_one_value_per_unit_block_and_branch() -> None:
    _, masks, _ = random_masks()
    assert [(part.kind, part.name, part.size) for part in masks.parts] == [
        ("filters", "stem", 4),
        ("filters", "body.conv1", 5),
        ("filters", "left", 2),
        ("filters", "right", 3),
        ("blocks", "body", 1),
        ("branches", "left", 1),
        ("branches", "right", 1),
    ]
    assert len(masks.values) == 17
    assert list(SoftMasks(structure_of(built()), ("blocks",)).values) == [1.0]


def test_scales_what_readers_see() -> None:
    model, masks, x = random_masks()
    output = functional_call(model, masks.scaled(model), (x,))
    torch.testing.assert_close(output, model.masked(x, by_name(masks.values)))


def test_gradients_reach_masks_and_weights() -> None:
    model, masks, x = random_masks()
    parameters = [masks.values, *model.parameters()]
    found = torch.autograd.grad(functional_call(model, masks.scaled(model), (x,)).square().sum(), parameters)
    expected = torch.autograd.grad(model.masked(x, by_name(masks.values)).square().sum(), parameters)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)
    assert (found[0] != 0).sum() >= 12


def test_folded_weights_compute_the_same_and_ones_change_nothing() -> None:
    model, masks, x = random_masks()
    expected = functional_call(model, masks.scaled(model), (x,))
    masks.fold(model)
    torch.testing.assert_close(model(x), expected)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        masks.values.fill_(1)
    masks.fold(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_running_statistics_move_as_in_a_plain_forward_pass() -> None:
    model, masks, x = random_masks()
    with torch.no_grad():
        masks.values.fill_(1)
    plain = built().double()
    plain.train()(x)
    functional_call(model.train(), masks.scaled(model), (x,))
    assert torch.equal(model.norm.running_mean, plain.norm.running_mean)
    assert torch.equal(model.body.bn2.running_var, plain.body.bn2.running_var)


@pytest.mark.parametrize("seed", range(4))
def test_zero_is_removal(seed: int) -> None:
    model, masks, x = random_masks(seed)
    rng = np.random.default_rng(seed)
    removed = rng.random(17) < 0.3
    removed[[0, 4, 9, 11]] = False  # every group keeps a unit
    removed[14] = seed == 1
    removed[15:] = [seed == 2, seed == 3]
    with torch.no_grad():
        masks.values[torch.from_numpy(removed)] = 0
    choice = masks.choice(removed)
    assert (masks.removed(choice) == removed).all()
    expected = functional_call(model, masks.scaled(model), (x,))
    masks.fold(model)
    smaller = rewrite(model, structure_of(model).edits(choice))
    torch.testing.assert_close(smaller(x), expected)
    assert sum(p.numel() for p in smaller.parameters()) < sum(p.numel() for p in model.parameters())


def test_costs_are_what_the_removal_saves() -> None:
    _, masks, _ = random_masks()
    pixels = 36
    stem = pixels * (27 + 5 * 9 + 5 * 9 + 5)
    inner = pixels * (4 * 9 + 4 * 9)
    branch = pixels * 4 + 2
    body = pixels * 2 * 4 * 5 * 9
    expected = [stem] * 4 + [inner] * 5 + [branch] * 5 + [body, 2 * branch, 3 * branch]
    assert masks.macs.tolist() == expected
    assert masks.params[14] == 2 * 4 * 5 * 9 + 2 * 5 + 2 * 4


def test_scores_keep_what_has_no_mask() -> None:
    structure = structure_of(built())
    masks = SoftMasks(structure, ("filters",))
    scores = masks.scores(np.arange(14.0))
    assert [units.tolist() for units in scores.units] == [[0, 1, 2, 3], [4, 5, 6, 7, 8], [9, 10], [11, 12, 13]]
    assert scores.blocks == {"body": np.inf}
    assert scores.branches == {"left": np.inf, "right": np.inf}


def test_leaves_out_what_cannot_be_masked_and_says_why() -> None:
    structure = structure_of(built())
    odd = replace(structure.groups[1], maskable=False, note="read by an odd op")
    block = replace(structure.blocks[0], scales=(), note="ends in an odd op")
    masks = SoftMasks(replace(structure, groups=(structure.groups[0], odd), blocks=(block,), branches=()))
    assert [part.name for part in masks.parts] == ["stem"]
    assert masks.left_out == (("body.conv1", "read by an odd op"), ("body", "ends in an odd op"))
    assert np.isinf(masks.scores().units[1]).all()


class Tied(nn.Module):
    """One square weight under two names: layer 2 reads what layer 1 sends, layer 3 what layer 2 sends."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3, bias=False)
        self.second = nn.Linear(3, 3, bias=False)
        self.third = nn.Linear(3, 2, bias=False)
        self.second.weight = self.first.weight
        self.lead = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.third(torch.relu(self.second(torch.relu(self.first(torch.relu(self.lead(x)))))))


@pytest.mark.parametrize("name", ["first.weight", "second.weight"])
def test_a_tied_weight_is_scaled_under_all_of_its_names(name: str) -> None:
    torch.manual_seed(0)
    model, x = Tied().double(), torch.randn(5, 4, dtype=torch.float64)
    every = np.arange(3)
    reads = (Axis(name, 1, every, True), Axis("third.weight", 1, every, True))
    group = Group("lead", 3, (Axis("lead.weight", 0, every, False), Axis(name, 0, every, False), *reads))
    shapes = {"first.weight": (3, 3), "second.weight": (3, 3), "third.weight": (2, 3), "lead.weight": (3, 4)}
    costs = CostModel((), shapes, frozenset(shapes), {}, 0)
    masks = SoftMasks(Structure((group,), (), (), (), (), costs)).double()
    with torch.no_grad():
        masks.values.copy_(torch.tensor([0.5, 0.0, 2.0]))
    m = masks.values
    hidden = torch.relu(model.lead(x)) * m
    hidden = torch.relu(model.first(hidden)) * m
    expected = model.third(torch.relu(model.first(hidden)) * m)
    torch.testing.assert_close(functional_call(model, masks.scaled(model), (x,)), expected)
    masks.fold(model)
    torch.testing.assert_close(model(x), expected)
    assert model.first.weight is model.second.weight


def test_the_tracer_finds_what_was_written_by_hand() -> None:
    model = built().eval()
    ours, found = structure_of(model), trace(model, torch.zeros(1, 3, 6, 6))

    def axes(structure: Structure) -> set[tuple[int, frozenset[tuple[str, int, bool]]]]:
        groups = structure.groups
        return {(g.size, frozenset((axis.tensor, axis.dim, axis.reads) for axis in g.axes)) for g in groups}

    assert axes(found) == axes(ours)
    assert found.cost() == ours.cost()
    assert {block.scales for block in found.blocks} == {("body.bn2.weight", "body.bn2.bias")}
    assert [set(branch.modules) for branch in found.branches] == [{"left"}, {"right"}]
    filters = [SoftMasks(structure, ("filters", "blocks")).macs.tolist() for structure in (ours, found)]
    assert sorted(filters[0]) == sorted(filters[1])


def test_masks_of_inputs_scale_what_one_layer_reads() -> None:
    model = built(0).double().eval()
    structure = trace(model, torch.randn(1, 3, 6, 6, dtype=torch.float64))
    masks = SoftMasks(structure, ("blocks", "inputs")).double()
    names = [part.name for part in masks.parts if part.kind == "inputs"]
    assert {"body.conv1", "left", "right"} <= set(names) and "body.conv2" not in names
    x = torch.randn(4, 3, 6, 6, dtype=torch.float64)
    part = next(part for part in masks.parts if part.name == "right")
    values = torch.ones_like(masks.values)
    values[part.span] = torch.tensor([0.0, 0.5, 0.0, 2.0], dtype=torch.float64)
    output = functional_call(model, masks.scaled(model, values), (x,))
    model.right.register_forward_pre_hook(lambda module, args: args[0] * values[part.span].view(1, -1, 1, 1))
    torch.testing.assert_close(output, model(x))


def test_a_mask_of_zero_is_an_input_that_is_not_read() -> None:
    model = built(0).double().eval()
    structure = trace(model, torch.randn(1, 3, 6, 6, dtype=torch.float64))
    masks = SoftMasks(structure, ("filters", "blocks", "inputs")).double()
    removed = np.random.default_rng(0).random(len(masks.values)) < 0.3
    choice = masks.choice(removed)
    assert np.array_equal(masks.removed(choice), removed)
    masks.fold(model, torch.from_numpy(1.0 - removed))
    x = torch.randn(4, 3, 6, 6, dtype=torch.float64)
    torch.testing.assert_close(rewrite(model, structure.edits(choice))(x), model(x))


def test_savings_of_inputs_are_what_one_of_them_costs() -> None:
    structure = trace(built(0), torch.randn(1, 3, 6, 6))
    masks = SoftMasks(structure, ("inputs",))
    part = next(part for part in masks.parts if part.name == "right")
    assert set(masks.macs[part.span].tolist()) == {3.0 * 36}
    assert set(masks.params[part.span].tolist()) == {3.0}


class Normed(nn.Module):
    """Two branches whose concatenation is normalised before it is read."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.left, self.right = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 5, 1), nn.Conv2d(4, 6, 3, padding=1)
        self.norm, self.last, self.head = nn.BatchNorm2d(11), nn.Conv2d(11, 4, 1), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        x = self.norm(torch.cat([self.left(x), self.right(x)], 1)).relu()
        return self.head(self.last(x).relu().mean((2, 3)))


def test_branches_are_masked_where_they_are_read_behind_a_normalisation() -> None:
    torch.manual_seed(0)
    model, x = Normed().double().eval(), torch.randn(4, 3, 6, 6, dtype=torch.float64)
    structure = trace(model, x)
    masks = SoftMasks(structure, ("branches",)).double()
    assert [part.name for part in masks.parts] == ["left", "right"]
    values = torch.tensor([0.0, 0.5], dtype=torch.float64)
    small = rewrite(model, structure.edits(masks.choice(values.numpy() == 0)))
    with torch.no_grad():
        small.last.weight.mul_(0.5)
    torch.testing.assert_close(functional_call(model, masks.scaled(model, values), (x,)), small(x))
