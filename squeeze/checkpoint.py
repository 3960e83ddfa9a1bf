"""A nested state as one safetensors file: tensors as tensors, the rest as JSON in the header. No pickle, no code."""

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse
from safetensors.torch import save as serialize
from torch import Tensor

from squeeze.blame import first_line
from squeeze.errors import ArtifactError, quoted
from squeeze.files import read_bytes, write_bytes

KIND = "squeeze checkpoint"
VERSION = 1

_NUMBERS = re.compile(r"[<>=|]?[biufc][0-9]{1,2}")
"""numpy's codes of numeric types."""
_DAMAGE = (ValueError, KeyError, IndexError, TypeError, RuntimeError, OverflowError, RecursionError, SafetensorError)


def save(path: Path, state: Any) -> None:
    """Write a state atomically.

    Dicts keep the type and order of their keys (str, int, float, bool, None, tuples of these), tuples stay tuples.
    Subclasses become what they derive from (an OrderedDict a dict, a Parameter a Tensor). Tensors that view the
    same numbers in the same way are stored once and are one tensor when loaded; they are loaded onto the CPU.

    Args:
        path: Of the file.
        state: Dicts, lists, tuples, str, int, float, bool, None, tensors and numeric numpy arrays.

    Raises:
        TypeError: The state holds something else.
        InputError: The file cannot be written.
    """
    store = _Store()
    tree = json.dumps(_encode(state, store, "state"), separators=(",", ":"))
    header = {"kind": KIND, "version": str(VERSION), "tree": tree, "sha256": _digest(tree, store.tensors)}
    write_bytes(path, serialize(store.tensors, metadata=header))


def load(path: Path) -> Any:
    """Read what `save` wrote, trusting nothing in the file.

    Raises:
        InputError: The file cannot be read.
        ArtifactError: Not a checkpoint, from a newer squeeze, or damaged.
    """
    raw = read_bytes(path, "the checkpoint of a run")
    try:
        header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])["__metadata__"]
        kind, version = header["kind"], int(header["version"])
    except _DAMAGE as error:
        raise ArtifactError(f"{path}: must be a {KIND}, got a file without its header; start the run over.") from error
    if kind != KIND or not 1 <= version <= VERSION:
        got = f"{quoted(repr(kind), 40)}, version {quoted(version, 40)}"
        raise ArtifactError(f"{path}: must be a {KIND}, version {VERSION} or older, got {got}; update squeeze.")
    try:
        tensors = parse(raw)
        if _digest(header["tree"], tensors) != header["sha256"]:
            raise ValueError("content and checksum disagree")
        return _decode(json.loads(header["tree"]), {name: tensor.clone() for name, tensor in tensors.items()})
    except _DAMAGE as error:
        reason = quoted(first_line(error))
        raise ArtifactError(f"{path}: must be whole, got a damaged {KIND} ({reason}); start the run over.") from error


def _digest(tree: str, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(tree.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _encode(value: Any, store: "_Store", where: str) -> Any:
    """JSON of a value: a scalar as it is, anything else as a list that starts with its kind."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else ["float", str(float(value))]
    if isinstance(value, Tensor):
        return _encode_tensor(value, store, where)
    if isinstance(value, np.ndarray | np.generic):
        return _encode_array(np.asarray(value), store, where)
    if isinstance(value, list | tuple):
        items = [_encode(item, store, f"{where}[{i}]") for i, item in enumerate(value)]
        return ["list" if isinstance(value, list) else "tuple", *items]
    if isinstance(value, Mapping):
        pairs = value.items()
        return ["dict", *([_encode(k, store, where), _encode(v, store, f"{where}[{k!r}]")] for k, v in pairs)]
    raise TypeError(
        f"{where}: must be made of dicts, lists, tuples, numbers, text, None, tensors and numpy arrays, "
        f"got {type(value).__name__}; convert it in state_dict()."
    )


def _encode_tensor(tensor: Tensor, store: "_Store", where: str) -> list[Any]:
    if tensor.layout is not torch.strided or tensor.is_quantized:
        raise TypeError(f"{where}: must be a dense tensor, got layout {tensor.layout}; convert it in state_dict().")
    tensor = tensor.detach()
    if tensor.dtype is torch.complex128:  # safetensors has no code for it
        return ["complex", store.add(torch.view_as_real(tensor.resolve_conj().resolve_neg()))]
    return ["tensor", store.once(tensor)]


def _encode_array(array: np.ndarray, store: "_Store", where: str) -> list[Any]:
    if array.dtype.kind not in "biufc":
        raise TypeError(f"{where}: must be a numeric array, got dtype {array.dtype}; convert it in state_dict().")
    numbers = torch.tensor(bytearray(array.tobytes()), dtype=torch.uint8)
    return ["array", array.dtype.str, list(array.shape), store.add(numbers)]


class _Store:
    """The tensors of a file, by name."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self._names: dict[Any, str] = {}

    def add(self, tensor: Tensor) -> str:
        """Store a contiguous copy: safetensors refuses tensors that overlap."""
        name = str(len(self.tensors))
        self.tensors[name] = torch.empty(tensor.shape, dtype=tensor.dtype).copy_(tensor)
        return name

    def once(self, tensor: Tensor) -> str:
        """`add`, unless the same numbers seen in the same way were added before; the state must keep them alive."""
        if not tensor.numel():
            return self.add(tensor)
        view = (tensor.data_ptr(), tensor.dtype, tensor.device, tensor.shape, tensor.stride())
        key = (*view, tensor.is_conj(), tensor.is_neg())
        if key not in self._names:
            self._names[key] = self.add(tensor)
        return self._names[key]


def _decode(node: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(node, dict):
        raise ValueError("an object where a list must be")
    if not isinstance(node, list):
        return node
    kind, *items = node
    if kind == "list":
        return [_decode(item, tensors) for item in items]
    if kind == "tuple":
        return tuple(_decode(item, tensors) for item in items)
    if kind == "dict":
        return {_decode(key, tensors): _decode(item, tensors) for key, item in items}
    return _LEAVES[kind](tensors, *items)


def _decode_array(tensors: dict[str, Tensor], code: str, shape: list[int], name: str) -> np.ndarray:
    if not _NUMBERS.fullmatch(code):
        raise ValueError("an array of no numbers")
    # Taken out: a file that names the same numbers many times must not have them copied many times.
    return np.frombuffer(bytearray(tensors.pop(name).numpy().tobytes()), dtype=np.dtype(code)).reshape(shape)


_LEAVES: Mapping[str, Callable[..., Any]] = {
    "float": lambda tensors, text: float(text),
    "tensor": lambda tensors, name: tensors[name],
    "complex": lambda tensors, name: torch.view_as_complex(tensors[name]),
    "array": _decode_array,
}
