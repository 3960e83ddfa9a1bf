"""KSE from end to end: what is decided, what is left, and that it is the same after saving and exporting."""

import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import squeeze
from squeeze.errors import BudgetError, InputError
from squeeze.nn import ClusteredConv2d
from squeeze.passes.kse import indicator
from squeeze.plan import Cluster, Slice


class Net(nn.Module):
    """A stem, a chain, a grouped layer, a sum and a head; wide enough for levels to differ."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU())
        self.first = nn.Sequential(nn.Conv2d(32, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(64, 64, 3, padding=1, groups=2), nn.ReLU())
        self.last = nn.Conv2d(64, 32, 1)
        self.head = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head((x + self.last(self.second(self.first(x)))).mean((2, 3)))


def net() -> nn.Module:
    torch.manual_seed(0)
    model = Net()
    with torch.no_grad():
        for conv in (model.first[0], model.second[0], model.last):
            conv.weight.mul_(torch.linspace(0.02, 1, conv.weight.shape[1]).view(1, -1, 1, 1))
    return model.eval()


IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def found(model: nn.Module, chosen: squeeze.KSE) -> squeeze.Found:
    structure = squeeze.trace(model, IMAGES)
    task = squeeze.DataTask(Net, IMAGES)
    return chosen.search(model, structure, task, squeeze.Run())


def carried_out(result: squeeze.Found) -> nn.Module:
    small = squeeze.rewrite(result.model, result.edits)
    assert not small.load_state_dict(dict(result.tensors), strict=False).unexpected_keys
    return small.eval()


def test_counts_are_those_of_the_paper() -> None:
    model = net()
    edits = [edit for edit in found(model, squeeze.KSE(G=4, T=0)).edits if isinstance(edit, Cluster)]
    assert [edit.module for edit in edits] == ["first.0", "second.0", "last"]
    v = indicator(model.first[0].weight).numpy()
    bins = np.ceil(4 * v)
    expected = np.where(4 * v < 1, 0, np.select([bins == 2, bins == 3, bins == 4], [16, 32, 64], 64))
    expected = np.where((4 * v >= 1) & (bins == 1), 8, expected)
    assert list(edits[0].counts) == expected.tolist()
    assert edits[1].size == 32
    assert len(edits[1].counts) == 64


def test_the_given_copy_computes_what_the_clustered_model_does() -> None:
    result = found(net(), squeeze.KSE(G=4))
    small = carried_out(result)
    with torch.no_grad():
        assert torch.allclose(small(IMAGES), result.model.eval()(IMAGES), atol=1e-5)
    assert isinstance(small.first[0], ClusteredConv2d)
    assert isinstance(small.stem[0], nn.Conv2d)


def test_channels_that_nobody_reads_are_not_made() -> None:
    model = net()
    with torch.no_grad():
        model.last.weight[:, 32:] *= 1e-3  # a whole group of `second`, and so of `first`
    result = found(model, squeeze.KSE(G=4))
    slices = {(edit.tensor, edit.dim): edit for edit in result.edits if isinstance(edit, Slice)}
    assert slices["second.0.weight", 0].keep == ((0, 32),)
    small = carried_out(result)
    assert small.second[0].in_channels == small.first[0].out_channels == 32
    with torch.no_grad():
        assert torch.allclose(small(IMAGES), result.model.eval()(IMAGES), atol=1e-5)


@pytest.mark.parametrize(("unread", "width"), [(5, 16), (3, 20)])
def test_widths_stay_aligned_where_channels_are_not_read(unread: int, width: int) -> None:
    torch.manual_seed(0)
    convs = [nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 20, 3), nn.ReLU(), nn.Conv2d(20, 32, 3)]
    model = nn.Sequential(*convs).eval()
    with torch.no_grad():
        model[4].weight *= 1 + torch.rand(20).view(1, -1, 1, 1) / 10
        model[4].weight[:, 20 - unread :] = 0
    result = found(model, squeeze.KSE(G=16))
    counts = next(edit.counts for edit in result.edits if isinstance(edit, Cluster) and edit.module == "4")
    small = carried_out(result)
    assert small[2].out_channels == len(counts) == width
    assert sum(count > 0 for count in counts) <= 20 - unread


@pytest.mark.parametrize("kind", ["macs", "params"])
@pytest.mark.parametrize("share", [0.3, 0.5, 0.8])
def test_a_budget_is_met_closely(kind: str, share: float) -> None:
    model = net()
    small = carried_out(found(model, squeeze.KSE(**{kind: share})))
    before, after = squeeze.profile(model, IMAGES), squeeze.profile(small, IMAGES)
    now = after.paper_macs / before.macs if kind == "macs" else after.params / before.params
    assert share - 0.05 <= now <= share


def test_a_budget_of_bytes_is_that_of_the_file(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = squeeze.compress(net(), squeeze.KSE(size_mb=0.1), example_inputs=IMAGES)
    size = squeeze.save(result, tmp_path / "small.safetensors").stat().st_size
    assert 0.09e6 <= size <= 0.1e6


def test_more_levels_than_different_kernels_keep_the_different_ones() -> None:
    model = net()
    with torch.no_grad():
        weight = model.first[0].weight
        weight[2:, 16] = weight[0, 16]  # two different kernels, as large as those of another map
        weight[:, 16] *= weight[:, 12].abs().sum() / weight[:, 16].abs().sum()
    edits = {edit.module: edit for edit in found(model, squeeze.KSE(G=4)).edits if isinstance(edit, Cluster)}
    assert edits["first.0"].counts[16] == 2
    assert {16, 32} < set(edits["first.0"].counts)


def test_a_budget_out_of_reach_says_what_is_possible() -> None:
    with pytest.raises(BudgetError, match="macs must be at least 0.0.* got 0.001"):
        found(net(), squeeze.KSE(macs=0.001))


def test_ignored_layers_stay() -> None:
    result = found(net(), squeeze.KSE(ignore=("second", "las*")))
    assert [e.module for e in result.edits if isinstance(e, Cluster)] == ["first.0"]
    assert ["last", "ignored by name"] in result.history["left_out"]


class Fixed(nn.Module):
    """Sizes are written in the code, so that nothing can be cut."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.last = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.stem(x).cumsum(1))


