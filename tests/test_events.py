"""TensorBoard reads what was written, and does not see what a killed run wrote beyond its checkpoint."""

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from squeeze.errors import InputError
from squeeze.events import Events


def seen(folder):
    found = EventAccumulator(str(folder)).Reload()
    return {tag: [(event.step, event.value) for event in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def test_scalars_come_back(tmp_path):
    events = Events(tmp_path / "x")
    events.add({"step/loss": 0.5, "step/lr": 0.25}, 1)
    events.add({"step/loss": 0.125}, 2)
    assert seen(tmp_path / "x") == {"step/loss": [(1, 0.5), (2, 0.125)], "step/lr": [(1, 0.25)]}


def test_what_lies_beyond_the_checkpoint_is_hidden(tmp_path):
    for total, steps in ((0, range(1, 6)), (3, range(4, 6))):
        events = Events(tmp_path, total)
        for step in steps:
            events.add({"loss": step + total}, step)
    assert seen(tmp_path) == {"loss": [(1, 1.0), (2, 2.0), (3, 3.0), (4, 7.0), (5, 8.0)]}


def test_files_that_are_begun_within_one_second_are_read_in_their_order(tmp_path, monkeypatch):
    for nanoseconds, total, steps in ((99_999_999, 0, range(1, 6)), (123_456_789, 3, range(4, 6))):
        monkeypatch.setattr("squeeze.events.time.time_ns", lambda now=7 * 10**9 + nanoseconds: now)
        events = Events(tmp_path, total)
        for step in steps:
            events.add({"loss": step + total}, step)
    assert seen(tmp_path) == {"loss": [(1, 1.0), (2, 2.0), (3, 3.0), (4, 7.0), (5, 8.0)]}


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="must lie in a folder|must be a folder"):
        Events(tmp_path / "file" / "x")
