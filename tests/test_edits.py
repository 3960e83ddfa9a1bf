"""A rewritten layer is the layer one would have written for the smaller shape: attributes, tensors and outputs."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from squeeze.copying import copied
from squeeze.edits import rewrite
from squeeze.plan import Drop, Edit, Slice, Step

Cuts = dict[str, dict[int, list[int]]]
"""For each tensor and dim, the indices that stay."""


@pytest.fixture(autouse=True)
def _without_onednn() -> Iterator[None]:
    """It warns of LSTMs with projections."""
    torch.backends.mkldnn.set_flags(False)
    yield
    torch.backends.mkldnn.set_flags(True)


def edits(model: nn.Module, cuts: Cuts) -> list[Edit]:
    """Cuts as edits; a name that ends in * stands for all tensors whose name begins so."""
    tensors = dict([*model.named_parameters(), *model.named_buffers()])
    found: list[Edit] = []
    for pattern, dims in cuts.items():
        names = [n for n in tensors if n == pattern or (pattern[-1:] == "*" and n.startswith(pattern[:-1]))]
        for name in names:
            for dim, kept in dims.items():
                if tensors[name].dim() > dim:
                    stays = torch.zeros(tensors[name].shape[dim], dtype=torch.bool)
                    stays[kept] = True
                    found.append(Slice.of(name, dim, stays.numpy()))
    return found


def gates(count: int, size: int, kept: list[int]) -> list[int]:
    """The rows of a recurrent layer that belong to some hidden units."""
    return [gate * size + unit for gate in range(count) for unit in kept]


A, B = [0, 2, 3, 5, 7], [1, 2, 4, 5]  # 5 of 8, 4 of 6
GROUPS = [3, 4, 5, 9, 10, 11]  # groups 1 and 3 of 4, three channels each
H = [0, 1, 3]  # 3 of 5 hidden units

LAYERS: dict[str, tuple[Callable[[], nn.Module], Cuts, Callable[[], nn.Module], Callable[[], Any]]] = {
    "conv1d": (
        lambda: nn.Conv1d(6, 8, 3, stride=2, padding=1, dilation=2),
        {"weight": {0: A, 1: B}, "bias": {0: A}},
        lambda: nn.Conv1d(4, 5, 3, stride=2, padding=1, dilation=2),
        lambda: torch.randn(2, 4, 9),
    ),
    "conv2d": (
        lambda: nn.Conv2d(6, 8, 3, padding=1, padding_mode="reflect", bias=False),
        {"weight": {0: A, 1: B}},
        lambda: nn.Conv2d(4, 5, 3, padding=1, padding_mode="reflect", bias=False),
        lambda: torch.randn(2, 4, 5, 5),
    ),
    "conv2d_outputs": (
        lambda: nn.Conv2d(6, 8, 3),
        {"weight": {0: A}, "bias": {0: A}},
        lambda: nn.Conv2d(6, 5, 3),
        lambda: torch.randn(2, 6, 5, 5),
    ),
    "conv3d": (
        lambda: nn.Conv3d(6, 8, 3),
        {"weight": {0: A, 1: B}, "bias": {0: A}},
        lambda: nn.Conv3d(4, 5, 3),
        lambda: torch.randn(2, 4, 4, 4, 4),
    ),
    "grouped": (
        lambda: nn.Conv2d(8, 12, 3, groups=4),
        {"weight": {0: GROUPS}, "bias": {0: GROUPS}},
        lambda: nn.Conv2d(4, 6, 3, groups=2),
        lambda: torch.randn(2, 4, 5, 5),
    ),
    "grouped_inputs": (
        lambda: nn.Conv2d(16, 12, 3, groups=4),
        {"weight": {1: [1, 3]}},
        lambda: nn.Conv2d(8, 12, 3, groups=4),
        lambda: torch.randn(2, 8, 5, 5),
    ),
    "depthwise": (
        lambda: nn.Conv2d(8, 8, 3, groups=8),
        {"weight": {0: A}, "bias": {0: A}},
        lambda: nn.Conv2d(5, 5, 3, groups=5),
        lambda: torch.randn(2, 5, 5, 5),
    ),
    "depthwise_multiplied": (
        lambda: nn.Conv2d(4, 8, 3, groups=4),
        {"weight": {0: [0, 1, 6, 7]}, "bias": {0: [0, 1, 6, 7]}},
        lambda: nn.Conv2d(2, 4, 3, groups=2),
        lambda: torch.randn(2, 2, 5, 5),
    ),
    "transposed1d": (
        lambda: nn.ConvTranspose1d(6, 8, 3),
        {"weight": {0: B, 1: A}, "bias": {0: A}},
        lambda: nn.ConvTranspose1d(4, 5, 3),
        lambda: torch.randn(2, 4, 5),
    ),
    "transposed2d": (
        lambda: nn.ConvTranspose2d(6, 8, 3, stride=2, output_padding=1),
        {"weight": {0: B, 1: A}, "bias": {0: A}},
        lambda: nn.ConvTranspose2d(4, 5, 3, stride=2, output_padding=1),
        lambda: torch.randn(2, 4, 5, 5),
    ),
    "transposed3d": (
        lambda: nn.ConvTranspose3d(6, 8, 2, bias=False),
        {"weight": {0: B, 1: A}},
        lambda: nn.ConvTranspose3d(4, 5, 2, bias=False),
        lambda: torch.randn(2, 4, 3, 3, 3),
    ),
    "transposed_grouped": (
        lambda: nn.ConvTranspose2d(8, 12, 3, groups=4),
        {"weight": {0: [2, 3, 6, 7]}, "bias": {0: GROUPS}},
        lambda: nn.ConvTranspose2d(4, 6, 3, groups=2),
        lambda: torch.randn(2, 4, 5, 5),
    ),
    "linear": (
        lambda: nn.Linear(6, 8),
        {"weight": {0: A, 1: B}, "bias": {0: A}},
        lambda: nn.Linear(4, 5),
        lambda: torch.randn(2, 3, 4),
    ),
    "bilinear": (
        lambda: nn.Bilinear(6, 3, 8),
        {"weight": {0: A, 1: B, 2: [0, 2]}, "bias": {0: A}},
        lambda: nn.Bilinear(4, 2, 5),
        lambda: (torch.randn(2, 4), torch.randn(2, 2)),
    ),
    **{
        f"batch_norm{dims}d": (
            lambda kind=kind: kind(8),
            {"weight": {0: A}, "bias": {0: A}, "running_*": {0: A}},
            lambda kind=kind: kind(5),
            lambda dims=dims: torch.randn(2, 5, *[4] * dims),
        )
        for dims, kind in ((1, nn.BatchNorm1d), (2, nn.BatchNorm2d), (3, nn.BatchNorm3d))
    },
    "batch_norm_bare": (
        lambda: nn.BatchNorm2d(8, affine=False),
        {"running_*": {0: A}},
        lambda: nn.BatchNorm2d(5, affine=False),
        lambda: torch.randn(2, 5, 4, 4),
    ),
    "batch_norm_untracked": (
        lambda: nn.BatchNorm2d(8, track_running_stats=False),
        {"weight": {0: A}, "bias": {0: A}},
        lambda: nn.BatchNorm2d(5, track_running_stats=False),
        lambda: torch.randn(2, 5, 4, 4),
    ),
    "instance_norm": (
        lambda: nn.InstanceNorm2d(8, affine=True, track_running_stats=True),
        {"weight": {0: A}, "bias": {0: A}, "running_*": {0: A}},
        lambda: nn.InstanceNorm2d(5, affine=True, track_running_stats=True),
        lambda: torch.randn(2, 5, 4, 4),
    ),
    "layer_norm": (
        lambda: nn.LayerNorm(8),
        {"weight": {0: A}, "bias": {0: A}},
        lambda: nn.LayerNorm(5),
        lambda: torch.randn(2, 3, 5),
    ),
    "layer_norm_2d": (
        lambda: nn.LayerNorm((6, 8)),
        {"weight": {0: B, 1: A}, "bias": {0: B, 1: A}},
        lambda: nn.LayerNorm((4, 5)),
        lambda: torch.randn(2, 4, 5),
    ),
    "rms_norm": (lambda: nn.RMSNorm(8), {"weight": {0: A}}, lambda: nn.RMSNorm(5), lambda: torch.randn(2, 3, 5)),
    "group_norm": (
        lambda: nn.GroupNorm(4, 12),
        {"weight": {0: GROUPS}, "bias": {0: GROUPS}},
        lambda: nn.GroupNorm(2, 6),
        lambda: torch.randn(2, 6, 4),
    ),
    "group_norm_of_one": (
        lambda: nn.GroupNorm(1, 8),
        {"weight": {0: A}, "bias": {0: A}},
        lambda: nn.GroupNorm(1, 5),
        lambda: torch.randn(2, 5, 4),
    ),
    "embedding": (
        lambda: nn.Embedding(10, 8, padding_idx=3),
        {"weight": {1: A}},
        lambda: nn.Embedding(10, 5, padding_idx=3),
        lambda: torch.randint(0, 10, (2, 7)),
    ),
    "embedding_bag": (
        lambda: nn.EmbeddingBag(10, 8, mode="mean"),
        {"weight": {1: A}},
        lambda: nn.EmbeddingBag(10, 5, mode="mean"),
        lambda: torch.randint(0, 10, (2, 7)),
    ),
    "prelu": (lambda: nn.PReLU(8), {"weight": {0: A}}, lambda: nn.PReLU(5), lambda: torch.randn(2, 5, 4)),
    **{
        kind.__name__.lower(): (
            lambda kind=kind: kind(6, 5, num_layers=2),
            {
                **{f"weight_{part}_l{i}": {0: gates(count, 5, H)} for part in ("ih", "hh") for i in (0, 1)},
                **{f"bias_{part}_l{i}": {0: gates(count, 5, H)} for part in ("ih", "hh") for i in (0, 1)},
                "weight_ih_l0": {0: gates(count, 5, H), 1: B},
                **{name: {0: gates(count, 5, H), 1: H} for name in ("weight_ih_l1", "weight_hh_l0", "weight_hh_l1")},
            },
            lambda kind=kind: kind(4, 3, num_layers=2),
            lambda: torch.randn(7, 2, 4),
        )
        for kind, count in ((nn.LSTM, 4), (nn.GRU, 3), (nn.RNN, 1))
    },
    "lstm_both_ways": (
        lambda: nn.LSTM(6, 5, bidirectional=True, batch_first=True),
        {
            "weight_ih*": {0: gates(4, 5, H), 1: B},
            "weight_hh*": {0: gates(4, 5, H), 1: H},
            "bias*": {0: gates(4, 5, H)},
        },
        lambda: nn.LSTM(4, 3, bidirectional=True, batch_first=True),
        lambda: torch.randn(2, 7, 4),
    ),
    "lstm_projected": (
        lambda: nn.LSTM(6, 5, proj_size=4),
        {
            "weight_ih_l0": {0: gates(4, 5, H), 1: B},
            "weight_hh_l0": {0: gates(4, 5, H), 1: [1, 3]},
            "weight_hr_l0": {0: [1, 3], 1: H},
            "bias*": {0: gates(4, 5, H)},
        },
        lambda: nn.LSTM(4, 3, proj_size=2),
        lambda: torch.randn(7, 2, 4),
    ),
    "weight_norm": (
        lambda: parametrizations.weight_norm(nn.Conv2d(6, 8, 3)),
        {
            "bias": {0: A},
            "parametrizations.weight.original0": {0: A},
            "parametrizations.weight.original1": {0: A, 1: B},
        },
        lambda: parametrizations.weight_norm(nn.Conv2d(4, 5, 3)),
        lambda: torch.randn(2, 4, 5, 5),
    ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layer_is_as_if_written_small(name: str) -> None:
    build, cuts, small, inputs = LAYERS[name]
    dense = build()
    with torch.no_grad():
        for tensor in [*dense.parameters(), *dense.buffers()]:
            if tensor.is_floating_point():
                tensor.uniform_(0.5, 1.5)
    found = rewrite(dense, edits(dense, cuts)).eval()
    expected = small().eval()
    expected.load_state_dict(found.state_dict())
    assert repr(found) == repr(expected)
    plain = {k: v for k, v in vars(found).items() if isinstance(v, int | float | str | bool)}
    assert plain == {k: v for k, v in vars(expected).items() if k in plain}
    x = inputs()
    for got, wanted in zip(outputs(found, x), outputs(expected, x), strict=True):
        assert torch.equal(got, wanted)


def outputs(layer: nn.Module, x: Any) -> list[Tensor]:
    with torch.no_grad():
        found = layer(*x) if isinstance(x, tuple) else layer(x)
    return (
        [found] if isinstance(found, Tensor) else [found[0], *(found[1] if isinstance(found[1], tuple) else found[1:])]
    )


@pytest.mark.parametrize("name", ["lstm", "gru", "rnn", "lstm_projected"])
def test_recurrent_layers_compute_with_their_own_weights(name: str) -> None:
    build, cuts, _, inputs = LAYERS[name]
    found = rewrite(build(), edits(build(), cuts))
    names: list[str] = found._flat_weights_names
    assert all(w is getattr(found, n) for w, n in zip(found._flat_weights, names, strict=True))
    found(inputs())[0].sum().backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in found.parameters())


def test_the_kept_numbers_are_kept() -> None:
    dense = nn.Linear(6, 8)
    found = rewrite(dense, edits(dense, {"weight": {0: A, 1: B}, "bias": {0: A}}))
    assert torch.equal(found.weight, dense.weight[A][:, B])
    assert torch.equal(found.bias, dense.bias[A])


class Tied(nn.Module):
    """An embedding that is also the head, and a scale that two modules share."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 8)
        self.norm = nn.LayerNorm(8)
        self.again = nn.LayerNorm(8)
        self.again.weight = self.norm.weight
        self.head = nn.Linear(8, 10, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("shift", torch.arange(8.0))
        self.register_buffer("unsaved", torch.arange(8.0), persistent=False)
        self.alias = nn.Module()
        self.alias.register_buffer("shift", self.shift)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.again(self.norm(self.embed(x)) + self.shift + self.unsaved))


