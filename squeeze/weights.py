"""Files of weights: reading what others wrote, and writing checkpoints that say what they are."""

import hashlib
import json
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from squeeze.errors import InputError
from squeeze.files import write_atomic

_INNER = ("state_dict", "model_state_dict", "model", "net", "weights")
_PREFIXES = ("module.", "_orig_mod.")
META = "squeeze"
"""Key under which a checkpoint of ours says what it is."""


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """Weights from a file.

    Attributes:
        path: Of the file.
        weights: By name, without the prefixes that wrappers add.
        meta: What the file says of itself: "arch", "data", "input_shape".
    """

    path: Path
    weights: Mapping[str, Tensor]
    meta: Mapping[str, Any] = field(default_factory=dict)


def read_weights(path: Path, trust_pickle: bool = False) -> Checkpoint:
    """Read a ``.safetensors`` file, or what `torch.save` wrote: a state dict, bare or inside a dict.

    Args:
        path: Of the file.
        trust_pickle: Also open pickled modules, which runs whatever code the file holds.

    Raises:
        InputError: Not a file of weights.
    """
    if not path.is_file():
        raise InputError(f"{path}: must be a file of weights, got {'a folder' if path.is_dir() else 'no such file'}.")
    found, meta = _safetensors(path) if path.suffix == ".safetensors" else _torch_file(path, trust_pickle)
    weights = {_bare(name): value for name, value in found.items() if isinstance(value, Tensor)}
    if not weights:
        raise InputError(f"{path}: must hold weights by name, got none; save model.state_dict().")
    return Checkpoint(path, weights, meta)


def _safetensors(path: Path) -> tuple[Mapping[str, Any], dict[str, Any]]:
    try:
        with safe_open(path, "pt") as file:
            meta = json.loads((file.metadata() or {}).get(META, "{}"))
            return {name: file.get_tensor(name) for name in file.keys()}, meta  # noqa: SIM118 - not a dict
    except (SafetensorError, ValueError, OSError, RecursionError) as error:
        raise InputError(f"{path}: must be a safetensors file, got a damaged or other one ({error}).") from error


def _torch_file(path: Path, trust_pickle: bool) -> tuple[Mapping[str, Any], dict[str, Any]]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=not trust_pickle)
    except pickle.UnpicklingError as error:
        if not _is_pickle(path):
            raise InputError(
                f"{path}: must be a file of weights, got something else; save model.state_dict()."
            ) from error
        raise InputError(
            f"{path}: must hold weights only, got a pickled object, and opening one runs the code in it; save "
            "model.state_dict() instead, or pass --trust-pickle if you made the file yourself."
        ) from error
    except (
        RuntimeError,
        EOFError,
        ValueError,
        OSError,
        KeyError,
        AttributeError,
        ImportError,
        zipfile.BadZipFile,
    ) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path}: must be a file of weights, got a damaged or other one ({reason}).") from error
    if isinstance(content, nn.Module):
        return content.state_dict(), {}
    if not isinstance(content, Mapping):
        raise InputError(f"{path}: must hold weights by name, got {type(content).__name__}; save model.state_dict().")
    meta = content.get(META, {})
    inner = next((content[key] for key in _INNER if isinstance(content.get(key), Mapping | nn.Module)), content)
    weights = inner.state_dict() if isinstance(inner, nn.Module) else inner
    return weights, json.loads(meta) if isinstance(meta, str) else {}


def _is_pickle(path: Path) -> bool:
    """The file is one that `torch.save` or `pickle.dump` wrote, whatever it holds."""
    with path.open("rb") as file:
        start = file.read(2)
    return zipfile.is_zipfile(path) or start[:1] == b"\x80"


def _bare(name: str) -> str:
    while name.startswith(_PREFIXES):
        name = name.partition(".")[2]
    return name


def load_into(model: nn.Module, checkpoint: Checkpoint) -> nn.Module:
    """Fill a model with weights, all of them and no others; precision is the model's.

    Raises:
        InputError: Weights are missing, left over, or of other shapes.
    """
    wanted, given = model.state_dict(), checkpoint.weights
    problems = {
        "lacks": [name for name in wanted if name not in given],
        "has besides": [name for name in given if name not in wanted],
        "has in another shape": [
            f"{name} {tuple(given[name].shape)} for {tuple(wanted[name].shape)}"
            for name in wanted
            if name in given and given[name].shape != wanted[name].shape
        ],
    }
    told = [f"{what} {_few(names)}" for what, names in problems.items() if names]
    if told:
        raise InputError(
            f"{checkpoint.path}: must hold the weights of {type(model).__name__}, but {'; '.join(told)}; "
            "give the architecture that it was saved from."
        )
    model.load_state_dict(dict(given))
    return model


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def write_checkpoint(path: Path, model: nn.Module, *, arch: str, data: str, input_shape: tuple[int, ...]) -> None:
    """Write weights that name their own architecture, data and input shape, for `torch.load` with weights_only.

    Raises:
        InputError: The file cannot be written.
    """
    meta = json.dumps({"arch": arch, "data": data, "input_shape": list(input_shape)})
    content = {"state_dict": model.state_dict(), META: meta}
    write_atomic(path, lambda temporary: torch.save(content, temporary))


def checksum(weights: Mapping[str, Tensor], text: str = "") -> str:
    """sha256 of names, types, shapes and numbers, and of a text."""
    digest = hashlib.sha256(text.encode())
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.view(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return digest.hexdigest()
