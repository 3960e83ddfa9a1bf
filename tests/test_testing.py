"""`check_pass` accepts the passes we have and names what is wrong with others."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from squeeze import GAL, KSE, Found, Magnitude, Pass
from squeeze.architectures import load_callable
from squeeze.testing import check_pass


@pytest.mark.parametrize(
    "chosen",
    [
        Magnitude(macs=0.5),
        Magnitude(params=0.6, scope="local"),
        Magnitude(ratio=0.3, ignore=("stem",), round_to=1),
        GAL(macs=0.6, epochs=2),
        GAL(params=0.7, epochs=1, structures=("filters", "blocks")),
        GAL(macs=0.7, epochs=1, structures=("blocks", "inputs"), round_to=4),
        Magnitude(macs=0.6, structures=("filters", "inputs"), round_to=4),
        Magnitude(params=0.8, structures=("inputs",), scope="local", round_to=4),
        KSE(),
        KSE(macs=0.4),
    ],
    ids=repr,
)
def test_ours_are_passes(chosen: Pass) -> None:
    assert check_pass(chosen) is None


@dataclass(frozen=True)
class Spoiled:
    """Magnitude, spoiled by a function of what it found."""

    spoil: Callable[[Any, Found], Found]
    name: ClassVar[str] = "spoiled"

    def search(self, model: Any, structure: Any, task: Any, run: Any) -> Found:
        return self.spoil(model, Magnitude(macs=0.7).search(model, structure, task, run))

    def objective(self, model: Any, loss: Any) -> Any:
        return nullcontext(loss)


def writes_into_the_model(model: Any, found: Found) -> Found:
    with torch.no_grad():
        model.head.bias.add_(1)
    return found


def forgets_to_copy(model: Any, found: Found) -> Found:
    return replace(found, model=model)


def leaves_a_hook(model: Any, found: Found) -> Found:
    model.register_forward_hook(print)
    return found


def finds_what_no_report_shows(model: Any, found: Found) -> Found:
    return replace(found, history={"finding": {"layers": [{"name": 3}]}})


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (writes_into_the_model, "weights of the given model"),
        (forgets_to_copy, "a copy of the model"),
        (leaves_a_hook, "no hook"),
        (finds_what_no_report_shows, "a finding that a report can show"),
    ],
)
def test_what_is_wrong_is_named(spoil: Any, complaint: str) -> None:
    with pytest.raises(AssertionError, match=complaint):
        check_pass(Spoiled(spoil))


@pytest.mark.parametrize("name", ["", "two words", "../up", "-v", "a/b"])
def test_a_name_must_do_for_files_and_on_the_command_line(name: str) -> None:
    named: Any = dataclass(frozen=True)(type("Named", (Spoiled,), {"name": name, "__annotations__": {}}))
    with pytest.raises(AssertionError, match="a name of letters"):
        check_pass(named(leaves_it))


def leaves_it(model: Any, found: Found) -> Found:
    return found


def test_the_example_of_the_contributing_guide_is_a_pass(tmp_path: Path) -> None:
    guide = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text()
    (tmp_path / "first_half.py").write_text(guide.split("```python\n", 1)[1].split("```", 1)[0])
    check_pass(load_callable(f"{tmp_path / 'first_half.py'}:FirstHalf")())


def test_a_class_is_not_a_pass() -> None:
    with pytest.raises(AssertionError, match="instance of a dataclass"):
        check_pass(Magnitude)  # type: ignore[arg-type]
