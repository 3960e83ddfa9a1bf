"""Copies on which models are examined, so that the given ones stay as they are."""

import copy

from torch import nn

from squeeze.errors import InputError


def eval_copy(model: nn.Module) -> nn.Module:
    """A deep copy in eval mode.

    Raises:
        InputError: The model cannot be copied.
    """
    try:
        return copy.deepcopy(model).eval()
    except Exception as error:
        raise InputError(
            f"model: {type(model).__name__} must be copyable with copy.deepcopy, got {type(error).__name__}: {error}; "
            "keep what cannot be copied outside of the module."
        ) from error
