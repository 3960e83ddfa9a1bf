"""Profiles against truths derived by hand, and against torch's own counter where that is right."""

import io
import json
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from rich.console import Console
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from squeeze.errors import InputError
from squeeze.profiling import CONVENTION, profile

WIDTH, TOKENS = 128, 64
ATTENTION = 4 * TOKENS * WIDTH * WIDTH + 2 * TOKENS * TOKENS * WIDTH
"""Three projections in, one out, QK^T and AV."""


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(16, 3, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.w, padding=1)


class Attention(nn.Module):
    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.fused = fused
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (t.unflatten(-1, (4, -1)).transpose(1, 2) for t in self.qkv(x).chunk(3, -1))
        mixed = F.scaled_dot_product_attention(q, k, v) if self.fused else (q @ k.mT / 8).softmax(-1) @ v
        return self.out(mixed.transpose(1, 2).flatten(2))


class SelfAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x)[0]


TRUTHS: dict[str, tuple[Any, Any, int]] = {
    "convolution": (lambda: nn.Conv2d(3, 16, 3, padding=1), (1, 3, 32, 32), 32 * 32 * 16 * 27),
    "grouped": (lambda: nn.Conv2d(8, 16, 3, padding=1, groups=4), (1, 8, 32, 32), 32 * 32 * 16 * 2 * 9),
    "depthwise": (lambda: nn.Conv2d(8, 8, 3, padding=1, groups=8), (2, 8, 32, 32), 2 * 32 * 32 * 8 * 9),
    "linear": (lambda: nn.Linear(32, 10), (2, 7, 32), 14 * 320),
    "transposed, stride 2": (lambda: nn.ConvTranspose2d(16, 8, 4, 2, 1), (1, 16, 32, 32), 32 * 32 * 16 * 8 * 16),
    "functional parameter": (Functional, (1, 3, 32, 32), 32 * 32 * 16 * 27),
    "fused attention": (lambda: Attention(True), (1, TOKENS, WIDTH), ATTENTION),
    "manual attention": (lambda: Attention(False), (1, TOKENS, WIDTH), ATTENTION),
    "MultiheadAttention": (SelfAttention, (1, TOKENS, WIDTH), ATTENTION),
    "TransformerEncoderLayer": (
        lambda: nn.TransformerEncoderLayer(WIDTH, 4, 512, batch_first=True),
        (1, TOKENS, WIDTH),
        ATTENTION + 2 * TOKENS * WIDTH * 512,
    ),
    "LSTM": (lambda: nn.LSTM(WIDTH, WIDTH, batch_first=True), (1, TOKENS, WIDTH), TOKENS * 4 * WIDTH * 2 * WIDTH),
    "GRU": (lambda: nn.GRU(WIDTH, WIDTH, batch_first=True), (1, TOKENS, WIDTH), TOKENS * 3 * WIDTH * 2 * WIDTH),
}


@pytest.mark.parametrize("case", TRUTHS)
@pytest.mark.parametrize("frozen", [False, True])
def test_truth_table(case: str, frozen: bool) -> None:
    build, shape, truth = TRUTHS[case]
    found = profile(build().requires_grad_(not frozen), torch.randn(shape))
    assert found.macs == truth
    assert sum(layer.macs for layer in found.layers) == truth
    assert found.unknown == ()


def resnet50_macs(size: int) -> int:
    """Of ResNet-50, from the architecture's table."""
    size //= 2
    macs, width = size * size * 64 * 3 * 49, 64
    size //= 2
    for stage, (blocks, inner) in enumerate(((3, 64), (4, 128), (6, 256), (3, 512))):
        for block in range(blocks):
            macs += size * size * width * inner
            if block == 0 and stage > 0:
                size //= 2
            macs += size * size * (inner * inner * 9 + inner * 4 * inner)
            if block == 0:
                macs += size * size * width * 4 * inner
            width = 4 * inner
    return macs + 2048 * 1000


def test_resnet50_is_4089_million() -> None:
    with torch.device("meta"):
        model = torchvision.models.resnet50(weights=None)
        found = profile(model, torch.randn(1, 3, 224, 224))
    assert found.macs == resnet50_macs(224)
    assert round(found.macs / 1e6, 1) == 4089.2
    assert found.params == 25_557_032


@pytest.mark.parametrize(
    "name", ["resnet18", "mobilenet_v2", "densenet121", "shufflenet_v2_x1_0", "convnext_tiny", "swin_t"]
)
def test_agrees_with_torch(name: str) -> None:
    model = torchvision.models.get_model(name, weights=None).eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad(), FlopCounterMode(display=False) as theirs:
        model(x)
    ours = profile(model, x)
    assert 2 * ours.macs == theirs.get_total_flops()
    assert ours.params == sum(p.numel() for p in model.parameters())
    by_module = theirs.get_flop_counts()
    for layer in ours.layers:
        if layer.kind in ("Conv2d", "Linear"):
            assert 2 * layer.macs == sum(by_module.get(f"{type(model).__name__}.{layer.name}", {}).values())


def net() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 10))


def test_layers() -> None:
    conv, norm, linear = profile(net(), torch.randn(2, 3, 8, 8)).layers
    assert (conv.name, conv.kind, conv.output, conv.macs) == ("0", "Conv2d", (2, 8, 6, 6), 2 * 36 * 8 * 27)
    assert (conv.params, conv.bytes) == (8 * 27 + 8, 4 * (8 * 27 + 8))
    assert (norm.name, norm.macs, norm.params, norm.bytes) == ("1", 0, 16, 4 * 4 * 8 + 8)
    assert (linear.name, linear.macs, linear.output) == ("4", 2 * 8 * 36 * 10, (2, 10))
    assert conv.thop_macs == conv.macs
    assert linear.thop_macs == linear.macs


