"""Rules for contractions: what is summed over ties, what is shared agrees, the rest is passed on."""

import math

import torch
from torch import Tensor

from squeeze.structure.context import Context, Rule
from squeeze.structure.labels import Labels, Layer
from squeeze.structure.movement import agree
from squeeze.structure.tape import Call, Operand


def contract(ctx: Context, spec: str, operands: tuple[Operand, ...], out: Operand | None) -> dict[str, Tensor]:
    """Tie what is summed over, agree on what is shared, pass on the rest (spec as in einsum).

    Returns:
        The ids of each letter that is labelled.
    """
    inputs, output = spec.split("->")
    names = inputs.split(",")
    a, b = operands
    found: dict[str, Tensor] = {}
    for letter in dict.fromkeys(inputs.replace(",", "")):
        where = [(t, n.index(letter)) for t, n in zip(operands, names, strict=True) if letter in n]
        ids = (
            agree(ctx, where, where[0][0].shape[where[0][1]])
            if len(where) > 1
            else ctx.labels(where[0][0]).along(where[0][1])
        )
        if ids is None:
            continue
        found[letter] = ids
        if letter not in output:
            sides = [ctx.labels(t).along(dim) for t, dim in where]
            _read(ctx, a, b, ids, sides)
            reader = next((side for side, (t, _) in zip(sides, where, strict=True) if ctx.labels(t).fixed), None)
            found[letter] = ids if reader is None else reader  # what a reader no longer reads, it does not compute
        elif not all(ctx.labels(t).fixed for t in operands):
            ctx.ledger.passes += [ids.numpy().copy() for t, _ in where if ctx.labels(t).fixed]
    if out is not None:
        fixed = all(ctx.labels(t).fixed for t in operands)
        ctx.set(out, Labels(tuple(Layer(output.index(x), ids) for x, ids in found.items() if x in output), fixed=fixed))
    return found


def _read(ctx: Context, a: Operand, b: Operand, ids: Tensor, sides: list[Tensor | None]) -> None:
    """A weight that meets an activation reads it; two activations multiply each other."""
    fixed = [ctx.labels(a).fixed, ctx.labels(b).fixed]
    if not any(fixed):
        ctx.ledger.products.append(ids.numpy().copy())
    for side, is_weight, other in zip(sides, fixed, reversed(fixed), strict=True):
        if side is not None and is_weight and not other:
            ctx.ledger.reads.append(side.numpy().copy())


def _product(spec: str, first: int = 0) -> Rule:
    """mm, bmm and their like; `first` is 1 where a summand comes before the factors."""

    def rule(ctx: Context, call: Call) -> None:
        operands, out = (call.args[first], call.args[first + 1]), call.outputs[0]
        found = contract(ctx, spec, operands, out)
        ctx.cost(call.macs or 0, list(found.values()))
        if first:
            labelled = ctx.labels(out)
            for layer in labelled.layers:
                dim = layer.dim - out.dim() + call.args[0].dim()
                if dim >= 0 and call.args[0].shape[dim] == out.shape[layer.dim]:
                    agree(ctx, [(out, layer.dim), (call.args[0], dim)], out.shape[layer.dim])

    return rule


def linear(ctx: Context, call: Call) -> None:
    """A linear layer where it is not decomposed."""
    x, weight, bias = call.args[0], call.args[1], call.arg("bias")
    batch = "abcdefgh"[: x.dim() - 1]
    found = contract(ctx, f"{batch}k,jk->{batch}j", (x, weight), call.outputs[0])
    if bias is not None:
        agree(ctx, [(weight, 0), (bias, 0)], bias.shape[0])
    ctx.cost(call.macs or 0, list(found.values()))


def convolution(ctx: Context, call: Call) -> None:
    """Output channels come from the weight's rows, its columns read the input; groups go as a whole."""
    x, weight, bias, groups = call.args[0], call.args[1], call.arg("bias"), call.arg("groups")
    rows, columns = (1, 0) if call.arg("transposed") else (0, 1)
    passed = []
    for layer in ctx.labels(weight).layers:
        if layer.dim >= 2:
            ctx.pin(layer.ids, "the kernel's size")
    for layer in ctx.labels(x).layers:
        if layer.dim >= 2 and _stays(call, layer.dim):
            passed.append(layer)
        elif layer.dim >= 2:
            ctx.pin(layer.ids, "is convolved along")
    if groups == 1:
        found = contract(ctx, "nc,oc->no" if rows == 0 else "nc,co->no", (x, weight), None)
    else:
        found = _grouped(ctx, call, x, weight, groups)
    if bias is not None:
        _with_bias(ctx, found, bias)
    ctx.give(call, [*(Layer(dim, found[letter]) for dim, letter in ((0, "n"), (1, "o")) if letter in found), *passed])
    sized = [found.get("n"), found.get("o"), found.get("c") if groups == 1 else None]
    ctx.cost(call.macs or 0, [*sized, *(layer.ids for layer in passed)])


def _stays(call: Call, dim: int) -> bool:
    """Along this dim a kernel of one weight meets every position once: positions are what they were."""
    stride, padding = ((*call.arg(name), *call.arg(name)[:1] * dim)[dim - 2] for name in ("stride", "padding"))
    return bool(call.args[1].shape[dim] == stride == 1 and padding == 0)


