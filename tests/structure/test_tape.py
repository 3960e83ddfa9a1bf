"""What is recorded of a run, and how often a model runs for it."""

import torch
from torch import Tensor, nn

from squeeze.structure.run import labelled
from squeeze.structure.tape import recorded
from squeeze.structure.trace import trace
from squeeze.structure.watch import Watch

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Shuffling(nn.Module):
    """A channel shuffle: labels cannot say which of two dims the code holds constant. A copy counts its own runs."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 24, 1), nn.Conv2d(24, 4, 1)
        self.runs: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.runs.append(len(x))
        y = torch.relu(self.first(x))
        y = y.view(len(y), -1, 4, *y.shape[2:]).transpose(1, 2).reshape(y.shape)
        return self.second(y)


class Turning(nn.Module):
    """Changes the shape of a tensor in place, and writes into a view."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x).transpose_(1, 2)
        y[:, :, :2].mul_(2)
        return self.second(y.transpose_(1, 2))


def test_the_given_model_runs_once_however_many_readings_are_tried() -> None:
    model = Shuffling()
    structure = trace(model, X)
    assert [group.size for group in structure.groups] == [6]
    assert model.runs == [2]


def test_a_tape_gives_the_same_labels_each_time_and_others_with_other_readings() -> None:
    model = Shuffling()
    tape = recorded(model, X, Watch())
    first, again = (labelled(tape, {}) for _ in range(2))
    site = first.context.sites[0]
    other = labelled(tape, {site.key: 1})
    ties = [[(a.tolist(), b.tolist()) for a, b in record.context.ledger.ties] for record in (first, again, other)]
    assert ties[0] == ties[1] != ties[2]
    assert len(model.runs) == 1


def test_operands_keep_the_shape_they_had_when_an_op_saw_them() -> None:
    structure = trace(Turning(), X[:, 0])
    assert [(group.name, group.size) for group in structure.groups] == [("first", 6)]
