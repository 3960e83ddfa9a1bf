"""Rules for ops that move elements and compute nothing: they run on the labels themselves."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from squeeze.structure.context import Context, Rule
from squeeze.structure.labels import NONE, Labels, Layer, along_one, condensed, spread, varying
from squeeze.structure.tape import Call, Operand

_RESHAPES = frozenset({"view", "_unsafe_view", "reshape", "_reshape_alias", "unflatten", "flatten"})


def viewed(ctx: Context, call: Call) -> None:
    """permute, slice, expand, select, unbind, view …: whatever the op does, its labels do."""
    known = ctx.labels(call.args[0])
    found: list[list[Layer]] = [[] for _ in call.outputs]
    for layer in known.layers:
        if call.name in _RESHAPES and call.func._overloadname != "dtype":
            moved = [_reshaped(layer, call.args[0].shape, call.outputs[0].shape)]
        else:
            result = call.on(spread(layer, call.args[0].shape))
            moved = [result] if isinstance(result, Tensor) else list(result)
        placed = [_placed(ctx, ids, layer) for ids in moved]
        if not all(layers for ids, layers in zip(moved, placed, strict=True) if ids.numel()):
            alone = bool((layer.ids == layer.ids[0]).all())
            ctx.pin(layer.ids, "all of its channels go together" if alone else "its indices are picked one by one")
        for layers, more in zip(found, placed, strict=True):
            layers += more
    for output, layers in zip(call.outputs, found, strict=True):
        ctx.set(output, Labels(tuple(layers), wild=known.wild, fixed=known.fixed))


def _reshaped(layer: Layer, old: torch.Size, new: torch.Size) -> Tensor:
    """The labels after a reshape, stride 0 along every dimension that has nothing to do with them."""
    for first, last, start, stop in _matches(old, new):
        if first <= layer.dim < last:
            ids = spread(Layer(layer.dim - first, layer.ids), torch.Size(old[first:last])).reshape(new[start:stop])
            return ids.reshape([1] * start + list(new[start:stop]) + [1] * (len(new) - stop)).expand(new)
    return torch.full((1,) * len(new), NONE).expand(new)


def _matches(old: torch.Size, new: torch.Size) -> Iterator[tuple[int, int, int, int]]:
    """Runs of dims [first, last) before a reshape that hold the same elements as [start, stop) after it."""
    i = j = 0
    while i < len(old) and j < len(new) and old.numel():
        first, start, left, right = i, j, old[i], new[j]
        i, j = i + 1, j + 1
        while left != right:
            if left < right:
                left, i = left * old[i], i + 1
            else:
                right, j = right * new[j], j + 1
        yield first, i, start, j


def _placed(ctx: Context, full: Tensor, layer: Layer) -> list[Layer]:
    """Where labels lie after a move; ties what the code must treat alike if they vary along several dims."""
    dims = varying(full)
    if not dims:
        return []
    options = [dims[-1], *dims[:-1]]
    keep = options[0]
    if len(dims) > 1:
        keep = options[ctx.reading(len(options), layer.ids, eager=True) % len(options)]
        rows = condensed(full).movedim(keep, -1).reshape(-1, full.shape[keep])
        first = rows[0].clone()
        distinct = torch.unique(rows, dim=0)
        ctx.tie(distinct, first.expand_as(distinct))
        return [Layer(keep, first)]
    return [Layer(keep, along_one(full, keep))]


def restrided(ctx: Context, call: Call) -> None:
    """as_strided_: only new strides, or anything at all."""
    if call.args[0].shape != call.outputs[0].shape or not call.name.endswith("_"):
        ctx.pin_all(call.args[0], "its memory is reinterpreted")


def sliced(ctx: Context, call: Call) -> None:
    """x[:, a:b]: a bound may be written in the code; then equal pieces may have to shrink alike."""
    source, dim = call.args[0], call.arg("dim", 0) % call.args[0].dim()
    ids, length = ctx.labels(source).along(dim), call.outputs[0].shape[dim]
    if ids is not None and 1 < length < len(ids) and len(ids) % length == 0 and ctx.reading(2, ids) == 1:
        pieces = ids.view(-1, length)
        ctx.tie(pieces, pieces[0].expand_as(pieces))
    if ids is not None and length == 1 < len(ids):
        ctx.pin(ids, "its indices are picked one by one")
    viewed(ctx, call)
    ctx.counted(call.outputs, dim)


def split(ctx: Context, call: Call) -> None:
    """Chunk and split: equal pieces shrink alike, unless a trial says otherwise."""
    source, dim = call.args[0], call.arg("dim", 0) % call.args[0].dim()
    ids, sizes = ctx.labels(source).along(dim), [piece.shape[dim] for piece in call.outputs]
    if ids is not None and len(set(sizes)) == 1 and len(sizes) > 1:
        first = 0 if call.name.endswith("_with_sizes") else 1
        if (ctx.reading(2, ids) + first) % 2 == 1:
            pieces = ids.view(len(sizes), -1)
            ctx.tie(pieces, pieces[0].expand_as(pieces))
    viewed(ctx, call)
    ctx.counted(call.outputs, dim)


def joined(ctx: Context, call: Call) -> None:
    """cat: along the joined dim labels follow one another; along the others they must agree."""
    parts = [part for part in call.args[0] if part.numel()] or [part for part in call.args[0] if part.dim() > 1]
    if not parts:  # of nothing at all, as of the detections where a threshold lets none through
        return ctx.give(call, [])
    out, dim = call.outputs[0], call.arg("dim", 0) % max(part.dim() for part in call.args[0])
    ids = [_or_none(ctx, part, dim) for part in parts]
    layers = [Layer(dim, torch.cat(ids))]
    for other in range(out.dim()):
        if other != dim:
            agreed = agree(ctx, [(part, other) for part in parts], out.shape[other])
            layers += [Layer(other, agreed)] if agreed is not None else []
    ctx.give(call, layers)
    ctx.counted([out], dim)


def stacked(ctx: Context, call: Call) -> None:
    """stack: the operands' labels must agree; the new dim has none."""
    parts, out = call.args[0], call.outputs[0]
    new = call.arg("dim", 0) % out.dim()
    layers = []
    for dim in range(out.dim() - 1):
        agreed = agree(ctx, [(part, dim) for part in parts], parts[0].shape[dim])
        layers += [Layer(dim + (dim >= new), agreed)] if agreed is not None else []
    ctx.give(call, layers)


