"""A model in float64, also where its code says float32."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from squeeze.copying import copied
from squeeze.task import Inputs


class Widened(TorchDispatchMode):
    """Inside, whatever would be float32 (``x.float()``, a grid that the forward makes) is float64."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = dict(kwargs or {})
        if named.get("dtype") is torch.float32:
            named["dtype"] = torch.float64
        return pytree.tree_map_only(Tensor, _wide, func(*args, **named))


def widened(model: nn.Module, inputs: Inputs) -> tuple[nn.Module, Inputs]:
    """A copy of a model and its inputs in float64."""
    return copied(model).double(), pytree.tree_map_only(Tensor, _wide, inputs)


def _wide(tensor: Tensor) -> Tensor:
    return tensor.double() if tensor.dtype is torch.float32 else tensor
