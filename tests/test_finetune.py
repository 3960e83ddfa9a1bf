"""Fine-tuning learns, keeps its best epoch, and keeps its hands off everything else."""

import copy
import math
from contextlib import contextmanager

import pytest
import torch

from squeeze.errors import InputError, TrainingError
from squeeze.finetune import FineTune, finetune
from squeeze.training import Run
from tests.tasks import digits_task, noise_task, tiny_net

SHORT = FineTune(epochs=2, lr=0.05)


@pytest.fixture(scope="module")
def taught():
    """A net that knows the digits, and the task."""
    torch.manual_seed(3)
    task = digits_task()
    net, history = finetune(tiny_net(dropout=0), None, task, FineTune(epochs=10, lr=0.1, distill=0), (), Run())
    assert history[-1]["holdout_accuracy"] > 0.85
    return net, task


def test_learns_from_a_teacher_without_labels(taught):
    teacher, task = taught
    student, history = finetune(
        tiny_net(dropout=0), teacher, digits_task(labelled=False), FineTune(epochs=10, lr=0.1), (), Run()
    )
    assert task.evaluate(student, "holdout")["accuracy"] > 0.8
    assert set(history[0]) == {"loss", "distill", "lr"} and history[-1]["distill"] < history[0]["distill"] / 2


@pytest.mark.parametrize(
    ("schedule", "scores", "best"),
    [
        *(("step", [0.1, 0.1, 0.9, 0.2], 2), ("step", [0.1, 0.1, 0.5, 0.5], 3), ("step", [], 3)),
        # At the full rate an epoch is good by luck.
        *(("step", [0.1, 0.9, 0.3, 0.2], 2), ("cosine", [0.1, 0.9, 0.9, 0.2], 3), ("cosine", [0.7], 0)),
        ("cosine", [0.9] * 15 + [0.3, 0.4, 0.1, 0.2, 0.3], 16),
    ],
)
def test_keeps_the_best_of_the_calm_epochs_and_never_looks_at_the_test_set(schedule, scores, best):
    task, left, seen = noise_task(), list(scores), []

    def evaluate(model, split):
        assert split == "holdout" and not model.training
        seen.append(copy.deepcopy(model.state_dict()))
        return {"accuracy": left.pop(0)} if scores else {}

    task.evaluate = evaluate
    settings = FineTune(epochs=len(scores) or 4, lr=0.05, schedule=schedule)
    model, history = finetune(tiny_net(), None, task, settings, (), Run())
    assert not model.training and len(history) == settings.epochs
    assert all(torch.equal(value, seen[best][name]) for name, value in model.state_dict().items())


def test_teacher_is_left_alone():
    task, teacher = noise_task(), tiny_net()
    teacher[4].eval()
    before, modes = copy.deepcopy(teacher.state_dict()), [m.training for m in teacher.modules()]
    finetune(tiny_net(), teacher, task, SHORT, (), Run())
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert [m.training for m in teacher.modules()] == modes
    assert all(p.requires_grad and p.grad is None for p in teacher.parameters())


def test_objectives_nest_and_stay_open_while_training():
    task, model, log = noise_task(), tiny_net(), []

    def objective(name):
        @contextmanager
        def opened(given, loss):
            assert given is model
            log.append(f"open {name}")

            def outer(model, batch):
                log.append(name)
                return loss(model, batch)

            yield outer
            log.append(f"close {name}")

        return opened

    settings = FineTune(epochs=1, distill=0)
    finetune(model, None, task, settings, [objective("first"), objective("second")], Run())
    assert log == ["open first", "open second", *["second", "first"] * 4, "close second", "close first"]


def test_decay_spares_biases_and_normalisations():
    task, model = noise_task(), tiny_net()
    task.loss = lambda model, batch: 0 * sum(p.sum() for p in model.parameters())
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    finetune(model, None, task, FineTune(epochs=1, lr=0.1, weight_decay=0.1, distill=0), (), Run())
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {"0.weight", "3.weight", "9.weight"}


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("schedule", ["cosine", "step"])
def test_learning_rate_over_time(schedule, known):
    task = noise_task()
    source = task.train_batches
    task.train_batches = lambda epoch: list(source(epoch)) if known else source(epoch)
    settings = FineTune(epochs=8, lr=0.1, schedule=schedule, warmup=3, distill=0)
    _, history = finetune(tiny_net(), None, task, settings, (), Run())
    rates = [entry["lr"] for entry in history]
    if schedule == "step":
        assert rates[1:] == pytest.approx([0.1] * 3 + [0.01] * 2 + [0.001] * 2)
    else:
        expected = [0.05 * (1 + math.cos(math.pi * (epoch + 3 / 8) / 8)) for epoch in range(8)]
        assert rates[1:] == pytest.approx(expected[1:], abs=1e-3)
    assert rates[0] < 0.09, "warm-up"


def test_frozen_parameters_stay():
    model = tiny_net()
    model[0].weight.requires_grad_(False)
    before = model[0].weight.clone()
    finetune(model, None, noise_task(), SHORT, (), Run())
    assert torch.equal(model[0].weight, before)
    with pytest.raises(InputError, match="a parameter to train"):
        finetune(model.requires_grad_(False), None, noise_task(), SHORT, (), Run())


def test_no_epochs_no_change():
    model = tiny_net()
    before = copy.deepcopy(model.state_dict())
    assert finetune(model, None, noise_task(), FineTune(epochs=0), (), Run()) == (model, [])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_bad_input():
    task = noise_task()
    task.metric = "f1"
    with pytest.raises(InputError, match=r"'f1', got \['accuracy'\]"):
        finetune(tiny_net(), None, task, SHORT, (), Run())
    task.train_batches = lambda epoch: ()
    with pytest.raises(InputError, match="finetune: needs data"):
        finetune(tiny_net(), None, task, SHORT, (), Run())
    with pytest.raises(InputError, match="labels or a teacher"):
        finetune(tiny_net(), None, noise_task(labelled=False), SHORT, (), Run())


def test_resumed_with_other_settings(tmp_path):
    finetune(tiny_net(), None, noise_task(), SHORT, (), Run(tmp_path))
    with pytest.raises(TrainingError, match="lr must be 0.05 as when the run began, got 0.1"):
        finetune(tiny_net(), None, noise_task(), FineTune(epochs=2, lr=0.1), (), Run(tmp_path, resume=True))


def test_finished_run_gives_its_best_epoch_again(tmp_path):
    first, history = finetune(tiny_net(), None, noise_task(), SHORT, (), Run(tmp_path))
    again, same = finetune(tiny_net(), None, noise_task(), SHORT, (), Run(tmp_path, resume=True))
    assert history == same
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in first.state_dict().items())


@pytest.mark.parametrize(
    "bad",
    [
        *({"epochs": -1}, {"epochs": 1.5}, {"epochs": True}, {"lr": 0}, {"lr": math.nan}, {"momentum": 1}),
        *({"weight_decay": -1}, {"distill": -0.1}, {"temperature": 0}, {"schedule": "linear"}, {"divergence": "l1"}),
        {"warmup": -1},
    ],
)
def test_settings_that_cannot_be(bad):
    with pytest.raises(ValueError, match=f"FineTune: {next(iter(bad))} must be"):
        FineTune(**bad)