def test_what_cannot_be_cut_can_be_clustered() -> None:
    torch.manual_seed(0)
    model = Fixed().eval()
    assert not squeeze.trace(model, IMAGES).removable
    result = squeeze.compress(model, squeeze.KSE(macs=0.5), example_inputs=IMAGES)
    assert isinstance(result.model.last, ClusteredConv2d)
    with pytest.raises(InputError, match="^Fixed: must have something that can be removed, got none .*order"):
        squeeze.compress(model, squeeze.Magnitude(macs=0.5), example_inputs=IMAGES)


def test_a_net_without_kernels_to_cluster_is_told_why() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8 * 36, 4))
    with pytest.raises(InputError, match=r"^KSE: Sequential must have a convolution .* got none \(it is the first\)"):
        squeeze.compress(model, squeeze.KSE(G=4), example_inputs=IMAGES)


def test_a_layer_with_nan_is_named() -> None:
    model = net()
    with torch.no_grad():
        model.second[0].weight[3, 2, 1, 1] = torch.nan
    structure = squeeze.trace(net(), IMAGES)
    with pytest.raises(InputError, match=r"second\.0: .*finite"):
        squeeze.KSE().search(model, structure, squeeze.DataTask(Net, IMAGES), squeeze.Run())


@pytest.mark.parametrize("dtype", [torch.int64, torch.complex64])
def test_a_layer_that_is_not_of_real_numbers_is_named(dtype: torch.dtype) -> None:
    structure, model = squeeze.trace(net(), IMAGES), net()
    model.second[0].weight = nn.Parameter(model.second[0].weight.detach().to(dtype), requires_grad=False)
    with pytest.raises(InputError, match=rf"second\.0: .*real numbers, got {dtype}"):
        squeeze.KSE().search(model, structure, squeeze.DataTask(Net, IMAGES), squeeze.Run())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"G": 1}, "G must be a whole number from 2"),
        ({"G": 2.5}, "G must be a whole number"),
        ({"T": -1}, "T must be from 0"),
        ({"macs": 1.0}, "macs must be between 0 and 1"),
        ({"macs": 0.5, "params": 0.5}, "one of T, macs, params and size_mb"),
        ({"macs": 0.5, "T": 1}, "one of T"),
        ({"size_mb": 0}, "size_mb must be above 0"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        squeeze.KSE(**settings)


@pytest.fixture(scope="module")
def result() -> squeeze.Result:
    return squeeze.compress(net(), squeeze.KSE(G=4), example_inputs=IMAGES)


def test_the_file_is_as_large_as_the_paper_says(result: squeeze.Result, tmp_path: Path) -> None:
    path = squeeze.save(result, tmp_path / "small.safetensors")
    edits = {edit.module: edit for edit in result.plan.edits if isinstance(edit, Cluster)}
    bits = 0.0
    for edit in edits.values():
        taps = 9 if edit.module != "last" else 1
        bits += sum(32 * q * taps + (edit.size * np.ceil(np.log2(q)) if 0 < q < edit.size else 0) for q in edit.counts)
    rest = [t for n, t in result.model.state_dict().items() if not n.endswith((".centroids", ".codes"))]
    expected = bits / 8 + sum(t.numel() * t.element_size() for t in rest)
    header = int.from_bytes(path.read_bytes()[:8], "little")
    assert path.stat().st_size - 8 - header == pytest.approx(expected, rel=0.02)
    assert header < 8000
    loaded = squeeze.load(path, Net)
    # With gradients both go the same way; without, each takes the one that it measures to be faster.
    assert torch.equal(loaded(IMAGES), result.model(IMAGES))


def test_onnx_is_as_small_and_runs_dense(result: squeeze.Result, tmp_path: Path) -> None:
    file = squeeze.save(result, tmp_path / "small.safetensors")
    path = squeeze.export_onnx(result.model, IMAGES, tmp_path / "small.onnx")
    assert path.stat().st_size <= 1.1 * file.stat().st_size
    assert {opset.domain for opset in onnx.load(path).opset_import} == {""}
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(tmp_path / "folded.onnx")
    onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load(tmp_path / "folded.onnx").graph.node]
    assert kinds.count("Conv") == 4
    assert not {"Cast", "CumSum", "Div", "Mod"} & set(kinds)
    assert "Gather" not in kinds  # not of input channels, either: that costs more than it saves


def test_is_traced_again_for_the_next_pass(result: squeeze.Result) -> None:
    structure = squeeze.trace(result.model, IMAGES)
    assert not any(axis.tensor.endswith(".centroids") for group in structure.groups for axis in group.axes)
    both = squeeze.compress(net(), [squeeze.Magnitude(ratio=0.25), squeeze.KSE(G=4)], example_inputs=IMAGES)
    assert isinstance(both.model.first[0], ClusteredConv2d)
    assert both.model.first[0].out_channels <= 48
