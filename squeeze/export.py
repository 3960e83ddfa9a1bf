"""Writing models that need no class definition: ONNX files, and PyTorch's own exported programs.

Either file is compared with the model before it gets its name: one that disagrees is never seen.
"""

import inspect
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram, ShapesCollection
from torch.utils import _pytree as pytree

from squeeze.attention import plain_attention
from squeeze.blame import first_line
from squeeze.copying import copied, eval_copy
from squeeze.errors import ExportError
from squeeze.files import write_atomic
from squeeze.gating.explained import NAME, Explained, has_gates
from squeeze.nn import in_onnx_form, with_norms_folded
from squeeze.onnx_graph import Positional, save_onnx, to_onnx
from squeeze.onnx_session import feed, open_session
from squeeze.parity import batch_of, check_parity, is_batched, with_batch
from squeeze.task import Inputs, call, check_inputs, tensors_of

OPSET = 18
"""The opset that torch.onnx writes without conversion."""

_EXPORT_BATCHES = (3, 5, 7, 11, 13, 17)


class FixedBatchWarning(UserWarning):
    """The exported file takes one batch size only."""


def export_onnx(model: nn.Module, example_inputs: Inputs, path: Path | str, *, opset: int = OPSET) -> Path:
    """Write a model as one ONNX file that ONNX Runtime computes as PyTorch does.

    Names: a single input is ``input``, several have the names of the parameters of ``forward``; outputs are ``output``,
    ``output_0``, ``output_1`` … or the keys of a dict. Dim 0 is the batch, of any size, in every input that has the
    size of the first input there. A network with gates has ``codes`` as its last output, (batch, filters) bool: which
    were on, in the model's order. Of its large convolutions only filters that are on for some sample are computed.

    Args:
        model: Any module; left as it is, and exported in eval mode.
        example_inputs: A tensor, a tuple of positional arguments or a dict of keyword arguments.
        path: Where the file goes; its folder is made. A file that is there is replaced by a good one only.
        opset: Of ONNX's operators.

    Returns:
        The path.

    Raises:
        ExportError: The model cannot be exported, or ONNX Runtime computes something else.
        InputError: The model does not accept the inputs, or the file cannot be written.

    Warns:
        FixedBatchWarning: The file works at the batch size of the example inputs only.
    """
    path = Path(path)
    twin, inputs = _prepared(model, example_inputs)
    named = (
        dict(inspect.signature(twin.forward).bind(*inputs).arguments) if isinstance(inputs, tuple | list) else inputs
    )
    with torch.no_grad():
        outputs = call(twin, inputs)
    gated = has_gates(twin)
    twin = Explained(twin) if gated else twin
    bound = Positional(in_onnx_form(copied(twin)), inputs).eval()
    names_in, names_out = bound.names("input", named), bound.names("output", outputs) + [NAME] * gated
    names_out = [f"{n}_out" if n in names_in else n for n in names_out]

    def attempt(temporary: Path, dynamic: bool) -> None:
        tensors = tensors_of(_for_export(inputs, dynamic))
        shapes = tuple(_batch_dim(tensor, batch_of(tensors)) for tensor in tensors) if dynamic else None
        with _translating(path, type(model).__name__, f"ONNX (opset {opset})"):
            program = torch.export.export(bound, tuple(tensors), dynamic_shapes=shapes, strict=False)
            save_onnx(to_onnx(program, (names_in, names_out), shapes, opset), temporary)
            session = open_session(temporary)

        def run(trial: Inputs) -> list[Tensor]:
            return [torch.as_tensor(array) for array in session.run(None, feed(session, trial))]

        check_parity(twin, run, inputs, dynamic, str(path))

    _write(path, inputs, attempt)
    return path