TIED: Cuts = {
    "embed.weight": {1: A},
    **{name: {0: A} for name in ("norm.weight", "norm.bias", "again.bias", "shift", "unsaved")},
}


def test_tied_tensors_stay_tied_and_buffers_stay_buffers() -> None:
    dense = Tied()
    small = rewrite(dense, edits(dense, TIED))
    assert small.head.weight is small.embed.weight and small.again.weight is small.norm.weight
    assert small.alias.shift is small.shift
    assert (small.head.in_features, small.embed.embedding_dim, small.again.normalized_shape) == (5, 5, (5,))
    assert small.shift.tolist() == small.unsaved.tolist() == A
    assert [n for n, _ in small.named_parameters()] == [n for n, _ in dense.named_parameters()]
    assert [*small.state_dict()] == [*dense.state_dict()]
    assert small(torch.arange(10)).shape == (10, 10)


def test_the_given_model_is_untouched() -> None:
    dense = Tied().train()
    tensors, before = dense.state_dict(keep_vars=True), copy.deepcopy(dense.state_dict())
    small = rewrite(dense, [*edits(dense, TIED), Drop("norm", ("norm",))])
    after = dense.state_dict(keep_vars=True)
    assert all(after[name] is tensors[name] and torch.equal(after[name], before[name]) for name in before)
    assert repr(dense) == repr(Tied()) and dense.training and small.training
    assert {p.data_ptr() for p in small.parameters()}.isdisjoint(p.data_ptr() for p in dense.parameters())