def agree(ctx: Context, operands: list[tuple[Operand, int]], size: int) -> Tensor | None:
    """Tie the labels of several tensors along one dim each; returns them, None if there are none."""
    present = [(tensor, dim) for tensor, dim in operands if tensor.shape[dim] == size]
    ids = [ctx.labels(tensor).along(dim) for tensor, dim in present]
    labelled = [i for i in ids if i is not None]
    if size == 1 or not labelled:
        return None
    for other in labelled[1:]:
        ctx.tie(labelled[0], other)
    if any(i is None and not _even(ctx, *place) for i, place in zip(ids, present, strict=True)):
        ctx.pin(labelled[0], "meets a tensor that keeps its size (a constant made in forward, or the input)")
    return labelled[0]


def _even(ctx: Context, operand: Operand, dim: int) -> bool:
    """All elements along a dim are equal: it fits whatever it meets."""
    return ctx.labels(operand).wild or operand.even(dim)


def _or_none(ctx: Context, part: Operand, dim: int) -> Tensor:
    ids = ctx.labels(part).along(dim)
    return torch.full((part.shape[dim],), NONE) if ids is None else ids


def padded(ctx: Context, call: Call) -> None:
    """constant_pad_nd: padding belongs to nothing; a negative pad crops."""
    source, pad = call.args[0], call.args[1]
    layers = []
    for layer in ctx.labels(source).layers:
        position = 2 * (source.dim() - 1 - layer.dim)
        low, high = (pad[position], pad[position + 1]) if position + 1 < len(pad) else (0, 0)
        cut = layer.ids[max(-low, 0) : len(layer.ids) - max(-high, 0)]
        ends = [torch.full((max(n, 0),), NONE) for n in (low, high)]
        layers.append(Layer(layer.dim, torch.cat([ends[0], cut, ends[1]])))
    ctx.give(call, layers)


def repeated(ctx: Context, call: Call) -> None:
    """repeat: labels repeat."""
    source, times = call.args[0], call.args[1]
    extra = len(times) - source.dim()
    layers = [Layer(la.dim + extra, la.ids.repeat(times[la.dim + extra])) for la in ctx.labels(source).layers]
    ctx.give(call, layers)


def rearranged(ctx: Context, call: Call) -> None:
    """roll, flip …: same shape, labels move along their own dim."""
    layers = []
    for layer in ctx.labels(call.args[0]).layers:
        moved = call.on(spread(layer, call.args[0].shape))
        layers.append(Layer(layer.dim, along_one(moved, layer.dim)))
    ctx.give(call, layers)


def shuffled(ctx: Context, call: Call) -> None:
    """pixel_shuffle: r² neighbouring channels become one."""
    square = call.args[1] ** 2
    ids = ctx.labels(call.args[0]).along(call.args[0].dim() - 3)
    _only(ctx, call, {call.args[0].dim() - 3})
    if ids is None:
        return ctx.give(call, [])
    blocks = ids.view(-1, square)
    ctx.tie(blocks, blocks[:, :1].expand_as(blocks))
    ctx.give(call, [Layer(call.args[0].dim() - 3, blocks[:, 0].clone())] if len(blocks) > 1 else [])


