"""What layers need not read: found on every hard case, exact, predicted, and still so on what was rewritten."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations

from squeeze.edits import rewrite
from squeeze.errors import PlanError
from squeeze.export import export_onnx
from squeeze.nn import Selecting
from squeeze.plan import Plan, Select, Step
from squeeze.structure import reference
from squeeze.structure.groups import Structure
from squeeze.structure.parts import Choice
from squeeze.structure.trace import trace
from tests.law import TOLERANCE, choose, counted, distance, doubled, masked, reading_less, run
from tests.models import HARD, Case
from tests.zoo import ZOO


@cache
def structure_of(name: str) -> Structure:
    return trace(HARD[name].build(), HARD[name].inputs())


def check_law(case: Case, structure: Structure, choice: Choice) -> nn.Module:
    """Masked is removed, and the cost is what was predicted."""
    dense, inputs = case.build().double(), doubled(case.inputs())
    edits = structure.edits(choice)
    smaller = rewrite(dense, edits)
    assert distance(run(masked(dense, structure, choice), inputs), run(smaller, inputs)) <= TOLERANCE
    predicted = structure.cost(choice)
    assert (predicted.macs, predicted.params) == counted(smaller, inputs)
    assert structure.edits(structure.choice(edits)) == edits
    assert Plan.from_json(Plan((Step("x", {}, edits),)).to_json()).edits == edits
    return smaller


@pytest.mark.parametrize("name", HARD)
@pytest.mark.parametrize("share", [0.0, 0.3], ids=["inputs", "inputs and units"])
def test_what_is_not_read_can_be_masked(name: str, share: float) -> None:
    structure = structure_of(name)
    units = choose(structure, 0, share) if share else structure.nothing()
    check_law(HARD[name], structure, reading_less(structure, units, 1))


REAL = ("resnet50", "densenet121", "convnext_tiny", "vit_b_16", "swin_t")


@pytest.mark.parametrize("name", [*REAL[:2], *(pytest.param(name, marks=pytest.mark.slow) for name in REAL[2:])])
def test_real_networks(name: str) -> None:
    case = ZOO[name].case
    structure = trace(case.build(), case.inputs())
    check_law(case, structure, reading_less(structure, structure.nothing(), 0))
    check_law(case, structure, reading_less(structure, choose(structure, 1), 2))


@pytest.mark.parametrize(
    "name",
    ["residual", "dense", "cross_stage", *(pytest.param(name, marks=pytest.mark.slow) for name in REAL[:2])],
)
def test_what_reads_less_exports(name: str, tmp_path: Path) -> None:
    """`export_onnx` compares what it wrote with the model, in ONNX Runtime."""
    case = HARD[name] if name in HARD else ZOO[name].case
    structure = trace(case.build(), case.inputs())
    small = rewrite(case.build(), structure.edits(reading_less(structure, choose(structure, 5), 6)))
    graph = onnx.load(export_onnx(small, case.inputs(), tmp_path / "small.onnx")).graph
    scattered = [m for m in small.modules() if isinstance(m, Selecting) and m.span is None]
    assert [node.op_type for node in graph.node].count("Gather") >= len(scattered)


def test_the_trunk_keeps_its_width_in_the_joint_variant() -> None:
    case = ZOO["resnet50"].case
    structure = trace(case.build(), case.inputs())
    names = {edge.module for edge in structure.inputs}
    assert {f"layer{stage}.{block}.conv1" for stage in (1, 2, 3, 4) for block in (0, 1, 2)} <= names
    assert not any(name.endswith((".conv2", ".conv3")) for name in names)  # there units go
    edits = structure.edits(reading_less(structure, structure.nothing(), 0))
    assert {type(edit) for edit in edits} == {Select}


@pytest.mark.parametrize("name", ["residual", "dense", "cross_stage"])
def test_what_reads_less_can_be_cut_again(name: str) -> None:
    case, structure = HARD[name], structure_of(name)
    small = check_law(case, structure, reading_less(structure, choose(structure, 0), 1)).float()
    again = Case(lambda: small, case.inputs)
    found = trace(small, case.inputs())
    assert found.inputs and sum(group.size for group in found.groups) > 0
    assert not [pin for pin in found.pinned if "index" in pin.reason]
    check_law(again, found, reading_less(found, choose(found, 2), 3))


class Layers(nn.Module):
    """Layers that all read the same; some are used in another way than by being called."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(4, 16)
        self.plain = nn.Linear(16, 8)
        self.asked = nn.Linear(16, 8)
        self.normed = parametrizations.weight_norm(nn.Linear(16, 8))
        self.one, self.other = nn.Linear(16, 8), nn.Linear(16, 8)
        self.other.weight = self.one.weight
        self.both = nn.Linear(16, 8)
        self.patched = nn.Linear(16, 8)
        self.patched.forward = lambda x: functional.linear(x, self.patched.weight)  # type: ignore[method-assign]

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        asked = functional.linear(x, self.asked.weight)
        both = self.both(x) + functional.linear(x, self.both.weight)
        return self.plain(x) + asked + self.normed(x) + self.one(x) + self.other(x) + both + self.patched(x)


