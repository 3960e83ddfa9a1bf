"""Python's, numpy's and torch's random numbers, taken together."""

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def seed_all(*numbers: int) -> None:
    """Seed every generator from some whole numbers; other numbers give unrelated streams."""
    digest = hashlib.sha256(repr(numbers).encode()).digest()
    python, numpy, torch_seed = (int.from_bytes(digest[i : i + 4], "little") for i in (0, 4, 8))
    random.seed(python)
    np.random.seed(numpy)
    torch.manual_seed(torch_seed)


def random_state() -> dict[str, Any]:
    """The state of every generator, as `squeeze.checkpoint` saves it."""
    gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return {"python": random.getstate(), "numpy": np.random.get_state(), "torch": torch.get_rng_state(), "cuda": gpus}


def restore_random_state(state: dict[str, Any]) -> None:
    """Undo `random_state`; GPUs that are not here are passed over."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    for device, gpu in enumerate(state["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(gpu, device)


@contextmanager
def randomness_kept() -> Iterator[None]:
    """Whatever is drawn inside, the numbers drawn afterwards are the same."""
    state = random_state()
    try:
        yield
    finally:
        restore_random_state(state)
