"""From an exported program to an ONNX file without idle nodes."""

import inspect
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

import onnx
import onnx_ir
import torch
from onnx_ir.passes.common import ClearMetadataAndDocStringPass
from onnxscript import optimizer
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from squeeze.task import Inputs, call, tensors_of

_ROUNDS = 10
_NO_LIMIT = 2**62
_NARROW = (onnx_ir.DataType.UINT8, onnx_ir.DataType.INT16)
_MAY_BE_IDLE = ("Pad", "Reshape", "Expand")


class Positional(nn.Module):
    """A model as a function from tensors to tensors, as ONNX knows them: in order, without nesting.

    Args:
        model: What is called.
        inputs: How it is called; what is not a tensor becomes a constant.
    """

    def __init__(self, model: nn.Module, inputs: Inputs) -> None:
        super().__init__()
        self.model = model
        leaves, spec = pytree.tree_flatten(inputs)

        def forward(*tensors: Tensor) -> tuple[Tensor, ...]:
            given = iter(tensors)
            filled = [next(given) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
            return tuple(tensors_of(call(model, pytree.tree_unflatten(filled, spec))))

        # torch 2.9 cannot translate guards on the sizes of variadic arguments.
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        count = sum(isinstance(leaf, Tensor) for leaf in leaves)
        forward.__signature__ = inspect.Signature([inspect.Parameter(f"input_{i}", kind) for i in range(count)])  # type: ignore[attr-defined]
        self.forward = forward

    def names(self, kind: str, tree: Any) -> list[str]:
        """A name for every tensor of nested inputs or outputs: the keys of a dict, else `kind` and a number."""
        if not isinstance(tree, dict):
            count = len(tensors_of(tree))
            return [kind] if count == 1 else [f"{kind}_{number}" for number in range(count)]
        return [
            str(key) if len(tensors) == 1 else f"{key}_{number}"
            for key, tensors in ((key, tensors_of(value)) for key, value in tree.items())
            for number in range(len(tensors))
        ]


def to_onnx(
    program: ExportedProgram, names: tuple[Sequence[str], Sequence[str]], shapes: Any, opset: int
) -> onnx_ir.Model:
    """Translate an exported `Positional`, and optimise the result.

    Args:
        program: The exported model.
        names: Of the inputs and of the outputs.
        shapes: The dynamic shapes of the inputs, for their names.
        opset: Of ONNX's operators.
    """
    translated = torch.onnx.export(
        program,
        (),
        dynamo=True,
        input_names=names[0],
        output_names=names[1],
        dynamic_shapes=shapes,
        opset_version=opset,
        verbose=False,
        external_data=False,
        optimize=False,  # below, with a say in what is folded
    )
    model: onnx_ir.Model = translated.model  # type: ignore[union-attr]
    before = -1
    for _ in range(_ROUNDS):
        if len(model.graph) == before:
            break
        before = len(model.graph)
        _remove_idle(model.graph)
        _flatten_at_once(model.graph)
        _mask_last(model.graph)
        optimizer.optimize_ir(model, input_size_limit=_NO_LIMIT, output_size_limit=_NO_LIMIT, should_fold=_must_fold)
    # Stack traces hold the paths of the machine that exported.
    ClearMetadataAndDocStringPass()(model)
    for value in list(model.graph.initializers.values()):
        value.name = str(value.name).removeprefix("model.")
    _shorten(model.graph)
    return model


def _shorten(graph: onnx_ir.Graph) -> None:
    """Of what is computed in between, names tell nothing and types can be inferred: with many nodes they add up."""
    taken = {value.name for value in (*graph.inputs, *graph.outputs, *graph.initializers.values())}
    short = (name for number in count() if (name := f"v{number}") not in taken)
    for value in graph.initializers.values():
        value.metadata_props.clear()
        value.type, value.shape = None, None
    for node in graph:
        node.name = None
        for value in node.outputs:
            if not value.is_graph_output():
                value.name, value.type, value.shape = next(short), None, None


def _remove_idle(graph: onnx_ir.Graph) -> None:
    """What the optimizer keeps although it does nothing: padding by nothing, and reshaping to the same shape."""
    for node in list(graph):
        if node.op_type in _MAY_BE_IDLE and not node.domain and not node.outputs[0].is_graph_output():
            source, how, result = node.inputs[0], node.inputs[1], node.outputs[0]
            if source is not None and how is not None and _is_idle(node.op_type, source, how, result):
                onnx_ir.convenience.replace_all_uses_with(result, source)
                graph.remove(node, safe=True)


def _is_idle(kind: str, source: onnx_ir.Value, how: onnx_ir.Value, result: onnx_ir.Value) -> bool:
    if kind == "Pad":
        return how.const_value is not None and not how.const_value.numpy().any()
    if source.shape is None or result.shape is None:
        return False
    known = all(isinstance(dim, int) or dim.value is not None for dim in source.shape)
    return known and list(source.shape) == list(result.shape)


def _flatten_at_once(graph: onnx_ir.Graph) -> None:
    """What is flattened need not be reshaped before, nor the row be a column that says where a vector is not zero."""
    for node in graph:
        if node.op_type == "Reshape" and not node.domain and _flattens(node):
            while (before := _producer(node.inputs[0])) is not None and _keeps_order(before):
                node.replace_input_with(0, before.inputs[0])


def _flattens(node: onnx_ir.Node) -> bool:
    how = node.inputs[1]
    return how is not None and how.const_value is not None and how.const_value.numpy().tolist() == [-1]


def _keeps_order(node: onnx_ir.Node) -> bool:
    if node.op_type != "Transpose":
        return node.op_type == "Reshape"
    found = _producer(node.inputs[0])
    if found is None or found.op_type != "NonZero" or found.inputs[0] is None:
        return False
    return found.inputs[0].shape is not None and found.inputs[0].shape.rank() == 1


def _mask_last(graph: onnx_ir.Graph) -> None:
    """A ReLU of a product with a mask becomes the product of the ReLU, which melts into the convolution before it."""
    for relu in list(graph):
        product = relu.inputs[0] if relu.op_type == "Relu" and not relu.domain else None
        mul = _producer(product)
        if mul is None or mul.op_type != "Mul" or product is None or len(product.uses()) > 1:
            continue
        masks = [number for number, value in enumerate(mul.inputs) if _is_mask(value)]
        result = relu.outputs[0]
        if not masks or product.is_graph_output() or result.is_graph_output():
            continue
        onnx_ir.convenience.replace_all_uses_with(result, product)
        relu.replace_input_with(0, mul.inputs[1 - masks[0]])
        mul.replace_input_with(1 - masks[0], result)
        graph.remove(relu)
        graph.insert_before(mul, relu)


def _is_mask(value: onnx_ir.Value | None) -> bool:
    """It is made of zeros and ones."""
    node = _producer(value)
    if node is None or node.op_type not in ("Cast", "Unsqueeze", "Gather"):
        return False
    source = node.inputs[0]
    if node.op_type != "Cast":
        return _is_mask(source)
    return source is not None and source.dtype == onnx_ir.DataType.BOOL


def _producer(value: onnx_ir.Value | None) -> onnx_ir.Node | None:
    return None if value is None else value.producer()


def _must_fold(node: onnx_ir.Node) -> bool | None:
    """Whether a node of constants is computed now; None leaves it to the optimizer, which keeps constant fillings.

    What is stored in small whole numbers is small on purpose: ONNX Runtime widens it when it loads the file.
    """
    if node.op_type == "Cast" and node.inputs[0] is not None and node.inputs[0].dtype in _NARROW:
        return False
    return True if node.op_type == "ConstantOfShape" else None


def save_onnx(model: onnx_ir.Model, path: Path) -> None:
    """Write one file, and let ONNX's own checker judge it."""
    onnx_ir.save(model, path)
    onnx.checker.check_model(str(path), full_check=True)
