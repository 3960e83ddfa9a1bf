"""The law on every hard case: masked is removed, predictions are exact, and the given model is left alone."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from torch import nn

from squeeze.edits import rewrite
from squeeze.structure.groups import Structure
from squeeze.structure.parts import Choice
from squeeze.structure.trace import trace
from tests.law import (
    TOLERANCE,
    choose,
    counted,
    distance,
    doubled,
    fingerprint,
    gradients,
    half_of,
    masked,
    owner_of,
    run,
    silenced,
)
from tests.models import HARD, Case

cases = pytest.mark.parametrize("name", HARD)
bodies = pytest.mark.parametrize("name", [name for name, case in HARD.items() if case.blocks or case.branches])


@cache
def structure_of(name: str) -> Structure:
    return trace(HARD[name].build(), HARD[name].inputs())


def dense_of(case: Case) -> nn.Module:
    return case.build().double()


def removable_indices(structure: Structure, tensor: str) -> int:
    axes = [a for g in structure.groups if g.size > 1 for a in g.axes if (a.tensor, a.dim) == (tensor, 0)]
    return sum(int((axis.units >= 0).sum()) for axis in axes)


@cases
def test_what_thought_says_can_go_is_found(name: str) -> None:
    missed = [tensor for tensor in HARD[name].removable if not removable_indices(structure_of(name), tensor)]
    reasons = [f"{pin.tensor}: {pin.reason} ({pin.where})" for pin in structure_of(name).pinned if pin.tensor in missed]
    assert not missed, "; ".join(reasons)


@cases
def test_what_must_stay_is_pinned(name: str) -> None:
    assert [tensor for tensor in HARD[name].pinned if removable_indices(structure_of(name), tensor)] == []


@cases
def test_every_pin_has_a_reason(name: str) -> None:
    assert all(pin.reason for pin in structure_of(name).pinned)


@cases
def test_groups_are_exact_where_no_statistics_run_over_the_cut(name: str) -> None:
    inexact = [f"{group.name}: {group.note}" for group in structure_of(name).groups if not group.exact]
    assert not HARD[name].exact or not inexact


@cases
@pytest.mark.parametrize("seed", [0, 1])
def test_masked_is_removed(name: str, seed: int) -> None:
    case, structure = HARD[name], structure_of(name)
    dense, inputs = dense_of(case), doubled(case.inputs())
    choice = choose(structure, seed)
    expected = run(masked(dense, structure, choice), inputs)
    assert distance(expected, run(rewrite(dense, structure.edits(choice)), inputs)) <= TOLERANCE


@cases
@pytest.mark.parametrize("share", [0.3, 0.7])
def test_cost_is_what_was_predicted(name: str, share: float) -> None:
    case, structure = HARD[name], structure_of(name)
    choice = choose(structure, 2, share, exact_only=False)
    smaller = rewrite(case.build(), structure.edits(choice))
    predicted, dense = structure.cost(choice), structure.cost()
    assert (dense.macs, dense.params) == counted(case.build(), case.inputs())
    assert (predicted.macs, predicted.params) == counted(smaller, case.inputs())


@cases
def test_smaller_model_keeps_its_shape_and_trains(name: str) -> None:
    case, structure = HARD[name], structure_of(name)
    dense, inputs = dense_of(case), doubled(case.inputs())
    smaller = rewrite(dense, structure.edits(choose(structure, 3, exact_only=False)))
    expected, found = run(dense, inputs), run(smaller, inputs)
    assert [t.shape for t in found] == [t.shape for t in expected]
    assert all(bool(t.isfinite().all()) for t in found)
    if name == "train_only_head":  # what only runs in training was not seen
        return
    before, after = gradients(dense, inputs), gradients(smaller, inputs)
    assert set(after) == set(before)
    assert all(bool(g.isfinite().all()) for g in after.values())


@cases
@pytest.mark.parametrize("training", [False, True])
def test_given_model_is_left_alone(name: str, training: bool) -> None:
    case = HARD[name]
    model, inputs = case.build().train(training), case.inputs()
    before, state = fingerprint(model), torch.get_rng_state()
    structure = trace(model, inputs)
    rewrite(model, structure.edits(choose(structure, 4, exact_only=False)))
    assert torch.equal(torch.get_rng_state(), state)
    assert fingerprint(model) == before


@cases
def test_trace_is_deterministic(name: str) -> None:
    again = trace(HARD[name].build(), HARD[name].inputs())
    first = structure_of(name)
    assert [(g.name, g.size, g.exact) for g in again.groups] == [(g.name, g.size, g.exact) for g in first.groups]
    assert again.cost() == first.cost()


@bodies
def test_blocks_and_branches_are_those_that_a_reader_counts(name: str) -> None:
    case, structure = HARD[name], structure_of(name)
    for ends, items in ((case.blocks, structure.blocks), (case.branches, structure.branches)):
        if ends is not None:
            assert len({owner_of(items, end).name for end in ends}) == len(ends) == len(items)


@bodies
@pytest.mark.parametrize("seed", range(4))
def test_without_half_of_the_bodies_it_computes_what_they_leave(name: str, seed: int) -> None:
    case, structure = HARD[name], structure_of(name)
    ends = [*(case.blocks or ()), *(case.branches or ())]
    going = half_of(structure.blocks or structure.branches, ends, seed)
    gone = {owner_of(structure.blocks if case.blocks else structure.branches, end).name for end in going}
    nothing = structure.nothing()
    choice = replace(nothing, **{"blocks" if case.blocks else "branches": frozenset(gone)})
    dense, inputs = dense_of(case), doubled(case.inputs())
    smaller = rewrite(dense, structure.edits(choice))
    assert distance(run(silenced(dense, going), inputs), run(smaller, inputs)) <= TOLERANCE
    predicted = structure.cost(choice)
    assert (predicted.macs, predicted.params) == counted(smaller, inputs)


@bodies
def test_units_and_bodies_go_together(name: str) -> None:
    case, structure = HARD[name], structure_of(name)
    ends = [*(case.blocks or ()), *(case.branches or ())][::2]
    items = structure.blocks if case.blocks else structure.branches
    gone = frozenset(owner_of(items, end).name for end in ends)
    choice = replace(choose(structure, 5), **{"blocks" if case.blocks else "branches": gone})
    dense, inputs = dense_of(case), doubled(case.inputs())
    smaller = rewrite(dense, structure.edits(choice))
    reference = silenced(masked(dense, structure, choice), ends)
    assert distance(run(reference, inputs), run(smaller, inputs)) <= TOLERANCE
    predicted = structure.cost(choice)
    assert (predicted.macs, predicted.params) == counted(smaller, inputs)


@bodies
def test_nothing_of_what_went_is_executed(name: str) -> None:
    case, structure = HARD[name], structure_of(name)
    choice = replace(
        structure.nothing(),
        blocks=frozenset(b.name for b in structure.blocks[::2]),
        branches=frozenset(b.name for b in structure.branches[::2]),
    )
    items = [b for b in (*structure.blocks, *structure.branches) if b.name in choice.blocks | choice.branches]
    smaller = rewrite(case.build(), structure.edits(choice))
    called: list[str] = []
    for path, module in smaller.named_modules():
        module.register_forward_hook(lambda module, args, out, path=path: called.append(path))
    run(smaller, case.inputs())
    inside = [path for path in called if any(path.startswith(f"{m}.") for item in items for m in item.modules)]
    assert inside == []
    assert not any(p.numel() for item in items for m in item.modules for p in smaller.get_submodule(m).parameters())


def test_ignored_layers_stay() -> None:
    structure = structure_of("residual").ignoring(["stem", "blocks.0.*"])
    touched = {axis.tensor for group in structure.groups for axis in group.axes}
    assert not any(name.startswith(("stem.", "blocks.0.")) for name in touched)
    assert {b.name for b in structure.blocks} < {b.name for b in structure_of("residual").blocks}


def test_one_unit_of_every_group_alone() -> None:
    """A single unit of a single group: no other cut can make up for a wrong one."""
    for name in ("option_a", "dense", "lstm", "attention_heads", "cross_stage"):
        case, structure = HARD[name], structure_of(name)
        dense, inputs = dense_of(case), doubled(case.inputs())
        for number, group in enumerate(structure.groups):
            if group.size < 2 or not group.exact:
                continue
            units = list(structure.nothing().units)
            units[number] = np.arange(group.size) == group.size - 1
            choice = Choice(tuple(units))
            smaller = rewrite(dense, structure.edits(choice))
            assert distance(run(masked(dense, structure, choice), inputs), run(smaller, inputs)) <= TOLERANCE, (
                group.name
            )
