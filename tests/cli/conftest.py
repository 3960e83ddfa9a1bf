"""A working folder with networks.py and weights, and the command run in it."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from squeeze_cli.main import cli
from tests.cli import networks

Command = Callable[..., Result]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder: networks.py, and small.pt and doomed.pt with weights for networks in it."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(networks.__file__, tmp_path / "networks.py")
    for network in (networks.small, networks.doomed):
        torch.save(network().state_dict(), tmp_path / f"{network.__name__}.pt")
    return tmp_path


@pytest.fixture
def squeeze(folder: Path) -> Command:
    """Runs `squeeze ARGUMENTS` there, in this process."""
    return lambda *arguments: CliRunner(catch_exceptions=False).invoke(cli, arguments)
