"""One run of a model, and the record of what ran: ops and the shapes of their operands, without values."""

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from squeeze.blame import Place, first_line, line_of, user_place
from squeeze.contractions import macs_of
from squeeze.errors import TraceError
from squeeze.nn import Selecting
from squeeze.structure.quiet import quietly
from squeeze.structure.watch import Watch
from squeeze.task import Inputs, call, tensors_of


@dataclass(eq=False, slots=True)
class Operand:
    """What stands for a tensor of the run.

    Attributes:
        shape: Its shape, between two changes of it in place.
        dtype: Its type.
        strides: In memory, where it is laid out so.
        base: What it is a view of.
        values: Of whole numbers and booleans, where an op takes them as indices.
    """

    shape: torch.Size
    dtype: torch.dtype = torch.float32
    strides: tuple[int, ...] = ()
    base: "Operand | None" = None
    values: Tensor | None = None

    def dim(self) -> int:
        """How many dimensions it has."""
        return len(self.shape)

    def numel(self) -> int:
        """How many elements it has."""
        return self.shape.numel()

    def even(self, dim: int) -> bool:
        """It was expanded along a dim: all elements there are one."""
        return self.strides[dim : dim + 1] == (0,)


@dataclass(frozen=True, eq=False)
class Call:
    """One op as it was dispatched.

    Attributes:
        func: The overload, such as ``aten.add.Tensor``.
        args: Positional arguments.
        kwargs: Keyword arguments.
        out: What it returned.
        macs: Its multiply-accumulates; None if it is no contraction.
        module: Dotted name of the innermost module that was called.
        place: The line of the user's code.
    """

    func: Any
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    out: Any
    macs: int | None = None
    module: str = ""
    place: Place | None = None

    @cached_property
    def name(self) -> str:
        """The op's name without namespace and overload: ``add``; in-place twins keep their underscore."""
        return str(self.func._schema.name).rpartition("::")[2]

    def arg(self, name: str, default: Any = None) -> Any:
        """An argument by its name in the op's schema."""
        if name in self.kwargs:
            return self.kwargs[name]
        for position, argument in enumerate(self.func._schema.arguments):
            if argument.name == name:
                if position < len(self.args):
                    return self.args[position]
                return argument.default_value if argument.has_default_value() else default
        return default

    @cached_property
    def tensors(self) -> list[Operand]:
        """All tensor operands, those in lists included."""
        return [*_operands(self.args), *_operands(self.kwargs.values())]

    @cached_property
    def outputs(self) -> list[Operand]:
        """All tensors it returned."""
        return list(_operands((self.out,)))

    def on(self, labels: Tensor) -> Any:
        """What the op returns for labels in the place of its first operand."""
        if len(self.tensors) == 1:
            return self.func(labels, *self.args[1:], **self.kwargs)
        args, kwargs = pytree.tree_map_only(Operand, lambda operand: operand.values, (self.args[1:], self.kwargs))
        return self.func(labels, *args, **kwargs)


def _operands(values: Iterable[Any]) -> Iterator[Operand]:
    """The tensors among an op's arguments or results, which are at most lists."""
    for value in values:
        if isinstance(value, Operand):
            yield value
        elif isinstance(value, list | tuple):
            yield from _operands(value)


@dataclass(frozen=True, eq=False)
class Ran:
    """How one op hangs together with others.

    Attributes:
        name: The op's name.
        inputs: For each tensor operand, the number of the op that made it; -1 if none did (inputs, parameters).
        parameters: Names of the parameters and buffers among the operands, in order ("" for other operands).
        shapes: Of the tensor operands.
    """

    name: str
    inputs: tuple[int, ...]
    parameters: tuple[str, ...]
    shapes: tuple[torch.Size, ...]


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


@dataclass(frozen=True, eq=False)
class Selection:
    """One call of a layer that reads some of its inputs only.

    Attributes:
        given: What it selects from.
        dim: Of this.
        reads: Name of the buffer that says what it reads.
        index: What it may select with; holds its values.
    """

    given: Operand
    dim: int
    reads: str
    index: Operand


@dataclass
class Tape:
    """What ran, in order.

    Attributes:
        named: For each parameter and buffer by name, what stands for it.
        calls: Every op.
        ops: How these hang together.
        modules: Every call of a module.
        outputs: Numbers of the ops that made the model's outputs.
        results: The model's outputs.
        hidden: Of each recurrent module, the weights that read its state.
        selections: Calls of layers that read some of their inputs only.
    """

    named: dict[str, Operand] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)
    ops: list[Ran] = field(default_factory=list)
    modules: list[ModuleCall] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)
    results: list[Operand] = field(default_factory=list)
    hidden: list[list[Operand]] = field(default_factory=list)
    selections: list[Selection] = field(default_factory=list)

    @cached_property
    def used(self) -> frozenset[str]:
        """Names of the parameters and buffers that some op used."""
        return frozenset(name for ran in self.ops for name in ran.parameters)


_UNKNOWN: tuple[Callable[[], Tensor | None], Operand] = (lambda: None, Operand(torch.Size()))