def interleaved(ctx: Context, call: Call) -> None:
    """channel_shuffle: the op holds the number of groups constant, so channels go from all groups at once."""
    ids = ctx.labels(call.args[0]).along(1)
    layers = [layer for layer in ctx.labels(call.args[0]).layers if layer.dim != 1]
    if ids is not None:
        table = ids.view(call.args[1], -1)
        ctx.tie(table, table[:1].expand_as(table))
        layers.append(Layer(1, table.t().reshape(-1)))
    ctx.give(call, layers)


def unshuffled(ctx: Context, call: Call) -> None:
    """pixel_unshuffle: each channel becomes r²."""
    dim = call.args[0].dim() - 3
    ids = ctx.labels(call.args[0]).along(dim)
    _only(ctx, call, {dim})
    ctx.give(call, [] if ids is None else [Layer(dim, ids.repeat_interleave(call.args[1] ** 2))])


def unfolded(ctx: Context, call: Call) -> None:
    """im2col: each channel becomes one row for each kernel position."""
    ids = ctx.labels(call.args[0]).along(1)
    _only(ctx, call, {0, 1})
    kernel = call.arg("kernel_size")
    ctx.give(call, [] if ids is None else [Layer(1, ids.repeat_interleave(kernel[0] * kernel[1]))])


def _only(ctx: Context, call: Call, allowed: set[int]) -> None:
    for layer in ctx.labels(call.args[0]).layers:
        if layer.dim not in allowed:
            ctx.pin(layer.ids, f"{call.name} mixes neighbours along it")


def indexed(ctx: Context, call: Call) -> None:
    """x[indices]: dims that are indexed by tensors stay; the others keep their labels."""
    source, indices = call.args[0], list(call.args[1])
    ids_of = {layer.dim: layer for layer in ctx.labels(source).layers}
    position, layers, used = 0, [], set()
    for index in indices:
        span = 1 if index is None or index.dtype not in (torch.bool, torch.uint8) else index.dim()
        if index is not None:
            used |= set(range(position, position + span))
        position += span
    for dim, layer in ids_of.items():
        if dim in used:
            ctx.pin(layer.ids, "is indexed by a tensor")
        else:
            moved = call.on(spread(layer, source.shape))
            layers += _placed(ctx, moved, layer)
    for index in call.tensors[1:]:
        ctx.pin_all(index, "is used as an index")
    ctx.give(call, layers)


def selected(ctx: Context, call: Call) -> None:
    """index_select, gather and embedding: the dim that is indexed stays, the others keep their labels."""
    source = call.args[0]
    dim = 0 if call.name == "embedding" else call.arg("dim") % source.dim()
    follows = call.tensors[1] in ctx.selections
    for index in call.tensors[1:] if not follows else ():
        ctx.pin_all(index, "is used as an index")
    out, layers = call.outputs[0], []
    if ctx.labels(source).fixed and not ctx.all_fixed(call):
        ctx.ledger.passes += [layer.ids.numpy().copy() for layer in ctx.labels(source).layers]
    for layer in ctx.labels(source).layers:
        place = layer.dim + (out.dim() - source.dim() if layer.dim > dim else 0)
        if layer.dim == dim and follows and call.tensors[1].values is not None:
            layers.append(Layer(dim, layer.ids[call.tensors[1].values]))
        elif layer.dim == dim or out.shape[place] != source.shape[layer.dim]:
            ctx.pin(layer.ids, "is indexed by a tensor")
        else:
            layers.append(Layer(place, layer.ids))
    ctx.give(call, layers)


def _table(rule: Callable[[Context, Call], None], names: str) -> dict[str, Rule]:
    return dict.fromkeys(names.split(), rule)


RULES: dict[str, Rule] = {
    **_table(
        viewed,
        "view _unsafe_view _reshape_alias reshape permute transpose t expand squeeze unsqueeze select unbind diagonal "
        "alias detach detach_ lift_fresh lift movedim swapaxes unfold contiguous transpose_ squeeze_ unsqueeze_ t_",
    ),
    **_table(split, "split unsafe_split chunk unsafe_chunk tensor_split split_with_sizes unsafe_split_with_sizes"),
    **_table(rearranged, "roll flip"),
    **_table(selected, "index_select gather embedding"),
    "as_strided": restrided,
    "as_strided_": restrided,
    "slice": sliced,
    "narrow": sliced,
    "cat": joined,
    "stack": stacked,
    "constant_pad_nd": padded,
    "repeat": repeated,
    "pixel_shuffle": shuffled,
    "channel_shuffle": interleaved,
    "native_channel_shuffle": interleaved,
    "pixel_unshuffle": unshuffled,
    "im2col": unfolded,
    "index": indexed,
}