def test_only_a_weight_that_its_layer_alone_uses_can_be_read_less() -> None:
    found = trace(Layers(), torch.randn(2, 4))
    assert [edge.module for edge in found.inputs] == ["stem", "plain"]
    assert {"asked.weight", "one.weight", "both.weight"} <= {edge.tensor for edge in found.edges}


def test_ignored_layers_read_all() -> None:
    structure = structure_of("residual")
    first = structure.inputs[0]
    left = structure.ignoring([first.module])
    assert [e.module for e in left.inputs if e.module in {i.module for i in structure.inputs[1:]}] == [
        e.module for e in structure.inputs[1:]
    ]
    with pytest.raises(PlanError, match="trace again"):
        left.edits(replace(left.nothing(), inputs={first.tensor: np.arange(first.size) == 0}))


def test_of_what_the_rest_leaves_one_input_is_read() -> None:
    """A layer whose other inputs go with their units, and one whose inputs are all to go."""
    structure = structure_of("residual")
    edge = max(structure.inputs, key=lambda e: e.size)
    choice = replace(structure.nothing(), inputs={edge.tensor: np.ones(edge.size, dtype=bool)})
    assert structure.kept(choice)[edge.tensor, edge.dim].tolist() == [True] + [False] * (edge.size - 1)
    case = HARD["residual"]
    smaller = rewrite(case.build(), structure.edits(choice))
    cost = structure.cost(choice)
    assert (cost.macs, cost.params) == counted(smaller, case.inputs())


def test_masks_of_a_decision_are_checked_as_those_of_units() -> None:
    """What `compress` compares a smaller model with."""
    case, structure = HARD["residual"], structure_of("residual")
    choice = reading_less(structure, choose(structure, 3), 4)
    dense, inputs = case.build().double(), doubled(case.inputs())
    expected = reference.masked(dense, structure, choice)
    assert expected is not None
    assert distance(run(masked(dense, structure, choice), inputs), run(expected, inputs)) <= TOLERANCE


@cache
def joined() -> tuple[nn.Module, Structure]:
    case = HARD["dense"]
    return case.build().double(), structure_of("dense")


@settings(max_examples=30)
@given(st.randoms(use_true_random=False))
def test_any_choice_of_inputs_and_units(random: object) -> None:
    seed = random.randrange(2**32)  # type: ignore[attr-defined]
    dense, structure = joined()
    choice = reading_less(structure, choose(structure, seed, random.random()), seed, random.random())  # type: ignore[attr-defined]
    inputs = doubled(HARD["dense"].inputs())
    smaller = rewrite(dense, structure.edits(choice))
    assert distance(run(masked(dense, structure, choice), inputs), run(smaller, inputs)) <= TOLERANCE
    cost = structure.cost(choice)
    assert (cost.macs, cost.params) == counted(smaller, inputs)