class _Recording(TorchDispatchMode):
    """Runs every op as it is, and notes it."""

    def __init__(self, tape: Tape, watch: Watch, like: Tape | None) -> None:
        super().__init__()
        self.expected = None if like is None else iter([call.func for call in like.calls])
        self.tape = tape
        self.watch = watch
        self.module = ""
        self.made_by: dict[Operand, int] = {}
        self.names: dict[Operand, str] = {}
        self._known: dict[int, tuple[Callable[[], Tensor | None], Operand]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.watch.listening:
            self.watch.step(f"{func} in {self.module or 'the model'}")
        if self.expected is not None and next(self.expected, None) is not func:
            raise TraceError(f"trace: the run must be like the one before, got {func}.")
        before, named = self._noted(args), {name: self._noted(value) for name, value in kwargs.items()}
        out = func(*args, **kwargs)
        macs = macs_of(func, args, kwargs, out)
        ran = Call(func, before, named, self._noted(out), macs, self.module, user_place())
        if ran.name == "index":
            for tensor, index in zip(args[1], before[1], strict=True):
                if tensor is not None:
                    index.values = tensor.detach().clone()
        number, tensors = len(self.tape.ops), ran.tensors
        inputs = tuple([self.made_by.get(t, -1) for t in tensors])
        names = tuple([self.names.get(t, "") for t in tensors])
        self.tape.calls.append(ran)
        self.tape.ops.append(Ran(ran.name, inputs, names, tuple([t.shape for t in tensors])))
        for output in ran.outputs:
            self.made_by[output] = number
        return out

    def _noted(self, value: Any) -> Any:
        """An argument, or a result, with operands in the place of tensors."""
        if isinstance(value, Tensor):
            return self.operand(value)
        if isinstance(value, list | tuple) and value and type(value[0]) is not int:  # sizes are as they are
            return [self._noted(item) for item in value]
        return value

    def operand(self, tensor: Tensor) -> Operand:
        """What stands for a tensor; something new if its shape was changed in place."""
        reference, found = self._known.get(id(tensor), _UNKNOWN)
        if reference() is not tensor or found.shape != tensor.shape:
            found = Operand(tensor.shape, tensor.dtype, tensor.stride() if tensor.layout == torch.strided else ())
            self._known[id(tensor)] = weakref.ref(tensor), found
        if found.base is None and tensor._base is not None:  # known from the op after the one that made the view
            found.base = self.operand(tensor._base)
        return found

    def sources(self, tree: Any) -> tuple[int, ...]:
        """Numbers of the ops that made the tensors of a nested structure."""
        return tuple([self.made_by.get(self.operand(t), -1) for t in tensors_of(tree)])


def recorded(model: nn.Module, inputs: Inputs, watch: Watch, training: bool = False, like: Tape | None = None) -> Tape:
    """Run a model once, eagerly, and note every op.

    Args:
        model: Left as it was.
        inputs: Its example inputs.
        watch: Is told what runs.
        training: Run in training mode.
        like: Another run; what is not like it is not run to its end.

    Raises:
        TraceError: The model fails on these inputs; names the op's line in the user's code. Or it is not `like`.
    """
    tape = Tape()
    mode = _Recording(tape, watch, like)
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        tape.named[name] = mode.operand(tensor)
        mode.names[tape.named[name]] = name
    with quietly(model, training), torch.no_grad(), _calls(model, mode), mode:
        try:
            output = call(model, inputs)
        except Exception as error:
            last = f" after {tape.calls[-1].func}" if tape.calls else ""
            raise TraceError(
                f"trace: {type(model).__name__} must run on the example inputs, got {type(error).__name__}: "
                f"{first_line(error)}{last} at {line_of(error)}; pass inputs that the model accepts."
            ) from error
    for module in model.modules():
        if isinstance(module, nn.RNNBase):
            states = [w for n, w in module.named_parameters(recurse=False) if n.startswith("weight_hh")]
            tape.hidden.append([mode.operand(weight) for weight in states])
    tape.results = [mode.operand(tensor) for tensor in tensors_of(output)]
    tape.outputs = [mode.made_by.get(operand, -1) for operand in tape.results]
    return tape


@contextmanager
def _calls(model: nn.Module, mode: _Recording) -> Iterator[None]:
    """Note which module runs, and what each call does."""
    tape, stack = mode.tape, list[ModuleCall]()

    def enter(name: str) -> Any:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            called = ModuleCall(name, len(tape.ops), mode.sources((args, kwargs)))
            stack.append(called)
            tape.modules.append(called)
            mode.module = name
            if isinstance(module, Selecting):
                given, index = mode.operand(tensors_of((args, kwargs))[0]), mode.operand(module.index)
                index.values = module.index.detach().clone()
                dim = given.dim() + 1 - module.weight.dim()
                tape.selections.append(Selection(given, dim, f"{name}.reads".lstrip("."), index))

        return hook

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        called = stack.pop()
        called.stop = len(tape.ops)
        called.returns = len(output) if isinstance(output, tuple | list) else 0
        mode.module = stack[-1].name if stack else ""

    with ExitStack() as hooks:
        for name, module in model.named_modules():
            if not isinstance(module, torch.jit.ScriptModule):
                hooks.callback(module.register_forward_pre_hook(enter(name), with_kwargs=True).remove)
                hooks.callback(module.register_forward_hook(leave).remove)
        yield
