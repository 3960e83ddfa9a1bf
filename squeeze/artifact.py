"""Artefacts: a compressed model as one safetensors file, with its plan in the header."""

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import load as parse
from safetensors.torch import save as serialize
from torch import Tensor, nn

from squeeze.architectures import builder, runs_code
from squeeze.edits import rewrite
from squeeze.errors import ArtifactError, InputError, PlanError, quoted
from squeeze.files import opened, read_bytes, write_bytes
from squeeze.plan import Plan
from squeeze.weights import kind_of, view_of

KIND = "squeeze artefact"
FORMAT = 1

_KEY = "squeeze"
_UNSIGNED = "0" * 64
_DIGEST = re.compile(rb'\\"sha256\\":\\"([0-9a-f]{64})\\"')
_START = 256
"""Bytes within which an artefact says what it is and what its checksum is."""
_MAX_HEADER = 100_000_000
_MAX_RECORD = 2**24


class Compressed(Protocol):
    """What can be saved: `squeeze.Result`, or anything with a model and the plan that made it."""

    @property
    def model(self) -> nn.Module:
        """The smaller model."""

    @property
    def plan(self) -> Plan:
        """What turned the dense model into it."""


@dataclass(frozen=True, eq=False)
class Artifact:
    """What a file holds.

    Attributes:
        path: Of the file.
        plan: To be replayed on the dense model.
        weights: Of the smaller model; tied ones are one tensor.
        about: What the file says of itself: "arch", "data", "input_shape".
        size: Of the file, in bytes.
    """

    path: Path
    plan: Plan
    weights: Mapping[str, Tensor]
    about: Mapping[str, Any]
    size: int


def save(result: Compressed, path: Path | str, about: Mapping[str, Any] | None = None) -> Path:
    """Write a compressed model as one file, atomically; the same model gives the same bytes.

    Args:
        result: The model and its plan.
        path: Of the file.
        about: What `load` and the command line may want to know: "arch", "data", "input_shape".

    Returns:
        The path.

    Raises:
        InputError: The file cannot be written, or the model holds what such a file cannot.
    """
    first: dict[tuple[Any, ...], str] = {}
    tensors: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    for name, tensor in result.model.state_dict().items():
        _require_dense(name, tensor)
        owner = first.setdefault(view_of(tensor) if tensor.numel() else (name,), name)
        if owner == name:
            tensors[name] = torch.empty(tensor.shape, dtype=tensor.dtype).copy_(tensor.detach())
        else:
            aliases[name] = owner
    record = _record(result.plan, dict(about or {}), aliases)
    if len(record) > _MAX_RECORD:
        raise InputError(
            f"{path}: must have a plan of at most {_MAX_RECORD} bytes, got {len(record)}; use fewer steps."
        )
    raw = serialize(tensors, metadata={_KEY: record})
    found = _DIGEST.search(raw, 0, _START)
    if found is None:
        raise InputError(f"{path}: must start with its checksum, got another header; update safetensors.")
    digest = hashlib.sha256(raw).hexdigest().encode()
    write_bytes(Path(path), raw[: found.start(1)] + digest + raw[found.end(1) :])
    return Path(path)


def _record(plan: Plan, about: dict[str, Any], aliases: dict[str, str]) -> str:
    record = {
        # First, so that it is found before anything is parsed.
        "sha256": _UNSIGNED,
        "kind": KIND,
        "format": FORMAT,
        "squeeze": _version(),
        "about": about,
        "aliases": aliases,
        "plan": json.loads(plan.to_json()),
    }
    return json.dumps(record, separators=(",", ":"))


def _require_dense(name: str, tensor: Any) -> None:
    if not isinstance(tensor, Tensor) or name.rpartition(".")[2] == "_extra_state":
        raise InputError(f"save: {name} must be a tensor, got extra state; keep it in a buffer of the module.")
    if tensor.layout is not torch.strided or tensor.is_quantized or tensor.dtype is torch.complex128:
        got = "complex128" if tensor.dtype is torch.complex128 else "a sparse or quantised one"
        raise InputError(f"save: {name} must be a dense tensor that safetensors can hold, got {got}; convert it.")


def is_artifact(path: Path) -> bool:
    """The file says of itself that it is one, be it intact or not."""
    try:
        with opened(path, KIND) as file:
            start = file.read(_START)
    except InputError:
        return False
    return KIND.encode() in start or b'\\"sha256\\":\\"' in start


def read(path: Path | str) -> Artifact:
    """Read an artefact, trusting nothing in it; no code of anybody's runs.

    Raises:
        ArtifactError: Not an artefact, damaged, altered, or from a newer squeeze.
    """
    path = Path(path)
    raw = read_bytes(path, f"a {KIND}", ArtifactError)
    _require_intact(path, raw)
    try:
        tensors, record = _contents(raw)
        kind, written, squeeze = record["kind"], int(record["format"]), quoted(record["squeeze"], 40)
        about, aliases = dict(record["about"]), dict(record["aliases"])
        weights = tensors | {name: tensors[owner] for name, owner in aliases.items()}
        plan = json.dumps(record.pop("plan"))  # out of the record: a hostile one is in memory once only
    except Exception as error:  # what a hostile header makes of itself is not one type
        reason = quoted(f"{type(error).__name__}: {error}")
        raise ArtifactError(f"{path}: must be a {KIND}, got a damaged one ({reason}); take a good copy.") from error
    if kind != KIND or written > FORMAT:
        raise ArtifactError(
            f"{path}: must be a {KIND} of format {FORMAT} or older, got {quoted(kind, 40)} of format {written}, "
            f"written by squeeze {squeeze}; update squeeze."
        )
    return Artifact(path, _plan(path, plan), weights, about, len(raw))


