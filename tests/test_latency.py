"""The order of measurement, the statistics and what is restored; no test looks at a real clock."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper
from torch import Tensor, nn

from squeeze.errors import InputError
from squeeze.latency import Latency, compare, latency, measure, ways


class FakeClock:
    """Moves only when something says that it took time."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Takes(nn.Module):
    """Takes the given times, one after the other, and notes that it ran."""

    def __init__(self, clock: FakeClock, milliseconds: list[float], log: list[str], name: str) -> None:
        super().__init__()
        self.clock, self.milliseconds, self.log, self.name = clock, list(milliseconds), log, name

    def forward(self, x: Tensor) -> Tensor:
        self.log.append(self.name)
        self.clock.now += self.milliseconds[len([n for n in self.log if n == self.name]) % len(self.milliseconds)] / 1e3
        return x


def spend(clock: FakeClock, seconds: list[float]) -> Callable[[], None]:
    left = iter(seconds)

    def run() -> None:
        clock.now += next(left)

    return run


def test_every_round_runs_each_once_and_starts_with_the_next() -> None:
    order: list[str] = []
    measure({name: lambda name=name: order.append(name) for name in "abc"}, repeats=3, warmup=1, clock=FakeClock())
    assert "".join(order) == "abcbcacababc"


def test_warm_up_is_not_measured() -> None:
    clock = FakeClock()
    seconds = measure({"a": spend(clock, [100, 100, 1, 2, 3])}, repeats=3, warmup=2, clock=clock)
    assert seconds["a"] == [1, 2, 3]


def test_each_is_charged_its_own_time_only() -> None:
    clock = FakeClock()
    seconds = measure({"a": spend(clock, [1] * 4), "b": spend(clock, [50] * 4)}, repeats=4, warmup=0, clock=clock)
    assert seconds == {"a": [1] * 4, "b": [50] * 4}


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=30))
def test_median_and_quartiles(milliseconds: list[int]) -> None:
    clock = FakeClock()
    log: list[str] = []
    model = Takes(clock, [float(m) for m in milliseconds], log, "a")
    found = compare({"a": model}, torch.zeros(4, 2), repeats=len(milliseconds), warmup=0, clock=clock)["a"]
    truth = np.percentile(milliseconds, [25, 50, 75])
    assert np.allclose([found.q1, found.median, found.q3], truth)
    assert found.runs == len(milliseconds)


def test_conditions_are_named() -> None:
    found = latency(nn.Linear(3, 2), torch.zeros(5, 3), threads=1, repeats=2, warmup=0)
    assert (found.runs, found.threads, found.batch, found.backend, found.device) == (2, 1, 5, "pytorch", "cpu")


def test_text_and_json() -> None:
    found = Latency(2.0, 1.5, 2.5, 50, 2, 8, "onnxruntime", "cpu")
    assert str(found) == "2.000 ms (quartiles 1.500 to 2.500; 50 runs, 2 threads, batch 8, onnxruntime, cpu)"
    assert json.loads(json.dumps(found.to_dict()))["unit"] == "ms"


@pytest.mark.parametrize("fails", [False, True])
def test_threads_and_modes_are_restored(fails: bool) -> None:
    before = torch.get_num_threads()
    model = nn.Sequential(nn.Linear(3, 3), nn.Dropout()).train()
    model[0].eval()
    if fails:
        with pytest.raises(InputError, match="example_inputs"):
            latency(model, torch.zeros(1, 4), threads=before + 1)
    else:
        latency(model, torch.zeros(1, 3), threads=before + 1, repeats=1, warmup=0)
    assert torch.get_num_threads() == before
    assert [module.training for module in model.modules()] == [True, False, True]


class Watches(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        self.seen = (self.training, torch.is_grad_enabled(), torch.get_num_threads())
        return x


def test_models_run_in_eval_mode_without_gradients_on_the_threads_asked_for() -> None:
    model = Watches()
    latency(model, torch.zeros(1), threads=2, repeats=1, warmup=0)
    assert model.seen == (False, False, 2)


@pytest.fixture
def onnx_file(tmp_path: Path) -> Path:
    """y = a + b."""
    value = helper.make_tensor_value_info
    inputs = [value("a", TensorProto.FLOAT, ["n"]), value("b", TensorProto.FLOAT, ["n"])]
    graph = helper.make_graph(
        [helper.make_node("Add", ["a", "b"], ["y"])], "sum", inputs, [value("y", TensorProto.FLOAT, ["n"])]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    path = tmp_path / "sum.onnx"
    onnx.save(model, path)
    return path


class Sum(nn.Module):
    def forward(self, b: Tensor, a: Tensor) -> Tensor:
        return a + b


def test_both_backends_side_by_side(onnx_file: Path) -> None:
    inputs = {"b": torch.zeros(3), "a": torch.ones(3)}
    found = compare({"torch": Sum(), "onnx": onnx_file}, inputs, threads=1, repeats=2, warmup=0)
    assert (found["torch"].backend, found["onnx"].backend) == ("pytorch", "onnxruntime")
    assert found["onnx"].threads == 1
    assert found["onnx"].batch == 3


def test_too_few_tensors_for_a_file(onnx_file: Path) -> None:
    with pytest.raises(InputError, match="must be fed a, b, got 1 tensors"):
        latency(onnx_file, torch.zeros(3), repeats=1)


def test_missing_and_damaged_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.onnx: must be an ONNX file, got nothing there"):
        latency(tmp_path / "none.onnx", torch.zeros(1))
    bad = tmp_path / "bad.onnx"
    bad.write_bytes(b"not a model")
    with pytest.raises(InputError, match="must be loadable by ONNX Runtime"):
        latency(bad, torch.zeros(1))


@pytest.mark.parametrize("setting", ["threads", "repeats"])
def test_numbers_that_cannot_be(setting: str) -> None:
    with pytest.raises(ValueError, match=f"{setting} must be at least 1, got 0"):
        compare({"a": nn.Identity()}, torch.zeros(1), **{setting: 0})


class Chooses(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[:, :2]

    def way(self, x: Tensor) -> str:
        return f"for {tuple(x.shape)}, {'training' if self.training else 'eval'}"


def test_layers_are_asked_their_way_for_what_reaches_them_in_eval_mode() -> None:
    model = nn.Sequential(Chooses(), nn.ReLU(), nn.Sequential(Chooses())).train()
    assert ways(model, torch.zeros(3, 4)) == {"0": "for (3, 4), eval", "2.0": "for (3, 2), eval"}
    assert all(module.training and not module._forward_pre_hooks for module in model.modules())
    assert ways(nn.ReLU(), torch.zeros(3)) == {}
