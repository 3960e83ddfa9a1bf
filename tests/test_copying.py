"""Copies of models are what copy.deepcopy makes of them, whatever modules keep."""

import copy
from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn

from squeeze.copying import copied, sharing


class Own(nn.Module):
    """Says itself how it is copied."""

    def __init__(self) -> None:
        super().__init__()
        self.copies = 0

    def __deepcopy__(self, memo: dict[int, Any]) -> "Own":
        twin = Own()
        twin.copies = self.copies + 1
        return twin


class Keeping(nn.Module):
    """Keeps all kinds of things."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 3)
        self.again = self.inner
        self.tied = nn.Linear(3, 3)
        self.tied.weight = self.inner.weight
        self.recurrent = nn.LSTM(3, 3)
        self.own = Own()
        self.sizes = [3, [4]]
        self.table: dict[Any, Any] = {"a": [1], self.inner: "by module"}
        self.order = OrderedDict(a=[1])
        self.empty: dict[str, int] = {}
        self.plain = [self.inner]
        self.held: Tensor = torch.ones(2)
        self.register_buffer("counted", torch.zeros(2))
        self.method = self.twice
        self.register_forward_hook(lambda module, args, out: out + 1)

    def twice(self, x: Tensor) -> Tensor:
        return 2 * x

    def forward(self, x: Tensor) -> Tensor:
        return self.recurrent(self.tied(self.again(x)))[0]


def test_what_a_copy_keeps_is_its_own() -> None:
    model = Keeping()
    twin: Any = copied(model)
    assert twin.inner is twin.again is twin.plain[0] is not model.inner
    assert twin.tied.weight is twin.inner.weight is not model.inner.weight
    assert twin.table == {"a": [1], twin.inner: "by module"}
    assert twin.method.__self__ is twin
    assert twin.own.copies == 1
    assert twin.empty is not model.empty
    twin.sizes[1].append(5)
    twin.order["a"].append(2)
    twin.table["a"].append(2)
    assert (model.sizes, model.order["a"], model.table["a"]) == ([3, [4]], [1], [1])


def places(model: Keeping) -> set[int]:
    """Where its tensors lie in memory."""
    tensors: list[Tensor] = [*model.parameters(), *model.buffers(), model.held]
    return {tensor.data_ptr() for tensor in tensors}


def test_a_copy_computes_the_same_with_tensors_of_its_own() -> None:
    model, x = Keeping(), torch.ones(2, 1, 3)
    twin: Any = copied(model)
    assert torch.equal(twin(x), model(x))
    assert vars(twin).keys() == vars(copy.deepcopy(model)).keys()
    assert places(model).isdisjoint(places(twin))


def test_modules_that_share_tensors_share_nothing_else() -> None:
    model = Keeping()
    twin: Any = sharing(model)
    assert all(a is b for a, b in zip(twin.parameters(), model.parameters(), strict=True))
    assert twin.inner is not model.inner and twin.sizes is not model.sizes
    twin.inner.weight = nn.Parameter(torch.zeros(3, 3))
    assert model.inner.weight.abs().sum() > 0
