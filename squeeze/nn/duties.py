"""What a module of ours may say of itself, so that profiling and export need not know it."""

from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import nn


class Macs(NamedTuple):
    """Arithmetic of one call.

    Attributes:
        paper: Multiply-accumulates as the method's paper counts them.
        executed: Multiply-accumulates that run.
        additions: That the paper's way of computing needs besides, and does not count.
    """

    paper: int
    executed: int
    additions: int


@runtime_checkable
class CountsMacs(Protocol):
    """A module that knows its own arithmetic."""

    def macs(self, output: torch.Size) -> Macs:
        """Of a call that returned a tensor of this shape."""


@runtime_checkable
class HasOnnxForm(Protocol):
    """A module that is written to ONNX in another form than it runs in."""

    def onnx_form(self) -> nn.Module:
        """A module that computes the same, in standard operators; shares the tensors."""


@runtime_checkable
class HasWays(Protocol):
    """A module that is computed in one of several ways, which it chooses itself."""

    def way(self, x: torch.Tensor) -> str:
        """How such an input is computed in eval mode without gradients, and why."""


def in_onnx_form(model: nn.Module) -> nn.Module:
    """The model, in which modules that have another form for ONNX are replaced by it; changes the model."""
    forms: dict[nn.Module | None, nn.Module] = {
        module: module.onnx_form() for module in model.modules() if isinstance(module, HasOnnxForm)
    }
    for module in list(model.modules()):
        for name, child in module._modules.items():
            if child in forms:
                module._modules[name] = forms[child]
    return forms.get(model, model)
