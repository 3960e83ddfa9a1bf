"""Exported files against the models they came from, and files that must not appear."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from squeeze.errors import ExportError, InputError
from squeeze.export import OPSET, FixedBatchWarning, export_onnx, export_pt2
from squeeze.nn import Removed


class ConvNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Identity())
        self.body = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Dropout())
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head((x + self.body(x)).mean((2, 3)))


class TwoInTwoOut(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(4, 6), nn.Linear(3, 6)

    def forward(self, a: Tensor, b: Tensor, scale: float = 1.0) -> tuple[Tensor, list[Tensor]]:
        a, b = self.left(a), self.right(b)
        return a * scale, [b, (a @ b.T).sum(1)]


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        self.out = nn.Linear(8, 2)

    def forward(self, *, ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
        x = self.embedding(ids) * mask.unsqueeze(-1)
        return {"logits": self.out(x.sum(1)), "mask": 1 - mask}


def warm(model: nn.Module) -> nn.Module:
    """With batch-norm statistics that are not the trivial ones."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return model


def image() -> Tensor:
    return torch.randn(1, 3, 10, 10)


CASES: dict[str, tuple[Callable[[], nn.Module], Callable[[], Any]]] = {
    "convolutions": (ConvNet, image),
    "transformer": (lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), lambda: torch.randn(2, 5, 8)),
    "two in, three out": (TwoInTwoOut, lambda: (torch.randn(2, 4), torch.randn(2, 3), 2.0)),
    "dict": (Tokens, lambda: {"ids": torch.randint(11, (1, 6)), "mask": torch.ones(1, 6)}),
}


def resized(inputs: Any, batch: int) -> Any:
    if isinstance(inputs, Tensor):
        return inputs.repeat(batch, *[1] * (inputs.dim() - 1))[:batch]
    if isinstance(inputs, tuple):
        return tuple(resized(part, batch) for part in inputs)
    return {key: resized(part, batch) for key, part in inputs.items()} if isinstance(inputs, dict) else inputs


def flat(tree: Any) -> list[Tensor]:
    return (
        [tree]
        if isinstance(tree, Tensor)
        else [t for part in (tree.values() if isinstance(tree, dict) else tree) for t in flat(part)]
    )


def torch_run(model: nn.Module, inputs: Any) -> list[Tensor]:
    with torch.no_grad():
        if isinstance(inputs, dict):
            return flat(model(**inputs))
        return flat(model(*inputs) if isinstance(inputs, tuple) else model(inputs))


def onnx_run(path: Path, inputs: Any) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    tensors = inputs.values() if isinstance(inputs, dict) else inputs if isinstance(inputs, tuple) else [inputs]
    arrays = [tensor.numpy() for tensor in tensors if isinstance(tensor, Tensor)]
    names = list(inputs) if isinstance(inputs, dict) else [value.name for value in session.get_inputs()]
    return session.run(None, dict(zip(names, arrays, strict=True)))


Exported = tuple[nn.Module, Any, Path]


@pytest.fixture(scope="module")
def onnx_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Exported]:
    torch.manual_seed(0)
    files = {}
    for case, (build, make) in CASES.items():
        model, inputs = warm(build()).eval(), make()
        files[case] = (model, inputs, export_onnx(model, inputs, tmp_path_factory.mktemp("onnx") / "model.onnx"))
    return files


@pytest.mark.parametrize("case", CASES)
def test_onnx_computes_what_torch_computes(case: str, onnx_files: dict[str, Exported]) -> None:
    model, inputs, path = onnx_files[case]
    for batch in (1, 4):
        trial = resized(inputs, batch)
        for ours, theirs in zip(torch_run(model, trial), onnx_run(path, trial), strict=True):
            torch.testing.assert_close(torch.as_tensor(theirs), ours, rtol=1e-4, atol=1e-5)
    assert idle_nodes(path) == []
    assert [file.name for file in path.parent.iterdir()] == ["model.onnx"]


@pytest.mark.parametrize("case", CASES)
def test_a_program_computes_what_torch_computes(case: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    build, inputs = CASES[case][0], CASES[case][1]()
    model = warm(build()).eval()
    path = export_pt2(model, inputs, tmp_path / "model.pt2")
    loaded = torch.export.load(path).module()
    for batch in (1, 4):
        trial = resized(inputs, batch)
        for ours, theirs in zip(torch_run(model, trial), torch_run(loaded, trial), strict=True):
            torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-5)


def idle_nodes(path: Path) -> list[str]:
    """Nodes that do nothing, that nothing reads, or that read constants only; and initializers that nothing reads."""
    graph = onnx.load(path).graph
    assert not any(attribute.HasField("g") for node in graph.node for attribute in node.attribute)
    read = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    fixed = {tensor.name for tensor in graph.initializer} | {""}
    found = [tensor.name for tensor in graph.initializer if tensor.name not in read]
    for node in graph.node:
        if (
            node.op_type in ("Identity", "Constant", "Dropout")
            or fixed.issuperset(node.input)
            or read.isdisjoint(node.output)
        ):
            found.append(node.op_type)
    return found


