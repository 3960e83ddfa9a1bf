"""Gates that a plan wants to put where they do not belong."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook

import squeeze
from squeeze.errors import PlanError
from squeeze.nn import FollowingConv2d, GatedConv2d, Moved, ReadingConv2d
from squeeze.plan import Gate, Plan, Step


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.ModuleDict(
        {
            "first": nn.Conv2d(3, 8, 3),
            "norm": nn.BatchNorm2d(8),
            "narrow_norm": nn.BatchNorm2d(4),
            "loose_norm": nn.BatchNorm2d(8, track_running_stats=False),
            "depth": nn.Conv2d(8, 8, 3, groups=8),
            "grouped": nn.Conv2d(8, 8, 3, groups=2),
            "second": nn.Conv2d(8, 4, 3),
            "other": nn.Conv2d(4, 4, 3),
            "linear": nn.Linear(8, 8),
        }
    )


GOOD: dict[str, Any] = {"module": "first", "norm": "norm", "hidden": 2, "relu": True}
GOOD |= {"follows": (("depth", ""),), "reads": (("second", "narrow_norm"),)}


def test_what_fits_is_put_in_and_the_given_model_is_left_alone() -> None:
    model = net()
    made = squeeze.rewrite(model, Plan.from_json(Plan((Step("x", {}, (Gate(**GOOD),)),)).to_json()).edits)
    kinds = [type(made.get_submodule(name)) for name in ("first", "depth", "second", "norm", "narrow_norm", "other")]
    assert kinds == [GatedConv2d, FollowingConv2d, ReadingConv2d, Moved, Moved, nn.Conv2d]
    assert type(model.get_submodule("first")) is nn.Conv2d
    assert made.first.sink is made.depth.source is made.depth.sink is made.second.source  # type: ignore[union-attr]


def test_where_a_norm_was_hooks_run_and_nothing_else_does() -> None:
    made: Any = squeeze.rewrite(net(), [Gate(**GOOD)])
    x, seen = torch.randn(2, 8, 4, 4), []
    assert made.norm(x) is x
    hooks = [
        made.norm.register_forward_pre_hook(lambda *_: seen.append("before")),
        made.norm.register_forward_hook(lambda *_: seen.append("after")),
        register_module_forward_hook(lambda *_: seen.append("any")),
    ]
    assert made.norm(x) is x
    assert sorted(seen) == ["after", "any", "before"]
    for hook in hooks[:2]:
        hook.remove()
    made.norm(x)
    hooks[2].remove()
    made.norm(x)
    assert sorted(seen) == ["after", "any", "any", "before"]


def test_a_reader_is_gated_in_turn_and_still_reads() -> None:
    edits = (Gate(**GOOD), Gate("second", "narrow_norm", 2))
    for order in (edits, edits[::-1]):
        made: Any = squeeze.rewrite(net(), order)
        assert isinstance(made.second, GatedConv2d)
        assert made.second.source is made.first.sink is not None
        assert isinstance(made.second.norm, nn.BatchNorm2d)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"module": "nowhere"}, "must be a convolution, got nothing"),
        ({"module": "linear"}, "must be a convolution, got Linear"),
        ({"module": "grouped", "norm": "", "reads": (), "follows": ()}, "must be a convolution in one group"),
        ({"module": "depth", "norm": "", "reads": (), "follows": ()}, "must be a convolution"),
        ({"norm": "nowhere"}, "must be the batch norm of first, got nothing"),
        ({"norm": "narrow_norm"}, "must be the batch norm of first"),
        ({"norm": "loose_norm"}, "must be the batch norm of first"),
        ({"norm": "linear"}, "must be the batch norm of first, got Linear"),
        ({"hidden": 0}, "bottleneck of 1 to 16 neurons, got 0"),
        ({"hidden": 17}, "bottleneck of 1 to 16 neurons, got 17"),
        ({"follows": (("second", ""),)}, "must be a depthwise convolution"),
        ({"reads": (("other", ""),)}, "must read what first makes, got another layer"),
        ({"reads": (("depth", ""),), "follows": ()}, "must be a convolution"),
        ({"reads": (("nowhere", ""),)}, "must be a convolution, got nothing"),
        ({"reads": (("second", ""), ("second", ""))}, "must read what first makes"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        squeeze.rewrite(net(), [Gate(**{**GOOD, **changes})])


@pytest.mark.parametrize("norm", ["nowhere", "loose_norm", ""])
def test_a_reader_that_is_gated_in_turn_has_the_norm_that_it_had(norm: str) -> None:
    with pytest.raises(PlanError, match="must be the batch norm of second"):
        squeeze.rewrite(net(), [Gate(**GOOD), Gate("second", norm, 2)])


def test_a_reader_without_a_norm_has_none() -> None:
    plain = {**GOOD, "reads": (("second", ""),)}
    made: Any = squeeze.rewrite(net(), [Gate(**plain), Gate("second", "", 2)])
    assert made.second.norm is None
    with pytest.raises(PlanError, match="nowhere must be the batch norm of second, got nothing"):
        squeeze.rewrite(net(), [Gate(**plain), Gate("second", "nowhere", 2)])


def test_a_gate_twice_is_refused() -> None:
    with pytest.raises(PlanError, match="must be a convolution, got GatedConv2d"):
        squeeze.rewrite(net(), [Gate(**GOOD), Gate(**GOOD)])


@pytest.mark.parametrize(
    "changed",
    [{"relu": 1}, {"hidden": -1}, {"hidden": 2**40}, {"follows": [["a"]]}, {"reads": [["a", 1]]}, {"reads": "ab"}],
)
def test_plans_of_gates_are_not_trusted(changed: dict[str, Any]) -> None:
    import json

    data = json.loads(Plan((Step("x", {}, (Gate(**GOOD),)),)).to_json())
    data["steps"][0]["edits"][0] |= changed
    with pytest.raises(PlanError, match="the plan was altered"):
        Plan.from_json(json.dumps(data))
