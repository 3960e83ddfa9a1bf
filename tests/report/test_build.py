import numpy as np
import pytest
import torch
from torch import nn

from squeeze.edits import rewrite
from squeeze.latency import Latency
from squeeze.plan import Drop, Gate, Plan, Step
from squeeze.profiling import profile
from squeeze.report import Measured, Report, Stages, build_report, origin
from squeeze.structure.groups import Structure
from squeeze.structure.parts import Choice
from squeeze.structure.trace import trace


class Residual(nn.Module):
    """Two residual bodies, of 8 and 4 inner channels, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.first = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 1))
        self.second = nn.Sequential(nn.Conv2d(8, 4, 3, padding=1), nn.ReLU(), nn.ConvTranspose2d(4, 8, 1))
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x).relu()
        x = x + self.first(x)
        x = x + self.second(x)
        return self.head(x.mean((2, 3)))


INPUTS = torch.zeros(1, 3, 6, 6)


def removing(structure: Structure, name: str, units: list[int], blocks: frozenset[str] = frozenset()) -> Choice:
    """The choice that removes these units of the group that this layer produces."""
    gone = [np.zeros(group.size, dtype=bool) for group in structure.groups]
    index = [group.name for group in structure.groups].index(name)
    gone[index][units] = True
    return Choice(tuple(gone), blocks)


def built(model: nn.Module, smaller: nn.Module, plan: Plan) -> Report:
    stages = Stages(Measured(profile=profile(model, INPUTS)), Measured(profile=profile(smaller, INPUTS)))
    return build_report(origin("residual"), plan, trace(model, INPUTS), stages)


@pytest.fixture
def model() -> nn.Module:
    return Residual().eval()


def test_layers_agree_with_the_modules(model: nn.Module) -> None:
    structure = trace(model, INPUTS)
    edits = structure.edits(removing(structure, "first.0", [1, 2, 7]))
    smaller = rewrite(model, edits)
    made = built(model, smaller, Plan((Step("magnitude", {}, edits),)))
    widths = {layer.name: (layer.width_before, layer.width_after) for layer in made.layers}
    for name, module in smaller.named_modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            assert widths[name] == (model.get_submodule(name).out_channels, module.out_channels)
    assert widths["first.0"] == (8, 5) and widths["head"] == (5, 5) and widths["first.1"] == (None, None)
    assert sum(layer.params_after for layer in made.layers) == sum(p.numel() for p in smaller.parameters())
    assert sum(layer.macs_before for layer in made.layers) == made.before.macs
    assert sum(layer.macs_after for layer in made.layers) == made.after.macs
    assert made.origin.inputs == ((1, 3, 6, 6),)


def test_a_removed_block_is_named_and_its_layers_are_gone(model: nn.Module) -> None:
    structure = trace(model, INPUTS)
    block = next(block.name for block in structure.blocks if block.name.startswith("second"))
    edits = structure.edits(Choice(structure.nothing().units, frozenset({block})))
    made = built(model, rewrite(model, edits), Plan((Step("gal", {}, edits),)))
    gone = {layer.name for layer in made.layers if layer.removed}
    assert gone == {"second.0", "second.2"}
    assert [(item.name, item.method) for item in made.removed] == [(block, "gal")]
    left = {group.name: group.after for group in made.groups}
    assert left["second.0"] == 0 and left["first.0"] == 8


def test_groups_add_up_over_two_passes(model: nn.Module) -> None:
    structure = trace(model, INPUTS)
    first = structure.edits(removing(structure, "first.0", [0, 1, 2]))
    smaller = rewrite(model, first)
    again = trace(smaller, INPUTS)
    second = again.edits(removing(again, "first.0", [0, 4]))
    made = built(model, rewrite(smaller, second), Plan((Step("gal", {}, first), Step("magnitude", {}, second))))
    assert {group.name: (group.before, group.after) for group in made.groups}["first.0"] == (8, 3)
    assert [method.name for method in made.methods] == ["gal", "magnitude"]


def test_pins_are_gathered_by_reason(model: nn.Module) -> None:
    structure = trace(model, INPUTS)
    made = built(model, model, Plan())
    assert sum(pin.count for pin in made.pinned) == sum(pin.count for pin in structure.pinned)
    assert {pin.reason for pin in made.pinned} == {pin.reason for pin in structure.pinned}
    assert len(made.pinned) == len({pin.reason for pin in made.pinned})
    assert any("head.weight[0]" in pin.tensors for pin in made.pinned)


def test_history_becomes_series(model: nn.Module) -> None:
    epochs = [
        {"lambda": 0.1, "mask_0%": 0.5, "mask_100%": 1.0},
        {"lambda": float("nan"), "mask_0%": 0.0, "mask_100%": 1.5},
    ]
    masks = {"filters": {"a": [0.0, 0.0, 0.5], "b": [1.0]}, "blocks": {"c": [0.0]}, "branches": {}}
    told = {"epochs": epochs, "masks": masks, "left_out": [["x", "of its softmax"], ["y", "of its softmax"]]}
    tuned = [{"loss": 1.0}, {"loss": 0.5, "accuracy": 0.9}]
    stages = Stages(Measured(), Measured())
    made = build_report(
        origin("m"), Plan(), trace(model, INPUTS), stages, [("gal", told), ("finetune", tuned), ("magnitude", {})]
    )
    search, tuning = made.history
    assert search.series == {"lambda": (0.1, None)}
    assert search.quantiles == {"0": (0.5, 0.0), "100": (1.0, 1.5)}
    assert [(item.kind, item.zeros, sum(item.counts)) for item in search.masks] == [("filters", 2, 2), ("blocks", 1, 0)]
    assert tuning.series == {"loss": (1.0, 0.5), "accuracy": (None, 0.9)}
    assert made.notes == ("gal: left as it is, because of its softmax: x, y.",)


def test_measurements_keep_their_conditions(model: nn.Module) -> None:
    latency = Latency(2.0, 1.5, 2.5, 50, 4, 8, "onnxruntime", "cpu")
    stages = Stages(Measured({"accuracy": 0.5}, latency=(latency,), bytes={"onnx": 7}), Measured())
    made = build_report(origin("m"), Plan(), trace(model, INPUTS), stages, notes=["look"])
    timing = made.before.latency[0]
    assert (timing.median_ms, timing.q1_ms, timing.q3_ms) == (2.0, 1.5, 2.5)
    assert (timing.threads, timing.batch, timing.backend, timing.runs) == (4, 8, "onnxruntime", 50)
    assert (made.before.bytes, made.notes, made.cut, made.layers) == ({"onnx": 7}, ("look",), None, ())


def test_parameters_outside_of_a_dropped_module_are_gone_too(model: nn.Module) -> None:
    plan = Plan((Step("gal", {}, (Drop("second", ("second.0",), ()),)),))
    made = build_report(origin("m"), plan, trace(model, INPUTS), Stages(Measured(), Measured()))
    assert {group.name: group.after for group in made.groups}["second.0"] == 0


def test_the_origin_names_this_software() -> None:
    found = origin("m", command="squeeze prune", seed=3)
    assert found.versions["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert found.threads == torch.get_num_threads() and found.seed == 3 and found.machine


def test_layers_that_gates_took_in_keep_their_names_and_widths(model: nn.Module) -> None:
    gates = (Gate("first.0", "first.1", 2, True, (), (("first.3", ""),)),)
    made = built(model, rewrite(model, gates).eval(), Plan((Step("decouple", {}, gates),)))
    layers = {layer.name: layer for layer in made.layers}
    assert list(layers) == [layer.name for layer in built(model, model, Plan()).layers]
    assert not any(layer.removed for layer in made.layers)
    gate = (8 * 2 + 2) + (2 * 8 + 8)
    conv = layers["first.0"]
    assert (conv.params_before, conv.params_after) == (8 * 8 * 9 + 8, 8 * 8 * 9 + 8 + gate)
    assert (conv.width_before, conv.width_after) == (8, 8)
    assert (layers["first.1"].params_before, layers["first.1"].params_after) == (16, 16)
    assert (layers["first.3"].params_before, layers["first.3"].params_after) == (8 * 8 + 8, 8 * 8 + 8)
    assert sum(layer.macs_after for layer in made.layers) == made.after.macs
    assert sum(layer.params_after for layer in made.layers) == made.after.params


def test_the_width_of_a_gated_layer_is_what_is_left_of_it(model: nn.Module) -> None:
    structure = trace(model, INPUTS)
    edits = structure.edits(removing(structure, "first.0", [1, 2, 7]))
    gates = (Gate("first.0", "first.1", 2, True, (), (("first.3", ""),)),)
    smaller = rewrite(rewrite(model, edits), gates).eval()
    nn.init.constant_(smaller.get_submodule("first.0.gate.expand").bias, -1)
    made = built(model, smaller, Plan((Step("magnitude", {}, edits), Step("decouple", {}, gates))))
    widths = {layer.name: (layer.width_before, layer.width_after) for layer in made.layers}
    assert (widths["first.0"], widths["first.3"]) == ((8, 5), (8, 8))
