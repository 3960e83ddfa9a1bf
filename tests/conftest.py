"""Every test process computes with one thread, from the same seed."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

import random

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import settings

torch.set_num_threads(1)

settings.register_profile("squeeze", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("squeeze")


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Each test starts from the same random state, whatever ran before it."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture
def runner() -> CliRunner:
    """Runs a command in this process."""
    return CliRunner()
