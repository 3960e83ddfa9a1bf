"""Everything that is found on one data set, and the page that shows it."""

import io
import json
import re
from dataclasses import replace

import pytest
import torch
from matplotlib.image import imread
from torch import nn

import squeeze
from squeeze.errors import InputError
from squeeze.gating.codes import gather
from squeeze.paths import Asked, find_paths
from squeeze.paths.page import render_paths
from squeeze.paths.pictures import pictures_of
from tests.gated_nets import quick_net, quick_task, telling_inputs, telling_net, telling_task


def only(labels: torch.Tensor, classes: int = 4) -> squeeze.DataTask:
    inputs = telling_inputs(labels, classes)
    return squeeze.DataTask(lambda: telling_net(classes), inputs[:1], test=[(inputs, labels)])


def test_a_network_whose_codes_are_classes() -> None:
    found = find_paths(telling_net(), telling_task(), Asked(sample=5))
    assert (found.source, found.labelled, found.entropy, found.notes) == ("test", True, 2, ())
    (layer,) = found.layers
    assert layer.bound is not None and 1.5 < layer.bound <= 2
    assert {label: [(t.filter, t.tie, t.rate) for t in tied] for label, tied in found.tied.items()} == {
        k: [(k, 1, 1)] for k in range(4)
    }
    assert all(found.attribute[i] == label for label, (tied,) in found.tied.items() for i in tied.inputs)
    assert found.path is not None and (found.path.label, found.path.predicted) == (2, 2)
    assert found.path.steps[0].on == (2,)
    assert found.silencing is not None and found.silencing.accuracy.hit == 3
    assert json.loads(json.dumps(found.to_dict()))["entropy_bits"] == 2


def test_the_page_shows_it_and_loads_nothing() -> None:
    page = render_paths(find_paths(telling_net(), telling_task(), Asked(sample=5)), "telling & net")
    assert "<h1>telling &amp; net</h1>" in page
    for title in ("What an input costs", "Layer by layer", "The paths of the classes", "What happens without them"):
        assert title in page
    assert "The path of input 5" in page
    assert "Class 2, seen as 2. Its code is nearest to the mean code of class 2 (0.000 a filter)" in page
    links = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert all(link.startswith(("#", "data:image/png;base64,")) for link in links)


def test_images_are_shown_and_what_is_none_is_named_by_number() -> None:
    shown = find_paths(quick_net(), quick_task())
    assert shown.pictures and all(png.startswith(b"\x89PNG") for png in shown.pictures.values())
    page = render_paths(shown, "net")
    assert 'alt="input ' in page
    others = [shown.attribute[i] != label for label, tied in shown.tied.items() for item in tied for i in item.inputs]
    assert page.count('class="other"') == sum(others) > 0
    assert "labels" in shown.notes[0]  # there are none
    unseen = find_paths(telling_net(), telling_task())  # four channels
    assert unseen.pictures == {} and 'alt="input ' not in render_paths(unseen, "net")


def test_pictures_span_from_black_to_white() -> None:
    images = torch.tensor([[[[-2.0, 0.0]]], [[[2.0, 1.0]]]])
    found = pictures_of([images], {1})
    pixels = imread(io.BytesIO(found[1]))
    assert list(found) == [1]
    assert pixels[0, :, 0] == pytest.approx([1, 0.75], abs=0.01)


def test_codes_that_were_read_stand_for_the_data() -> None:
    net, task = telling_net(), telling_task()
    codes = gather(net, task, task.test)
    found = find_paths(net, squeeze.DataTask(telling_net, telling_inputs(torch.tensor([0]))), codes=codes)
    assert (found.source, found.silencing, found.pictures) == ("file of codes", None, {})
    assert found.entropy == 2
    assert "What happens without them" not in render_paths(found, "net")


def test_one_class_is_said() -> None:
    found = find_paths(telling_net(), only(torch.zeros(12, dtype=torch.int64)))
    assert "All inputs are of one class" in found.notes[0]
    assert (found.entropy, found.layers[0].bound, found.tied, found.silencing) == (0, None, {}, None)
    assert "nan" not in render_paths(found, "net")


def test_more_classes_than_samples_are_said() -> None:
    found = find_paths(telling_net(9), only(torch.arange(7), 9))
    assert "7 of 7 classes have fewer than five inputs" in found.notes[0]
    assert found.layers[0].bound is None and found.silencing is None
    assert render_paths(found, "net")


def test_gates_that_are_all_off_are_shown_as_that() -> None:
    net = telling_net()
    nn.init.constant_(net.get_submodule("0.gate.expand").bias, -100)
    found = find_paths(net, telling_task(), Asked(sample=0))
    assert (found.layers[0].activity.never, found.layers[0].bound) == (4, 0)
    assert (found.tied, found.silencing, found.overview.filters) == ({}, None, {})
    page = render_paths(found, "net")
    assert "0 always on, 4 never, 0 for some" in page and "nan" not in page
    for title in ("The paths of the classes", "Filters that are a class's own", "What happens without them"):
        assert title not in page


def test_inputs_of_another_size_than_the_traced_one() -> None:
    images = torch.randn(40, 1, 12, 10, generator=torch.Generator().manual_seed(1))
    found = find_paths(quick_net(), quick_task(test=[images]))
    assert len(found.codes) == 40 and 0 < found.spending.mean < 2 * found.spending.dense
    assert found.codes.on.any() and not found.codes.on.all()


def test_training_data_are_taken_where_there_are_no_others_and_that_is_said() -> None:
    task = telling_task()
    found = find_paths(telling_net(), replace(task, train=task.test, test=()))
    assert "trained on" in found.notes[0]


def test_no_gates_no_data_and_no_such_sample_are_refused() -> None:
    images = torch.zeros(4, 1, 8, 8)
    with pytest.raises(InputError, match="Sequential must have gates, got none"):
        find_paths(nn.Sequential(nn.Flatten(), nn.Linear(64, 2)), quick_task())
    with pytest.raises(InputError, match="data: must be there"):
        find_paths(quick_net(), squeeze.DataTask(quick_net, images))
    with pytest.raises(InputError, match="sample: must be from 0 to 47, got 48"):
        find_paths(telling_net(), telling_task(), Asked(sample=48))
    with pytest.raises(ValueError, match="most must be at least 1, got 0"):
        Asked(most=0)


def test_inputs_of_which_the_network_makes_no_numbers_are_named() -> None:
    task = telling_task()
    inputs, labels = task.test[1]
    broken = inputs.clone()
    broken[2] = torch.inf
    wrong = replace(task, test=[task.test[0], (broken, labels)])
    with pytest.raises(InputError, match=r"got nan or infinity of 1 of 32, of number 18 \(from 0\) first"):
        find_paths(telling_net(), wrong)