def test_layers_add_up() -> None:
    found = profile(net(), torch.randn(2, 3, 8, 8))
    for figure in ("macs", "params", "bytes"):
        assert sum(getattr(layer, figure) for layer in found.layers) == getattr(found, figure)


def test_shared_weights_count_once_and_work_twice() -> None:
    shared = nn.Linear(8, 8)
    tied = nn.Linear(8, 8)
    tied.weight = shared.weight
    found = profile(nn.Sequential(shared, shared, tied), torch.randn(1, 8))
    assert found.macs == 3 * 64
    assert found.params == 64 + 8 + 8
    assert [(layer.name, layer.macs) for layer in found.layers] == [("0", 128), ("2", 64)]


def test_thop_is_wrong_on_transposed_convolutions_and_we_are_not() -> None:
    (layer,) = profile(nn.ConvTranspose2d(16, 8, 4, 2, 1), torch.randn(1, 16, 8, 8)).layers
    assert layer.thop_macs == 4 * layer.macs


class BreaksThop(nn.Linear):
    total_ops = 0


def test_a_failure_of_thop_is_reported() -> None:
    found = profile(nn.Sequential(nn.Linear(3, 3), BreaksThop(3, 3)), torch.randn(2, 3))
    assert found.thop_macs is None
    assert "total_ops" in found.thop_note
    assert all(layer.thop_macs is None for layer in found.layers)
    assert found.macs == 2 * 2 * 9


def test_peak_memory_of_a_chain() -> None:
    chain = nn.Sequential(*[nn.Sigmoid() for _ in range(6)])
    assert profile(chain, torch.randn(1, 1000)).activation_bytes == 3 * 4000  # the inputs, and one step's two ends


def test_peak_memory_counts_views_once_and_work_in_place_not_at_all() -> None:
    chain = nn.Sequential(nn.Flatten(), nn.ReLU(inplace=True), nn.Unflatten(1, (10, 10)))
    assert profile(chain, torch.randn(1, 10, 10)).activation_bytes == 400


class Kept(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x.sigmoid(), x.tanh(), x.exp()])


def test_peak_memory_of_what_is_kept() -> None:
    assert profile(Kept(), torch.randn(1, 1000)).activation_bytes == (1 + 3 + 3) * 4000


class InferenceMode(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.rnn = nn.LSTM(36, 5)

    @torch.inference_mode()
    def forward(self, x: Tensor) -> Tensor:
        return self.rnn(self.conv(x).flatten(2))[0]


def test_inference_mode_inside_of_a_model() -> None:
    found = profile(InferenceMode(), torch.randn(2, 3, 8, 8))
    assert {layer.name: layer.macs for layer in found.layers} == {
        "conv": 2 * 36 * 8 * 27,
        "rnn": 2 * 8 * 4 * 5 * (36 + 5),
    }


class Solver(nn.Module):
    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.linalg.solve(a, b)


def test_what_cannot_be_counted_is_named() -> None:
    found = profile(Solver(), {"a": torch.eye(3), "b": torch.randn(3, 2)})
    assert found.macs == 0
    assert found.unknown == ("aten._linalg_solve_ex.default",)
    assert "_linalg_solve_ex" in str(found.table().caption)


def test_the_model_stays_as_it_was() -> None:
    model = nn.Sequential(net(), nn.TransformerEncoderLayer(10, 2, 16, batch_first=True)).train()
    model[0].eval()
    x = torch.randn(2, 3, 8, 8)
    kept = x.clone()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    profile(model, x)
    assert model.state_dict().keys() == state.keys()
    assert all(torch.equal(model.state_dict()[name], state[name]) for name in state)
    assert [module.training for module in model.modules()] == modes
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert torch.equal(x, kept)
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


@pytest.mark.parametrize("enabled", [True, False])
def test_the_fast_path_is_restored(enabled: bool) -> None:
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(enabled)
    try:
        profile(nn.Linear(2, 2), torch.randn(1, 2))
        with pytest.raises(InputError):
            profile(nn.Linear(2, 2), torch.randn(1, 3))
        assert torch.backends.mha.get_fastpath_enabled() is enabled
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def test_wrong_inputs_are_named() -> None:
    with pytest.raises(InputError, match=r"example_inputs: Linear must accept them, got inputs of shape \(1, 3\)"):
        profile(nn.Linear(2, 2), torch.randn(1, 3))


class NotCopyable(nn.Module):
    def __deepcopy__(self, memo: dict[int, Any]) -> nn.Module:
        raise RuntimeError("only one of me")


def test_a_model_that_cannot_be_copied() -> None:
    with pytest.raises(InputError, match="must be copyable.*only one of me"):
        profile(NotCopyable(), torch.randn(1))


def test_json() -> None:
    found = profile(net(), torch.randn(2, 3, 8, 8))
    data = json.loads(json.dumps(found.to_dict()))
    assert data["macs"] == found.macs
    assert data["convention"] == CONVENTION
    assert data["layers"][0]["output"] == [2, 8, 6, 6]


def test_the_table_says_what_a_mac_is() -> None:
    found = profile(net(), torch.randn(2, 3, 8, 8))
    console = Console(width=200, file=io.StringIO())
    with console.capture() as shown:
        console.print(found.table())
    assert "1 MAC = 2 FLOPs" in shown.get()
    assert f"{found.macs:,}" in shown.get()
