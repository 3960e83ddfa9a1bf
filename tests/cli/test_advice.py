"""`squeeze inspect` says what to do about every reason for which something stays."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from squeeze.structure.couple import KERNEL
from squeeze.structure.trace import trace
from squeeze_cli.advice import advice

STRUCTURE = Path(__file__).parents[2] / "squeeze" / "structure"
GIVEN_TO = frozenset({"pin", "pin_all", "_pin_beyond", "Pin", "_Cut"})
"""What takes a reason as one of its arguments."""


def texts(node: ast.expr, constants: dict[str, str]) -> Iterator[str]:
    """What an expression can be, of text: one of several words or more; X is what is only known when it runs."""
    if isinstance(node, ast.IfExp):
        yield from (*texts(node.body, constants), *texts(node.orelse, constants))
    elif isinstance(node, ast.BoolOp):
        yield from (text for value in node.values for text in texts(value, constants))
    elif isinstance(node, ast.JoinedStr):
        text = "".join(str(part.value) if isinstance(part, ast.Constant) else "X" for part in node.values)
        if " " in text:  # names of places are put together, too
            yield text
    elif isinstance(node, ast.Name | ast.Constant):
        text = node.value if isinstance(node, ast.Constant) else constants.get(node.id)
        if isinstance(text, str) and " " in text:
            yield text


def reasons_in(path: Path) -> Iterator[str]:
    """Texts that a module gives as reasons: to what takes them, in pins made by hand, and as what a trial says."""
    tree = ast.parse(path.read_text())
    constants = {
        name.id: str(node.value.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        for name in node.targets
        if isinstance(name, ast.Name)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            given = node.args if name in GIVEN_TO else []
        elif isinstance(node, ast.Tuple):
            given = node.elts[1:2] if len(node.elts) == 3 else []
        else:
            given = [node.value] if isinstance(node, ast.Return) and node.value is not None else []
        for expression in given:
            yield from texts(expression, constants)


FOUND = {reason for path in STRUCTURE.glob("*.py") for reason in reasons_in(path)}
REASONS = sorted(FOUND - {KERNEL})  # of which nobody hears


def test_the_reasons_are_found() -> None:
    assert len(REASONS) >= 25
    assert {"reaches the model's output", "is not used in a run on the example inputs", "X runs over it"} <= {*REASONS}
    assert {"all of its channels go together", "the model does not train", "the output changes its shape"} <= {*REASONS}


@pytest.mark.parametrize("reason", REASONS)
def test_every_reason_has_advice(reason: str) -> None:
    assert advice(reason)


class Written(nn.Module):
    """A size as a number in forward."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.outer(self.inner(x).view(len(x), 6))


def test_what_breaks_the_model_has_advice() -> None:
    reasons = {pin.reason for pin in trace(Written(), torch.randn(3, 4)).pinned}
    (broken,) = (reason for reason in reasons if "Error" in reason)
    assert "x.shape[1]" in advice(broken)
    assert advice("something new") == ""
