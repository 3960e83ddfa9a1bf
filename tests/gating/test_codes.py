"""Files of codes: whole, and of the network that they are asked for."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load, save

from squeeze.errors import ArtifactError
from squeeze.gating.codes import Codes, gather, joined, load_codes
from tests.gated_nets import quick_net, quick_task, telling_net


@pytest.fixture
def codes() -> Codes:
    task = quick_task()
    return gather(quick_net(), task, task.test)


def test_saved_and_loaded_they_are_the_same(codes: Codes, tmp_path: Path) -> None:
    path = codes.save(tmp_path / "new" / "codes.safetensors", quick_net())
    for again in (load_codes(path), load_codes(path, quick_net())):
        assert (again.layers, again.filters) == (codes.layers, codes.filters)
        assert np.array_equal(again.on, codes.on) and np.array_equal(again.share, codes.share)


def test_parts_joined_are_the_whole(codes: Codes) -> None:
    parts = [codes.part(np.arange(60) < 20), codes.part(np.arange(20, 60))]
    assert [len(part) for part in parts] == [20, 40]
    again = joined(parts)
    assert np.array_equal(again.logits, codes.logits) and np.array_equal(again.predicted, codes.predicted)


def test_codes_of_other_weights_are_refused(codes: Codes, tmp_path: Path) -> None:
    path = codes.save(tmp_path / "codes.safetensors", quick_net())
    retrained = quick_net()
    with torch.no_grad():
        retrained[-1].bias.add_(1)
    with pytest.raises(ArtifactError, match=r"must hold the codes of these weights of Sequential, got those of others"):
        load_codes(path, retrained)
    with pytest.raises(ArtifactError, match="another architecture"):
        load_codes(path, telling_net())


def test_a_file_that_does_not_say_of_which_weights_it_is_is_refused(codes: Codes, tmp_path: Path) -> None:
    path = codes.save(tmp_path / "codes.safetensors", quick_net())
    path.write_bytes(save(load(path.read_bytes()), {"squeeze": "file of codes", "layers": "0\n2"}))
    with pytest.raises(ArtifactError, match="does not say of which; gather them again with squeeze paths"):
        load_codes(path, quick_net())
    assert len(load_codes(path)) == 60  # nobody asked
