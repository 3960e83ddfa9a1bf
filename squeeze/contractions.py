"""How many multiply-accumulates an operator costs: the one place that knows.

Operators are those a ``TorchDispatchMode`` sees. 1 MAC is one multiplication with its addition (2 FLOPs);
bias, normalisation and activation are not counted, and neither is padding or masking left out.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

Formula = Callable[[Mapping[str, Any], Any], int]
"""MACs from an operator's arguments by name and its result."""


def macs_of(func: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any] | None, out: Any) -> int | None:
    """The MACs of one call, from shapes alone.

    Args:
        func: The operator, as a dispatch mode sees it.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
        out: What it returned.

    Returns:
        The number of multiply-accumulates; None if the operator is not a contraction known here.
    """
    formula = _FORMULAS.get(_name(func))
    if formula is None:
        return None
    names = (argument.name for argument in func._schema.arguments)
    return formula({**dict(zip(names, args, strict=False)), **(kwargs or {})}, out)


def may_hide_macs(func: OpOverload) -> bool:
    """Whether an operator unknown to `macs_of` may well multiply and accumulate: by its name, or as a custom one."""
    name = _name(func)
    if name in _FORMULAS:
        return False
    namespace, base = name.split("::")
    if namespace in ("aten", "mkldnn"):
        return bool(_SUSPECT.search(base)) and not _HARMLESS.search(base)
    return namespace not in ("prim", "prims", "profiler", "rngprims") and name not in _HARMLESS_CUSTOM


def _name(func: OpOverload) -> str:
    """The operator's name without overload, in-place operators as their plain form."""
    return str(func._schema.name).removesuffix("_")


def _convolution(a: Mapping[str, Any], out: Tensor) -> int:
    if a.get("transposed", False):
        return _transposed_convolution(a, out)
    return out.numel() * prod(a["weight"].shape[1:])


def _transposed_convolution(a: Mapping[str, Any], out: Tensor) -> int:
    tensor = a["input"] if "input" in a else a["self"]
    return int(tensor.numel()) * prod(a["weight"].shape[1:])


def _product(left: str, right: str) -> Formula:
    """Of two (batches of) matrices."""
    return lambda a, out: int(a[left].numel()) * int(a[right].shape[-1])


def _matmul(a: Mapping[str, Any], out: Tensor) -> int:
    """Of vectors, matrices or batches, broadcast."""
    left = a["self"] if "self" in a else a["input"]
    return out.numel() * int(left.shape[-1])


def _attention(a: Mapping[str, Any], out: Any) -> int:
    """QKᵀ and its product with V; a causal or masked score is computed like any other."""
    result: Tensor = out[0] if isinstance(out, tuple | list) else out
    return prod(result.shape[:-1]) * int(a["key"].shape[-2]) * int(a["query"].shape[-1] + a["value"].shape[-1])


def _recurrent(a: Mapping[str, Any], out: Any) -> int:
    """Every row of the input meets every weight matrix; rows are (steps x batch), packed or not."""
    sequence: Tensor = a["input"]
    weights = a["weight"] if "weight" in a else [a["weight0"], a["weight1"]]
    if isinstance(weights, Tensor):
        weights = [weights]
    return sequence.numel() // int(sequence.shape[-1]) * sum(w.numel() for w in weights if w.dim() > 1)


def _trilinear(a: Mapping[str, Any], out: Tensor) -> int:
    """One for each term of the sum, as torch evaluates it."""
    shapes = []
    for number in ("1", "2", "3"):
        tensor: Tensor = a[f"i{number}"]
        shape = list(tensor.shape)
        for dim in a[f"expand{number}"]:
            shape.insert(dim, 1)
        shapes.append(shape)
    return prod(torch.broadcast_shapes(*shapes))


_PLAIN_CONVOLUTIONS = (
    "convolution _convolution _convolution_mode convolution_overrideable conv1d conv2d conv3d conv_depthwise3d "
    "_conv_depthwise2d _slow_conv2d_forward slow_conv3d slow_conv3d_forward slow_conv_dilated2d slow_conv_dilated3d "
    "thnn_conv2d _nnpack_spatial_convolution mkldnn_convolution cudnn_convolution cudnn_convolution_relu "
    "cudnn_convolution_add_relu miopen_convolution miopen_convolution_relu miopen_convolution_add_relu "
    "miopen_depthwise_convolution _mps_convolution"
)
_TRANSPOSED_CONVOLUTIONS = (
    "conv_transpose1d conv_transpose2d conv_transpose3d slow_conv_transpose2d slow_conv_transpose3d "
    "cudnn_convolution_transpose miopen_convolution_transpose _mps_convolution_transpose"
)
_MATMULS = "matmul linalg_matmul linear mkldnn_linear dot vdot mv"
_ATTENTIONS = (
    "scaled_dot_product_attention _scaled_dot_product_attention_math _scaled_dot_product_attention_math_for_mps "
    "_scaled_dot_product_flash_attention _scaled_dot_product_flash_attention_for_cpu "
    "_scaled_dot_product_efficient_attention _scaled_dot_product_cudnn_attention "
    "_scaled_dot_product_fused_attention_overrideable"
)

_FORMULAS: Mapping[str, Formula] = {
    **{f"aten::{name}": _convolution for name in _PLAIN_CONVOLUTIONS.split()},
    **{f"aten::{name}": _transposed_convolution for name in _TRANSPOSED_CONVOLUTIONS.split()},
    **{f"aten::{name}": _matmul for name in _MATMULS.split()},
    **{f"aten::{name}": _attention for name in _ATTENTIONS.split()},
    **{f"aten::{name}": _product("self", "mat2") for name in ("mm", "bmm", "_int_mm", "_scaled_mm")},
    **{f"aten::{name}": _product("mat1", "mat2") for name in ("addmm", "_addmm_activation")},
    **{f"aten::{name}": _product("batch1", "batch2") for name in ("baddbmm", "addbmm")},
    **{f"aten::{name}": _recurrent for name in ("mkldnn_rnn_layer", "_cudnn_rnn", "miopen_rnn")},
    "aten::addmv": lambda a, out: int(a["mat"].numel()),
    "aten::_trilinear": _trilinear,
    "torchvision::deform_conv2d": _convolution,
}

_SUSPECT = re.compile(
    r"conv|mm(_|$|\d)|matmul|gemm|attention|multi_head|transformer_encoder|(rnn|lstm|gru)(_|$)|linear|dot|addr$|(^|_)mv$"
    r"|cdist|pdist|euclidean_dist|_fft_[cr]2|solve|svd|linalg_(det|eig|inv|lu|qr|slogdet|ldl|chol|matrix_exp|househ)"
    r"|cholesky|einsum|trilinear|matrix_exp|ormqr|geqrf"
)
_HARMLESS = re.compile(
    r"upsample|fused_(lstm|gru)_cell|convert_|reorder|prepack|resolve_|flatten_weight|linear_combination|quantize_weight|pack_gemm"
)
_HARMLESS_CUSTOM = frozenset(
    f"torchvision::{name}" for name in ("nms", "roi_align", "roi_pool", "ps_roi_align", "ps_roi_pool")
)