def test_batch_norm_and_modules_that_do_nothing_are_gone(tmp_path: Path) -> None:
    model = ConvNet()
    model.body = Removed()
    path = export_onnx(model, image(), tmp_path / "model.onnx")
    assert [node.op_type for node in onnx.load(path).graph.node] == ["Conv", "Relu", "ReduceMean", "Gemm"]


class Idle(nn.Module):
    """Large constants, a mask made in forward, and views, casts and padding that change nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(200, 200))

    def forward(self, x: Tensor) -> Tensor:
        mask = torch.zeros(200)
        mask[50:] = 1
        x = F.pad(x, (0, 0))[:, :200].to(torch.float32).contiguous().reshape(-1, 200) * 1.0
        return F.linear(x, (self.w * torch.arange(200.0)).softmax(1).T @ self.w * mask)


def test_what_does_nothing_or_is_constant_is_gone(tmp_path: Path) -> None:
    path = export_onnx(Idle(), torch.randn(1, 200), tmp_path / "model.onnx")
    assert [node.op_type for node in onnx.load(path).graph.node] in (["Gemm"], ["MatMul"])


def test_names_shapes_and_opset(onnx_files: dict[str, Exported]) -> None:
    tokens, two = (onnx.load(onnx_files[case][2]) for case in ("dict", "two in, three out"))
    assert [value.name for value in tokens.graph.input] == ["ids", "mask"]
    assert [value.name for value in tokens.graph.output] == ["logits", "mask_out"]
    batch, length = tokens.graph.input[0].type.tensor_type.shape.dim
    assert batch.dim_param
    assert length.dim_value == 6
    assert "out.weight" in {tensor.name for tensor in tokens.graph.initializer}
    assert [value.name for value in two.graph.input] == ["a", "b"]
    assert [value.name for value in two.graph.output] == ["output_0", "output_1", "output_2"]
    assert [entry.version for entry in two.opset_import if not entry.domain] == [OPSET]


def test_nothing_but_the_files_is_left_behind(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model, x = ConvNet().train(), image()
    kept, state = x.clone(), {name: tensor.clone() for name, tensor in model.state_dict().items()}
    paths = export_onnx(model, x, tmp_path / "model.onnx"), export_pt2(model, x, tmp_path / "model.pt2")
    assert all(module.training for module in model.modules())
    assert torch.equal(x, kept)
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert capfd.readouterr() == ("", "")
    for path in paths:
        assert __file__.encode() not in path.read_bytes()


class Noise(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.rand_like(x)


class LooksAtValues(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if torch.compiler.is_exporting() else x * 3


@pytest.mark.parametrize("export", [export_onnx, export_pt2])
@pytest.mark.parametrize("model", [Noise(), LooksAtValues()])
def test_a_file_that_lies_is_refused(export: Any, model: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "model.file"
    path.write_bytes(b"the good old one")
    with pytest.raises(
        ExportError, match=r"model\.file: must compute what .* got a difference of .* where .* is allowed"
    ):
        export(model, torch.randn(2, 3), path)
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [b"the good old one"]


class CountsOnFour(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(4, -1).cumsum(0)


@pytest.mark.parametrize("export", [export_onnx, export_pt2])
def test_one_batch_size_only_is_said_aloud(export: Any, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    x = torch.randn(2, 6)
    with pytest.warns(FixedBatchWarning, match=r"dim 0 of the inputs must be 2") as caught:
        export(CountsOnFour(), x, path)
    assert caught[0].filename == __file__
    if export is export_onnx:
        np.testing.assert_allclose(onnx_run(path, x)[0], x.reshape(4, 3).cumsum(0), rtol=1e-5, atol=1e-6)


class NotForExport(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * float(np.tanh(x.sum().item()))


@pytest.mark.parametrize("export", [export_onnx, export_pt2])
def test_what_cannot_be_exported_is_one_line(export: Any, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="NotForExport must be expressible as") as raised:
        export(NotForExport(), torch.randn(2, 3), tmp_path / "model.onnx")
    assert "\n" not in str(raised.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("export", [export_onnx, export_pt2])
def test_a_folder_that_cannot_be(export: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(InputError) as raised:
        export(nn.Linear(3, 2), torch.randn(2, 3), tmp_path / "file" / "model.onnx")
    assert "\n" not in str(raised.value)


def test_inputs_that_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="example_inputs: Linear must accept them"):
        export_onnx(nn.Linear(3, 2), torch.randn(2, 4), tmp_path / "model.onnx")
