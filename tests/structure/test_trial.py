"""What the trial finds that labels cannot see."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from squeeze.edits import rewrite
from squeeze.structure.groups import Structure
from squeeze.structure.trace import trace

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Noise(nn.Module):
    """Multiplies by noise of the sample's shape in training, as stochastic depth does."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rand([x.shape[0]] + [1] * (x.ndim - 1)) if self.training else x


class Twice(nn.Module):
    """Two residual bodies whose outputs go through one module without weights."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 12, 1), nn.Conv2d(12, 4, 1)
        self.first, self.second = (nn.Sequential(nn.Conv2d(12, 8, 1), nn.ReLU(), nn.Conv2d(8, 12, 1)) for _ in "ab")
        self.noise = Noise()

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = x + self.noise(self.first(x))
        return self.head(x + self.noise(self.second(x)))


class Asking(Twice):
    """The same, where the code itself asks for a shape in training."""

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        y = self.first(x)
        return self.head(x + (y * torch.rand(y.shape[0], 1, 1, 1) if self.training else y))


def without_blocks(model: nn.Module, structure: Structure) -> nn.Module:
    choice = replace(structure.nothing(), blocks=frozenset(block.name for block in structure.blocks))
    return rewrite(model, structure.edits(choice))


def test_a_block_that_ends_in_a_shared_drop_path_can_go_and_the_model_trains() -> None:
    model = Twice()
    structure = trace(model, X)
    assert [block.name for block in structure.blocks] == ["first", "second"]
    small = without_blocks(model, structure)
    assert torch.equal(small.eval()(X), model.head(torch.relu(model.stem(X))))
    small.train()(X).sum().backward()
    assert {name for name, p in small.named_parameters() if p.grad is not None} == {
        f"{layer}.{kind}" for layer in ("stem", "head") for kind in ("weight", "bias")
    }


def test_a_block_without_which_the_model_does_not_train_stays() -> None:
    model = Asking()
    assert all(group.exact for group in trace(model, X).groups)
    assert trace(model, X).blocks == ()


@pytest.mark.parametrize("share", [2, 3, 4])
def test_channels_that_are_picked_by_a_computed_share_go_together_or_not_at_all(share: int) -> None:
    class Shifted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Conv2d(3, 24, 1), nn.Conv2d(24, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            fold = x.shape[1] // share
            return self.last(torch.cat([x[:, :fold].roll(1, 2), x[:, fold:]], 1))

    assert all(group.size <= 24 // share for group in trace(Shifted(), X).groups)


class Codebook(nn.Module):
    """Writes to a parameter, larger than what is copied in any case, while it trains."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 12, 1), nn.Conv2d(12, 4, 1)
        self.codes = nn.Parameter(torch.randn(256, 256, generator=torch.Generator().manual_seed(1)))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.codes.data.mul_(0.5)
        return self.last(self.first(x)) + self.codes.mean()


def test_a_parameter_that_training_writes_to_is_left_alone() -> None:
    model = Codebook()
    before = model.codes.detach().clone()
    trace(model, X)
    assert torch.equal(model.codes, before)


class Unsteady(nn.Module):
    """Rounding moves its outputs from one end to the other, as it does a detector's choice between two boxes."""

    def __init__(self, counts: bool) -> None:
        super().__init__()
        self.first, self.second, self.counts = nn.Conv2d(3, 200, 3), nn.Conv2d(200, 8, 3), counts

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = self.second(x.relu()) * (x.shape[1] if self.counts else 1)
        return torch.sin(1e7 * x.mean((2, 3)))


@pytest.mark.parametrize(("counts", "sizes"), [(False, [200]), (True, [])])
def test_where_rounding_decides_cuts_are_proved_in_float64(counts: bool, sizes: list[int]) -> None:
    torch.manual_seed(0)
    structure = trace(Unsteady(counts), torch.randn(1, 3, 8, 8))
    assert [group.size for group in structure.groups] == sizes
