"""An update of several batches is one of their union; precision; what can be divided."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.amp import GradScaler

from squeeze.errors import InputError, TrainingError
from squeeze.finetune import FineTune, finetune
from squeeze.passes.gal import GAL
from squeeze.structure.trace import trace
from squeeze.training import Run
from squeeze.updates import Precision, Update, rows
from tests.many import carried_out, normless_net
from tests.tasks import digits_task, noise_task, tiny_net

CPU = torch.device("cpu")


@pytest.mark.parametrize("phase", ["tuned", "searched"])
def test_accumulated_batches_are_one_batch(phase):
    whole, accumulated = (carried_out(f"{phase}-{how}", Run()) for how in ("whole", "accumulated"))
    assert whole.keys() == accumulated.keys()
    for name, value in whole.items():
        torch.testing.assert_close(
            value, accumulated[name], rtol=1e-4, atol=1e-6, msg=lambda text, name=name: name + text
        )


def test_batch_norm_counts_every_batch_once():
    task = replace(noise_task(), batch=16, augment=False)
    net = tiny_net(dropout=0)
    GALED = GAL(macs=0.5, epochs=1, accumulate=4, lr_generator=1e-4)
    found = GALED.search(net, trace(net, task.example_inputs), task, Run())
    assert found.model[1].num_batches_tracked == 8


def test_resumes_only_with_the_same_number_of_batches(tmp_path):
    finetune(tiny_net(), None, noise_task(), FineTune(epochs=1), (), Run(tmp_path))
    with pytest.raises(TrainingError, match="must hold accumulate 2, got 1"):
        finetune(tiny_net(), None, noise_task(), FineTune(epochs=1, accumulate=2), (), Run(tmp_path, resume=True))


def test_resumes_only_in_the_same_precision(tmp_path):
    finetune(tiny_net(), None, noise_task(), FineTune(epochs=1), (), Run(tmp_path))
    with pytest.raises(TrainingError, match="must hold precision bf16, got no"):
        finetune(tiny_net(), None, noise_task(), FineTune(epochs=1), (), Run(tmp_path, resume=True, precision="bf16"))


class Watched(nn.Module):
    """Notes in which precision it runs."""

    def __init__(self, net):
        super().__init__()
        self.net, self.seen = net, []

    def forward(self, x):
        y = self.net(x)
        if self.training:
            self.seen.append(y.dtype)
        return y


def test_bfloat16_learns_as_well():
    task = digits_task()
    net = Watched(tiny_net(dropout=0))
    _, history = finetune(net, None, task, FineTune(epochs=8, lr=0.1, distill=0), (), Run(precision="bf16"))
    assert set(net.seen) == {torch.bfloat16}
    assert all(p.dtype is torch.float32 for p in net.parameters())
    assert history[-1]["holdout_accuracy"] > 0.8


def test_bfloat16_masks_are_nearly_those_of_float32():
    masks = []
    for precision in ("no", "bf16"):
        torch.manual_seed(0)
        net, task = normless_net(), replace(noise_task(), augment=False)
        gal = GAL(lambda_=0.05, epochs=2, lr_generator=1e-3)
        found = gal.search(net, trace(net, task.example_inputs), task, Run(precision=precision))
        masks.append(torch.tensor([v for part in found.history["masks"]["filters"].values() for v in part]))
    assert not torch.equal(*masks)
    torch.testing.assert_close(*masks, rtol=0.02, atol=0.02)


def test_precision_is_what_accelerate_was_told(monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    assert (Precision(None, CPU).kind, Precision("no", CPU).kind) == ("bf16", "no")


def test_precision_that_is_not_there():
    with pytest.raises(InputError, match="no or bf16 on a CPU, got fp16"):
        finetune(tiny_net(), None, noise_task(), FineTune(epochs=1), (), Run(precision="fp16"))
    with pytest.raises(InputError, match="must be no, bf16, fp16, got 'fp8'"):
        Precision("fp8", CPU)


def scaled_precision(scale):
    """As on a GPU in fp16, but with numbers that a CPU has."""
    precision = Precision("no", CPU)
    precision.scaler = GradScaler("cpu", init_scale=scale)
    return precision


def test_scaled_gradients_move_as_plain_ones_do_and_overflow_moves_nothing():
    net, x = nn.Linear(3, 1), torch.randn(8, 3)
    moved = []
    for scale in (None, 2.0**10, torch.finfo(torch.float32).max):
        subject = copy.deepcopy(net)
        sgd = torch.optim.SGD(subject.parameters(), 0.1)
        precision = Precision("no", CPU) if scale is None else scaled_precision(scale)
        update = Update([x[:4], x[4:]], precision)
        for part in update.parts:
            update.backward(100 * subject(part.batch).square().mean(), part)
        update.step(sgd)
        update.finish()
        moved.append(subject.weight.detach())
    torch.testing.assert_close(moved[1], moved[0])
    assert torch.equal(moved[2], net.weight) and not torch.equal(moved[0], net.weight)
    assert precision.state_dict()["scale"] < torch.finfo(torch.float32).max


def test_scaler_survives_a_checkpoint():
    before, after = scaled_precision(8.0), scaled_precision(2.0)
    after.load_state_dict(before.state_dict())
    assert after.scaler.get_scale() == 8.0


@pytest.mark.parametrize(
    ("batch", "size"),
    [
        (torch.zeros(4, 3), 4),
        ((torch.zeros(4, 3), torch.zeros(4)), 4),
        ([{"ids": torch.zeros(2, 5), "texts": ["a", "b"]}, {"labels": torch.zeros(2), "scale": torch.tensor(3.0)}], 2),
    ],
)
def test_rows(batch, size):
    assert rows(batch) == size


@pytest.mark.parametrize("batch", [(torch.zeros(4), torch.zeros(3)), torch.tensor(1.0), ["a", "b"], None])
def test_batches_without_rows(batch):
    with pytest.raises(InputError, match="one row a sample"):
        rows(batch)


def test_any_batch_is_whole_in_one_process():
    batch = ([torch.zeros(3, 4), torch.zeros(3, 5)], None)
    (part,) = Update([batch], Precision("no", CPU)).parts
    assert part.share == 1.0 and [t.shape for t in part.batch[0]] == [(3, 4), (3, 5)]


def test_rows_are_shared_out(monkeypatch):
    batch = {"x": torch.arange(5), "texts": list("abcde"), "scale": torch.tensor(2.0)}
    monkeypatch.setattr("squeeze.processes.count", lambda: 3)
    seen, shares = [], []
    for rank in range(3):
        monkeypatch.setattr("squeeze.processes.rank", lambda rank=rank: rank)
        (part,) = Update([batch], Precision("no", CPU)).parts
        assert part.batch["scale"] == 2 and [ord(t) - ord("a") for t in part.batch["texts"]] == part.batch["x"].tolist()
        seen += part.batch["x"].tolist()
        shares.append(part.share)
    assert seen == [0, 1, 2, 3, 4] and sum(shares) == pytest.approx(1)
