"""Class paths: against a network whose code is the class."""

import numpy as np
import pytest
import torch

from squeeze.gating.classes import attribute_of, class_paths, distances
from squeeze.gating.codes import Codes, gather
from squeeze.paths.classes import by_layer, exciting, most_tied, single_path
from tests.gated_nets import telling_net, telling_task


@pytest.fixture
def codes() -> Codes:
    task = telling_task()
    return gather(telling_net(), task, task.test)


def made(on: list[list[int]], layers: tuple[str, ...] = ("a", "b"), filters: tuple[int, ...] = (2, 1)) -> Codes:
    """Codes by hand; what is on has a logit of 1."""
    found = np.array(on, dtype=bool)
    count = len(found)
    zeros = np.zeros(count, dtype=np.int64)
    logits = np.where(found, 1.0, -1.0).astype(np.float32)
    return Codes(layers, filters, found, logits, zeros, zeros, np.zeros((count, 2), "f4"), np.ones(count, "f4"))


def test_the_code_is_the_class(codes: Codes) -> None:
    paths = class_paths(codes, codes.labels)
    assert paths.rates.tolist() == np.eye(4).tolist()
    assert paths.counts.tolist() == [12] * 4
    assert paths.ties().diagonal().tolist() == [1] * 4
    assert distances(paths.rates).tolist() == (0.5 * (1 - np.eye(4))).tolist()  # two of four filters differ
    assert {label: filters.tolist() for label, filters in most_tied(paths, 3).items()} == {k: [k] for k in range(4)}


def test_ties_by_hand() -> None:
    codes = made([[1, 1, 0], [1, 0, 0], [1, 0, 1], [0, 0, 1], [0, 1, 1]])
    paths = class_paths(codes, np.array([5, 5, 9, 9, 9]))
    assert paths.classes.tolist() == [5, 9]
    assert paths.ties() == pytest.approx(np.array([[1 - 1 / 3, 1 / 2 - 1 / 3, -1], [1 / 3 - 1, 1 / 3 - 1 / 2, 1]]))
    assert most_tied(paths, 5)[5].tolist() == [0, 1]
    assert most_tied(paths, 1)[9].tolist() == [2]


def test_one_class_has_no_others() -> None:
    paths = class_paths(made([[1, 1, 0], [1, 0, 0]]), np.array([3, 3]))
    assert np.isnan(paths.ties()).all()
    assert most_tied(paths, 2)[3].tolist() == []
    assert distances(paths.rates).tolist() == [[0]]


def test_filters_are_numbered_within_their_layers() -> None:
    found = by_layer(made([[0, 0, 0]]), np.array([2, 0]))
    assert {name: numbers.tolist() for name, numbers in found.items()} == {"a": [0], "b": [0]}


def test_inputs_that_excite_a_filter_are_those_with_the_surest_gates() -> None:
    codes = made([[1, 0, 0], [0, 0, 0], [1, 0, 0], [1, 0, 0]])
    codes.logits[:, 0] = [0.5, -3, 2, 1]
    assert exciting(codes, 0, 2).tolist() == [2, 3]
    assert exciting(codes, 0, 9).tolist() == [2, 3, 0]  # where it is off it is not excited


def test_the_path_of_one_input() -> None:
    codes = made([[1, 0, 1], [1, 0, 0], [1, 0, 0], [0, 1, 1]])
    classes = np.array([0, 0, 0, 1])
    path = single_path(codes, class_paths(codes, classes), 0, 0)
    assert [(s.layer, s.on, s.extra, s.missing) for s in path.steps] == [("a", (0,), (), ()), ("b", (0,), (0,), ())]
    assert [step.distance for step in path.steps] == pytest.approx([0, 2 / 3])
    assert path.distance == pytest.approx({0: (2 / 3) / 3, 1: 2 / 3})


def test_without_labels_the_class_is_what_the_network_sees() -> None:
    task = telling_task(labelled=False)
    codes = gather(telling_net(), task, task.test)
    attribute, labelled = attribute_of(codes)
    assert not labelled
    assert attribute.tolist() == (torch.arange(48) // 2 % 4).tolist()
