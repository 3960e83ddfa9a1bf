"""How often filters are on, and what inputs cost: against arithmetic."""

import json
from dataclasses import replace

import numpy as np
import pytest

from squeeze.gating.activity import Activity, activities, spending
from squeeze.gating.codes import gather
from tests.gated_nets import quick_net, quick_task, telling_net, telling_task


def test_filters_are_always_on_never_or_for_some() -> None:
    activity = Activity("conv", np.array([1.0, 1.0, 0.0, 0.25, 0.5]))
    assert (activity.always, activity.never, activity.varying) == (2, 1, 2)
    assert activity.summary() == "of 5: 2 always on, 1 never, 2 for some"


def test_dependence_is_the_mean_distance_from_the_mean_code() -> None:
    task = quick_task()
    codes = gather(quick_net(), task, task.test)
    on = codes.on[:, codes.layer("2")].astype(float)
    expected = np.abs(on - on.mean(0)).sum(1).mean() / on.shape[1]
    assert expected > 0.01
    assert activities(codes)[1].dependence == pytest.approx(expected)


def test_rates_are_those_of_each_layer() -> None:
    task = telling_task()
    (activity,) = activities(gather(telling_net(), task, task.test))
    assert activity.name == "0"
    assert activity.rates.tolist() == [0.25] * 4


def test_what_inputs_cost() -> None:
    task = telling_task(16)
    codes = replace(gather(telling_net(), task, task.test), share=np.repeat([0.25, 0.5, 0.75, 1.0], 4).astype("f4"))
    found = spending(codes, 1000)
    assert (found.mean, found.deviation) == (625, pytest.approx(125 * 5**0.5))
    assert found.quartiles == (250, 437.5, 625, 812.5, 1000)
    assert found.histogram(3) == ((250, 500, 750, 1000), (4, 4, 8))
    assert json.loads(json.dumps(found.to_dict()))["quartiles"] == list(found.quartiles)
