"""Any form of data becomes a task, and what is held out is always the same and never trained on."""

from collections.abc import Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from squeeze.data_task import DataTask, as_task, held_out, split_batch
from squeeze.errors import InputError

X = torch.arange(100.0).view(100, 1).repeat(1, 3)
"""Sample i holds the number i."""
Y = torch.arange(100) % 4


class Rows(Dataset):
    def __len__(self) -> int:
        return 100

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return X[index], int(Y[index])


class Stream(IterableDataset):
    def __iter__(self) -> Any:
        return iter([X[i] for i in range(100)])


def numbers(batches: Iterable[Any]) -> list[int]:
    """Which samples some batches hold, in order."""
    rows = [split_batch(batch)[0] for batch in batches]
    rows = [row["x"] if isinstance(row, dict) else row for row in rows]
    return [int(value) for row in rows for value in row[:, 0]]


FORMS = {
    "loader": lambda: DataLoader(TensorDataset(X, Y), batch_size=7, shuffle=True),
    "ordered loader": lambda: DataLoader(TensorDataset(X, Y), batch_size=7),
    "data set": Rows,
    "pair": lambda: (X, Y),
    "tensor": lambda: X,
    "batches": lambda: [(X[i : i + 5], Y[i : i + 5]) for i in range(0, 100, 5)],
    "batches without labels": lambda: [X[i : i + 5] for i in range(0, 100, 5)],
    "batches of one": lambda: [(X[i : i + 5],) for i in range(0, 100, 5)],
    "dicts": lambda: [{"x": X[i : i + 5], "labels": Y[i : i + 5]} for i in range(0, 100, 5)],
    "stream": lambda: DataLoader(Stream(), batch_size=5),
}


@pytest.mark.parametrize("form", FORMS)
def test_nine_tenths_are_trained_on_and_one_is_held_out(form: str) -> None:
    train, holdout = held_out(FORMS[form]())
    kept, held = numbers(train), numbers(holdout)
    assert sorted([*kept, *held]) == list(range(100))
    assert len(held) == 10


@pytest.mark.parametrize("form", FORMS)
def test_what_is_held_out_is_always_the_same(form: str) -> None:
    train, holdout = held_out(FORMS[form]())
    first = (sorted(numbers(train)), numbers(holdout))
    torch.manual_seed(99)
    torch.rand(3)
    assert (sorted(numbers(train)), numbers(holdout)) == first
    again, held_again = held_out(FORMS[form]())
    assert (sorted(numbers(again)), numbers(held_again)) == first


def test_a_loaders_own_settings_are_kept() -> None:
    def twice(rows: list[Any]) -> tuple[Tensor, Tensor]:
        return torch.stack([2 * x for x, _ in rows]), torch.stack([y for _, y in rows])

    loader = DataLoader(TensorDataset(X, Y), batch_size=7, shuffle=True, drop_last=True, collate_fn=twice)
    train, holdout = held_out(loader)
    batches = [x for x, _ in train]
    assert [len(x) for x in batches] == [7] * 12
    assert all((x % 2 == 0).all() for x in batches)
    assert numbers(train) != numbers(train)
    assert len(numbers(holdout)) == 10
    ordered, _ = held_out(DataLoader(TensorDataset(X, Y), batch_size=7))
    assert numbers(ordered) == sorted(numbers(ordered))


@pytest.mark.parametrize("data", [iter([X]), (x for x in [X]), 3, zip([X], [Y], strict=True), map(len, [])])
def test_what_can_be_read_only_once_is_refused(data: Any) -> None:
    with pytest.raises(InputError, match="^data: must .*; pass "):
        as_task(nn.Linear(3, 4), data)


def test_a_task_stays_as_it_is() -> None:
    task = DataTask(lambda: nn.Linear(3, 4), X[:1])
    assert as_task(nn.Linear(3, 4), task) is task


@pytest.mark.parametrize("form", FORMS)
def test_example_inputs_are_one_sample_of_the_data(form: str) -> None:
    model = Named() if form == "dicts" else nn.Linear(3, 4)
    inputs = as_task(model, FORMS[form]()).example_inputs
    row = inputs["x"] if isinstance(inputs, dict) else inputs
    assert row.shape == (1, 3) and row[0, 0] in X


def test_example_inputs_that_are_given_count() -> None:
    given = torch.ones(5, 3)
    assert as_task(nn.Linear(3, 4), X, given).example_inputs is given
    assert as_task(nn.Linear(3, 4), None, given).example_inputs is given


@pytest.mark.parametrize("data", [None, []])
def test_without_data_inputs_are_needed(data: Any) -> None:
    with pytest.raises(InputError, match="^example_inputs: must "):
        as_task(nn.Linear(3, 4), data)


def test_the_dense_model_is_the_given_one_as_it_was() -> None:
    model = nn.Linear(3, 4)
    before = model.weight.detach().clone()
    task = as_task(model, X)
    with torch.no_grad():
        model.weight.zero_()
    first, second = task.build(), task.build()
    assert torch.equal(first.weight, before) and first is not second
    with torch.no_grad():
        first.weight.zero_()
    assert torch.equal(second.weight, before)


