"""Copies on which models are examined and changed, so that the given ones stay as they are."""

import copy
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from squeeze.errors import InputError


def copied(model: nn.Module, shared: Iterable[Tensor] = ()) -> nn.Module:
    """A deep copy; tensors that were computed and kept as attributes (as weight norm's hook does) are copied by value.

    Args:
        model: Stays as it is.
        shared: Tensors that the copy holds, too, instead of copies.

    Raises:
        InputError: The model cannot be copied.
    """
    computed = [value for module in model.modules() for value in vars(module).values() if isinstance(value, Tensor)]
    memo: dict[int, Any] = {id(value): value.detach().clone() for value in computed if not value.is_leaf}
    memo.update(_empty_twins(model))
    memo.update({id(tensor): tensor for tensor in shared})
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
    return copy.deepcopy(model, {id(tensor): tensor for tensor in held} | _empty_twins(model))


def _empty_twins(model: nn.Module) -> dict[int, Any]:
    """New ones in place of the empty dicts that every module has a dozen of: deepcopy takes long over each."""
    values = (value for module in model.modules() for value in vars(module).values())
    return {id(value): type(value)() for value in values if type(value) in (OrderedDict, dict, set) and not value}


class Holders:
    """Who holds which tensor: for putting others in their places, wherever modules hold them.

    Args:
        model: Its modules' parameters and buffers are looked at once, now.
    """

    def __init__(self, model: nn.Module) -> None:
        self._places: dict[int, list[tuple[dict[str, Any], str]]] = {}
        for module in model.modules():
            for store in (module._parameters, module._buffers):
                for name, tensor in store.items():
                    if tensor is not None:
                        self._places.setdefault(id(tensor), []).append((store, name))

    def replace(self, old: Tensor, new: Tensor) -> None:
        """Put a parameter or buffer in the place of another."""
        places = [(store, name) for store, name in self._places.pop(id(old), []) if store.get(name) is old]
        for store, name in places:
            store[name] = new
        self._places[id(new)] = places


def eval_copy(model: nn.Module) -> nn.Module:
    """As `copied`, in eval mode."""
    return copied(model).eval()