def _with_bias(ctx: Context, found: dict[str, Tensor], bias: Operand) -> None:
    ids = ctx.labels(bias).along(0)
    if ids is not None and "o" in found:
        ctx.tie(found["o"], ids)
    elif ids is not None:
        ctx.pin(ids, "belongs to channels that stay")
    elif "o" in found and not ctx.labels(bias).wild and len(found["o"]) > 1:
        ctx.pin(found["o"], "its bias keeps its size")


def _grouped(ctx: Context, call: Call, x: Operand, weight: Operand, groups: int) -> dict[str, Tensor]:
    """All channels of a group, in and out, go together."""
    inner = ctx.labels(weight).along(1)
    if inner is not None:
        ctx.pin(inner, "the width of a group")
    batch = ctx.labels(x).along(0)
    rows, ids = ctx.labels(weight).along(0), ctx.labels(x).along(1)
    found = {} if batch is None else {"n": batch}
    known = rows if rows is not None else ids
    if known is None:
        return found
    head = known.view(groups, -1)[:, :1]
    for other in (rows, ids):
        if other is not None:
            ctx.tie(other.view(groups, -1), head.expand(groups, len(other) // groups))
    if rows is None or ids is None:
        ctx.pin(known, "meets a tensor that keeps its size (a constant made in forward, or the input)")
    outputs = call.outputs[0].shape[1]
    return {**found, "o": head.expand(groups, outputs // groups).reshape(-1).clone()}


def attention(ctx: Context, call: Call) -> None:
    """softmax(q kᵀ) v in one op; leading dims are batch and heads."""
    q, k, v = call.args[0], *(_for_all_heads(ctx, call.args[0], t) for t in call.args[1:3])
    lead = "abcdefgh"[: q.dim() - 2]
    scores = contract(ctx, f"{lead}nd,{lead}md->{lead}nm", (q, k), None)
    weights = Operand(torch.Size((*q.shape[:-1], k.shape[-2])))
    ctx.set(weights, Labels(tuple(Layer(f"{lead}nm".index(x), ids) for x, ids in scores.items() if x != "d")))
    values = contract(ctx, f"{lead}nm,{lead}me->{lead}ne", (weights, v), None)
    if "m" in scores:
        ctx.pin(scores["m"], "attention runs over it")
    if "d" in scores and call.arg("scale") is None:
        ctx.ledger.flag_statistics(scores["d"], "attention is scaled by the size of a head")
    shared = {x: ids for x, ids in {**values, **scores}.items() if x in f"{lead}ne"}
    out = f"{lead}ne"
    ctx.give(call, [Layer(out.index(x), ids) for x, ids in shared.items()])
    heads, tokens = math.prod(q.shape[:-2]), q.shape[-2] * k.shape[-2]
    axes = [shared.get(x) for x in lead]
    ctx.cost(heads * tokens * q.shape[-1], [*axes, scores.get("d")])
    ctx.cost(heads * tokens * v.shape[-1], [*axes, shared.get("e")])


def _for_all_heads(ctx: Context, q: Operand, shared: Operand) -> Operand:
    """Keys or values as every head of the queries sees them: neighbouring heads may share one."""
    dim = q.dim() - 3
    if dim < 0 or shared.shape[dim] in (1, q.shape[dim]):
        return shared
    times = q.shape[dim] // shared.shape[dim]
    layers = [
        Layer(la.dim, la.ids.repeat_interleave(times) if la.dim == dim else la.ids) for la in ctx.labels(shared).layers
    ]
    wide = Operand(torch.Size((*shared.shape[:dim], q.shape[dim], *shared.shape[dim + 1 :])))
    ctx.set(wide, Labels(tuple(layers), fixed=ctx.labels(shared).fixed))
    return wide


def deformable(ctx: Context, call: Call) -> None:
    """A convolution that samples at computed places; in one group, as a plain one."""
    x, weight, bias = call.arg("input"), call.arg("weight"), call.arg("bias")
    whole = call.arg("groups") == call.arg("offset_groups") == 1
    for tensor, kept in ((x, 2), (weight, 2), (call.arg("offset"), 1), (call.arg("mask"), 1)):
        for layer in ctx.labels(tensor).layers:
            if layer.dim >= kept or not whole:
                ctx.pin(layer.ids, "says where a deformable convolution samples, or is sampled in groups")
    found = contract(ctx, "nc,oc->no", (x, weight), None) if whole else {}
    _with_bias(ctx, found, bias)
    ctx.give(call, [Layer(dim, found[letter]) for dim, letter in ((0, "n"), (1, "o")) if letter in found])
    ctx.cost(call.macs or 0, [found.get(letter) for letter in "noc"])


RULES: dict[str, Rule] = {
    "mm": _product("ik,kj->ij"),
    "bmm": _product("bik,bkj->bij"),
    "mv": _product("ik,k->i"),
    "dot": _product("k,k->"),
    "vdot": _product("k,k->"),
    "addmm": _product("ik,kj->ij", first=1),
    "addmv": _product("ik,k->i", first=1),
    "baddbmm": _product("bik,bkj->bij", first=1),
    "linear": linear,
    "deform_conv2d": deformable,
    **dict.fromkeys(("convolution", "_convolution", "mkldnn_convolution"), convolution),
    **dict.fromkeys(
        (
            "scaled_dot_product_attention",
            "_scaled_dot_product_flash_attention_for_cpu",
            "_scaled_dot_product_flash_attention",
            "_scaled_dot_product_efficient_attention",
            "_scaled_dot_product_cudnn_attention",
            "_scaled_dot_product_attention_math",
        ),
        attention,
    ),
}
