"""Gated networks in ONNX and as exported programs: they compute what PyTorch computes, and say what they did."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import squeeze
from squeeze.nn import GatedConv2d, computing, gated, gated_onnx, observing
from squeeze.nn.onnx_costs import Form, Sizes, Way
from squeeze.plan import Gate


class Net(nn.Module):
    """A stem, a residual body, an inverted one, a head that returns two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.conv1, self.bn1 = nn.Conv2d(8, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12)
        self.conv2, self.bn2 = nn.Conv2d(12, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.wide, self.bn3 = nn.Conv2d(8, 16, 1), nn.BatchNorm2d(16)
        self.depth, self.narrow = nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.Conv2d(16, 8, 1)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = torch.relu(self.stem(x))
        x = torch.relu(x + self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))))
        x = self.narrow(torch.relu(self.depth(torch.relu(self.bn3(self.wide(x))))))
        return {"logits": self.head(x.mean((2, 3))), "map": x}


FORMS = [Form("all"), Form("some"), Form("transposed"), Form("some", True), Form("transposed", True)]


@pytest.fixture(params=FORMS, ids=str)
def net(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    """Gated; exported in this form wherever it can be."""
    form = request.param

    def form_of(sizes: Sizes, comes_narrow: bool, readers: Any, can_transpose: bool) -> Form:
        way: Way = "some" if form.way == "transposed" and not can_transpose else form.way
        return Form(way, form.narrow and readers is not None)

    monkeypatch.setattr(gated_onnx, "form_of", form_of)
    monkeypatch.setattr(gated, "EXPORTED_FROM", 10**12 if form.way == "all" else 0)
    torch.manual_seed(0)
    model, x = Net().eval(), torch.randn(1, 3, 8, 8)
    gates = [Gate(s.conv, s.norm, 2, s.relu, s.follows, s.reads) for s in squeeze.trace(model, x).gateable]
    made = squeeze.rewrite(model, gates)
    for layer in made.modules():
        if isinstance(layer, GatedConv2d):
            nn.init.normal_(layer.gate.expand.weight)
            nn.init.normal_(layer.gate.expand.bias)
    made.skips = form.way != "all"
    return made


def run(path: Path, x: Tensor) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return dict(zip([o.name for o in session.get_outputs()], session.run(None, {"input": x.numpy()}), strict=True))


def expected(model: nn.Module, x: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    with torch.no_grad(), computing("masked"), observing() as seen:
        outputs = model(x)
    layers = [m for m in model.modules() if isinstance(m, GatedConv2d)]
    return outputs, torch.cat([seen[layer][-1].code for layer in layers], 1) > 0


def test_computes_the_same_for_any_batch_and_tells_its_codes(net: Any, tmp_path: Path) -> None:
    path = squeeze.export_onnx(net, torch.randn(1, 3, 8, 8), tmp_path / "net.onnx")
    for batch in (1, 2, 5):
        x = torch.randn(batch, 3, 8, 8)
        found, (outputs, codes) = run(path, x), expected(net, x)
        assert list(found) == ["logits", "map", "codes"]
        assert np.array_equal(found["codes"], codes.numpy())
        for name, output in outputs.items():
            assert np.allclose(found[name], output.numpy(), atol=1e-5)
    codes = [run(path, torch.randn(1, 3, 8, 8))["codes"].tobytes() for _ in range(8)]
    assert len(set(codes)) > 1


def test_only_operators_of_the_standard(net: Any, tmp_path: Path) -> None:
    model = onnx.load(squeeze.export_onnx(net, torch.randn(1, 3, 8, 8), tmp_path / "net.onnx"))
    assert {node.domain for node in model.graph.node} <= {"", "ai.onnx"}
    constants = {tensor.name for tensor in model.graph.initializer}
    computed = [n for n in model.graph.node if n.op_type.startswith("Conv") and n.input[1] not in constants]
    assert bool(computed) == net.skips


def test_without_any_filter_it_runs_and_gives_shifts_alone(net: Any, tmp_path: Path) -> None:
    for layer in net.modules():
        if isinstance(layer, GatedConv2d):
            nn.init.constant_(layer.gate.expand.bias, -100)
    path = squeeze.export_onnx(net, torch.randn(1, 3, 8, 8), tmp_path / "net.onnx")
    x = torch.randn(3, 3, 8, 8)
    found, (outputs, codes) = run(path, x), expected(net, x)
    assert not codes.any() and not found["codes"].any()
    assert np.isfinite(found["logits"]).all()
    assert np.allclose(found["logits"], outputs["logits"].numpy(), atol=1e-6)


def test_exported_as_a_program(net: Any, tmp_path: Path) -> None:
    path = squeeze.export_pt2(net, torch.randn(1, 3, 8, 8), tmp_path / "net.pt2")
    program, x = torch.export.load(path).module(), torch.randn(4, 3, 8, 8)
    assert torch.allclose(program(x)["logits"], expected(net, x)[0]["logits"], atol=1e-5)
