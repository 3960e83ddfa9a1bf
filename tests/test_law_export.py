"""Smaller models export, and nothing of what was removed is in the file."""

import warnings
from collections import Counter
from dataclasses import replace
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from squeeze.edits import rewrite
from squeeze.export import FixedBatchWarning, export_onnx
from squeeze.plan import Edit
from squeeze.structure.trace import trace
from tests.law import choose, distance
from tests.models import HARD, Case
from tests.zoo import ZOO

NOT_IN_ONNX = ("unused", "halting", "deformable")
"""Two choose by their data in Python, which no exporter can follow; DeformConv is in opset 19, and we write 18."""

QUICK = (
    "grouped_conv",
    "depthwise_multiplier",
    "cross_stage",
    "attention_heads",
    "lstm",
    "weight_norm",
    "several_inputs",
    "number_of_heads",
)


def exported(case: Case, edits: tuple[Edit, ...], path: Path) -> tuple[nn.Module, Counter[str]]:
    """The smaller model, and the operators of its ONNX file (which `export_onnx` compares with it)."""
    smaller = rewrite(case.build(), edits)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FixedBatchWarning)
        export_onnx(smaller, case.inputs(), path)
    return smaller, Counter(node.op_type for node in onnx.load(path).graph.node)


@pytest.mark.parametrize(
    "name",
    [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in HARD if n not in NOT_IN_ONNX],
)
def test_smaller_model_exports(name: str, tmp_path: Path) -> None:
    case = HARD[name]
    structure = trace(case.build(), case.inputs())
    edits = structure.edits(choose(structure, 0, exact_only=False))
    _, operators = exported(case, edits, tmp_path / "small.onnx")
    assert operators.total() > 0


@pytest.mark.parametrize(
    ("name", "convolutions"),
    [("resnet20", 1), ("resnet18", 1 + 3)],
)
def test_nothing_of_a_removed_block_is_in_the_file(name: str, convolutions: int, tmp_path: Path) -> None:
    """Without any block a ResNet is its stem and the projections of its shortcuts."""
    case = ZOO[name].case
    structure = trace(case.build(), case.inputs())
    choice = replace(structure.nothing(), blocks=frozenset(block.name for block in structure.blocks))
    smaller, operators = exported(case, structure.edits(choice), tmp_path / "small.onnx")
    assert operators["Conv"] == convolutions
    assert operators["Add"] == 0
    session = onnxruntime.InferenceSession(tmp_path / "small.onnx", providers=["CPUExecutionProvider"])
    found = torch.from_numpy(session.run(None, {session.get_inputs()[0].name: case.inputs().numpy()})[0])
    with torch.no_grad():
        assert distance([smaller(case.inputs())], [found]) < 1e-4
    weights = sum(torch.Size(t.dims).numel() for t in onnx.load(tmp_path / "small.onnx").graph.initializer)
    assert weights <= structure.cost(choice).params + 64


def test_nothing_of_a_removed_branch_is_in_the_file(tmp_path: Path) -> None:
    """Two inception modules with their first branches alone: the stem and two 1 × 1 convolutions."""
    case = HARD["inception"]
    structure = trace(case.build(), case.inputs())
    gone = frozenset(b.name for b in structure.branches if not any(".one" in module for module in b.modules))
    choice = replace(structure.nothing(), branches=gone)
    _, operators = exported(case, structure.edits(choice), tmp_path / "small.onnx")
    assert operators["Conv"] == 3
    assert (operators["Concat"], operators["MaxPool"]) == (0, 0)
