"""The law on real networks, and the blocks, branches and edges that the papers count in them."""

import fnmatch
from collections.abc import Iterable
from dataclasses import replace
from functools import cache

import pytest
from torch.utils.flop_counter import FlopCounterMode

from squeeze.edits import rewrite
from squeeze.structure.groups import Structure
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
from tests.zoo import ZOO

SLOW_TRAINING = {"faster_rcnn"}
"""Networks that want targets in training mode."""


def named(names: Iterable[str]) -> list[object]:
    return [pytest.param(name, marks=pytest.mark.slow) if ZOO[name].slow else name for name in names]


everyone = pytest.mark.parametrize("name", named(ZOO))
with_bodies = pytest.mark.parametrize("name", named(n for n, z in ZOO.items() if z.case.blocks or z.case.branches))


@cache
def structure_of(name: str) -> Structure:
    return trace(ZOO[name].case.build(), ZOO[name].case.inputs())


@everyone
def test_what_thought_says_can_go_is_found_and_the_rest_is_pinned(name: str) -> None:
    case = ZOO[name].case
    cut = {a.tensor for g in structure_of(name).groups if g.size > 1 for a in g.axes if a.dim == 0}
    assert set(case.removable) <= cut
    assert not set(case.pinned) & cut
    assert not case.exact or all(group.exact for group in structure_of(name).groups)


@everyone
def test_masked_is_removed(name: str) -> None:
    structure, dense = structure_of(name), ZOO[name].case.build().double()
    inputs, choice = doubled(ZOO[name].case.inputs()), choose(structure, 0)
    smaller = rewrite(dense, structure.edits(choice))
    assert distance(run(masked(dense, structure, choice), inputs), run(smaller, inputs)) <= TOLERANCE


@everyone
def test_cost_is_what_was_predicted(name: str) -> None:
    structure, case = structure_of(name), ZOO[name].case
    dense, choice = case.build(), choose(structure, 1, exact_only=False)
    before, after = structure.cost(), structure.cost(choice)
    assert (before.macs, before.params) == counted(dense, case.inputs())
    assert (after.macs, after.params) == counted(rewrite(dense, structure.edits(choice)), case.inputs())


@everyone
def test_given_model_is_left_alone_and_the_smaller_one_trains(name: str) -> None:
    structure, case = structure_of(name), ZOO[name].case
    dense = case.build()
    before = fingerprint(dense)
    smaller = rewrite(dense, structure.edits(choose(structure, 2, exact_only=False)))
    trace(dense, case.inputs())
    assert fingerprint(dense) == before
    if name not in SLOW_TRAINING:
        twice = lambda x: x.repeat(2, 1, 1, 1)  # noqa: E731 - BN wants more than one sample
        assert set(gradients(smaller, twice(case.inputs()))) == set(gradients(dense, twice(case.inputs())))


@everyone
def test_blocks_and_branches_are_those_of_the_papers(name: str) -> None:
    case, structure = ZOO[name].case, structure_of(name)
    for ends, items in ((case.blocks, structure.blocks), (case.branches, structure.branches)):
        if ends is not None:
            assert len({owner_of(items, end).name for end in ends}) == len(ends) == len(items)


@with_bodies
@pytest.mark.parametrize("seed", range(2))
def test_without_half_of_the_bodies_it_computes_what_they_leave(name: str, seed: int) -> None:
    case, structure = ZOO[name].case, structure_of(name)
    kind = "blocks" if case.blocks else "branches"
    ends = list(case.blocks or case.branches or ())
    going = half_of(getattr(structure, kind), ends, seed)
    gone = frozenset(owner_of(getattr(structure, kind), end).name for end in going)
    choice = replace(choose(structure, seed), **{kind: gone})
    dense, inputs = case.build().double(), doubled(case.inputs())
    smaller = rewrite(dense, structure.edits(choice))
    reference = silenced(masked(dense, structure, choice), going)
    assert distance(run(reference, inputs), run(smaller, inputs)) <= TOLERANCE
    predicted = structure.cost(choice)
    assert (predicted.macs, predicted.params) == counted(smaller, inputs)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_stride_blocks_keep_their_projection(name: str) -> None:
    structure = structure_of(name)
    choice = replace(structure.nothing(), blocks=frozenset(b.name for b in structure.blocks))
    smaller = rewrite(ZOO[name].case.build(), structure.edits(choice))
    left = {key for key, _ in smaller.named_parameters()}
    assert {f"layer{stage}.0.downsample.{part}.weight" for stage in (2, 3, 4) for part in (0, 1)} <= left
    assert not [key for key in left if ".conv" in key]


@pytest.mark.parametrize("name", [name for name, zoo in ZOO.items() if zoo.edges])
def test_edges_are_as_many_as_the_paper_says(name: str) -> None:
    pattern, count = ZOO[name].edges or ("", 0)
    assert sum(e.size for e in structure_of(name).edges if fnmatch.fnmatchcase(e.tensor, pattern)) == count


def test_vgg16_has_the_papers_filters_and_hidden_units() -> None:
    sizes = {g.name: g.size for g in structure_of("cifar_vgg16").groups}
    assert sum(size for name, size in sizes.items() if name.startswith("features")) == 4224
    assert sum(sizes.values()) == 4224 + 512


def test_option_a_trunk_goes_through_all_stages_or_not_at_all() -> None:
    """ResNet-20 has 410 channels outside of what padding fills: 336 inner ones, and a trunk of 16."""
    groups = structure_of("resnet20").groups
    trunk = next(g for g in groups if any(a.tensor == "conv1.weight" and a.dim == 0 for a in g.axes))
    assert trunk.size == 16
    assert sum(g.size for g in groups) == 16 + 3 * (16 + 32 + 64)
    assert {f"layer{stage}.2.conv2.weight" for stage in (1, 2, 3)} <= {a.tensor for a in trunk.axes if a.dim == 0}


@pytest.mark.parametrize("name", ["resnet56", "cifar_vgg16", "resnet50"])
def test_macs_agree_with_torchs_own_counter(name: str) -> None:
    structure, case = structure_of(name), ZOO[name].case
    choice = choose(structure, 3)
    smaller = rewrite(case.build(), structure.edits(choice))
    with FlopCounterMode(display=False) as counter:
        run(smaller, case.inputs())
    assert structure.cost(choice).macs * 2 == counter.get_total_flops()
