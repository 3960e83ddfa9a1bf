"""Divergences against torch.distributions, and one run of the model where two are not needed."""

import pytest
import torch
from torch import nn
from torch.distributions import Categorical, kl_divergence

from squeeze.distill import Distillation, computed_once, divergence
from squeeze.errors import InputError
from tests.tasks import noise_task, tiny_net


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_kl_is_that_of_the_softened_distributions(temperature):
    student, teacher = torch.randn(5, 7), torch.randn(5, 7)
    soft = [Categorical(logits=logits / temperature) for logits in (teacher, student)]
    expected = temperature**2 * kl_divergence(*soft).mean()
    assert torch.allclose(divergence(student, teacher, "kl", temperature), expected)
    assert divergence(teacher, teacher, "kl", temperature).abs() < 1e-6


def test_one_feature_is_compared_by_its_value():
    student, teacher = torch.tensor([[1.0], [2.0]]), torch.tensor([[0.0], [4.0]])
    assert divergence(student, teacher, "kl", 2.0) == divergence(student, teacher, "mse", 2.0) == 2.5


def test_gradient_is_that_of_both_terms_and_the_model_runs_once():
    task, net, teacher = noise_task(), tiny_net(dropout=0), tiny_net().eval()
    batch, runs = (task.images[:8], task.labels[:8]), []
    net[0].register_forward_hook(lambda *_: runs.append(1))
    loss = Distillation(task, teacher, 0.5, lambda a, b: divergence(a, b, "mse", 1.0))(net, batch)
    loss.backward()
    assert len(runs) == 1
    got = net[0].weight.grad.clone()
    net.zero_grad()
    out = net(batch[0])
    (nn.functional.cross_entropy(out, batch[1]) + 0.5 * (out - teacher(batch[0]).detach()).square().mean()).backward()
    assert torch.allclose(got, net[0].weight.grad, atol=1e-7) and all(p.grad is None for p in teacher.parameters())


def test_unlabelled_and_teacherless():
    task, net = noise_task(labelled=False), tiny_net()
    loss = Distillation(task, net, 2.0, lambda a, b: a.sum())
    assert loss(net.eval(), task.images[:4]).item() == pytest.approx(2 * net(task.images[:4]).sum().item())
    for teacher, weight in ((None, 1.0), (net, 0.0)):
        with pytest.raises(InputError, match="labels or a teacher"):
            Distillation(task, teacher, weight, lambda a, b: a.sum())(net, task.images[:4])


def test_replay_only_of_the_same_call():
    net, x = nn.Dropout(0.5), torch.ones(64)
    with computed_once(net) as replaying:
        first, second = net(x), net(x)
        assert not torch.equal(first, second), "outside of replaying, every call counts"
        with replaying():
            assert net(x) is first and net(x + 0) is not first
            x.mul_(2)
            assert net(x) is not first
        assert net(x) is not first
    assert "forward" not in vars(net)


def test_replay_minds_arguments_that_are_no_tensors():
    class Scaled(nn.Module):
        def forward(self, x, by=1):
            return x * by

    net, x = Scaled(), torch.ones(1)
    with computed_once(net) as replaying:
        net(x, by=2)
        with replaying():
            assert net(x, by=3).item() == 3 and net(x).item() == 1
