"""Gates only where they make the network faster: measured, and remembered."""

from typing import Any

import pytest
import torch
from torch import nn

import squeeze
from squeeze.errors import InputError
from squeeze.nn import GatedConv2d
from squeeze.passes.decouple import paying as measured
from squeeze.passes.decouple.paying import paying
from squeeze.plan import Gate
from tests.passes.test_decouple import Net, a_task, quick
from tests.passes.test_decouple import trained as trained


def priced(monkeypatch: pytest.MonkeyPatch, costs: dict[int, float]) -> dict[int, float]:
    """Gates cost what is said here, by the number of filters, instead of what is measured."""
    monkeypatch.setattr(GatedConv2d, "cost", lambda self, x, share: costs[self.conv.out_channels])
    return costs


def test_only_gates_that_pay_and_again_when_resumed(
    trained: nn.Module, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    priced(monkeypatch, {24: 0.5, 16: 0.9, 32: 1.4})
    task, settings = a_task(), quick(epochs=1, macs=0.9, paying="pytorch")
    structure = squeeze.trace(trained, task.example_inputs)
    found = settings.search(trained, structure, task, squeeze.Run(tmp_path))
    assert [edit.module for edit in found.edits if isinstance(edit, Gate)] == ["conv1", "conv2", "narrow"]
    assert ["wide", "it would take 1.40 times as long with a gate"] in found.history["left_out"]
    monkeypatch.setattr(GatedConv2d, "cost", lambda self, x, share: 5.0)  # another moment, another answer
    again = settings.search(trained, structure, task, squeeze.Run(tmp_path, resume=True))
    assert again.edits == found.edits
    with pytest.raises(InputError, match="it would take 5.00 times as long with a gate"):
        settings.search(trained, structure, task, squeeze.Run(tmp_path))


def test_where_no_gate_pays_it_names_the_nearest_and_what_to_do_and_measures_anew(
    trained: nn.Module, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    costs = priced(monkeypatch, {24: 1.3, 16: 1.2, 32: 1.1})
    task, settings = a_task(), quick(epochs=1, macs=0.95, paying="pytorch")
    structure = squeeze.trace(trained, task.example_inputs)
    with pytest.raises(InputError) as told:
        settings.search(trained, structure, task, squeeze.Run(tmp_path))
    assert "got none of 4 (nearest to it is wide: it would take 1.10 times as long with a gate)" in str(told.value)
    assert "1.20 times" not in str(told.value) and "leave paying out" in str(told.value)
    costs[32] = 0.5  # on a quieter machine
    found = settings.search(trained, structure, task, squeeze.Run(tmp_path, resume=True))
    assert [edit.module for edit in found.edits if isinstance(edit, Gate)] == ["wide"]


def test_only_gates_that_pay_in_onnx_runtime_and_only_if_the_whole_network_gains(
    trained: nn.Module, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = a_task()
    structure = squeeze.trace(trained, task.example_inputs)
    costs, whole = {24: 0.6, 16: 0.9, 32: 1.4}, {1: 0.95, 3: 0.98}  # by the number of filters, and of gates

    def ratio(gates: list[Gate], model: nn.Module, *_: Any) -> float:
        if isinstance(model, Net):
            return whole[len(gates)]
        first = next(layer for layer in model.modules() if isinstance(layer, nn.Conv2d))
        return costs[first.out_channels]

    monkeypatch.setattr(measured, "_ratio", ratio)
    settings = quick(epochs=1, macs=0.95, paying="onnx")
    found = settings.search(trained, structure, task, squeeze.Run(tmp_path))
    assert [edit.module for edit in found.edits if isinstance(edit, Gate)] == ["conv1"]
    left_out = dict(found.history["left_out"])
    assert left_out["wide"] == "it would take 1.40 times as long with a gate"
    assert left_out["conv2"] == left_out["narrow"] == "the network is not faster with the gates that save as little"
    whole |= {1: 1.02, 3: 1.1}
    with pytest.raises(InputError, match="would take 1.02 times as long with the gates that save most, 1 in number"):
        settings.search(trained, structure, task, squeeze.Run(tmp_path))


def test_every_gate_is_measured_as_exported(capsys: pytest.CaptureFixture[str]) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2))
    model = nn.Sequential(*model, nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 5)).eval()
    x = torch.randn(1, 3, 10, 10)
    sites = squeeze.trace(model, x).gateable
    gates = [Gate(site.conv, site.norm, 2, site.relu, site.follows, site.reads) for site in sites]
    assert [gate.reads for gate in gates] == [(("4", ""),), ()]
    found, left_out = paying(gates, model, x, 0.5, "onnx")
    assert sorted([gate.module for gate in found] + [name for name, _ in left_out]) == ["0", "4"]
    assert "measures in ONNX Runtime where gates pay" in capsys.readouterr().err


@pytest.mark.parametrize("value", [True, "", "tensorrt"])
def test_gates_pay_in_a_runtime_that_there_is(value: Any) -> None:
    with pytest.raises(ValueError, match="paying must be pytorch, onnx or None"):
        squeeze.Decouple(macs=0.5, paying=value)
