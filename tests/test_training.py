"""The loop against a loop written out by hand, and against what can go wrong."""

import math
import os
import random
import signal
import threading
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from squeeze import checkpoint
from squeeze.errors import ArtifactError, InputError, TrainingError
from squeeze.training import Run, train
from tests.tasks import ToyTask, noise_task, tiny_net


@dataclass
class Classifier:
    """SGD on a toy task; `at` calls a function before a step, counted from 0."""

    task: ToyTask
    net: nn.Module = field(default_factory=tiny_net)
    lr: float = 0.05
    at: dict = field(default_factory=dict)
    steps: int = 0
    accumulate: int = 1

    def __post_init__(self):
        self.modules = {"net": self.net}
        self.optimizers = {"sgd": torch.optim.SGD(self.net.parameters(), self.lr, momentum=0.9)}

    def start_epoch(self, epoch):
        self.net.train()
        self.optimizers["sgd"].param_groups[0]["lr"] = self.lr / (1 + epoch)

    def step(self, update):
        self.at.get(self.steps, lambda: None)()
        self.steps += 1
        self.optimizers["sgd"].zero_grad()
        scalars = []
        for part in update.parts:
            with update.running(part):
                loss = self.task.loss(self.net, part.batch)
            update.backward(loss, part)
            scalars.append({"loss": loss.item()})
        update.step(self.optimizers["sgd"])
        return update.mean(scalars)

    def end_epoch(self, epoch):
        return {"draw": torch.rand(()).item()}

    def state_dict(self):
        return {"steps": self.steps}

    def load_state_dict(self, state):
        self.steps = state["steps"]


def learner(**options):
    torch.manual_seed(7)
    return Classifier(noise_task(), **options)


def weights(learner):
    return torch.cat([value.double().reshape(-1) for value in learner.net.state_dict().values()])