def test_no_edit_is_a_copy() -> None:
    dense = Tied()
    small = rewrite(dense, ())
    assert small is not dense and repr(small) == repr(dense)
    assert all(torch.equal(a, b) for a, b in zip(small.parameters(), dense.parameters(), strict=True))


def test_format_precision_and_frozen_weights_stay() -> None:
    dense = nn.Conv2d(6, 8, 3).to(torch.bfloat16).to(memory_format=torch.channels_last)
    dense.weight.requires_grad_(False)
    small = rewrite(dense, edits(dense, {"weight": {0: A, 1: B}, "bias": {0: A}}))
    assert small.weight.is_contiguous(memory_format=torch.channels_last) and not small.weight.is_contiguous()
    assert small.weight.dtype == torch.bfloat16
    assert (small.weight.requires_grad, small.bias.requires_grad) == (False, True)
    plain = nn.Conv2d(6, 8, 3)
    assert rewrite(plain, edits(plain, {"weight": {0: A}, "bias": {0: A}})).weight.is_contiguous()


def test_edits_of_two_steps_are_replayed_in_order() -> None:
    dense = copied(nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 2)))
    first = edits(dense, {"0.weight": {0: B}, "0.bias": {0: B}, "1.weight": {1: B}})
    middle = rewrite(dense, first)
    second = edits(middle, {"0.weight": {0: [1]}, "0.bias": {0: [1]}, "1.weight": {1: [1]}})
    replayed = rewrite(dense, [*Step("x", {}, tuple(first)).edits, *second])
    assert torch.equal(replayed[0].weight, dense[0].weight[[B[1]]])
    assert repr(replayed) == repr(rewrite(middle, second))
