"""Gated networks in ONNX and as exported programs: they compute what PyTorch computes, and say what they did."""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import squeeze
from squeeze.nn import GatedConv2d, ReadingConv2d, computing, gated, gated_onnx, observing
from squeeze.nn.onnx_costs import Form, Sizes, Way, form_of
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


FORMS = [Form("all"), Form("some"), Form("some", narrow=True), Form("transposed", narrow=True)]


def a_net() -> nn.Module:
    """Gated."""
    torch.manual_seed(0)
    model, x = Net().eval(), torch.randn(1, 3, 8, 8)
    gates = [Gate(s.conv, s.norm, 2, s.relu, s.follows, s.reads) for s in squeeze.trace(model, x).gateable]
    made = squeeze.rewrite(model, gates)
    for layer in made.modules():
        if isinstance(layer, GatedConv2d):
            nn.init.normal_(layer.gate.expand.weight)
            nn.init.normal_(layer.gate.expand.bias)
    return made


@dataclass(frozen=True)
class Exported:
    """A network, its file, and the form that its layers have there wherever they can."""

    net: nn.Module
    path: Path
    form: Form


@pytest.fixture(scope="module", params=FORMS, ids=str)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    form = request.param

    def form_of(sizes: Sizes, comes_narrow: bool, readers: Any, can_transpose: bool) -> Form:
        way: Way = "some" if form.way == "transposed" and not can_transpose else form.way
        return Form(way, form.narrow and readers is not None)

    net = a_net()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gated_onnx, "form_of", form_of)
        path = squeeze.export_onnx(net, torch.randn(1, 3, 8, 8), tmp_path_factory.mktemp("exported") / "net.onnx")
    return Exported(net, path, form)


def run(path: Path, x: Tensor) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return dict(zip([o.name for o in session.get_outputs()], session.run(None, {"input": x.numpy()}), strict=True))


