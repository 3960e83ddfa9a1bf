"""A network with filters, a block and branches, and its structure written down by hand: an oracle."""

import numpy as np
import torch
from torch import Tensor, nn

from squeeze.structure.cost import CostModel, Op
from squeeze.structure.groups import Structure
from squeeze.structure.parts import Axis, Block, Branch, Group

NORM = ("weight", "bias", "running_mean", "running_var")


class Body(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(4, 5, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(5)
        self.conv2 = nn.Conv2d(5, 4, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))


class Tiny(nn.Module):
    """Input (N, 3, 6, 6): stem, one residual body, a concat of two branches, a linear head with two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.body = Body()
        self.left = nn.Conv2d(4, 2, 1)
        self.right = nn.Conv2d(4, 3, 1)
        self.head = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = x + self.body(x)
        x = torch.relu(torch.cat([self.left(x), self.right(x)], 1))
        return self.head(x.mean((2, 3)))

    def masked(self, x: Tensor, m: dict[str, Tensor]) -> Tensor:
        """What masks mean, written out: every reader sees what it reads times the mask."""

        def channels(name: str) -> Tensor:
            return m[name].view(1, -1, 1, 1)

        x = torch.relu(self.norm(self.stem(x)))
        inner = torch.relu(self.body.bn1(self.body.conv1(x * channels("stem"))))
        x = x + m["body"] * self.body.bn2(self.body.conv2(inner * channels("body.conv1")))
        x = x * channels("stem")
        left = torch.relu(self.left(x)) * channels("left") * m["branch left"]
        right = torch.relu(self.right(x)) * channels("right") * m["branch right"]
        return self.head(torch.cat([left, right], 1).mean((2, 3)))


def built(seed: int = 0) -> Tiny:
    """Weights and statistics are random, so that no masked entry is without effect."""
    torch.manual_seed(seed)
    model = Tiny()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_()
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 1.5)
    return model


def structure_of(model: Tiny) -> Structure:
    """Groups, the block and the branches of `Tiny`, and what its five contractions cost."""
    named = dict([*model.named_parameters(), *model.named_buffers()])
    shapes = {name: tuple(tensor.shape) for name, tensor in named.items()}
    spans, count = {}, 0
    for name, shape in shapes.items():
        for dim, size in enumerate(shape):
            spans[name, dim] = (count, size)
            count += size

    def axis(tensor: str, dim: int, reads: bool = False, first: int = 0, size: int | None = None) -> Axis:
        units = np.full(shapes[tensor][dim], -1)
        size = len(units) if size is None else size
        units[first : first + size] = np.arange(size)
        return Axis(tensor, dim, units, reads)

    def op(name: str, macs: int) -> Op:
        first, size = spans[f"{name}.weight", 0]
        inner, width = spans[f"{name}.weight", 1]
        return Op(name, macs, (np.arange(first, first + size), np.arange(inner, inner + width)))

    def norm(name: str) -> list[Axis]:
        return [axis(f"{name}.{leaf}", 0) for leaf in NORM]

    readers = [axis(f"{name}.weight", 1, reads=True) for name in ("body.conv1", "left", "right")]
    trunk = [axis("stem.weight", 0), *norm("norm"), axis("body.conv2.weight", 0), *norm("body.bn2"), *readers]
    inner = [axis("body.conv1.weight", 0), *norm("body.bn1"), axis("body.conv2.weight", 1, reads=True)]
    left = [axis("left.weight", 0), axis("left.bias", 0), axis("head.weight", 1, reads=True, first=0, size=2)]
    right = [axis("right.weight", 0), axis("right.bias", 0), axis("head.weight", 1, reads=True, first=2, size=3)]
    groups = (
        Group("stem", 4, tuple(trunk)),
        Group("body.conv1", 5, tuple(inner)),
        Group("left", 2, tuple(left)),
        Group("right", 3, tuple(right)),
    )
    block = Block("body", ("body",), (), ("body.bn2.weight", "body.bn2.bias"), frozenset({1, 2}))
    branches = tuple(
        Branch(name, "cat", (Axis("head.weight", 1, np.array(units), True),), (name,), (), frozenset({number}))
        for name, units, number in (("left", [0, 0, -1, -1, -1], 3), ("right", [-1, -1, 0, 0, 0], 4))
    )
    pixels = 36
    ops = (
        op("stem", 3 * 4 * 9 * pixels),
        op("body.conv1", 4 * 5 * 9 * pixels),
        op("body.conv2", 5 * 4 * 9 * pixels),
        op("left", 4 * 2 * pixels),
        op("right", 4 * 3 * pixels),
        op("head", 5 * 2),
    )
    costs = CostModel(ops, shapes, frozenset(name for name, _ in model.named_parameters()), spans, count)
    return Structure(groups, (block,), branches, (), (), costs)
