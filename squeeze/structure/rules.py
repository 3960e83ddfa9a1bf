"""The rule book: what each kind of op says about the labels of its operands.

Element-wise ops tie. Contractions tie what they sum over and pass the rest on. Normalisations tie
their weights. Reductions drop dims. Movement is in `movement`, contractions in `products`. What has no rule is pinned.
"""

import torch

from squeeze.structure.context import Context, Rule
from squeeze.structure.labels import Labels, Layer
from squeeze.structure.movement import RULES as MOVEMENT
from squeeze.structure.movement import agree
from squeeze.structure.products import RULES as PRODUCTS
from squeeze.structure.tape import Call, Operand

_WILD = frozenset(
    "zeros ones full empty zeros_like ones_like full_like empty_like new_zeros new_ones new_full new_empty "
    "scalar_tensor empty_strided new_empty_strided".split()
)
_ELEMENTWISE = frozenset(
    "hardswish hardtanh hardsigmoid leaky_relu elu celu selu mish threshold hardshrink "
    "log_sigmoid_forward rrelu_with_noise _prelu_kernel dropout native_dropout _fused_dropout bernoulli bucketize "
    "clamp_min copysign _to_copy".split()
)
"""Those that PyTorch does not mark as such, with their forms in place."""
_INPLACE_CONSTANTS = frozenset("fill_ zero_ normal_ uniform_ resize_ set_ random_".split())


def apply(ctx: Context, call: Call) -> None:
    """Carry out the rule of an op."""
    name = call.name
    rule = RULES.get(name)
    if not call.tensors:
        for output in call.outputs:
            ctx.set(output, Labels(wild=name in _WILD, fixed=True))
    elif rule is not None:
        rule(ctx, call)
    elif name in _WILD:
        ctx.set(call.outputs[0], Labels(wild=True, fixed=True))
    elif name in _INPLACE_CONSTANTS:
        _overwritten(ctx, call)
    elif name == "copy_":
        _copied(ctx, call)
    elif torch.Tag.pointwise in call.func.tags or name.removesuffix("_") in _ELEMENTWISE:
        elementwise(ctx, call)
    else:
        unknown(ctx, call)


def unknown(ctx: Context, call: Call) -> None:
    """Never guess: whatever meets an op without a rule stays."""
    for tensor in call.tensors:
        ctx.pin_all(tensor, f"no rule for {call.func}")
    macs = call.macs
    if macs is not None:
        ctx.cost(macs, [])
    for output in call.outputs:
        ctx.set(output, Labels(fixed=ctx.all_fixed(call)))


def elementwise(ctx: Context, call: Call) -> None:
    """Operands tie dim by dim; a dim of size 1 is broadcast and ties nothing."""
    tensors, out = call.tensors, call.outputs[0]
    layers = []
    for dim in range(out.dim()):
        aligned = [(t, dim - out.dim() + t.dim()) for t in tensors if dim - out.dim() + t.dim() >= 0]
        ids = agree(ctx, aligned, out.shape[dim])
        layers += [Layer(dim, ids)] if ids is not None else []
    if call.name.endswith("_") and out is call.args[0]:
        _written(ctx, out, layers)
    fixed, wild = ctx.all_fixed(call), all(ctx.labels(t).wild for t in tensors)
    if not fixed:
        _passed(ctx, tensors)
    for output in call.outputs:
        ctx.set(output, Labels(tuple(layers), wild=wild and not layers, fixed=fixed))


def _passed(ctx: Context, tensors: list[Operand]) -> None:
    """Weights whose labels an activation takes over."""
    for tensor in tensors:
        if ctx.labels(tensor).fixed:
            ctx.ledger.passes += [layer.ids.numpy().copy() for layer in ctx.labels(tensor).layers]


def _written(ctx: Context, target: Operand, layers: list[Layer]) -> None:
    """Labels written into part of a tensor that had none cannot be followed in the whole."""
    known = {layer.dim for layer in ctx.labels(target).layers}
    if target.base is not None and any(layer.dim not in known for layer in layers):
        for layer in layers:
            ctx.pin(layer.ids, "is written into part of a tensor made in forward")
        ctx.set(target.base, Labels(ctx.labels(target.base).layers))


