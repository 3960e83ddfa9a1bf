"""Convolutions that can be gated: what lies behind each, and who reads it."""

from collections import Counter
from collections.abc import Iterator

from torch import nn

from squeeze.nn import partly_computed
from squeeze.structure.bodies import Graph
from squeeze.structure.parts import Gateable

_KEEPS_ZERO = frozenset(
    "relu leaky_relu hardtanh silu gelu hardswish elu mish tanh softsign max_pool2d_with_indices avg_pool2d clone "
    "_to_copy upsample_nearest2d upsample_bilinear2d upsample_bicubic2d constant_pad_nd".split()
)
"""Of one tensor, each channel by itself, and 0 where that is 0; in place, too."""
_NORMS = frozenset("native_batch_norm _native_batch_norm_legit_no_training cudnn_batch_norm batch_norm".split())


def gateable(graph: Graph, model: nn.Module) -> tuple[Gateable, ...]:
    """The 2-D convolutions in one group that are called once, in the order in which they ran."""
    found = _Finder(graph, model)
    return tuple(site for number in range(len(graph.ops)) if (site := found.at(number)) is not None)


class _Finder:
    def __init__(self, graph: Graph, model: nn.Module) -> None:
        self._graph, self._calls = graph, graph.record.tape.calls
        names = Counter(id(module) for _, module in model.named_modules(remove_duplicate=False))
        called = Counter(call.name for call in graph.record.calls)
        once, gated = {n: m for n, m in model.named_modules() if called[n] == 1 and n}, partly_computed(model)
        self._single = {n: m for n, m in once.items() if names[id(m)] == 1 and m not in gated}

    def at(self, number: int) -> Gateable | None:
        """What op `number` is, if it can be gated."""
        conv = self._conv(number)
        if conv is None or conv[1].groups != 1:
            return None
        norm, last = self._norm(number)
        follows: list[tuple[str, str]] = []
        readers, relu = self._readers(last), self._only_relu(last)
        while readers is not None and len(readers) == 1 and self._is_depthwise(readers[0]):
            depthwise = self._conv(readers[0])
            behind, end = self._norm(readers[0])
            follows.append(("" if depthwise is None else depthwise[0], behind))
            readers = self._readers(end)
        pairs = [self._reader(reader) for reader in readers or ()]
        whole = bool(pairs) and all(pair[0] for pair in pairs)
        stem = self._graph.ops[number].inputs[0] < 0
        if not whole:
            return Gateable(conv[0], norm, relu, (), (), stem)
        return Gateable(conv[0], norm, relu, tuple(follows), tuple(pairs), stem)

    def _conv(self, number: int) -> tuple[str, nn.Conv2d] | None:
        """Name and module of the convolution that is op `number`, if that is all there is to it."""
        call, ran = self._calls[number], self._graph.ops[number]
        module = self._single.get(call.module)
        if call.name != "convolution" or type(module) is not nn.Conv2d or not _as_torch_made_it(module):
            return None
        weight = f"{call.module}.weight"
        if ran.parameters[1:2] != (weight,) or self._graph.uses[weight] != {number}:
            return None
        own = isinstance(module._parameters.get("weight"), nn.Parameter)
        return (call.module, module) if own else None

    def _norm(self, number: int) -> tuple[str, int]:
        """The batch norm that alone reads op `number`, "" if there is none; and the number of its op, else `number`."""
        users = self._graph.users[number]
        if len(users) != 1 or number in self._graph.outputs or self._graph.ops[users[0]].name not in _NORMS:
            return "", number
        name = self._calls[users[0]].module
        module = self._single.get(name)
        if type(module) is not nn.BatchNorm2d or module.running_mean is None or not _as_torch_made_it(module):
            return "", number
        return name, users[0]

    def _only_relu(self, number: int) -> bool:
        users = self._graph.users[number]
        return len(users) == 1 and self._graph.ops[users[0]].name.rstrip("_") == "relu"

    def _readers(self, number: int) -> list[int] | None:
        """Numbers of the convolutions that read the output of op `number`; None if anything else does."""
        found: list[int] = []
        for user in self._users(number):
            if user is None:
                return None
            found.append(user)
        return sorted(set(found))

    def _users(self, number: int) -> Iterator[int | None]:
        if number in self._graph.outputs:
            yield None
        for user in self._graph.users[number]:
            ran, call = self._graph.ops[user], self._calls[user]
            if ran.name.rstrip("_") in _KEEPS_ZERO and len(ran.inputs) == 1 and _spatial(call):
                yield from self._users(user)
            else:
                yield user if call.name == "convolution" and ran.inputs[0] == number else None

    def _is_depthwise(self, number: int) -> bool:
        conv = self._conv(number)
        return conv is not None and 1 < conv[1].groups == conv[1].in_channels == conv[1].out_channels

    def _reader(self, number: int) -> tuple[str, str]:
        """Names of a reading convolution and of the batch norm behind it; "" if it cannot read fewer channels."""
        conv = self._conv(number)
        if conv is None or conv[1].groups != 1:
            return "", ""
        return conv[0], self._norm(number)[0]


def _as_torch_made_it(module: nn.Module) -> bool:
    """No hook has a say in what it computes, and its forward is its class's: it may be folded, or computed in part."""
    return not (module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module))


def _spatial(call: object) -> bool:
    """Padding is of positions alone, and by 0."""
    if getattr(call, "name", "") != "constant_pad_nd":
        return True
    pad, value = call.arg("pad"), call.arg("value", 0)  # type: ignore[attr-defined]
    return len(pad) <= 4 and not value
