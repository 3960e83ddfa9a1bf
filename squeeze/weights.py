"""Files of weights: reading what others wrote, and writing checkpoints that say what they are."""

import argparse
import hashlib
import io
import json
import os
import re
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import torch
from safetensors.torch import load as parse
from safetensors.torch import save as serialize
from torch import Tensor, nn

from squeeze.errors import InputError, quoted
from squeeze.files import opened, write_bytes
from squeeze.limits import memory_limited

_INNER = ("state_dict", "model_state_dict", "model", "net", "weights")
_ABOUT = "squeeze"
"""Key under which a checkpoint of ours says what it is; in safetensors, artefacts have it."""
_CHECKPOINT = "squeeze_checkpoint"
_ROOM = 2**28
"""Bytes that opening a pickle may take, besides a multiple of the file's size."""


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """Weights from a file.

    Attributes:
        path: Of the file.
        weights: By name, without the prefixes that wrappers add.
        meta: What the file says of itself: "arch", "data", "input_shape".
        size: Of the file, in bytes.
    """

    path: Path
    weights: Mapping[str, Tensor]
    meta: Mapping[str, Any] = field(default_factory=dict)
    size: int = 0


def read_weights(path: Path | str, trust_pickle: bool = False) -> Checkpoint:
    """Read a safetensors file, or what `torch.save` wrote: a state dict, bare or inside a dict.

    Args:
        path: Of the file.
        trust_pickle: Also open pickled modules, which runs whatever code the file holds.

    Raises:
        InputError: Not a file of weights.
    """
    path = Path(path)
    found: Mapping[Any, Any]
    with opened(path, "a file of weights") as file:
        size = os.fstat(file.fileno()).st_size
        start = file.read(9)
        if not start:
            raise InputError(f"{path}: must be a file of weights, got an empty file; take a good copy.")
        if start[8:] == b"{" or path.suffix == ".safetensors":
            # Not by mapping: a file that gets shorter while it is mapped kills the process.
            found, meta = _safetensors(path, start + file.read())
        else:
            file.seek(0)
            found, meta = _unwrapped(path, _torch_file(path, file, None if trust_pickle else _ROOM + 4 * size))
    weights = {name: value.detach() for name, value in found.items() if _is_weight(name, value)}
    if not weights:
        raise InputError(f"{path}: must hold weights by name, got none; save model.state_dict().")
    return Checkpoint(path, _bare(weights), meta, size)


def _safetensors(path: Path, raw: bytes) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    try:
        tensors = parse(raw)
        known = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")]).get("__metadata__") or {}
        if _ABOUT not in known:
            return tensors, _about(known.get(_CHECKPOINT))
    except Exception as error:  # what a damaged header makes of itself is not one type
        raise InputError(
            f"{path}: must be a file of weights, got a damaged or other one ({_reason(error)}); take a good copy."
        ) from error
    raise InputError(f"{path}: must be a file of weights, got an artefact of squeeze; open it as one, or check it.")


def _torch_file(path: Path, file: IO[bytes], limit: int | None) -> Any:
    """What `torch.save` wrote; within so much memory, and without code of the file's, unless the limit is None."""
    try:
        # Many training scripts keep their options beside the weights; a Namespace is as harmless as a dict.
        with torch.serialization.safe_globals([argparse.Namespace]):
            # A few bytes can ask for a tensor of any size, or unpack to any length.
            with nullcontext() if limit is None else memory_limited(limit):
                return torch.load(file, map_location="cpu", weights_only=limit is not None)
    except Exception as error:  # a pickle can fail with anything
        pickled = _pickled(str(error))
        if pickled:
            raise InputError(
                f"{path}: must hold weights only, got a pickled {pickled}, and opening that runs code from the file; "
                "save model.state_dict() instead, or pass --trust-pickle if you trust who made it."
            ) from error
        raise InputError(
            f"{path}: must be a file of weights, got a damaged or other one ({_reason(error)}); take a good copy."
        ) from error


def _pickled(message: str) -> str:
    """What a file holds besides weights, by what torch said when it refused it; "" if that was not why."""
    if "TorchScript archive" in message:
        return "TorchScript model"
    found = re.search(r"nsupported (?:global: )?GLOBAL ([\w.]+)", message)
    return quoted(found.group(1)) if found else ""


def _reason(error: BaseException) -> str:
    if isinstance(error, MemoryError) or "allocate memory" in str(error):
        return "it asks for far more memory than its size"
    found = re.search(r"WeightsUnpickler error:\s*(.+)", str(error))  # behind torch's advice to run what is in the file
    lines = [found.group(1)] if found else str(error).strip().splitlines()
    return quoted(lines[0], 120) if lines else type(error).__name__


def _unwrapped(path: Path, content: Any) -> tuple[Mapping[Any, Any], Mapping[str, Any]]:
    """The weights inside what was saved, and what the file says of itself."""
    if isinstance(content, nn.Module):
        return content.state_dict(), {}
    if not isinstance(content, Mapping):
        raise InputError(f"{path}: must hold weights by name, got {type(content).__name__}; save model.state_dict().")
    inner = next((content[key] for key in _INNER if isinstance(content.get(key), Mapping | nn.Module)), content)
    weights = inner.state_dict() if isinstance(inner, nn.Module) else inner
    return weights, _about(content.get(_ABOUT))


