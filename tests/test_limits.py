"""What is opened gets the memory that it is given, and no more; afterwards there is as much as before."""

import resource

import pytest
import torch

from squeeze.limits import memory_limited


def test_more_than_that_is_refused_and_the_limit_ends_with_the_block():
    before = resource.getrlimit(resource.RLIMIT_AS)
    with memory_limited(2**28), pytest.raises((MemoryError, RuntimeError)):
        torch.empty(2**30, dtype=torch.uint8)
    assert resource.getrlimit(resource.RLIMIT_AS) == before
    assert torch.empty(2**30, dtype=torch.uint8).numel() == 2**30


def test_a_lower_limit_stays():
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    with memory_limited(2**30):
        lower = resource.getrlimit(resource.RLIMIT_AS)
        with memory_limited(2**40):
            assert resource.getrlimit(resource.RLIMIT_AS) == lower
    assert resource.getrlimit(resource.RLIMIT_AS) == (soft, hard)
