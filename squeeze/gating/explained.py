"""A gated network that says what it did: its codes come out with its outputs."""

from typing import Any

import torch
from torch import Tensor, nn

from squeeze.nn import GatedConv2d, computing, observing
from squeeze.nn.gated_onnx import GatedOnnx
from squeeze.task import tensors_of

NAME = "codes"
"""Of the output."""


class Explained(nn.Module):
    """A gated network with one more output: (B, F) bool, which of its F filters were on, in the model's order.

    Args:
        model: Gated; in eval mode.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
        """The network's outputs in order, then the codes."""
        with computing("masked"), observing() as seen:
            outputs = tensors_of(self.model(*args, **kwargs))
        layers = [module for module in self.model.modules() if isinstance(module, GatedConv2d | GatedOnnx)]
        return (*outputs, torch.cat([seen[layer][-1].logits > 0 for layer in layers], 1))


def has_gates(model: nn.Module) -> bool:
    """There is something to explain."""
    return any(isinstance(module, GatedConv2d) for module in model.modules())
