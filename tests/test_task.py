"""How models are called, and what is said when they do not accept their inputs."""

from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from squeeze.data_task import DataTask
from squeeze.errors import InputError
from squeeze.task import Task, call, check_inputs, tensors_of

X, Y = torch.ones(2, 3), torch.zeros(2, 3)


class Minus(nn.Module):
    def forward(self, left: Tensor, right: Tensor | None = None) -> Tensor:
        return left if right is None else left - right


@pytest.mark.parametrize("inputs", [X, (X,), [X], {"left": X}, (X, Y), [X, Y], {"right": Y, "left": X}])
def test_a_tensor_a_tuple_or_keywords(inputs: Any) -> None:
    assert torch.equal(call(Minus(), inputs), X)


def test_the_order_of_arguments_counts() -> None:
    assert torch.equal(call(Minus(), (Y, X)), -X)


@dataclass
class Boxes:
    corners: Tensor
    scores: list[Tensor]
    label: str = "box"


Pair = namedtuple("Pair", "logits extra")
A, B, C = torch.tensor(1.0), torch.tensor(2.0), torch.tensor(3.0)


@pytest.mark.parametrize(
    ("tree", "expected"),
    [
        (A, [A]),
        ([], []),
        ("text", []),
        ((A, [B, None, 3], {"c": C}), [A, B, C]),
        (OrderedDict(out=B, aux=A), [B, A]),
        ({"out": B, "aux": A}, [B, A]),
        (Pair(C, A), [C, A]),
        (Boxes(A, [B, C]), [A, B, C]),
        ([Boxes(A, [B]), C], [A, B, C]),
    ],
)
def test_all_tensors_in_order(tree: Any, expected: list[Tensor]) -> None:
    found = tensors_of(tree)
    assert [id(tensor) for tensor in found] == [id(tensor) for tensor in expected]


def test_a_task_is_whatever_has_the_attributes() -> None:
    assert isinstance(DataTask(Minus, X), Task)
    assert not isinstance(Minus(), Task)


def test_checking_inputs_changes_nothing() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5)).train()
    model[1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    check_inputs(model, X)
    assert [module.training for module in model.modules()] == [True, True, False, True]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        (torch.ones(2, 5), ("(2, 5)", "RuntimeError")),
        ((torch.ones(2, 3), 7), ("(2, 3)", "TypeError")),
        ({"y": torch.ones(4)}, ("(4,)", "TypeError")),
        ("text", ("no tensor",)),
    ],
)
def test_inputs_that_do_not_fit_are_told_in_one_line(inputs: Any, words: tuple[str, ...]) -> None:
    model = nn.Linear(3, 4).train()
    with pytest.raises(InputError) as caught:
        check_inputs(model, inputs)
    message = str(caught.value)
    assert message.startswith("example_inputs: Linear must accept them") and message.isprintable()
    for word in words:
        assert word in message
    assert model.training


def scored(output: Tensor, labels: Any) -> float:
    task = DataTask(nn.Identity, output, holdout=[(output, labels)])
    (value,) = task.evaluate(nn.Identity(), "holdout").values()
    loss = task.loss(nn.Identity(), (output, labels))
    assert loss is not None and loss.dim() == 0 and task.metric in task.evaluate(nn.Identity(), "holdout")
    return value


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8, torch.bool])
def test_classes_of_any_whole_type(dtype: torch.dtype) -> None:
    assert scored(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]), torch.tensor([0, 1, 0]).to(dtype)) == 2 / 3


@pytest.mark.parametrize("shape", [(2,), (2, 1), (1, 2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_numbers_are_not_broadcast(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    assert scored(torch.tensor([1.0, 3.0]), torch.tensor([1.0, 5.0], dtype=dtype).view(shape)) == -2


@pytest.mark.parametrize(
    ("batch", "words"),
    [
        ((torch.ones(2, 3), torch.tensor([0, 3])), ("from 0 to 2", "got 3")),
        ((torch.ones(2, 3), torch.tensor([-1, 0])), ("from 0 to 2", "got -1")),
        ((torch.ones(2, 3), torch.tensor([[0], [1]])), ("(2, 1)", "(2, 3)")),
        ((torch.ones(2), torch.tensor([0, 1])), ("(2,)", "(N, classes, ...)")),
        ((torch.ones(2, 3), torch.ones(2)), ("(2,)", "(2, 3)", "reshape")),
        ((torch.ones(2, 3), [{"boxes": 1}]), ("labels must be a tensor", "list", "squeeze.Task")),
        ((torch.ones(2, 3), torch.ones(2), torch.ones(2)), ("3 parts",)),
        ((torch.tensor(1.0), torch.tensor([1])), ("a row a sample", "a single number")),
    ],
)
def test_batches_that_do_not_fit_are_told_in_one_line(batch: Any, words: tuple[str, ...]) -> None:
    model = nn.Sequential(nn.Identity())
    task = DataTask(nn.Identity, X, holdout=[batch])
    for judge in (lambda: task.loss(model, batch), lambda: task.evaluate(model, "holdout")):
        with pytest.raises(InputError) as caught:
            judge()
        assert str(caught.value).startswith("data: ") and str(caught.value).isprintable()
        for word in words:
            assert word in str(caught.value)
        assert model.training


def test_the_metric_is_known_from_any_labels_and_draws_no_random_number() -> None:
    classes, numbers = (X, torch.tensor([0, 1])), (X, X)
    state = torch.get_rng_state()
    assert DataTask(nn.Identity, X, train=[numbers]).metric == "negative_error"
    assert DataTask(nn.Identity, X, train=[numbers], test=[classes]).metric == "accuracy"
    assert DataTask(nn.Identity, X, holdout=[X], test=[numbers]).metric == "negative_error"
    assert DataTask(nn.Identity, X).metric == "accuracy"
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X, X), shuffle=True)
    assert DataTask(nn.Identity, X, train=loader).metric == "negative_error"
    assert torch.equal(torch.get_rng_state(), state)


def test_features_have_two_dims() -> None:
    class Many(nn.Module):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"out": x, "aux": x * 0}

    task = DataTask(Many, X)
    assert torch.equal(task.features(Many(), (torch.ones(2, 3, 4), X)), torch.ones(2, 12))
    assert torch.equal(task.features(nn.Identity(), torch.ones(5)), torch.ones(5, 1))
