"""User code that is a graph rather than a stack: einsum, attention in other forms, checkpoints, Fourier, scatter."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint
from torchvision.ops import DeformConv2d

from tests.models.case import CLASSES, Case, around, function, noise, seeded


class Einsums(nn.Module):
    """Projections by einsum in several spellings: a weight of three dims, an ellipsis, a product of three."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(5, 10)
        self.heads = nn.Parameter(0.3 * torch.randn(10, 3, 4))
        self.mix = nn.Parameter(0.3 * torch.randn(3, 4, 6))
        self.gate = nn.Parameter(torch.rand(6))
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.einsum("...c,chd->...hd", torch.tanh(self.fc(x)), self.heads)
        z = torch.einsum("bnhd,hde,e->bne", y, self.mix, self.gate)
        return self.head(z).mean(1)


class Grouped(nn.Module):
    """Grouped-query attention: two heads of keys and values for four of queries."""

    def __init__(self, repeat: bool) -> None:
        super().__init__()
        self.repeat = repeat
        self.fc = nn.Linear(5, 10)
        self.q, self.k, self.v = nn.Linear(10, 24), nn.Linear(10, 12), nn.Linear(10, 12)
        self.out = nn.Linear(24, 10)
        self.head = nn.Linear(10, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.fc(x))
        q, k, v = (part(x).unflatten(-1, (-1, 6)).transpose(1, 2) for part in (self.q, self.k, self.v))
        if self.repeat:
            k, v = k.repeat_interleave(2, 1), v.repeat_interleave(2, 1)
        y = F.scaled_dot_product_attention(q, k, v, enable_gqa=not self.repeat)
        return self.head((x + self.out(y.transpose(1, 2).flatten(2))).mean(1))


class Rotary(nn.Module):
    """Rotary embeddings: halves of a head are turned against each other, by an angle for each pair."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(5, 10)
        self.qkv = nn.Linear(10, 72)
        self.out = nn.Linear(24, 10)
        self.head = nn.Linear(10, CLASSES)
        angles = torch.outer(torch.arange(7.0), torch.tensor([1.0, 0.3, 0.1])).repeat(1, 2)
        self.register_buffer("cos", angles.cos())
        self.register_buffer("sin", angles.sin())

    def turn(self, x: Tensor) -> Tensor:
        half = x.shape[-1] // 2
        return x * self.cos + torch.cat([-x[..., half:], x[..., :half]], -1) * self.sin

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.fc(x))
        b, n, _ = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, -1, 6).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(self.turn(q), self.turn(k), v)
        return self.head((x + self.out(y.transpose(1, 2).flatten(2))).mean(1))


class Deformable(nn.Module):
    """A deformable convolution whose offsets and masks are computed from its input."""

    def __init__(self) -> None:
        super().__init__()
        self.offsets = nn.Conv2d(16, 18, 3, padding=1)
        self.masks = nn.Conv2d(16, 9, 3, padding=1)
        self.conv = DeformConv2d(16, 12, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x, 0.3 * self.offsets(x), torch.sigmoid(self.masks(x)))


class Checkpointed(nn.Module):
    """Two layers whose activations are computed anew in the backward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(16, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, 16, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + checkpoint(self.body, x, use_reentrant=False)


class Fourier(nn.Module):
    """FNet: tokens and channels are mixed by a Fourier transform, of which only the real part goes on."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(5, 12)
        self.up, self.down = nn.Linear(12, 16), nn.Linear(16, 12)
        self.head = nn.Linear(12, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc(x)
        x = x + torch.fft.fft(torch.fft.fft(x, dim=-1), dim=-2).real
        return self.head((x + self.down(F.gelu(self.up(x)))).mean(1))


class Messages(nn.Module):
    """A graph network: nodes gather their neighbours' features, and scatter sums of them back."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(5, 12)
        self.message = nn.Linear(12, 8)
        self.update = nn.Linear(8, 12)
        self.head = nn.Linear(12, CLASSES)
        self.register_buffer("edges", torch.tensor([[0, 1, 2, 3, 3, 5], [1, 2, 0, 4, 5, 6]]))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.fc(x))
        sent = self.message(x).index_select(1, self.edges[0])
        place = self.edges[1].view(1, -1, 1).expand_as(sent)
        got = torch.zeros(x.shape[0], x.shape[1], sent.shape[-1]).to(sent).scatter_add(1, place, sent)
        return self.head((x + self.update(got)).mean(1))


class Halting(nn.Module):
    """A loop that ends when the data say so."""

    def __init__(self) -> None:
        super().__init__()
        self.step = nn.Conv2d(16, 16, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(4):
            if float(x.detach().abs().mean()) > 1e3:
                break
            x = torch.relu(self.step(x))
        return x


class Orthogonal(nn.Module):
    """A convolution with a user's parametrisation, and one with torch's weight norm."""

    def __init__(self) -> None:
        super().__init__()
        self.one = parametrizations.weight_norm(nn.Conv2d(16, 12, 3, padding=1))
        self.two = nn.Conv2d(12, 16, 1)
        nn.utils.parametrize.register_parametrization(self.two, "weight", Doubled())

    def forward(self, x: Tensor) -> Tensor:
        return self.two(torch.relu(self.one(x)))


class Doubled(nn.Module):
    """A weight is twice what is learnt."""

    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


def channels_last(middle: Tensor) -> Tensor:
    """Memory order only."""
    return middle.contiguous(memory_format=torch.channels_last)


TOKENS = noise(2, 7, 5)
HEAD = ("head.weight",)

GRAPHS: dict[str, Case] = {
    "einsums": Case(seeded(Einsums), TOKENS, ("fc.weight", "gate"), HEAD),
    "grouped_query": Case(seeded(lambda: Grouped(True)), TOKENS, ("fc.weight", "k.weight", "v.weight"), HEAD),
    "grouped_query_op": Case(seeded(lambda: Grouped(False)), TOKENS, ("fc.weight", "k.weight", "v.weight"), HEAD),
    "rotary": Case(seeded(Rotary), TOKENS, ("fc.weight", "qkv.weight"), HEAD),
    "deformable": around(
        Deformable, out=12, removable=("conv1.weight", "middle.conv.weight"), pinned=("middle.offsets.weight",)
    ),
    "checkpointed": around(Checkpointed, removable=("conv1.weight", "middle.body.0.weight")),
    "channels_last": function(channels_last),
    "fourier": Case(seeded(Fourier), TOKENS, ("up.weight",), ("fc.weight", *HEAD)),
    "messages": Case(seeded(Messages), TOKENS, ("fc.weight",), ("message.weight", *HEAD)),
    "halting": around(Halting, removable=("conv1.weight", "middle.step.weight"), exact=False),
    "parametrised": around(Orthogonal, removable=("conv1.weight", "middle.two.parametrizations.weight.original")),
}
