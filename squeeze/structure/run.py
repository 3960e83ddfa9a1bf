"""One run of a model on labels, and the record of what ran."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakIdKeyDictionary

from squeeze.blame import first_line, line_of
from squeeze.errors import TraceError
from squeeze.structure import rules
from squeeze.structure.context import Call, Context
from squeeze.structure.labels import Nodes, named_tensors
from squeeze.structure.watch import Watch
from squeeze.task import Inputs, call, tensors_of


@dataclass(frozen=True, eq=False)
class Ran:
    """One op that ran.

    Attributes:
        name: The op's name.
        func: The overload.
        inputs: For each tensor operand, the number of the op that made it; -1 if none did (inputs, parameters).
        parameters: Names of the parameters and buffers among the operands, in order ("" for other operands).
        shapes: Of the tensor operands.
        concat: Dimension of a concatenation, else None.
    """

    name: str
    func: Any
    inputs: tuple[int, ...]
    parameters: tuple[str, ...]
    shapes: tuple[torch.Size, ...]
    concat: int | None


@dataclass(eq=False)
class ModuleCall:
    """One call of a module.

    Attributes:
        name: Of the module.
        start: Number of its first op.
        sources: Numbers of the ops that made its inputs.
        stop: Number after its last op.
        returns: How many values it returned; 0 for a bare one.
    """

    name: str
    start: int
    sources: tuple[int, ...]
    stop: int = -1
    returns: int = 0


@dataclass
class Record:
    """What ran, in order.

    Attributes:
        ops: Every op.
        calls: Every call of a module.
        outputs: Numbers of the ops that made the model's outputs.
        context: Labels, ledger and contractions.
        operands: For each concatenation's number, the ids of each operand along the joined dim.
        shapes: Of all parameters and buffers.
        used: Names of the parameters and buffers that some op used.
        shapes_out: Of the model's outputs.
    """

    context: Context
    nodes: Nodes
    shapes: Mapping[str, torch.Size]
    ops: list[Ran] = field(default_factory=list)
    calls: list[ModuleCall] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)
    operands: dict[int, list[Tensor | None]] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)
    shapes_out: list[torch.Size] = field(default_factory=list)


class _Labelling(TorchDispatchMode):
    """Runs every op as it is, then applies its rule."""

    def __init__(self, record: Record, names: WeakIdKeyDictionary, watch: Watch) -> None:
        super().__init__()
        self.watch = watch
        self.record = record
        self.names = names
        self.made_by = WeakIdKeyDictionary()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        shape = args[0].shape if args and isinstance(args[0], Tensor) else torch.Size()
        self.watch.step(f"{func} in {self.record.context.module or 'the model'}")
        out = func(*args, **kwargs)
        ran = Call(func, args, kwargs, out, shape)
        context, number = self.record.context, len(self.record.ops)
        context.number = number
        concat = None
        if ran.name == "cat" and ran.outputs:
            concat = (args[1] if len(args) > 1 else kwargs.get("dim", 0)) % max(out.dim(), 1)
            self.record.operands[number] = [context.labels(part).along(concat) for part in args[0]]
        tensors = ran.tensors
        self.record.ops.append(
            Ran(
                ran.name,
                func,
                tuple(self.made_by.get(t, -1) for t in tensors),
                tuple(self.names.get(t, "") for t in tensors),
                tuple(t.shape for t in tensors),
                concat,
            )
        )
        self.record.used.update(self.record.ops[-1].parameters)
        rules.apply(context, ran)
        for output in ran.outputs:
            self.made_by[output] = number
        return out

    def sources(self, tree: Any) -> tuple[int, ...]:
        """Numbers of the ops that made the tensors of a nested structure."""
        return tuple(self.made_by.get(t, -1) for t in tensors_of(tree))


def run_on_labels(
    model: nn.Module, inputs: Inputs, readings: Mapping[int, int], watch: Watch, training: bool = False
) -> Record:
    """Run a model once, eagerly, and label everything it touches.

    Args:
        model: Left as it was.
        inputs: Its example inputs.
        readings: For the ops that can be read in several ways, which one to take.
        watch: Is told what runs.
        training: Run in training mode.

    Raises:
        TraceError: The model fails on these inputs; names the op's line in the user's code.
    """
    tensors = named_tensors(model)
    nodes = Nodes.of(tensors)
    record = Record(Context(readings), nodes, {name: tensor.shape for name, tensor in tensors})
    names = WeakIdKeyDictionary()
    for name, tensor in tensors:
        names[tensor] = name
        record.context.set(tensor, nodes.labels(name, tensor))
    mode = _Labelling(record, names, watch)
    with quietly(model, training), torch.no_grad(), _calls(model, mode), mode:
        try:
            output = call(model, inputs)
        except Exception as error:
            last = f" after {record.ops[-1].func}" if record.ops else ""
            raise TraceError(
                f"trace: {type(model).__name__} must run on the example inputs, got {type(error).__name__}: "
                f"{first_line(error)}{last} at {line_of(error)}; pass inputs that the model accepts."
            ) from error
    _tie_recurrent(model, record, names)
    for tensor in tensors_of(output):
        record.outputs.append(mode.made_by.get(tensor, -1))
        record.shapes_out.append(tensor.shape)
        for layer in record.context.labels(tensor).layers:
            record.context.ledger.pin(layer.ids, "reaches the model's output", "")
    return record


def _tie_recurrent(model: nn.Module, record: Record, names: WeakIdKeyDictionary) -> None:
    """nn.LSTM and its like have one hidden size for all layers and directions."""
    for module in model.modules():
        if isinstance(module, nn.RNNBase):
            weights = [w for n, w in module.named_parameters(recurse=False) if n.startswith("weight_hh")]
            hidden = [record.context.labels(w).along(1) for w in weights if w in names]
            for other in hidden[1:]:
                if hidden[0] is not None and other is not None:
                    record.context.tie(hidden[0], other)


@contextmanager
def quietly(model: nn.Module, training: bool = False) -> Iterator[None]:
    """Eval (or training) mode, and only ops that a rule can see; afterwards everything is as it was."""
    modes = {module: module.training for module in model.modules()}
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    held = [pair for module in modes if not isinstance(module, torch.jit.ScriptModule) for pair in _held(module)]
    fast, mkldnn = torch.backends.mha.get_fastpath_enabled(), torch.backends.mkldnn.enabled
    try:
        model.train(training)
        torch.backends.mha.set_fastpath_enabled(False)
        if any(isinstance(module, nn.RNNBase) for module in model.modules()):
            torch.backends.mkldnn.set_flags(False)
        with torch.random.fork_rng(enabled=training):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        torch.backends.mkldnn.set_flags(mkldnn)
        with torch.no_grad():
            for buffer, before in buffers:
                if buffer.shape != before.shape or not torch.equal(buffer, before):
                    buffer.copy_(before)
        for values, before in held:
            for name in values.keys() - before.keys():
                del values[name]
            values.update(before)
        for module, training in modes.items():
            module.training = training


def _held(module: nn.Module) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """What a module and its caches hold, and copies of that: many keep in eval mode what they computed."""
    own = vars(module)
    caches = [value for name, value in own.items() if type(value) is dict and not name.startswith("_")]
    return [(values, dict(values)) for values in (own, module._buffers, *caches)]


@contextmanager
def _calls(model: nn.Module, mode: _Labelling) -> Iterator[None]:
    """Note which module runs, and what each call does."""
    record, stack = mode.record, []

    def enter(name: str) -> Any:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            called = ModuleCall(name, len(record.ops), mode.sources((args, kwargs)))
            stack.append(called)
            record.calls.append(called)
            record.context.module = name

        return hook

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        called = stack.pop()
        called.stop = len(record.ops)
        called.returns = len(output) if isinstance(output, tuple | list) else 0
        record.context.module = stack[-1].name if stack else ""

    with ExitStack() as hooks:
        for name, module in model.named_modules():
            if not isinstance(module, torch.jit.ScriptModule):
                hooks.callback(module.register_forward_pre_hook(enter(name), with_kwargs=True).remove)
                hooks.callback(module.register_forward_hook(leave).remove)
        yield
