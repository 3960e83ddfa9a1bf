"""What layers say of themselves and their tensors say, too (``in_channels``, ``num_features`` …), kept true."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.modules import batchnorm, conv, instancenorm
from torch.nn.utils import parametrize

from squeeze.errors import PlanError
from squeeze.nn import Selecting

Shapes = dict[str, torch.Size]
"""Of a module's own tensors, by name."""


def bring_up_to_date(module: nn.Module, before: dict[nn.Module, Shapes]) -> None:
    """Make the attributes agree with the tensors, if these are no longer what they were before.

    Args:
        module: Its attributes may change; a module that `before` does not know is left alone.
        before: The shapes by which the attributes were right; is brought up to date, too.

    Raises:
        PlanError: A tensor that the attributes speak of is gone.
    """
    old = before.get(module)
    if old and old != (new := shapes_of(module)):
        try:
            _sync(module, old, new)
        except (StopIteration, AttributeError, TypeError) as error:
            raise PlanError(
                f"rewrite: {type(module).__name__} must keep its weight, got a plan that takes it away; "
                "use the plan's own architecture."
            ) from error
        before[module] = new


def shapes_of(module: nn.Module) -> Shapes:
    """Of its own parameters and buffers, by name; for a parametrized one that of the largest tensor behind it."""
    stores = (module._parameters, module._buffers)
    shapes = {name: tensor.shape for store in stores for name, tensor in store.items() if tensor is not None}
    if parametrize.is_parametrized(module):
        lists: Any = module.parametrizations
        shapes.update(
            {name: max((t.shape for t in lists[name].parameters(recurse=False)), key=math.prod) for name in lists}
        )
    return shapes


def _sync(module: nn.Module, old: Shapes, new: Shapes) -> None:
    """Make a module's attributes agree with its tensors again."""
    for kinds, sync in _SYNCS:
        if isinstance(module, kinds):
            sync(module, old, new)


def _conv(module: Any, old: Shapes, new: Shapes) -> None:
    weight, before = _weight(new), _weight(old)
    out, inner = (1, 0) if module.transposed else (0, 1)
    if module.groups == 1:
        module.out_channels, module.in_channels = weight[out], weight[inner]
        return
    module.groups = module.groups * weight[0] // before[0]
    if module.transposed:
        module.in_channels, module.out_channels = weight[0], weight[1] * module.groups
    else:
        module.out_channels, module.in_channels = weight[0], weight[1] * module.groups


def _weight(shapes: Shapes) -> torch.Size:
    """The weight's shape, also where a weight norm computes it from other tensors."""
    return next(shapes[name] for name in ("weight", "weight_v", "weight_orig") if name in shapes)


def _linear(module: Any, old: Shapes, new: Shapes) -> None:
    module.out_features, module.in_features = _weight(new)


def _bilinear(module: Any, old: Shapes, new: Shapes) -> None:
    module.out_features, module.in1_features, module.in2_features = module.weight.shape


def _channels(module: Any, old: Shapes, new: Shapes) -> None:
    module.num_features = next(new[name][0] for name in ("weight", "running_mean") if name in new)


def _layer_norm(module: Any, old: Shapes, new: Shapes) -> None:
    module.normalized_shape = tuple(module.weight.shape)


def _group_norm(module: Any, old: Shapes, new: Shapes) -> None:
    channels = module.weight.shape[0]
    if module.num_groups > 1:
        module.num_groups = module.num_groups * channels // old["weight"][0]
    module.num_channels = channels


def _embedding(module: Any, old: Shapes, new: Shapes) -> None:
    module.num_embeddings, module.embedding_dim = module.weight.shape


def _recurrent(module: Any, old: Shapes, new: Shapes) -> None:
    module.input_size = module.weight_ih_l0.shape[1]
    gates = old["weight_hh_l0"][0] // module.hidden_size
    module.hidden_size = module.weight_hh_l0.shape[0] // gates
    if module.proj_size:
        module.proj_size = module.weight_hr_l0.shape[0]
    module._flat_weights = [getattr(module, name) if name else None for name in module._flat_weights_names]
    module.flatten_parameters()


def _multi_head(module: Any, old: Shapes, new: Shapes) -> None:
    module.embed_dim = module.kdim = module.vdim = module.in_proj_weight.shape[1]
    module.head_dim = module.embed_dim // module.num_heads


def _selecting(module: Any, old: Shapes, new: Shapes) -> None:
    read, columns = int(module.reads.sum()), module.weight.shape[0 if getattr(module, "transposed", False) else 1]
    if read != columns:
        raise PlanError(
            f"rewrite: {type(module).__name__} must have as many columns as it reads inputs, got {columns} and {read}; "
            "use the plan's own architecture."
        )
    module.settle()


def _prelu(module: Any, old: Shapes, new: Shapes) -> None:
    module.num_parameters = module.weight.shape[0]


_SYNCS: tuple[tuple[tuple[type, ...], Callable[[Any, Shapes, Shapes], None]], ...] = (
    ((conv._ConvNd,), _conv),
    ((nn.Linear,), _linear),
    ((nn.Bilinear,), _bilinear),
    ((batchnorm._NormBase, instancenorm._InstanceNorm), _channels),
    ((nn.LayerNorm, nn.RMSNorm), _layer_norm),
    ((nn.GroupNorm,), _group_norm),
    ((nn.Embedding, nn.EmbeddingBag), _embedding),
    ((nn.RNNBase,), _recurrent),
    ((nn.MultiheadAttention,), _multi_head),
    ((nn.PReLU,), _prelu),
    ((Selecting,), _selecting),
)
