"""The demo's network learns real digits, and its file needs nothing else to be opened."""

from pathlib import Path

import pytest
import torch
from torch import nn

from squeeze import trace
from squeeze.demo import digits_resnet, train_demo
from squeeze.models import open_model


def test_the_network_has_filters_and_blocks_to_cut() -> None:
    model = digits_resnet().eval()
    structure = trace(model, torch.randn(1, 1, 8, 8))
    assert model(torch.randn(3, 1, 8, 8)).shape == (3, 10)
    # Two of the six bodies change the shape, so their shortcut has weights of its own; the other four may go.
    assert len(structure.blocks) >= 4
    assert len(structure.groups) >= 6
    widths = {m.out_channels for m in model.modules() if isinstance(m, nn.Conv2d)}
    assert all(width % 8 == 0 for width in widths)


def test_a_file_that_names_its_network_and_data(tmp_path: Path) -> None:
    torch.manual_seed(1)
    expected = torch.rand(2)
    torch.manual_seed(1)
    metrics = train_demo(tmp_path / "model.pt", quiet=True, epochs=1)
    assert torch.equal(torch.rand(2), expected)
    found = open_model(tmp_path / "model.pt")
    assert found.about == {"arch": "squeeze.demo:digits_resnet", "data": "digits", "input_shape": [1, 8, 8]}
    assert found.task.evaluate(found.model, "test") == metrics
    assert metrics["accuracy"] > 0.5


@pytest.mark.slow
def test_it_learns_to_read_digits(tmp_path: Path) -> None:
    assert train_demo(tmp_path / "model.pt", quiet=True)["accuracy"] >= 0.98