def _copied(ctx: Context, call: Call) -> None:
    target, source = call.args[0], call.args[1]
    if target.base is None and not ctx.labels(target).layers and source.shape == target.shape:
        return ctx.set(target, ctx.labels(source))
    elementwise(ctx, call)
    return None


def _overwritten(ctx: Context, call: Call) -> None:
    known = ctx.labels(call.args[0])
    uniform = call.name in ("fill_", "zero_") and call.args[0].base is None
    ctx.set(call.args[0], Labels(known.layers, wild=(known.wild or uniform) and uniform, fixed=True))


def batch_norm(ctx: Context, call: Call) -> None:
    """Dim 1 ties to weight, bias and the running statistics."""
    x = call.args[0]
    own = [t for t in call.tensors[1:] if t.dim() == 1]
    ids = agree(ctx, [(x, 1), *((t, 0) for t in own)], x.shape[1])
    layers = [layer for layer in ctx.labels(x).layers if layer.dim != 1]
    for layer in layers if call.arg("training") else ():
        ctx.ledger.flag_statistics(layer.ids, f"{call.name} takes statistics over it")
    ctx.give(call, [*layers, *([Layer(1, ids)] if ids is not None else [])])


def layer_norm(ctx: Context, call: Call) -> None:
    """The last dims tie to the weights; statistics run over them."""
    x, shape = call.args[0], call.arg("normalized_shape")
    first = x.dim() - len(shape)
    layers = []
    for dim in range(x.dim()):
        operands = [(x, dim)] + [(t, dim - first) for t in call.tensors[1:] if dim >= first]
        ids = agree(ctx, operands, x.shape[dim])
        if ids is not None:
            layers.append(Layer(dim, ids))
            if dim >= first:
                ctx.ledger.flag_statistics(ids, f"{call.name} takes statistics over it")
    ctx.give(call, layers)


def group_norm(ctx: Context, call: Call) -> None:
    """A norm's group goes as a whole; with one group, statistics run over the channels."""
    x, groups = call.args[0], call.arg("group") if call.name == "native_group_norm" else call.arg("num_groups")
    ids = agree(ctx, [(x, 1), *((t, 0) for t in call.tensors[1:])], x.shape[1])
    layers = [layer for layer in ctx.labels(x).layers if layer.dim == 0]
    _pin_beyond(ctx, x, {0, 1}, "statistics run over it")
    if ids is not None:
        layers.append(Layer(1, ids))
        if groups > 1:
            blocks = ids.view(groups, -1)
            ctx.tie(blocks, blocks[:, :1].expand_as(blocks))
        else:
            ctx.ledger.flag_statistics(ids, "group_norm takes statistics over it")
    ctx.give(call, layers)


def weight_norm(ctx: Context, call: Call) -> None:
    """V · g / ‖v‖: labels of v, and g ties along the dim that is not normalised."""
    v, g = call.args[0], call.args[1]
    for dim in range(v.dim()):
        if g.dim() == v.dim() and g.shape[dim] == v.shape[dim] > 1:
            agree(ctx, [(v, dim), (g, dim)], v.shape[dim])
    ctx.set(call.outputs[0], ctx.labels(v))


def glu(ctx: Context, call: Call) -> None:
    """Halves multiply each other."""
    x, dim = call.args[0], call.arg("dim", -1) % call.args[0].dim()
    layers = [layer for layer in ctx.labels(x).layers if layer.dim != dim]
    ids = ctx.labels(x).along(dim)
    if ids is not None:
        first, second = ids.view(2, -1)
        ctx.tie(first, second)
        layers.append(Layer(dim, first.clone()))
    ctx.give(call, layers)


def reduction(ctx: Context, call: Call) -> None:
    """sum, mean, amax, norm …: reduced dims are gone; over labelled ones a mask is not a removal."""
    if len(call.tensors) > 1:
        return elementwise(ctx, call)
    x, out = call.args[0], call.outputs[0]
    dims = call.arg("dim")
    reduced = (
        range(x.dim())
        if dims is None or dims == []
        else [d % x.dim() for d in ([dims] if isinstance(dims, int) else dims)]
    )
    layers, keep = [], bool(call.arg("keepdim", False))
    for layer in ctx.labels(x).layers:
        if layer.dim not in reduced:
            layers.append(Layer(layer.dim - (0 if keep else sum(d < layer.dim for d in reduced)), layer.ids))
        elif not (ctx.labels(x).fixed and call.name in _ZERO_SAFE):
            ctx.ledger.flag_statistics(layer.ids, f"{call.name} runs over it")
    for index in range(len(call.outputs)):
        ctx.give(call, layers if call.outputs[index].dim() == out.dim() else [], index)
    return None