def _require_intact(path: Path, raw: bytes) -> None:
    size = int.from_bytes(raw[:8], "little")
    found = _DIGEST.search(raw, 0, _START)
    if found is None:
        raise ArtifactError(f"{path}: must be a {KIND}, got another or a damaged file; weights alone need --arch.")
    if size > min(len(raw) - 8, _MAX_HEADER):
        raise ArtifactError(f"{path}: must be whole, got a header of {size} bytes in {len(raw)}; take a good copy.")
    digest = hashlib.sha256(memoryview(raw)[: found.start(1)])
    digest.update(_UNSIGNED.encode())
    digest.update(memoryview(raw)[found.end(1) :])
    if digest.hexdigest().encode() != found.group(1):
        raise ArtifactError(
            f"{path}: must be as it was written, got other content than its checksum says; take a good copy."
        )


def _contents(raw: bytes) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and record; the header is read first by safetensors, which bounds what it may claim."""
    tensors = parse(raw)
    size = int.from_bytes(raw[:8], "little")
    decoder = json.JSONDecoder()
    # The record is a text at the very start of the header: the tensors' part needs no second reading.
    prefix = f'{{"__metadata__":{{"{_KEY}":'
    header = raw[8 : 8 + min(size, 2 * _MAX_RECORD)].decode()
    if not header.startswith(prefix):
        raise ValueError("the record does not come first")
    text, _ = decoder.raw_decode(header, len(prefix))
    if not isinstance(text, str) or len(text) > _MAX_RECORD:
        raise ValueError("a record of absurd size")
    record = decoder.decode(text)
    if not isinstance(record, dict):
        raise ValueError("a record that is no object")
    return tensors, record


def _plan(path: Path, text: str) -> Plan:
    try:
        return Plan.from_json(text)
    except PlanError as error:
        raise ArtifactError(f"{path}: {quoted(error, 400)}") from error


def load(path: Path | str, build: Callable[[], nn.Module] | None = None) -> nn.Module:
    """The compressed model: dense model, plan replayed, weights loaded strictly; in eval mode.

    Args:
        path: Of a file that `save` wrote.
        build: Makes the dense model. Without it, the file's own word is taken for architectures of torchvision,
            timm and the demo; anything else a file names is code that squeeze will not run unasked.

    Raises:
        ArtifactError: Not an artefact, damaged, altered, from a newer squeeze, or of another architecture.
    """
    found = read(path)
    return restore(found, build or named_builder(found))


def named_builder(found: Artifact) -> Callable[[], nn.Module]:
    """What makes the dense model, by the file's own word.

    Raises:
        ArtifactError: The file names none, or code that squeeze will not run unasked.
    """
    arch = found.about.get("arch")
    if not isinstance(arch, str) or runs_code(arch):
        raise ArtifactError(
            f"{found.path}: must name an architecture of torchvision, timm or the demo to be opened by itself, got "
            f"{quoted(arch)}; say yourself what makes the dense model (build=, or --arch)."
        )
    try:
        return builder(arch, limit=size_limit(found.size))
    except InputError as error:
        raise ArtifactError(f"{found.path}: {quoted(error, 400)}") from error


def size_limit(size: int) -> int:
    """Bytes that the dense model may take which a file of this size names: far more than any pass removes."""
    return 2**26 + 64 * size


def restore(found: Artifact, build: Callable[[], nn.Module]) -> nn.Module:
    """The model of an artefact that was read.

    Raises:
        ArtifactError: It is of another architecture.
    """
    try:
        dense = build()
    except InputError as error:
        raise ArtifactError(f"{found.path}: {quoted(error, 400)}") from error
    try:
        model = rewrite(dense, found.plan.edits)
    except PlanError as error:
        raise ArtifactError(f"{found.path}: {quoted(error, 400)}") from error
    except Exception as error:  # a plan made up by somebody can break any layer in its own way
        raise ArtifactError(
            f"{found.path}: must hold a plan that fits {type(dense).__name__}, got {type(error).__name__} in replaying "
            "it; build the model that was compressed."
        ) from error
    _require_fit(found, model)
    _match_types(model, found.weights)
    try:
        model.load_state_dict(dict(found.weights))
    except RuntimeError as error:  # of shapes and types that fit, a module of ours refuses what it cannot read
        raise ArtifactError(f"{found.path}: {quoted(str(error).splitlines()[-1].strip(), 400)}") from error
    return model.eval()


def _require_fit(found: Artifact, model: nn.Module) -> None:
    wanted, given = model.state_dict(), found.weights
    wrong = [
        name
        for name in sorted({*wanted, *given})
        if name not in wanted
        or name not in given
        or wanted[name].shape != given[name].shape
        or kind_of(wanted[name]) != kind_of(given[name])
    ]
    tied: dict[tuple[Any, ...], Tensor] = {}
    if not wrong:
        wrong = [n for n, t in wanted.items() if t.numel() and tied.setdefault(view_of(t), given[n]) is not given[n]]
    if wrong:
        names = ", ".join(quoted(name) for name in wrong[:3])
        raise ArtifactError(
            f"{found.path}: must hold the weights of {type(model).__name__}, got others ({names}); build the model "
            "that was compressed."
        )


def _match_types(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Give the model the precision of the file."""
    floats = {tensor.dtype for tensor in weights.values() if tensor.is_floating_point()}
    if len(floats) == 1:
        model.to(floats.pop())  # buffers that are not in the file go along
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if name in weights and tensor.dtype != weights[name].dtype:
            tensor.data = tensor.data.to(weights[name].dtype)


def _version() -> str:
    try:
        return version("squeeze")
    except PackageNotFoundError:
        return "unknown"