@pytest.fixture(autouse=True)
def ctrl_c():
    """A shell that starts the tests in the background has Ctrl-C ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def interrupt():
    os.kill(os.getpid(), signal.SIGINT)


def path_of(folder, name="toy"):
    return folder / "checkpoints" / f"{name}.safetensors"


def test_trains_as_a_loop_by_hand_would():
    task = replace(noise_task(), augment=False)
    a, b = Classifier(task, tiny_net(dropout=0)), Classifier(task, tiny_net(dropout=0))
    b.net.load_state_dict(a.net.state_dict())
    history = train(a, task.train_batches, 2, Run(), "toy")
    for epoch in range(2):
        b.start_epoch(epoch)
        losses = []
        for batch in task.train_batches(epoch):
            loss = task.loss(b.net, batch)
            b.optimizers["sgd"].zero_grad()
            loss.backward()
            b.optimizers["sgd"].step()
            losses.append(loss.item())
        assert history[epoch]["loss"] == pytest.approx(np.mean(losses))
    assert torch.equal(weights(a), weights(b))


def test_same_seed_same_result_and_nothing_drawn_from_the_caller():
    results = []
    for seed, disturbance in ((1, 0), (1, 99), (2, 0)):
        subject = learner()
        random.seed(disturbance), np.random.seed(disturbance), torch.manual_seed(disturbance)
        expected = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
        history = train(subject, subject.task.train_batches, 1, Run(seed=seed), "toy")
        results.append((weights(subject).tolist(), history))
        assert expected == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
    assert results[0] == results[1] != results[2]


def test_epochs_and_phases_see_different_random_numbers():
    subject = learner()
    draws = [
        entry["draw"] for name in ("a", "b") for entry in train(subject, subject.task.train_batches, 2, Run(), name)
    ]
    assert len(set(draws)) == 4


@pytest.mark.parametrize("steps", [1, 3, 4, 5, 11])
def test_interrupted_anywhere_and_resumed_is_bit_for_bit_the_same(tmp_path, steps):
    whole = learner()
    history = train(whole, whole.task.train_batches, 3, Run(), "toy")
    first = learner(at={steps: interrupt})
    with pytest.raises(KeyboardInterrupt, match="resume the run"):
        train(first, first.task.train_batches, 3, Run(tmp_path), "toy")
    second = learner(net=tiny_net())
    assert train(second, second.task.train_batches, 3, Run(tmp_path, resume=True), "toy") == history
    assert torch.equal(weights(second), weights(whole)) and second.steps == whole.steps
    assert first.steps == steps + 1, "the step in which Ctrl-C came was finished, and none after it"


def test_interrupted_after_the_last_update_of_an_epoch_which_has_fewer_batches_it_resumes(tmp_path):
    whole = learner(accumulate=3)
    assert len(list(whole.task.train_batches(0))) % 3
    history = train(whole, whole.task.train_batches, 2, Run(), "toy")
    last = whole.steps // 2 - 1
    with pytest.raises(KeyboardInterrupt, match=f"after step {last + 1}"):
        first = learner(accumulate=3, at={last: interrupt})
        train(first, first.task.train_batches, 2, Run(tmp_path), "toy")
    second = learner(net=tiny_net(), accumulate=3)
    assert train(second, second.task.train_batches, 2, Run(tmp_path, resume=True), "toy") == history
    assert torch.equal(weights(second), weights(whole))


def test_a_second_ctrl_c_does_not_wait_and_writes_no_torn_state(tmp_path):
    def twice():
        interrupt()
        interrupt()

    subject = learner(at={5: twice})
    with pytest.raises(KeyboardInterrupt, match="epoch 2, step 0"):
        train(subject, subject.task.train_batches, 2, Run(tmp_path), "toy")
    assert checkpoint.load(path_of(tmp_path))["at"]["total"] == 4
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_without_a_folder_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    subject = learner(at={2: interrupt})
    with pytest.raises(KeyboardInterrupt, match="nothing was saved"):
        train(subject, subject.task.train_batches, 1, Run(), "toy")
    assert list(tmp_path.iterdir()) == []


def test_trains_in_a_thread():
    subject, results = learner(), []
    thread = threading.Thread(
        target=lambda: results.append(train(subject, subject.task.train_batches, 1, Run(), "toy"))
    )
    thread.start()
    thread.join()
    assert len(results) == 1 and math.isfinite(results[0][0]["loss"])


def test_finished_phase_returns_at_once_with_its_state(tmp_path):
    done = learner()
    history = train(done, done.task.train_batches, 2, Run(tmp_path), "toy")

    def no_batches(epoch):
        raise AssertionError("nothing is left to train")

    again = learner(net=tiny_net())
    assert train(again, no_batches, 2, Run(tmp_path, resume=True), "toy") == history
    assert torch.equal(weights(again), weights(done))


def test_a_fresh_run_forgets_the_checkpoint_of_an_earlier_one(tmp_path):
    old = learner()
    train(old, old.task.train_batches, 1, Run(tmp_path), "toy")
    fresh = learner(at={0: lambda: (_ for _ in ()).throw(RuntimeError("killed"))})
    with pytest.raises(RuntimeError, match="killed"):
        train(fresh, fresh.task.train_batches, 1, Run(tmp_path), "toy")
    assert not path_of(tmp_path).exists()


@pytest.mark.parametrize("seconds", [0.0, 1e9])
def test_checkpoints_within_an_epoch(tmp_path, seconds):
    found = []
    subject = learner(at={3: lambda: found.append(path_of(tmp_path).exists())})
    train(subject, subject.task.train_batches, 1, Run(tmp_path, checkpoint_seconds=seconds), "toy")
    assert found == [seconds == 0]


def test_bad_loss_stops_and_keeps_the_last_good_checkpoint(tmp_path):
    subject = learner()
    subject.at[6] = lambda: subject.net[0].weight.data.fill_(math.nan)
    with pytest.raises(
        TrainingError, match=r"toy: loss must be finite, got nan at step 3 of epoch 2; lower.*safetensors"
    ):
        train(subject, subject.task.train_batches, 3, Run(tmp_path, checkpoint_seconds=0), "toy")
    kept = checkpoint.load(path_of(tmp_path))
    assert kept["at"]["total"] == 6 and all(v.isfinite().all() for v in kept["modules"]["net"].values())


def test_bad_parameter_is_never_written(tmp_path):
    subject = learner()
    spoil = subject.end_epoch
    subject.end_epoch = lambda epoch: (subject.net[-1].bias.data.fill_(math.inf) if epoch else None, spoil(epoch))[1]
    with pytest.raises(TrainingError, match=r"parameter net\.9\.bias must be finite"):
        train(subject, subject.task.train_batches, 3, Run(tmp_path), "toy")
    assert checkpoint.load(path_of(tmp_path))["at"]["epoch"] == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"net": tiny_net(4)}, r"net\.0\.weight \(\(4, 1, 3, 3\).*\(\(8, 1, 3, 3\)"),
        ({"epochs": 5}, "epochs 5, got 2"),
        ({"seed": 1}, "seed 1, got 0"),
        ({"size": 80}, "4 batches in epoch 1, got 2, so other data"),
    ],
)
def test_checkpoint_of_another_run(tmp_path, change, words):
    subject = learner(at={3: interrupt})
    with pytest.raises(KeyboardInterrupt):
        train(subject, subject.task.train_batches, 2, Run(tmp_path), "toy")
    other = Classifier(noise_task(change.get("size", 160)), change.get("net", tiny_net()))
    with pytest.raises(TrainingError, match=words):
        run = Run(tmp_path, seed=change.get("seed", 0), resume=True)
        train(other, other.task.train_batches, change.get("epochs", 2), run, "toy")


def test_checkpoint_with_a_state_that_cannot_be(tmp_path):
    subject = learner()
    train(subject, subject.task.train_batches, 1, Run(tmp_path), "toy")
    good = checkpoint.load(path_of(tmp_path))
    odd = "\u202e" * 5000
    impossible = ({"at": {"epoch": "x"}}, {"optimizers": {"sgd": {}}}, {"learner": []}, {"modules": None})
    for bad in (*impossible, {"accumulate": odd}, {"modules": {"net": {odd: good["random"]["torch"]}}}):
        checkpoint.save(path_of(tmp_path), {**good, **bad})
        with pytest.raises(TrainingError, match="start over") as caught:
            train(learner(), subject.task.train_batches, 1, Run(tmp_path, resume=True), "toy")
        assert str(caught.value).isprintable() and len(str(caught.value)) < 1000
    path_of(tmp_path).write_bytes(b"no checkpoint")
    with pytest.raises(ArtifactError):
        train(learner(), subject.task.train_batches, 1, Run(tmp_path, resume=True), "toy")


def test_no_data():
    with pytest.raises(InputError, match="gal: needs data"):
        train(learner(), lambda epoch: [], 1, Run(), "gal")


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "run").write_text("a file")
    subject = learner()
    with pytest.raises(InputError, match="run"):
        train(subject, subject.task.train_batches, 1, Run(tmp_path / "run"), "toy")


def test_tensorboard_shows_every_step_once_even_after_a_kill(tmp_path):
    subject = learner(at={6: lambda: (_ for _ in ()).throw(RuntimeError("killed"))})
    with pytest.raises(RuntimeError, match="killed"):
        train(subject, subject.task.train_batches, 2, Run(tmp_path), "toy")
    train(learner(), subject.task.train_batches, 2, Run(tmp_path, resume=True), "toy")
    events = EventAccumulator(str(tmp_path / "tensorboard" / "toy")).Reload()
    assert [event.step for event in events.Scalars("step/loss")] == list(range(1, 9))
    assert [event.step for event in events.Scalars("epoch/loss")] == [4, 8]


def test_progress_goes_to_standard_error_unless_quiet(capsys):
    for quiet in (True, False):
        subject = learner()
        train(subject, subject.task.train_batches, 1, Run(quiet=quiet), "toy")
        out, err = capsys.readouterr()
        assert out == "" and ("toy" in err) is not quiet