_ZERO_SAFE = frozenset({"sum", "norm", "linalg_vector_norm"})


def softmax(ctx: Context, call: Call) -> None:
    """Same shape; along the dim it runs over, a mask is not a removal."""
    x = call.args[0]
    ids = ctx.labels(x).along(call.arg("dim") % max(x.dim(), 1))
    if ids is not None:
        ctx.ledger.flag_statistics(ids, f"{call.name.strip('_')} runs over it")
    ctx.give(call, list(ctx.labels(x).layers))


def ordered(ctx: Context, call: Call) -> None:
    """argmax, sort, cumsum …: positions or order matter along the dim, so it stays."""
    x = call.args[0]
    dim = call.arg("dim")
    run = list(range(x.dim())) if dim is None else [dim % max(x.dim(), 1)]
    layers = []
    for layer in ctx.labels(x).layers:
        if layer.dim in run:
            ctx.pin(layer.ids, f"{call.name} depends on its order")
        elif call.outputs[0].dim() == x.dim():
            layers.append(layer)
        else:
            layers.append(Layer(layer.dim - (run[0] < layer.dim), layer.ids))
    for index in range(len(call.outputs)):
        ctx.give(call, layers, index)


def spatial(ctx: Context, call: Call) -> None:
    """Pooling, resampling, reflection padding: batch and channels pass, positions do not."""
    x, out = call.args[0], call.outputs[0]
    size = {"1d": 1, "2d": 2, "3d": 3}
    positions = next((n for key, n in size.items() if key in call.name), 2)
    passed = [
        la for la in ctx.labels(x).layers if la.dim < x.dim() - positions and out.shape[la.dim] == x.shape[la.dim]
    ]
    _pin_beyond(ctx, x, {layer.dim for layer in passed}, f"{call.name} runs over it")
    for other in call.tensors[1:]:
        ctx.pin_all(other, f"steers {call.name}")
    for index in range(len(call.outputs)):
        ctx.give(call, passed, index)


def _pin_beyond(ctx: Context, x: Operand, allowed: set[int], reason: str) -> None:
    for layer in ctx.labels(x).layers:
        if layer.dim not in allowed:
            ctx.pin(layer.ids, reason)


def _named(rule: Rule, names: str) -> dict[str, Rule]:
    return dict.fromkeys(names.split(), rule)


RULES: dict[str, Rule] = {
    **MOVEMENT,
    **PRODUCTS,
    **_named(
        batch_norm, "native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training cudnn_batch_norm"
    ),
    **_named(layer_norm, "native_layer_norm _fused_rms_norm rms_norm"),
    **_named(group_norm, "native_group_norm group_norm"),
    "_weight_norm_interface": weight_norm,
    "glu": glu,
    **_named(
        reduction,
        "sum mean amax amin prod std var var_mean std_mean norm linalg_vector_norm logsumexp any all max min nansum",
    ),
    **_named(softmax, "_softmax _safe_softmax _log_softmax softmax log_softmax"),
    **_named(ordered, "argmax argmin sort topk cumsum cumprod median mode argsort kthvalue logcumsumexp"),
    **_named(
        spatial,
        "max_pool1d max_pool2d max_pool3d "
        "max_pool2d_with_indices max_pool3d_with_indices avg_pool1d avg_pool2d avg_pool3d "
        "_adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_max_pool2d adaptive_max_pool3d adaptive_avg_pool1d "
        "upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_bilinear2d upsample_bicubic2d "
        "upsample_linear1d "
        "upsample_trilinear3d _upsample_nearest_exact2d _upsample_bilinear2d_aa _upsample_bicubic2d_aa grid_sampler_2d "
        "grid_sampler_3d reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d "
        "replication_pad3d fractional_max_pool2d",
    ),
    **_named(spatial, "roi_align roi_pool"),
}
