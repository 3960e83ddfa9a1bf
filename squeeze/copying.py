"""Copies on which models are examined and changed, so that the given ones stay as they are."""

import copy
from typing import Any

from torch import Tensor, nn

from squeeze.errors import InputError


def copied(model: nn.Module) -> nn.Module:
    """A deep copy; tensors that were computed and kept as attributes (as weight norm's hook does) are copied by value.

    Raises:
        InputError: The model cannot be copied.
    """
    computed = [value for module in model.modules() for value in vars(module).values() if isinstance(value, Tensor)]
    memo: dict[int, Any] = {id(value): value.detach().clone() for value in computed if not value.is_leaf}
    try:
        return copy.deepcopy(model, memo)
    except Exception as error:
        raise InputError(
            f"model: {type(model).__name__} must be copyable with copy.deepcopy, got {type(error).__name__}: {error}; "
            "keep what cannot be copied outside of the module."
        ) from error


def sharing(model: nn.Module) -> nn.Module:
    """A copy of the modules alone, which hold the same tensors; for what replaces tensors and never writes to them."""
    held = [*model.parameters(), *model.buffers()]
    held += [value for module in model.modules() for value in vars(module).values() if isinstance(value, Tensor)]
    return copy.deepcopy(model, {id(tensor): tensor for tensor in held})


def replace_tensor(model: nn.Module, old: Tensor, new: Tensor) -> None:
    """Put a parameter or buffer in the place of another, wherever modules hold it."""
    for module in model.modules():
        for place in (module._parameters, module._buffers):
            for name, tensor in place.items():
                if tensor is old:
                    place[name] = new  # type: ignore[assignment]


def eval_copy(model: nn.Module) -> nn.Module:
    """As `copied`, in eval mode."""
    return copied(model).eval()
