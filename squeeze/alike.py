"""Whether a state that was read can take the place of one at hand: same kinds of values, same shapes."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.optim import LBFGS, Optimizer


def require_alike(ours: Any, theirs: Any, where: str = "state") -> None:
    """Whatever both hold is of the same kind, down to the leaves; None stands for anything.

    Raises:
        TypeError: It is not.
    """
    if ours is None or theirs is None:
        return
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
        for key in ours.keys() & theirs.keys():
            require_alike(ours[key], theirs[key], f"{where}.{key}")
    elif isinstance(ours, list | tuple) and isinstance(theirs, list | tuple):
        for ours_item, theirs_item in zip(ours, theirs, strict=False):
            require_alike(ours_item, theirs_item, where)
    elif _kind(ours) is not _kind(theirs):
        raise TypeError(f"{where} is {type(theirs).__name__}, not {type(ours).__name__}")


def _kind(value: Any) -> type:
    """Types that stand for one another are one kind: whole numbers and others, parameters and tensors."""
    kinds: tuple[tuple[type | tuple[type, ...], type], ...] = (
        *((bool, bool), ((int, float), float), (Tensor, Tensor), (str, str)),
        *((Mapping, dict), ((list, tuple), list)),
    )
    return next((kind for types, kind in kinds if isinstance(value, types)), type(value))


def require_fitting(optimizer: Optimizer, before: Mapping[str, Any]) -> None:
    """The optimizer has all its settings, and what it keeps of each parameter has that parameter's shape.

    Args:
        optimizer: Into which a state was loaded.
        before: Its own state before that.

    Raises:
        TypeError: It is not so.
    """
    if isinstance(optimizer, LBFGS):  # it keeps all parameters as one
        return
    for ours, theirs in zip(before["param_groups"], optimizer.param_groups, strict=True):
        if not ours.keys() <= theirs.keys():
            raise TypeError("an optimizer lacks settings")
    for parameter, kept in optimizer.state.items():
        for name, value in kept.items():
            if isinstance(value, Tensor):
                fits = isinstance(parameter, Tensor) and (value.shape == parameter.shape or value.numel() == 1)
            else:
                fits = value is None or (name == "step" and isinstance(value, int | float))
            if not fits:
                raise TypeError(f"an optimizer's {name} does not fit its parameter")
