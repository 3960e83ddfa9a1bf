"""What a person sees of a training run."""

import pytest

from squeeze.progress import Monitor


def test_many_scalars_leave_room_for_the_count(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with Monitor("gal", 10, quiet=False, folder=None) as monitor:
        monitor.epoch(2, 1234, 11)
        monitor.step(12, {f"scalar_{number}": 0.123456 for number in range(9)})
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("gal · epoch 3/10 ") and "12/1234" in line and "scalar_0 0.1235" in line


def test_names_are_shown_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    with Monitor("phase [one]", 1, quiet=False, folder=None) as monitor:
        monitor.epoch(0, 2, 0)
        monitor.step(1, {"map[/all]": 1.0})
    told = capsys.readouterr().err
    assert "phase [one] · epoch 1/1" in told and "map[/all] 1" in told
