"""Silencing: where a filter is a class, that class alone is lost."""

import numpy as np
import pytest
import torch
from torch import nn

from squeeze.gating.codes import gather
from squeeze.paths.silencing import silenced, silencing
from tests.gated_nets import quick_net, telling_inputs, telling_net, telling_task


def test_a_silenced_filter_is_off_and_is_back_afterwards() -> None:
    net, inputs = telling_net(), telling_inputs(torch.arange(4))
    with torch.no_grad():
        before = net(inputs)
        with silenced(net, {"0": np.array([2])}):
            inside = net(inputs)
        after = net(inputs)
    expected = before.clone()
    expected[2, 2] = 0
    assert torch.equal(inside, expected)
    assert torch.equal(after, before)


def test_only_what_is_gated_can_be_silenced() -> None:
    with pytest.raises(TypeError, match="3 has no gate"), silenced(telling_net(), {"3": np.array([0])}):
        pass


def test_a_class_loses_all_without_its_filter_and_no_other_class_does() -> None:
    net, task = telling_net(), telling_task()
    found = silencing(net, task, task.test, gather(net, task, task.test), 2, 20)
    assert found is not None
    assert found.filters == (1, 1, 1, 1)  # a class has no more of its own
    expected = np.eye(4)
    expected[3, 3] = 0  # the class that is seen where nothing is on
    assert found.accuracy.whole.tolist() == [1] * 4
    assert found.accuracy.drops.tolist() == expected.tolist()
    assert (found.accuracy.own, found.accuracy.others, found.accuracy.hit) == (0.75, 0, 3)
    # Class k leads the last one by 0.9, and by -0.1 when silenced; the last leads the others by 1.1, then by 0.1.
    assert found.lead.whole == pytest.approx([0.9, 0.9, 0.9, 1.1])
    assert found.lead.drops == pytest.approx(np.eye(4), abs=1e-6)


def test_random_filters_are_as_many_of_the_same_layers() -> None:
    """One of four filters at random: it is the class's own in one draw of four; three draws are averaged."""
    net, task = telling_net(), telling_task()
    found = silencing(net, task, task.test, gather(net, task, task.test), 1, 20)
    assert found is not None
    assert set(np.round(3 * found.lead.random).astype(int)) <= {0, 1, 2, 3}
    assert 0 < found.lead.random.mean() < 0.75


def test_only_the_largest_classes_are_tried() -> None:
    net, task = telling_net(), telling_task()
    found = silencing(net, task, task.test, gather(net, task, task.test), 1, 2)
    assert found is not None and found.classes.tolist() == [0, 1]


def test_one_class_cannot_be_tested() -> None:
    net, inputs = telling_net(), telling_inputs(torch.zeros(8, dtype=torch.int64))
    task = telling_task()
    batches = [(inputs, torch.zeros(8, dtype=torch.int64))]
    assert silencing(net, task, batches, gather(net, task, batches), 1, 20) is None


def test_the_model_is_left_alone() -> None:
    net = quick_net()
    hooks = [len(module._forward_hooks) for module in net.modules()]
    with pytest.raises(RuntimeError, match="on purpose"), silenced(net, {"0": np.array([0]), "2": np.array([1, 2])}):
        raise RuntimeError("on purpose")
    assert [len(module._forward_hooks) for module in net.modules()] == hooks
    assert isinstance(net, nn.Module)
