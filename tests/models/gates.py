"""What multiplies, normalises or mixes channels."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import FrozenBatchNorm2d

from tests.models.case import CLASSES, Case, around, function, noise, seeded


class SqueezeExcite(nn.Module):
    """Channel attention by two small convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(16, 6, 1)
        self.fc2 = nn.Conv2d(6, 16, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.fc2(torch.relu(self.fc1(F.adaptive_avg_pool2d(x, 1)))))


class SqueezeExciteLinear(nn.Module):
    """The same by linear layers, with views there and back."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(16, 6)
        self.fc2 = nn.Linear(6, 16)

    def forward(self, x: Tensor) -> Tensor:
        b, c, _, _ = x.shape
        gate = torch.sigmoid(self.fc2(torch.relu(self.fc1(x.mean((2, 3)).view(b, c)))))
        return x * gate.view(b, c, 1, 1).expand_as(x)


class Efficient(nn.Module):
    """ECA: a 1-D convolution along the channels, which makes neighbours of them."""

    def __init__(self) -> None:
        super().__init__()
        self.along = nn.Conv1d(1, 1, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.along(x.mean((2, 3)).unsqueeze(1)).squeeze(1)
        return x * torch.sigmoid(gate)[:, :, None, None]


class Spatial(nn.Module):
    """A map of one channel, learnt or from the mean and maximum over channels (CBAM).

    Args:
        pooled: Use the mean and the maximum.
    """

    def __init__(self, pooled: bool) -> None:
        super().__init__()
        self.pooled = pooled
        self.map = nn.Conv2d(2 if pooled else 16, 1, 7, padding=3)

    def forward(self, x: Tensor) -> Tensor:
        read = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1) if self.pooled else x
        return x * torch.sigmoid(self.map(read))


class Product(nn.Module):
    """Two branches multiplied."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(16, 12, 1)
        self.b = nn.Conv2d(16, 12, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x) * torch.tanh(self.b(x))


class Scaled(nn.Module):
    """Channels times a buffer or a parameter, plus another.

    Args:
        learnt: Parameters instead of buffers.
    """

    def __init__(self, learnt: bool) -> None:
        super().__init__()
        scale, shift = torch.randn(16, 1, 1), torch.randn(1, 16, 1, 1)
        if learnt:
            self.scale, self.shift = nn.Parameter(scale), nn.Parameter(shift)
        else:
            self.register_buffer("scale", scale)
            self.register_buffer("shift", shift, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale + self.shift


class Gated(nn.Module):
    """A gated feed-forward net over tokens.

    Args:
        kind: "swiglu" (two projections), "fused" (one, chunked) or "glu" (one, `F.glu`).
    """

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.enter = nn.Linear(6, 10)
        self.w1 = nn.Linear(10, 24 if kind != "swiglu" else 12)
        self.w2 = nn.Linear(10, 12) if kind == "swiglu" else None
        self.w3 = nn.Linear(12, 10)
        self.head = nn.Linear(10, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.enter(x))
        if self.kind == "glu":
            return self.head(self.w3(F.glu(self.w1(x), -1)))
        a, b = (self.w1(x), self.w2(x)) if self.w2 is not None else self.w1(x).chunk(2, -1)
        return self.head(self.w3(F.silu(a) * b))


class Normed(nn.Module):
    """A multilayer perceptron with LayerNorm over its hidden units."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(6, 16)
        self.norm = nn.LayerNorm(16)
        self.fc2 = nn.Linear(16, 12)
        self.head = nn.Linear(12, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.gelu(self.fc2(F.gelu(self.norm(self.fc1(x))))))


def numbered(x: Tensor) -> Tensor:
    """Each channel times its number, a constant made in forward."""
    return x * torch.arange(x.shape[1], dtype=x.dtype, device=x.device).view(1, -1, 1, 1)


def indices(x: Tensor) -> Tensor:
    """The number of the strongest channel as a map of one channel."""
    return x.argmax(1, keepdim=True).to(x.dtype)


BOTH = ("conv1.weight", "bn1.weight", "bn1.bias", "conv2.weight")
AFTER = ("conv2.weight",)
KEPT = ("conv1.weight", "bn1.weight", "head.weight")


def gated(kind: str) -> Case:
    removable = ("enter.weight", "w1.weight", "w3.weight", *(("w2.weight",) if kind == "swiglu" else ()))
    return Case(seeded(lambda: Gated(kind)), noise(2, 7, 6), removable, ("head.weight",))


GATES: dict[str, Case] = {
    "squeeze_excite": around(SqueezeExcite, removable=("conv1.weight", "middle.fc1.weight", "middle.fc2.weight")),
    "squeeze_excite_linear": around(
        SqueezeExciteLinear, removable=("conv1.weight", "middle.fc1.weight", "middle.fc2.weight")
    ),
    "eca": around(Efficient, removable=AFTER, exact=False),
    "spatial_map": around(lambda: Spatial(False), pinned=("head.weight", "middle.map.weight")),
    "pooled_map": around(lambda: Spatial(True), removable=AFTER, pinned=("middle.map.weight",), exact=False),
    "product": around(Product, out=12, removable=("conv1.weight", "middle.a.weight", "middle.b.weight")),
    "glu_channels": function(lambda x: F.glu(x, 1), out=8),
    "glu": gated("glu"),
    "swiglu": gated("swiglu"),
    "swiglu_fused": gated("fused"),
    "buffer_scale": around(lambda: Scaled(False), removable=BOTH),
    "layer_scale": around(lambda: Scaled(True), removable=("conv1.weight", "middle.scale")),
    "frozen_batch_norm": around(
        lambda: FrozenBatchNorm2d(16), removable=(*BOTH, "middle.weight", "middle.running_var")
    ),
    "batch_norm_plain": around(lambda: nn.BatchNorm2d(16, affine=False), removable=BOTH),
    "batch_norm_untracked": around(lambda: nn.BatchNorm2d(16, track_running_stats=False), removable=BOTH),
    "group_norm": around(lambda: nn.GroupNorm(4, 16), removable=(*BOTH, "middle.weight")),
    "group_norm_single": around(lambda: nn.GroupNorm(1, 16), removable=AFTER, exact=False),
    "instance_norm": around(lambda: nn.InstanceNorm2d(16, affine=True), removable=(*BOTH, "middle.weight")),
    "local_response_norm": around(lambda: nn.LocalResponseNorm(3), removable=AFTER, exact=False),
    "prelu": around(lambda: nn.PReLU(16), removable=(*BOTH, "middle.weight")),
    "layer_norm": Case(
        seeded(Normed), noise(2, 6), ("fc1.weight", "norm.weight", "fc2.weight"), ("head.weight",), exact=False
    ),
    "softmax": function(lambda x: x.softmax(1), removable=AFTER, exact=False),
    "mean": function(lambda x: x * x.mean(1, keepdim=True), removable=AFTER, exact=False),
    "normalize": function(lambda x: F.normalize(x, dim=1), exact=False),
    "cumsum": function(lambda x: x.cumsum(1), removable=AFTER, pinned=KEPT),
    "argmax": function(indices, out=1, removable=AFTER, pinned=KEPT),
    "sort": function(lambda x: x.sort(1).values, removable=AFTER, pinned=KEPT),
    "numbered": function(numbered, removable=AFTER, pinned=KEPT),
    "dropout": around(lambda: nn.Dropout2d(0.5), removable=BOTH),
}
