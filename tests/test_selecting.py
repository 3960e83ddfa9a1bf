"""Layers that read some of their inputs only: each computes what the whole layer does with zeros for what it leaves."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import squeeze
from squeeze.edits import rewrite
from squeeze.errors import InputError, PlanError
from squeeze.nn import Selecting, selecting
from squeeze.plan import Cluster, Drop, Plan, Select, Slice, Step
from tests.artefacts import Saved

LAYERS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(6, 5), (2, 7, 6)),
    "conv1d": (lambda: nn.Conv1d(6, 4, 3, padding=1, bias=False), (2, 6, 9)),
    "conv2d": (lambda: nn.Conv2d(6, 4, 3, padding=1, padding_mode="reflect", stride=2), (2, 6, 8, 9)),
    "conv2d without a batch": (lambda: nn.Conv2d(6, 4, 3, padding="same"), (6, 8, 9)),
    "conv3d": (lambda: nn.Conv3d(6, 4, 2), (1, 6, 4, 5, 6)),
    "transposed 1d": (lambda: nn.ConvTranspose1d(6, 3, 3, stride=2), (2, 6, 5)),
    "transposed 2d": (lambda: nn.ConvTranspose2d(6, 3, 3, stride=2, output_padding=1), (2, 6, 5, 4)),
    "transposed 3d": (lambda: nn.ConvTranspose3d(6, 3, 2), (1, 6, 3, 3, 3)),
}
SCATTERED, TOGETHER = ((0, 2), (4, 5)), ((1, 4),)


def zeroed(layer: nn.Module, keep: tuple[tuple[int, int], ...]) -> nn.Module:
    """The whole layer, with zeros in the columns of what is not read."""
    reference = copy.deepcopy(layer)
    kept = {index for start, stop in keep for index in range(start, stop)}
    dim = 0 if getattr(layer, "transposed", False) else 1
    with torch.no_grad():
        for index in set(range(6)) - kept:
            reference.weight.select(dim, index).zero_()
    return reference


def both(name: str, keep: tuple[tuple[int, int], ...]) -> tuple[nn.Module, nn.Module, Tensor]:
    """A whole layer with zeros, the layer that reads less, and an input."""
    torch.manual_seed(0)
    build, shape = LAYERS[name]
    layer = build().double()
    small = rewrite(nn.Sequential(layer), [Select("0", 6, keep)])
    return zeroed(layer, keep), small, torch.randn(shape, dtype=torch.float64)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("keep", [SCATTERED, TOGETHER], ids=["scattered", "together"])
def test_reads_less_and_computes_the_same(name: str, keep: tuple[tuple[int, int], ...]) -> None:
    reference, small, x = both(name, keep)
    torch.testing.assert_close(small(x), reference(x), rtol=0, atol=1e-12)
    assert list(small.state_dict()) == [f"0.{key}" for key in reference.state_dict()]
    assert small[0].weight.numel() * 2 == reference.weight.numel()


@pytest.mark.parametrize("name", LAYERS)
def test_reads_even_less(name: str) -> None:
    reference, small, x = both(name, SCATTERED)
    smaller = rewrite(small, [Select("0", 3, ((1, 3),))])
    torch.testing.assert_close(smaller(x), zeroed(reference, ((1, 2), (4, 5)))(x), rtol=0, atol=1e-12)


def test_neighbours_are_a_view_and_others_are_gathered() -> None:
    _, small, x = both("conv2d", TOGETHER)
    assert small[0].selected(x).data_ptr() == x[:, 1:].data_ptr()
    _, small, x = both("conv2d", SCATTERED)
    assert torch.equal(small[0].selected(x), x[:, [0, 1, 4]])


def test_a_layer_that_reads_all_stays_as_it_is() -> None:
    assert type(rewrite(nn.Sequential(nn.Linear(6, 2)), [Select("0", 6, ((0, 6),))])[0]) is nn.Linear


def test_it_takes_as_many_inputs_as_before() -> None:
    _, small, x = both("conv2d", SCATTERED)
    assert (small[0].in_channels, small[0].out_channels) == (6, 4)
    assert both("linear", SCATTERED)[1][0].in_features == 6
    with pytest.raises(InputError, match="must be given 6 inputs, got 5"):
        small(x[:, :5])
    assert "reads=3" in repr(small)


def test_what_it_reads_from_may_get_narrower() -> None:
    net = nn.Sequential(nn.Conv2d(3, 6, 1), nn.Conv2d(6, 4, 3)).double()
    stays = ((0, 1), (2, 5))  # of what is read, 0, 1 and 4, all but 1
    cut = [Slice("0.weight", 0, 6, stays), Slice("0.bias", 0, 6, stays)]
    small = rewrite(
        net, [Select("1", 6, SCATTERED), *cut, Slice("1.reads", 0, 6, stays), Slice("1.weight", 1, 3, ((0, 1), (2, 3)))]
    )
    x = torch.randn(1, 3, 5, 5, dtype=torch.float64)
    reference = nn.Sequential(net[0], zeroed(net[1], ((0, 1), (4, 5))))
    torch.testing.assert_close(small(x), reference(x), rtol=0, atol=1e-12)
    assert small[1].in_channels == 4


def test_rows_may_go_before_and_after() -> None:
    layer, x = nn.Linear(6, 5).double(), torch.randn(3, 6, dtype=torch.float64)
    rows = [Slice(f"0.{name}", 0, 5, ((1, 4),)) for name in ("weight", "bias")]
    for edits in ([*rows, Select("0", 6, SCATTERED)], [Select("0", 6, SCATTERED), *rows]):
        small = rewrite(nn.Sequential(layer), edits)
        torch.testing.assert_close(small(x), zeroed(layer, SCATTERED)(x)[:, 1:4], rtol=0, atol=1e-12)
        assert small[0].out_features == 3


def test_channels_last_stays() -> None:
    net = nn.Sequential(nn.Conv2d(6, 4, 3)).to(memory_format=torch.channels_last)
    assert rewrite(net, [Select("0", 6, SCATTERED)])[0].weight.is_contiguous(memory_format=torch.channels_last)


def test_the_given_model_and_copies_are_their_own() -> None:
    net = nn.Sequential(nn.Linear(6, 2))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    small = rewrite(net, [Select("0", 6, SCATTERED)])
    twin = copy.deepcopy(small)
    with torch.no_grad():
        for parameter in small.parameters():
            parameter.zero_()
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert bool((twin[0].weight != 0).all()) and torch.equal(twin[0].reads, small[0].reads)


def test_trains_under_autocast() -> None:
    _, small, x = both("conv2d", SCATTERED)
    small.float()
    with torch.autocast("cpu", torch.bfloat16):
        out = small(x.float())
    out.float().sum().backward()
    assert out.dtype is torch.bfloat16 and bool((small[0].weight.grad != 0).any())


class Trunk(nn.Module):
    """Three layers read one tensor that keeps its width."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.bodies = nn.ModuleList(nn.Conv2d(6, 6, 3, padding=1) for _ in range(2))
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for body in self.bodies:
            x = x + body(x.relu())
        return self.head(x.mean((2, 3)))


