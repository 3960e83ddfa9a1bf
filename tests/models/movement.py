"""Channels that are cut up, joined, moved or written into."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.models.case import CLASSES, Case, around, function, noise, seeded


class Chunked(nn.Module):
    """Two halves of one convolution's channels with readers of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Conv2d(8, 8, 3, padding=1)
        self.right = nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        a, b = x.chunk(2, 1)
        return self.left(a) + self.right(b)


class SlicedApart(Chunked):
    """As `Chunked`, with the sizes written in the code; the second half may shrink, the first may not."""

    def forward(self, x: Tensor) -> Tensor:
        return self.left(x[:, :8]) + self.right(x[:, 8:])


class SplitApart(Chunked):
    """As `Chunked`, by `split` with all sizes written in the code: none may change."""

    def forward(self, x: Tensor) -> Tensor:
        a, b = x.split([8, 8], 1)
        return self.left(a) + self.right(b)


class CrossStage(nn.Module):
    """YOLO's C2f: halves, a chain of bottlenecks on the last, everything concatenated."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Conv2d(16, 16, 1)
        self.inner = nn.ModuleList(nn.ModuleList([nn.Conv2d(8, 6, 3, padding=1), nn.Conv2d(6, 8, 1)]) for _ in range(2))
        self.leave = nn.Conv2d(32, 16, 1)

    def forward(self, x: Tensor) -> Tensor:
        parts = list(F.silu(self.enter(x)).chunk(2, 1))
        for narrow, wide in self.inner:
            parts.append(parts[-1] + F.silu(wide(F.silu(narrow(parts[-1])))))
        return self.leave(torch.cat(parts, 1))


class Stacked(nn.Module):
    """Two convolutions stacked along a new dimension that is summed, or taken apart again."""

    def __init__(self, unbind: bool) -> None:
        super().__init__()
        self.unbind = unbind
        self.a = nn.Conv2d(16, 12, 1)
        self.b = nn.Conv2d(16, 12, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        both = torch.stack([self.a(x), self.b(x)], 1)
        if self.unbind:
            a, b = both.relu().unbind(1)
            return a * b
        return both.sigmoid().sum(1)


class Flattened(nn.Module):
    """A linear layer that reads maps of 4 × 4, flattened.

    Args:
        how: "flatten", "view" (by -1) or "fixed" (the size is written in the code).
    """

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(16)
        self.fc1 = nn.Linear(256, 12)
        self.head = nn.Linear(12, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(torch.relu(self.bn1(self.conv1(x))), 2)
        if self.how == "flatten":
            x = x.flatten(1)
        else:
            x = x.view(x.shape[0], -1) if self.how == "view" else x.view(-1, 256)
        return self.head(torch.relu(self.fc1(x)))


class Pooled(nn.Module):
    """The mean and the maximum of the same channels, concatenated for a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3)
        self.fc1 = nn.Linear(32, 12)
        self.head = nn.Linear(12, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.conv1(x))
        x = torch.cat([F.adaptive_avg_pool2d(x, 1).flatten(1), F.adaptive_max_pool2d(x, 1).flatten(1)], 1)
        return self.head(torch.relu(self.fc1(x)))


class Permuted(nn.Module):
    """Channels taken in a fixed random order."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("order", torch.randperm(16))

    def forward(self, x: Tensor) -> Tensor:
        return x.index_select(1, self.order) * 2


class Overwritten(nn.Module):
    """The first four channels are replaced in place."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(16, 4, 1)
        self.after = nn.Conv2d(16, 12, 1)

    def forward(self, x: Tensor) -> Tensor:
        new = self.patch(x)
        x = x.clone()
        x[:, :4] = new
        return torch.relu_(self.after(x))


