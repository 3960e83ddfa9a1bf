"""GAL's joint variant: masks on what single layers read of a trunk that keeps its width."""

from typing import Any

import pytest
import torch

from squeeze.edits import rewrite
from squeeze.passes.gal import GAL
from squeeze.plan import Select
from squeeze.structure.trace import trace
from squeeze.training import Run
from tests.passes.test_gal import QUICK, Sized, macs
from tests.passes.tiny import built


@pytest.mark.parametrize("structures", [("inputs",), ("blocks", "inputs"), ("filters", "blocks", "inputs")])
@pytest.mark.parametrize("budget", [{"macs": 0.8}, {"lambda_": 1e4}], ids=["budget", "lambda"])
def test_the_decision_is_exact_and_leaves_every_layer_an_input(structures: Any, budget: dict[str, float]) -> None:
    model = built()
    structure = trace(model, torch.randn(2, 3, 6, 6))
    found = GAL(structures=structures, **budget, **QUICK).search(model, structure, Sized(), Run())
    smaller = rewrite(found.model, found.edits)
    assert set(found.history["masks"]) == set(structures)
    x = torch.randn(4, 3, 6, 6)
    torch.testing.assert_close(smaller(x), found.model(x), rtol=1e-4, atol=1e-5)
    if "macs" in budget:
        assert macs(smaller) <= 0.8 * macs(model)
    kept = structure.kept(structure.choice(found.edits))
    read = [int(kept[edge.tensor, edge.dim].sum()) for edge in structure.inputs if (edge.tensor, edge.dim) in kept]
    assert min(read, default=1) >= 1
    assert "macs" in budget or set(read) == {1}


def test_inputs_alone_leave_every_width_as_it_is() -> None:
    model = built()
    structure = trace(model, torch.randn(2, 3, 6, 6))
    found = GAL(macs=0.8, structures=("inputs",), **QUICK).search(model, structure, Sized(), Run())
    assert {type(edit) for edit in found.edits} == {Select}
    smaller = rewrite(found.model, found.edits)
    assert [m.weight.shape[0] for m in smaller.modules() if hasattr(m, "weight")] == [
        m.weight.shape[0] for m in model.modules() if hasattr(m, "weight")
    ]


def test_inputs_are_off_unless_asked_for() -> None:
    assert GAL(macs=0.5).structures == ("filters", "blocks", "branches")
