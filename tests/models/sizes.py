"""Sizes that modules keep as whole numbers: they must shrink with what they count, and nothing else may."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.models.case import CLASSES, Case, around, noise, seeded


class Heads(nn.Module):
    """No weights: only how many heads there are, and how wide one is.

    Args:
        heads: How many.
        width: Of one.
    """

    def __init__(self, heads: int, width: int) -> None:
        super().__init__()
        self.heads, self.width = heads, width

    def forward(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], self.heads, self.width).transpose(1, 2)


class Numbered(nn.Module):
    """Attention whose heads, and their width, are numbers.

    Args:
        own: The module with the projections keeps them; else one without weights does.
        power: A number that is equal to that of the heads by accident; 1 for none.
    """

    def __init__(self, own: bool = True, power: int = 1) -> None:
        super().__init__()
        self.own, self.heads, self.width, self.power = own, 4, 6, power
        self.divide = Heads(4, 6)
        self.q, self.k, self.v = (nn.Linear(10, 24) for _ in range(3))
        self.out = nn.Linear(24, 10)

    def split(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        return x.view(b, n, self.heads, self.width).transpose(1, 2) if self.own else self.divide(x)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.split(self.q(x)), self.split(self.k(x)), self.split(self.v(x))
        y = F.scaled_dot_product_attention(q, k, v, scale=0.4).transpose(1, 2).flatten(2)
        return self.out(torch.tanh(y) ** self.power)


class Fitting(nn.Module):
    """Attention whose width is a number, and must fit that of the trunk: they can only shrink together."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.width = 3, 4
        self.qkv, self.out = nn.Linear(12, 36), nn.Linear(12, 12)

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, self.width).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, scale=0.5)
        return self.out(y.transpose(1, 2).reshape(b, n, c))


class Projection(nn.Module):
    """GPT-2's linear layer, which keeps its width as a number and flattens for `addmm`.

    Args:
        inputs: What it reads.
        outputs: What it sends.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.nf = outputs
        self.weight, self.bias = nn.Parameter(torch.randn(inputs, outputs) / 3), nn.Parameter(torch.randn(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight).view(*x.shape[:-1], self.nf)


class Generative(nn.Module):
    """GPT-2's attention: `split_size`, the width of a head, and the embedding's, which is equal by construction."""

    def __init__(self) -> None:
        super().__init__()
        self.embed_dim = self.split_size = 12
        self.num_heads, self.head_dim = 3, 4
        self.c_attn, self.c_proj = Projection(12, 36), Projection(12, 12)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.c_attn(x).split(self.split_size, dim=2)
        q, k, v = (part.view(*part.shape[:-1], -1, self.head_dim).transpose(1, 2) for part in parts)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.c_proj(y.transpose(1, 2).reshape(*x.shape[:-1], -1))


class Residual(nn.Module):
    """A projection, two residual modules and a head.

    Args:
        bodies: The two modules.
        width: Of the trunk.
    """

    def __init__(self, bodies: list[nn.Module], width: int) -> None:
        super().__init__()
        self.fc = nn.Linear(5, width)
        self.bodies = nn.ModuleList(bodies)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.fc(x))
        for body in self.bodies:
            x = x + body(x)
        return self.head(x)


class Rms(nn.Module):
    """A normalisation of one's own, whose shape is a tuple."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.shape = (width,)
        self.weight = nn.Parameter(torch.rand(width) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.shape) * self.weight


class Perceptron(nn.Module):
    """A normalisation and two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.fc1, self.fc2 = Rms(12), nn.Linear(12, 16), nn.Linear(16, 12)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(self.norm(x))))


class Patches(nn.Module):
    """Patches as tokens: the trunk's width is a number that a reshape needs."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden_dim = 12
        self.conv = nn.Conv2d(3, 12, 4, 4)
        self.fc1, self.fc2 = nn.Linear(12, 16), nn.Linear(16, 12)
        self.head = nn.Linear(12, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x).reshape(len(x), self.hidden_dim, -1).transpose(1, 2)
        x = x + self.fc2(F.gelu(self.fc1(x)))
        return self.head(x.mean(1))


class Halves(nn.Module):
    """Sizes of two parts, with which the channels are split.

    Args:
        scaled: The first size is also a factor.
    """

    def __init__(self, scaled: bool = False) -> None:
        super().__init__()
        self.scaled, self.first, self.second = scaled, 6, 10
        self.left, self.right = nn.Conv2d(6, 8, 1), nn.Conv2d(10, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        a, b = x.split([self.first, self.second], 1)
        return self.left(a) * (self.first if self.scaled else 1) + self.right(b)


class Shared(nn.Module):
    """One number is the size of two things that have nothing to do with each other."""

    def __init__(self) -> None:
        super().__init__()
        self.width = 12
        self.a, self.b = nn.Conv2d(16, 12, 1), nn.Conv2d(16, 12, 3, padding=1)
        self.c, self.d = nn.Conv2d(12, 8, 1), nn.Conv2d(12, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.a(x).reshape(len(x), self.width, 8, 8), self.b(x).reshape(len(x), self.width, 8, 8)
        return self.c(a) + self.d(b).relu()


def attention(own: bool, power: int = 1) -> Case:
    bodies = ("bodies.0.q.weight", "bodies.0.v.weight", "bodies.1.k.weight")
    build = seeded(lambda: Residual([Numbered(own, power), Numbered(own, power)], 10))
    return Case(build, noise(2, 7, 5), ("fc.weight", *bodies), ("head.weight",))


SIZES: dict[str, Case] = {
    "number_of_heads": attention(True),
    "number_of_heads_elsewhere": attention(False),
    "number_of_heads_by_accident": attention(True, power=4),
    "generative": Case(
        seeded(lambda: Residual([Generative(), Generative()], 12)),
        noise(2, 7, 5),
        ("fc.weight", *(f"bodies.{i}.{name}.bias" for i in (0, 1) for name in ("c_attn", "c_proj"))),
        ("head.weight",),
    ),
    "number_of_width": Case(
        seeded(lambda: Residual([Fitting(), Fitting()], 12)),
        noise(2, 7, 5),
        ("fc.weight", *(f"bodies.{i}.{name}.weight" for i in (0, 1) for name in ("qkv", "out"))),
        ("head.weight",),
    ),
    "patches": Case(seeded(Patches), noise(2, 3, 8, 8), ("conv.weight", "fc1.weight", "fc2.weight"), ("head.weight",)),
    "shape_in_a_tuple": Case(
        seeded(lambda: Residual([Perceptron(), Perceptron()], 12)),
        noise(2, 7, 5),
        ("fc.weight", "bodies.0.norm.weight", "bodies.0.fc1.weight", "bodies.1.fc2.weight"),
        ("head.weight",),
        exact=False,
    ),
    "sizes_of_parts": around(Halves, out=8, removable=("conv1.weight", "middle.left.weight")),
    "size_and_factor": around(lambda: Halves(True), out=8, removable=("middle.left.weight",)),
    "shared_number": around(
        Shared,
        out=8,
        removable=("conv1.weight", "middle.c.weight"),
        pinned=("middle.a.weight", "middle.b.weight", "head.weight"),
    ),
}
