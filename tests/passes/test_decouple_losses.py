"""The losses of architecture decoupling, by hand."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from squeeze.passes.decouple.losses import SideHeads, activity, limiting


def test_losses_by_hand() -> None:
    code = torch.tensor([[1.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 1.0]])
    assert float(activity([code, code], 0.5)) == pytest.approx(2 * abs((3 + 2) / 2 - 0.5 * 4))
    assert float(activity([code], 0.0)) == 2.5

    class Fake:
        def __init__(self, code: Tensor, response: Tensor) -> None:
            self.code, self.response = code, response

    same: Any = Fake(code, code + 7)  # softmax does not see a shift
    assert float(limiting([same])) == pytest.approx(0, abs=1e-7)
    p, q = np.array([0.5, 0.5]), np.exp([1.0, 0.0]) / np.exp([1.0, 0.0]).sum()
    other: Any = Fake(torch.tensor([[1.0, 0.0]]), torch.tensor([[3.0, 3.0]]))
    assert float(limiting([other])) == pytest.approx(float((p * np.log(p / q)).sum()) / 2)


def test_the_bound_on_information_is_reached_by_a_code_that_is_the_class() -> None:
    heads, attribute = SideHeads([4, 4], 4), torch.arange(4)
    with torch.no_grad():
        for head in heads.heads:
            head.weight.copy_(30 * torch.eye(4))  # type: ignore[union-attr,operator]
        assert float(heads([torch.eye(4)] * 2, attribute)) == pytest.approx(0, abs=1e-6)
        # A code that says nothing leaves all of H(a) = log 4, twice.
        assert float(heads([torch.zeros(4, 4)] * 2, attribute)) == pytest.approx(2 * np.log(4))
