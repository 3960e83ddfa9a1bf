"""Batch-norm statistics against those of all the data, computed directly."""

import copy

import pytest
import torch
from torch import nn

from squeeze.recalibrate import reestimate_batchnorm
from tests.tasks import noise_task, tiny_net


def still_task(labelled=True):
    task = noise_task(labelled=labelled)
    task.augment = False
    return task


@pytest.mark.parametrize("labelled", [True, False])
def test_statistics_are_the_averages_over_batches(labelled):
    task, net = still_task(labelled), tiny_net()
    assert reestimate_batchnorm(net, task) == 4
    with torch.no_grad():
        inputs = [net[0](task.images[32 * i : 32 * (i + 1)]) for i in range(4)]
    means = torch.stack([x.mean((0, 2, 3)) for x in inputs]).mean(0)
    variances = torch.stack([x.transpose(0, 1).flatten(1).var(1) for x in inputs]).mean(0)
    assert torch.allclose(net[1].running_mean, means, atol=1e-6)
    assert torch.allclose(net[1].running_var, variances, atol=1e-6)


def test_nothing_else_changes():
    task, net = noise_task(), tiny_net()
    net[4].eval()
    before, modes = copy.deepcopy(net), [m.training for m in net.modules()]
    state = torch.get_rng_state()
    reestimate_batchnorm(net, task, batches=2)
    assert torch.equal(state, torch.get_rng_state()) and [m.training for m in net.modules()] == modes
    assert [m.momentum for m in net if isinstance(m, nn.BatchNorm2d)] == [0.1, 0.1]
    changed = {name for name, value in net.state_dict().items() if not torch.equal(value, before.state_dict()[name])}
    assert changed == {f"{i}.{name}" for i in (1, 4) for name in ("running_mean", "running_var", "num_batches_tracked")}


def test_same_result_every_time():
    task, net = noise_task(), tiny_net()
    other = copy.deepcopy(net)
    reestimate_batchnorm(net, task)
    torch.manual_seed(5)
    reestimate_batchnorm(other, task)
    assert torch.equal(net[4].running_var, other[4].running_var)


def test_without_data_or_without_running_nothing_changes():
    task, net = noise_task(), tiny_net()
    net[1].running_mean.fill_(3)
    net.add_module("unused", nn.BatchNorm2d(2))
    net.unused.running_var.fill_(7)
    task.features = lambda model, batch: model[:3](batch[0])
    task.train_batches = lambda epoch: []
    assert reestimate_batchnorm(net, task) == 0 and net[1].running_mean.eq(3).all()
    del task.train_batches
    assert reestimate_batchnorm(net, task) == 4 and net[1].running_mean.lt(1).all()
    assert net.unused.running_var.eq(7).all() and net[4].running_mean.eq(0).all()