def export_pt2(model: nn.Module, example_inputs: Inputs, path: Path | str) -> Path:
    """Write a model as a PyTorch exported program, to be loaded with ``torch.export.load(path).module()``.

    Args, errors and warnings are those of `export_onnx`; the loaded module is called as the model is.
    """
    path = Path(path)
    twin, inputs = _prepared(model, example_inputs)
    twin = with_norms_folded(twin)

    def attempt(temporary: Path, dynamic: bool) -> None:
        given = _for_export(inputs, dynamic)
        shapes = ShapesCollection()
        for tensor in tensors_of(given):
            shapes[tensor] = _batch_dim(tensor, batch_of(given) if dynamic else -1)
        args, kwargs = _arguments(given)
        with _translating(path, type(model).__name__, "a PyTorch program"):
            program = torch.export.export(twin, args, kwargs, dynamic_shapes=shapes if dynamic else None, strict=False)
            _forget_paths(program)
            content = io.BytesIO()
            torch.export.save(program, content)
            temporary.write_bytes(content.getvalue())  # on a full disk torch's own writer would abort the process
            loaded = torch.export.load(temporary).module()

        def run(trial: Inputs) -> list[Tensor]:
            with torch.no_grad():
                return tensors_of(call(loaded, trial))

        check_parity(twin, run, inputs, dynamic, str(path))

    _write(path, inputs, attempt)
    return path


def _prepared(model: nn.Module, example_inputs: Inputs) -> tuple[nn.Module, Inputs]:
    """A copy of the model and of the inputs, on the CPU, that were seen to fit."""
    check_inputs(model, example_inputs)
    return eval_copy(model).cpu(), pytree.tree_map_only(Tensor, lambda t: t.detach().cpu().clone(), example_inputs)


def _arguments(inputs: Inputs) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(inputs, dict):
        return (), inputs
    return (tuple(inputs) if isinstance(inputs, tuple | list) else (inputs,)), {}


def _for_export(inputs: Inputs, dynamic: bool) -> Inputs:
    """Inputs of a batch size that no other size equals: the exporter takes equal sizes, and 1, for constants."""
    if not dynamic:
        return inputs
    taken = {size for tensor in tensors_of(inputs) for size in tensor.shape[1:]}
    return with_batch(inputs, next(size for size in (*_EXPORT_BATCHES, max(taken, default=0) + 2) if size not in taken))


def _batch_dim(tensor: Tensor, batch: int) -> dict[int, Any]:
    return {0: Dim("batch", min=1)} if is_batched(tensor, batch) else {}


def _forget_paths(program: ExportedProgram) -> None:
    """Stack traces hold the paths of the machine that exported."""
    for module in program.graph_module.modules():
        if isinstance(module, fx.GraphModule):
            for node in module.graph.nodes:
                node.meta.pop("stack_trace", None)


@contextmanager
def _translating(path: Path, model: str, form: str) -> Iterator[None]:
    """Without the exporter's chatter, and with its errors in one line."""
    level = logging.root.manager.disable
    try:
        logging.disable(logging.CRITICAL)
        with (
            warnings.catch_warnings(),
            redirect_stdout(io.StringIO()),
            redirect_stderr(io.StringIO()),
            plain_attention(),
        ):
            warnings.simplefilter("ignore")
            yield
    except OSError:
        raise
    except Exception as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        raise ExportError(
            f"{path}: {model} must be expressible as {form}, got {type(cause).__name__}: {first_line(cause)}; "
            "replace what the message names."
        ) from error
    finally:
        logging.disable(level)


def _write(path: Path, inputs: Inputs, attempt: Callable[[Path, bool], None]) -> None:
    """Try with any batch size, then with one; rename what was good."""
    fixed: list[ExportError] = []

    def write(temporary: Path) -> None:
        temporary.touch()
        if batch_of(inputs):
            try:
                return attempt(temporary, True)
            except ExportError as error:
                fixed.append(error)
        return attempt(temporary, False)

    write_atomic(path, write)
    for reason in fixed:
        warnings.warn(
            f"{path}: dim 0 of the inputs must be {batch_of(inputs)}, as in the example inputs, because with any other "
            f"size: {reason}",
            FixedBatchWarning,
            stacklevel=3,
        )