EDITS = (Select("bodies.0", 6, SCATTERED), Select("bodies.1", 6, TOGETHER), Select("head", 6, ((2, 6),)))


@pytest.fixture
def small() -> nn.Module:
    torch.manual_seed(0)
    return rewrite(Trunk(), EDITS).eval()


def test_exports(small: nn.Module, tmp_path: Path) -> None:
    """Either export compares what it wrote with the model before it keeps it."""
    x = torch.randn(2, 3, 8, 8)
    graph = onnx.load(squeeze.export_onnx(small, x, tmp_path / "small.onnx")).graph
    squeeze.export_pt2(small, x, tmp_path / "small.pt2")
    assert [node.op_type for node in graph.node].count("Gather") == 1


def test_saved_and_loaded_is_the_same(small: nn.Module, tmp_path: Path) -> None:
    plan = Plan((Step("hand", {}, EDITS),))
    squeeze.save(Saved(small, plan), tmp_path / "small.safetensors")
    loaded, x = squeeze.load(tmp_path / "small.safetensors", Trunk), torch.randn(2, 3, 8, 8)
    assert torch.equal(loaded(x), small(x))
    assert set(loaded.state_dict()) == set(Trunk().state_dict())


def test_counted_as_what_it_is(small: nn.Module) -> None:
    macs = {layer.name: layer.macs for layer in squeeze.profile(small, torch.randn(1, 3, 8, 8)).layers}
    assert macs["bodies.0"] == macs["bodies.1"] == 64 * 6 * 3 * 9 and macs["head"] == 8