class InPlace(nn.Module):
    """Sums and products that write into their operand."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(16, 16, 1)
        self.b = nn.Conv2d(16, 16, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        y += x
        y *= self.b(x).sigmoid_()
        return y.add_(x, alpha=0.5)


def pyramid(x: Tensor) -> Tensor:
    """Spatial pyramid pooling: the same channels at four scales."""
    return torch.cat([x, *(F.max_pool2d(x, size, 1, size // 2) for size in (3, 5, 7))], 1)


def shift(x: Tensor) -> Tensor:
    """A quarter of the channels moved up, the rest kept: TSM-like, with the share computed."""
    fold = x.shape[1] // 4
    return torch.cat([x[:, :fold].roll(1, 2), x[:, fold:]], 1)


def empty(x: Tensor) -> Tensor:
    """The first rows are treated in another way, of which there are none (prefix tokens before rotary embeddings)."""
    return torch.cat([x[:, :, :0], x[:, :, 0:].sigmoid()], 2)


KEPT = ("conv1.weight", "head.weight")

MOVEMENT: dict[str, Case] = {
    "chunk": around(Chunked, out=8, removable=("conv1.weight", "middle.left.weight", "middle.right.weight")),
    "chunk_product": function(lambda x: (lambda a, b: a * b.sigmoid())(*x.chunk(2, 1)), out=8),
    "split_sizes": around(SplitApart, out=8, removable=("middle.left.weight", "middle.right.weight"), pinned=KEPT),
    "split_size": function(
        lambda x: (lambda a, b: a * b)(*x.split(8, 1)), out=8, removable=("conv2.weight",), pinned=KEPT
    ),
    "slices": around(SlicedApart, out=8, removable=("middle.left.weight", "middle.right.weight")),
    "slices_product": function(lambda x: x[:, :8] * x[:, 8:16], out=8, removable=("conv2.weight",), pinned=KEPT),
    "cross_stage": around(
        CrossStage,
        removable=("conv1.weight", "middle.enter.weight", "middle.inner.0.0.weight", "middle.leave.weight"),
    ),
    "stack_sum": around(lambda: Stacked(False), out=12, removable=("middle.a.weight", "middle.b.weight")),
    "stack_unbind": around(lambda: Stacked(True), out=12, removable=("middle.a.weight", "middle.b.weight")),
    "flatten": Case(
        seeded(lambda: Flattened("flatten")), noise(2, 3, 8, 8), ("conv1.weight", "fc1.weight"), ("head.weight",)
    ),
    "view": Case(
        seeded(lambda: Flattened("view")), noise(2, 3, 8, 8), ("conv1.weight", "fc1.weight"), ("head.weight",)
    ),
    "view_fixed": Case(seeded(lambda: Flattened("fixed")), noise(2, 3, 8, 8), ("fc1.weight",), KEPT),
    "pooled_concat": Case(seeded(Pooled), noise(2, 3, 8, 8), ("conv1.weight", "fc1.weight"), ("head.weight",)),
    "pyramid": function(pyramid, out=64),
    "repeat": function(lambda x: x.repeat(1, 2, 1, 1), out=32),
    "repeat_interleave": function(lambda x: x.repeat_interleave(2, 1), out=32),
    "roll": function(lambda x: x.roll(4, 1), removable=("conv2.weight",)),
    "roll_sum": function(lambda x: x + x.roll(4, 1), removable=("conv2.weight",)),
    "flip": function(lambda x: torch.cat([x, x.flip(1)], 1), out=32),
    "shift": function(shift, removable=("conv2.weight",)),
    "empty_part": function(empty),
    "index_select": around(Permuted, removable=("conv2.weight",)),
    "overwritten_slice": around(Overwritten, out=12, removable=("middle.after.weight",)),
    "in_place": around(InPlace, removable=("conv1.weight", "middle.a.weight", "middle.b.weight")),
    "space_to_depth": function(
        lambda x: torch.cat([x[..., i::2, j::2] for i in (0, 1) for j in (0, 1)], 1), width=8, out=32
    ),
}