def _about(text: Any) -> Mapping[str, Any]:
    """What a file says of itself; nothing, if that cannot be read."""
    try:
        about = json.loads(text)
    except (ValueError, TypeError, RecursionError):
        return {}
    return about if isinstance(about, dict) else {}


def _is_weight(name: Any, value: Any) -> bool:
    return isinstance(name, str) and isinstance(value, Tensor)


def _bare(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without what torch.compile, DataParallel and AveragedModel add to names."""
    names = {name: name.replace("_orig_mod.", "") for name in weights}
    averaged = {name for name, bare in names.items() if bare == "n_averaged"}
    while len(names) > len(averaged) and all(
        bare.startswith("module.") for name, bare in names.items() if name not in averaged
    ):
        names = {name: bare.removeprefix("module.") for name, bare in names.items() if name not in averaged}
    return {bare: weights[name] for name, bare in names.items()}


def load_into(model: nn.Module, checkpoint: Checkpoint) -> nn.Module:
    """Fill a model with weights, all of them and no others; precision is the model's.

    Weights that the model ties need to be there once only.

    Raises:
        InputError: Weights are missing, left over, or of other shapes or types.
    """
    wanted = model.state_dict()
    given = {**_implied(wanted, checkpoint.weights), **checkpoint.weights}
    both = [name for name in wanted if name in given]
    problems = {
        "lacks": [name for name in wanted if name not in given],
        "has besides": [name for name in given if name not in wanted],
        "has in another shape": [
            f"{name} {tuple(given[name].shape)} for {tuple(wanted[name].shape)}"
            for name in both
            if given[name].shape != wanted[name].shape
        ],
        "has in another type": [
            f"{name} {given[name].dtype} for {wanted[name].dtype}"
            for name in both
            if kind_of(given[name]) != kind_of(wanted[name])
        ],
    }
    told = [f"{what} {_few(names)}" for what, names in problems.items() if names]
    if told:
        raise InputError(
            f"{checkpoint.path}: must hold the weights of {type(model).__name__}, got a file that {'; '.join(told)}; "
            "give the architecture that it was saved from."
        )
    model.load_state_dict(given)
    return model


def _implied(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What may be left out of a file: counters that old versions did not have, and second names of tied weights."""
    first = {view_of(wanted[name]): name for name in given if name in wanted and wanted[name].numel()}
    implied = {}
    for name, tensor in wanted.items():
        if name not in given and name.rpartition(".")[2] == "num_batches_tracked":
            implied[name] = tensor
        elif name not in given and view_of(tensor) in first:
            implied[name] = given[first[view_of(tensor)]]
    return implied


def view_of(tensor: Tensor) -> tuple[Any, ...]:
    """Equal for tensors that show the same numbers in the same way."""
    return tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()


def kind_of(tensor: Tensor) -> str:
    """What cannot be converted into one another without loss of meaning."""
    if tensor.is_complex():
        return "complex"
    return "bool" if tensor.dtype == torch.bool else "float" if tensor.is_floating_point() else "int"


def _few(names: list[str]) -> str:
    return ", ".join(quoted(name) for name in names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def write_checkpoint(
    path: Path | str, model: nn.Module, *, arch: str, data: str | None, input_shape: tuple[int, ...]
) -> None:
    """Write weights that name their own architecture, data and input shape.

    Args:
        path: Of the file; one that ends in ".safetensors" becomes such a one, any other is for `torch.load` with
            weights_only.
        model: Whose ``state_dict`` is written.
        arch: See `squeeze.architectures.builder`.
        data: See `squeeze.datasets.load_task`.
        input_shape: Of one sample.

    Raises:
        InputError: The file cannot be written, or cannot hold what the model keeps besides tensors.
    """
    path = Path(path)
    about = json.dumps({"arch": arch, "data": data, "input_shape": list(input_shape)})
    if path.suffix == ".safetensors":
        write_bytes(path, serialize(_unshared(path, model), metadata={_CHECKPOINT: about}))
        return
    # Through memory: on a full disk torch's writer does not say what is wrong.
    buffer = io.BytesIO()
    torch.save({"state_dict": model.state_dict(), _ABOUT: about}, buffer)
    write_bytes(path, buffer.getvalue())


def _unshared(path: Path, model: nn.Module) -> dict[str, Tensor]:
    """Every tensor by itself, as safetensors wants it; tied ones are written under each of their names."""
    found = {}
    for name, tensor in model.state_dict().items():
        if not isinstance(tensor, Tensor):
            raise InputError(f"{path}: must hold tensors only, got {name} besides; write a .pt file.")
        found[name] = tensor.detach().clone(memory_format=torch.contiguous_format)
    return found


def checksum(weights: Mapping[str, Tensor]) -> str:
    """sha256 of names, types, shapes and numbers, as hex digits."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().resolve_conj().resolve_neg().contiguous()
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