def expected(model: nn.Module, x: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    with torch.no_grad(), computing("masked"), observing() as seen:
        outputs = model(x)
    layers = [m for m in model.modules() if isinstance(m, GatedConv2d)]
    return outputs, torch.cat([seen[layer][-1].code for layer in layers], 1) > 0


def test_computes_the_same_for_any_batch_and_tells_its_codes(exported: Exported) -> None:
    for batch in (1, 2, 5):
        x = torch.randn(batch, 3, 8, 8)
        found, (outputs, codes) = run(exported.path, x), expected(exported.net, x)
        assert list(found) == ["logits", "map", "codes"]
        assert np.array_equal(found["codes"], codes.numpy())
        for name, output in outputs.items():
            assert np.allclose(found[name], output.numpy(), atol=1e-5)
    codes = [run(exported.path, torch.randn(1, 3, 8, 8))["codes"].tobytes() for _ in range(8)]
    assert len(set(codes)) > 1


def test_only_operators_of_the_standard(exported: Exported) -> None:
    graph = onnx.load(exported.path).graph
    assert {node.domain for node in graph.node} <= {"", "ai.onnx"}
    constants = {tensor.name for tensor in graph.initializer}
    computed = [n.op_type for n in graph.node if n.op_type.startswith("Conv") and n.input[1] not in constants]
    assert bool(computed) == (exported.form.way != "all")
    assert ("ConvTranspose" in computed) == (exported.form.way == "transposed")


def test_masks_come_after_relus_and_indices_are_flattened_at_once(exported: Exported) -> None:
    made_by = {name: node for node in onnx.load(exported.path).graph.node for name in node.output}
    relus = [node for node in made_by.values() if node.op_type == "Relu"]
    kinds = [made_by[relu.input[0]].op_type for relu in relus if relu.input[0] in made_by]
    assert "Conv" in kinds or "ConvTranspose" in kinds
    assert "Mul" not in kinds
    read = [
        made_by[node.input[0]].op_type
        for node in made_by.values()
        if node.op_type in ("Reshape", "Transpose") and node.input[0] in made_by
    ]
    rows = [node for node in made_by.values() if node.op_type == "NonZero"]
    assert read.count("NonZero") == len(rows)
    assert all(made_by[n.input[0]].op_type != "NonZero" for n in made_by.values() if n.op_type == "Transpose")


def test_without_any_filter_it_runs_and_gives_shifts_alone(exported: Exported, tmp_path: Path) -> None:
    model, net = onnx.load(exported.path), copy.deepcopy(exported.net)
    shut = [tensor for tensor in model.graph.initializer if tensor.name.endswith("gate.expand.bias")]
    for tensor in shut:
        tensor.CopyFrom(onnx.numpy_helper.from_array(np.full(tensor.dims, -100, np.float32), tensor.name))
    layers = [layer for layer in net.modules() if isinstance(layer, GatedConv2d)]
    for layer in layers:
        nn.init.constant_(layer.gate.expand.bias, -100)
    assert len(shut) == len(layers)
    onnx.save(model, tmp_path / "shut.onnx")
    x = torch.randn(3, 3, 8, 8)
    found, (outputs, codes) = run(tmp_path / "shut.onnx", x), expected(net, x)
    assert not codes.any() and not found["codes"].any()
    assert np.isfinite(found["logits"]).all()
    assert np.allclose(found["logits"], outputs["logits"].numpy(), atol=1e-6)


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation", "mode", "can"),
    [
        (3, 1, 1, 1, "zeros", True),
        (3, 1, 2, 2, "zeros", True),
        ((1, 5), 1, (0, 0), 1, "zeros", True),
        (3, 2, 1, 1, "zeros", False),
        (1, 1, 0, 1, "zeros", False),
        (3, 1, 3, 1, "zeros", False),
        (3, 1, "same", 1, "zeros", False),
        (3, 1, 1, 1, "reflect", False),
    ],
)
def test_some_filters_of_some_channels(
    kernel: Any, stride: int, padding: Any, dilation: int, mode: Any, can: bool
) -> None:
    conv = nn.Conv2d(6, 8, kernel, stride, padding, dilation, padding_mode=mode)
    layer = gated_onnx.ReadingOnnx(ReadingConv2d(conv))
    x, rows, present = torch.randn(2, 6, 9, 7), torch.tensor([0, 3, 7]), torch.tensor([1, 2, 5])
    wide = torch.zeros_like(x).index_copy(1, present, x[:, present])
    with torch.no_grad():
        whole = conv(wide)
        assert torch.allclose(layer.convolved(x[:, present], None, present), whole, atol=1e-5)
        assert torch.allclose(layer.convolved(wide, rows, None), whole[:, rows], atol=1e-5)
        assert torch.allclose(layer.convolved(x[:, present], rows, present), whole[:, rows], atol=1e-5)
        assert gated_onnx.can_transpose(conv) == can
        if can:
            assert torch.allclose(layer.convolved(x[:, present], rows, present, True), whole[:, rows], atol=1e-5)
            assert torch.allclose(layer.convolved(wide, rows, None, True), whole[:, rows], atol=1e-5)


def test_forms_that_were_measured_to_be_fast() -> None:
    """Large maps are not unfolded, where weights are large their columns are not picked, little is computed whole."""

    def form(channels: int, side: int, readers: tuple[tuple[int, int], ...] | None, kernel: int = 3) -> Form:
        conv = nn.Conv2d(channels, channels, kernel, padding=kernel // 2)
        return form_of(Sizes.of(conv, side, side), False, readers, kernel > 1)

    assert form(64, 56, ((64, 9),)) == Form("transposed", narrow=True)
    assert form(256, 14, ((256, 9),)) == Form("some", narrow=True)
    assert form(512, 7, ((512, 9),)) == Form("some")
    assert form(16, 32, ((16, 9),)) == Form("all")
    assert form(256, 56, None, kernel=1).way == "some"


@pytest.mark.parametrize("narrow", [True, False], ids=["skipping", "masked"])
def test_exported_as_a_program(narrow: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gated, "EXPORTED_FROM", 0 if narrow else 10**12)
    net = a_net()
    path = squeeze.export_pt2(net, torch.randn(1, 3, 8, 8), tmp_path / "net.pt2")
    program, x = torch.export.load(path).module(), torch.randn(4, 3, 8, 8)
    assert torch.allclose(program(x)["logits"], expected(net, x)[0]["logits"], atol=1e-5)
    assert any(isinstance(module, nn.BatchNorm2d) for module in net.modules())
    graphs = [module.graph for module in program.modules() if isinstance(module, torch.fx.GraphModule)]
    assert "rsqrt" not in " ".join(str(node.target) for graph in graphs for node in graph.nodes), "folded in each call"