class Twice(nn.Linear):
    """Does more in its forward."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def tied() -> nn.Module:
    net = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6))
    net[1].weight = net[0].weight
    return net


@pytest.mark.parametrize(
    ("model", "edit", "message"),
    [
        (nn.Sequential(nn.Conv2d(6, 6, 1, groups=2)), Select("0", 3, ((0, 1),)), "in one group"),
        (nn.Sequential(nn.BatchNorm2d(6)), Select("0", 6, TOGETHER), "got BatchNorm2d"),
        (nn.Sequential(Twice(6, 3)), Select("0", 6, TOGETHER), "got Twice"),
        (nn.Sequential(parametrizations.weight_norm(nn.Linear(6, 3))), Select("0", 6, TOGETHER), "plain weight"),
        (nn.MultiheadAttention(6, 2), Select("out_proj", 6, TOGETHER), "got NonDynamically"),
        (tied(), Select("0", 6, TOGETHER), "another layer holds"),
        (nn.Sequential(nn.Linear(6, 3)), Select("0", 5, TOGETHER), "must read 5 inputs"),
        (nn.Sequential(nn.Linear(6, 3)), Select("0", 6, ()), "none are kept"),
        (nn.Sequential(nn.Linear(6, 3)), Select("0", 2**40, ((0, 2**40),)), "must read 1099511627776 inputs"),
        (nn.Sequential(nn.Linear(6, 3)), Select("1", 6, TOGETHER), "must exist"),
        (nn.Sequential(nn.Linear(6, 3)), Select("", 6, TOGETHER), "must exist"),
        (nn.Sequential(nn.Linear(6, 3)), Select("0.weight", 6, TOGETHER), "must exist"),
    ],
)
def test_what_cannot_read_less_is_refused(model: nn.Module, edit: Select, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        rewrite(model, [edit])


@pytest.mark.parametrize("stays", [((2, 4),), ((0, 1), (2, 6))])
def test_what_is_read_and_the_weight_are_cut_together_or_refused(stays: tuple[tuple[int, int], ...]) -> None:
    with pytest.raises(PlanError, match="must have as many"):
        rewrite(nn.Sequential(nn.Linear(6, 3)), [Select("0", 6, SCATTERED), Slice("0.reads", 0, 6, stays)])


def test_a_layer_that_is_gone_or_selects_is_not_clustered_or_selected() -> None:
    net = nn.Sequential(nn.Conv2d(6, 4, 3))
    with pytest.raises(PlanError, match="must be a convolution"):
        rewrite(net, [Select("0", 6, TOGETHER), Cluster("0", 4, (2, 2, 2))])
    with pytest.raises(PlanError, match="must be a linear layer or a convolution"):
        rewrite(net, [Drop("0", ("0",)), Select("0", 6, TOGETHER)])


@given(st.lists(st.booleans(), min_size=2, max_size=12).filter(any), st.data())
def test_any_selection_of_a_selection(first: list[bool], data: st.DataObject) -> None:
    layer = nn.Linear(len(first), 2, bias=False)
    left = np.flatnonzero(first)
    second = data.draw(st.lists(st.booleans(), min_size=len(left), max_size=len(left)).filter(any))
    small = selecting(selecting(layer, np.array(first)), np.array(second))
    x = torch.randn(3, len(first))
    read = left[second]
    torch.testing.assert_close(small(x), x[:, read] @ layer.weight[:, read].T)
    assert isinstance(small, Selecting) == (len(read) < len(first))
