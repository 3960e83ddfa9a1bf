"""Recurrence and attention."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.models.case import CLASSES, Case, noise, seeded


class Recurrent(nn.Module):
    """A projection, a recurrent layer, a head on the last output or the last state.

    Args:
        cell: nn.LSTM, nn.GRU or nn.RNN.
        layers: How many are stacked.
        bidirectional: Both directions.
        batch_first: (batch, time, features) instead of (time, batch, features).
        state: The head reads the last hidden state of the top layer.
    """

    def __init__(
        self,
        cell: type[nn.RNNBase],
        layers: int = 1,
        bidirectional: bool = False,
        batch_first: bool = True,
        state: bool = False,
    ) -> None:
        super().__init__()
        self.state = state
        self.fc = nn.Linear(5, 10)
        self.rnn = cell(10, 12, num_layers=layers, bidirectional=bidirectional, batch_first=batch_first)
        self.head = nn.Linear(12 * (1 + bidirectional), CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        out, state = self.rnn(torch.tanh(self.fc(x)))
        if self.state:
            return self.head(state[0][-1] if isinstance(state, tuple) else state[-1])
        return self.head(out[:, -1] if self.rnn.batch_first else out[-1])


class Attention(nn.Module):
    """Self-attention by hand, between a projection and a head.

    Args:
        fixed: What the code holds constant: "heads" or "width" (of a head).
        how: "sdpa", "einsum" or "matmul".
        fused: One projection for queries, keys and values.
    """

    def __init__(self, fixed: str, how: str, fused: bool = False) -> None:
        super().__init__()
        self.fixed, self.how = fixed, how
        self.fc = nn.Linear(5, 10)
        self.qkv = nn.Linear(10, 72) if fused else None
        self.q, self.k, self.v = (None if fused else nn.Linear(10, 24) for _ in range(3))
        self.out = nn.Linear(24, 10)
        self.head = nn.Linear(10, CLASSES)

    def split(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        shape = (b, n, 4, c // 4) if self.fixed == "heads" else (b, n, c // 6, 6)
        return x.view(shape).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.fc(x))
        if self.qkv is not None:
            q, k, v = (self.split(part) for part in self.qkv(x).chunk(3, -1))
        else:
            q, k, v = self.split(self.q(x)), self.split(self.k(x)), self.split(self.v(x))
        y = self.attend(q, k, v).transpose(1, 2).flatten(2)
        return self.head(x + self.out(y))

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if self.how == "sdpa":
            return F.scaled_dot_product_attention(q, k, v)
        if self.how == "einsum":
            weights = (torch.einsum("bhnd,bhmd->bhnm", q, k) * 6**-0.5).softmax(-1)
            return torch.einsum("bhnm,bhmd->bhnd", weights, v)
        return (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(-1) @ v


class Derived(nn.Module):
    """Attention whose head is as wide as the embedding says, in two blocks on one trunk."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(5, 12)
        self.qkv = nn.ModuleList(nn.Linear(12, 36) for _ in range(2))
        self.out = nn.ModuleList(nn.Linear(12, 12) for _ in range(2))
        self.head = nn.Linear(12, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc(x)
        for qkv, out in zip(self.qkv, self.out, strict=True):
            b, n, c = x.shape
            q, k, v = qkv(x).reshape(b, n, 3, 3, c // 3).permute(2, 0, 3, 1, 4)
            y = F.scaled_dot_product_attention(q, k, v, scale=0.5)
            x = x + out(y.transpose(1, 2).reshape(b, n, c))
        return self.head(x.mean(1))


class MultiHead(nn.Module):
    """nn.MultiheadAttention, then a feed-forward net."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(5, 12)
        self.attention = nn.MultiheadAttention(12, 3, batch_first=True)
        self.fc1 = nn.Linear(12, 16)
        self.fc2 = nn.Linear(16, 12)
        self.head = nn.Linear(12, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc(x)
        x = x + self.attention(x, x, x, need_weights=False)[0]
        return self.head(x + self.fc2(F.gelu(self.fc1(x))))


class Encoder(nn.Module):
    """nn.TransformerEncoderLayer, twice, with a class token and positions."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(5, 12)
        self.token = nn.Parameter(torch.randn(1, 1, 12))
        self.position = nn.Parameter(torch.randn(1, 8, 12))
        layer = nn.TransformerEncoderLayer(12, 3, dim_feedforward=16, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(12, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), self.fc(x)], 1) + self.position
        return self.head(self.layers(x)[:, 0])


class Mixer(nn.Module):
    """MLP-Mixer: a perceptron over tokens, one over channels."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(5, 12)
        self.tokens = nn.Sequential(nn.Linear(7, 9), nn.GELU(), nn.Linear(9, 7))
        self.channels = nn.Sequential(nn.Linear(12, 16), nn.GELU(), nn.Linear(16, 12))
        self.head = nn.Linear(12, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc(x)
        x = x + self.tokens(x.transpose(1, 2)).transpose(1, 2)
        return self.head((x + self.channels(x)).mean(1))


def recurrent(
    cell: type[nn.RNNBase],
    layers: int = 1,
    bidirectional: bool = False,
    batch_first: bool = True,
    state: bool = False,
) -> Case:
    removable = ["fc.weight", *(f"rnn.weight_{kind}_l{layer}" for kind in ("ih", "hh") for layer in range(layers))]
    removable += ["rnn.weight_ih_l0_reverse"] if bidirectional else []
    build = seeded(lambda: Recurrent(cell, layers, bidirectional, batch_first, state))
    return Case(build, noise(2, 7, 5), tuple(removable), ("head.weight",))


def attention(fixed: str, how: str, fused: bool = False, exact: bool = True) -> Case:
    removable = ("fc.weight", *(("qkv.weight",) if fused else ("q.weight", "k.weight", "v.weight")), "out.weight")
    build = seeded(lambda: Attention(fixed, how, fused))
    return Case(build, noise(2, 7, 5), removable, ("head.weight",), exact)


SEQUENCES: dict[str, Case] = {
    "lstm": recurrent(nn.LSTM),
    "lstm_time_first": recurrent(nn.LSTM, batch_first=False),
    "lstm_two_layers": recurrent(nn.LSTM, layers=2),
    "lstm_bidirectional": recurrent(nn.LSTM, bidirectional=True),
    "lstm_state": recurrent(nn.LSTM, state=True),
    "gru": recurrent(nn.GRU),
    "gru_state": recurrent(nn.GRU, layers=2, state=True),
    "rnn": recurrent(nn.RNN),
    "attention_heads": attention("width", "sdpa"),
    "attention_heads_einsum": attention("width", "einsum"),
    "attention_heads_fused": attention("width", "matmul", fused=True),
    "attention_width": attention("heads", "sdpa", exact=False),
    "attention_width_matmul": attention("heads", "matmul", exact=False),
    "attention_width_einsum": attention("heads", "einsum"),
    "attention_derived_width": Case(
        seeded(Derived),
        noise(2, 7, 5),
        ("fc.weight", "qkv.0.weight", "qkv.1.weight", "out.0.weight", "out.1.weight"),
        ("head.weight",),
    ),
    "multi_head": Case(
        seeded(MultiHead),
        noise(2, 7, 5),
        ("fc.weight", "attention.in_proj_weight", "attention.out_proj.weight", "fc1.weight"),
        ("head.weight",),
        exact=False,
    ),
    "encoder": Case(
        seeded(Encoder),
        noise(2, 7, 5),
        ("layers.layers.0.linear1.weight", "layers.layers.1.linear1.weight"),
        ("head.weight",),
        exact=False,
    ),
    "mixer": Case(
        seeded(Mixer),
        noise(2, 7, 5),
        ("fc.weight", "tokens.0.weight", "channels.0.weight"),
        ("head.weight", "tokens.2.weight"),
    ),
}