def test_accuracy_by_hand() -> None:
    logits = torch.tensor([[2.0, 1.0], [0.0, 3.0], [5.0, 4.0], [1.0, 9.0], [1.0, 0.0]])
    labels = torch.tensor([0, 1, 1, 1, 1])  # right, right, wrong, right, wrong
    batches = [(logits[:2], labels[:2]), (logits[2:], labels[2:])]
    task = DataTask(nn.Identity, logits, (), batches, batches[:1])
    assert task.evaluate(nn.Identity(), "holdout") == {"accuracy": 0.6}
    assert task.evaluate(nn.Identity(), "test") == {"accuracy": 1.0}
    assert task.metric == "accuracy"


def test_accuracy_of_maps_counts_each_sample_once() -> None:
    logits = torch.zeros(2, 3, 2, 2)
    logits[:, 1] = 1.0
    labels = torch.tensor([[[1, 1], [1, 1]], [[1, 0], [0, 0]]])
    task = DataTask(nn.Identity, logits, (), [(logits, labels)])
    assert task.evaluate(nn.Identity(), "holdout") == {"accuracy": (1 + 0.25) / 2}


def test_regression_by_hand() -> None:
    outputs, targets = torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    task = DataTask(nn.Identity, outputs, [(outputs, targets)], [(outputs, targets)])
    assert task.metric == "negative_error"
    assert task.evaluate(nn.Identity(), "holdout") == {"negative_error": -(4 / 2 + 2 / 2) / 2}
    assert task.loss(nn.Identity(), (outputs, targets)) == (4 + 1 + 1) / 4


def test_targets_without_the_last_dim_fit_one_output() -> None:
    outputs, targets = torch.tensor([[1.0], [3.0]]), torch.tensor([2.0, 3.0])
    task = DataTask(nn.Identity, outputs, (), [(outputs, targets)])
    assert task.loss(nn.Identity(), (outputs, targets)) == 0.5
    assert task.evaluate(nn.Identity(), "holdout") == {"negative_error": -0.5}


def test_cross_entropy_by_hand() -> None:
    logits, labels = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0])
    expected = (torch.log1p(torch.tensor(-2.0).exp()) + torch.log1p(torch.tensor(1.0).exp())) / 2
    loss = DataTask(nn.Identity, logits).loss(nn.Identity(), (logits, labels))
    assert loss is not None and torch.allclose(loss, expected)


def test_without_labels_there_is_no_loss_and_no_metric() -> None:
    task = as_task(nn.Linear(3, 4), X)
    batch = next(iter(task.train_batches(0)))
    assert task.loss(nn.Linear(3, 4), batch) is None
    assert task.evaluate(nn.Linear(3, 4), "holdout") == {} == task.evaluate(nn.Linear(3, 4), "test")
    assert task.features(nn.Linear(3, 4), batch).shape == (len(batch[0]), 4)


class Named(nn.Module):
    """Wants keywords, returns a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 4)

    def forward(self, *, x: Tensor) -> dict[str, Tensor]:
        return {"logits": self.linear(x)}


def test_dicts_are_keywords_and_their_labels_are_labels() -> None:
    model = Named()
    task = as_task(model, FORMS["dicts"]())
    batch = {"x": X[:5], "labels": Y[:5]}
    loss = task.loss(model, batch)
    assert loss is not None and torch.equal(loss, functional.cross_entropy(model.linear(X[:5]), Y[:5]))
    assert torch.equal(task.features(model, batch), model.linear(X[:5]))
    assert set(task.evaluate(model, "holdout")) == {"accuracy"}


def test_evaluating_leaves_modes_and_gradients_alone() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5)).train()
    model[2].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    as_task(model, (X, Y)).evaluate(model, "holdout")
    assert [m.training for m in model.modules()] == [True, True, True, False]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("what", ["loss", "features", "evaluate"])
def test_data_of_another_shape_is_told_in_one_line(what: str) -> None:
    task = DataTask(lambda: nn.Linear(5, 4), torch.ones(1, 5), (), [(X[:10], Y[:10])])
    model, batch = task.build(), (X[:7], Y[:7])
    with pytest.raises(InputError) as caught:
        task.evaluate(model, "holdout") if what == "evaluate" else getattr(task, what)(model, batch)
    message = str(caught.value)
    assert message.startswith("data: batches must fit Linear") and message.isprintable()
    assert ("(10, 3)" if what == "evaluate" else "(7, 3)") in message


@pytest.mark.parametrize("labels", [torch.tensor([0, 9]), torch.zeros(2, 3), torch.zeros(3, dtype=torch.long)])
def test_labels_that_do_not_fit_are_told_in_one_line(labels: Tensor) -> None:
    with pytest.raises(InputError) as caught:
        DataTask(lambda: nn.Linear(3, 4), X[:1]).loss(nn.Linear(3, 4), (X[:2], labels))
    assert str(caught.value).startswith("data: ") and str(caught.value).isprintable()
