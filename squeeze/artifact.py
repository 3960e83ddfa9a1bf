"""Artefacts: a compressed model as one safetensors file, with its plan in the header."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

from safetensors import SafetensorError
from safetensors.torch import load as parse
from safetensors.torch import save as serialize
from torch import Tensor, nn

from squeeze.architectures import builder
from squeeze.edits import rewrite
from squeeze.errors import ArtifactError, InputError, PlanError
from squeeze.files import write_bytes
from squeeze.plan import Plan
from squeeze.weights import checksum

FORMAT = "squeeze artefact"
_OURS = ("torchvision:", "timm:", "squeeze.demo:")
_MAX_HEADER = 100_000_000


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
        plan: To be replayed on the dense model.
        weights: Of the smaller model.
        about: What the file says of itself: "arch", "data", "input_shape".
    """

    plan: Plan
    weights: Mapping[str, Tensor]
    about: Mapping[str, Any]


def save(result: Compressed, path: Path | str, about: Mapping[str, Any] | None = None) -> Path:
    """Write a compressed model as one file, atomically.

    Args:
        result: The model and its plan.
        path: Of the file.
        about: What `load` and the command line may want to know: "arch", "data", "input_shape".

    Raises:
        InputError: The file cannot be written.
    """
    shared: dict[tuple[Any, ...], str] = {}
    tensors, aliases = {}, {}
    for name, tensor in result.model.state_dict().items():
        key = (tensor.data_ptr(), tensor.shape, tensor.stride()) if tensor.numel() else (name,)
        first = shared.setdefault(key, name)
        if first == name:
            tensors[name] = tensor.detach().cpu().contiguous()
        else:
            aliases[name] = first
    described = json.dumps({"about": dict(about or {}), "aliases": aliases, "version": _version()})
    plan = result.plan.to_json()
    header = {"format": FORMAT, "plan": plan, "squeeze": described, "sha256": checksum(tensors, plan + described)}
    write_bytes(Path(path), serialize(tensors, metadata=header))
    return Path(path)


def read(path: Path | str) -> Artifact:
    """Read an artefact, trusting nothing in it.

    Raises:
        ArtifactError: Not an artefact, damaged, altered, or from a newer squeeze.
    """
    path = Path(path)
    try:
        raw = path.read_bytes()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ArtifactError(f"{path}: must be a readable file, got {reason}; check the path.") from error
    header = _header(path, raw)
    try:
        tensors = parse(raw)
        described = json.loads(header["squeeze"])
        intact = checksum(tensors, header["plan"] + header["squeeze"]) == header["sha256"]
        about, aliases = dict(described["about"]), dict(described["aliases"])
        if intact:
            tensors.update({name: tensors[first] for name, first in aliases.items()})
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError, RuntimeError, OverflowError) as error:
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise ArtifactError(f"{path}: must be whole, got a damaged file ({reason}); take a good copy.") from error
    if not intact:
        raise ArtifactError(
            f"{path}: must be as it was written, got other content than its checksum says; take a good copy."
        )
    try:
        plan = Plan.from_json(header["plan"])
    except PlanError as error:
        raise ArtifactError(f"{path}: {error}") from error
    return Artifact(plan, tensors, about)


def is_artifact(path: Path) -> bool:
    """The file says of itself that it is one."""
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            return size <= _MAX_HEADER and f'"{FORMAT}"'.encode() in file.read(min(size, path.stat().st_size))
    except OSError:
        return False


def _header(path: Path, raw: bytes) -> dict[str, str]:
    """The metadata, all of it text."""
    size = int.from_bytes(raw[:8], "little")
    if len(raw) < 8 or size > min(len(raw) - 8, _MAX_HEADER):
        raise ArtifactError(f"{path}: must be a {FORMAT}, got a truncated or other file; take a good copy.")
    try:
        header = json.loads(raw[8 : 8 + size])["__metadata__"]
        texts = {name: header[name] for name in ("format", "plan", "squeeze", "sha256")}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ArtifactError(f"{path}: must be a {FORMAT}, got a file without its header; see squeeze prune.") from error
    if texts["format"] != FORMAT or not all(isinstance(text, str) for text in texts.values()):
        raise ArtifactError(f"{path}: must be a {FORMAT}, got {texts['format']!r}; see squeeze prune.")
    return texts


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
    return restore(found, build or _named(Path(path), found), str(path))


def restore(found: Artifact, build: Callable[[], nn.Module], where: str) -> nn.Module:
    """The model of an artefact that was read.

    Raises:
        ArtifactError: It is of another architecture.
    """
    try:
        model = rewrite(build(), found.plan.edits)
    except PlanError as error:
        raise ArtifactError(f"{where}: {error}") from error
    wanted = model.state_dict()
    wrong = [n for n in {*wanted, *found.weights} if n not in wanted or n not in found.weights]
    wrong += [n for n in wanted if n in found.weights and wanted[n].shape != found.weights[n].shape]
    if wrong:
        raise ArtifactError(
            f"{where}: must be of the architecture {type(model).__name__}, got other weights ({', '.join(sorted(wrong)[:3])}); "
            "build the model that was compressed."
        )
    _match_types(model, found.weights)
    model.load_state_dict(dict(found.weights))
    return model.eval()


def _match_types(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Give the model the precision of the file."""
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if name in weights and tensor.dtype != weights[name].dtype:
            tensor.data = tensor.data.to(weights[name].dtype)


def _named(path: Path, found: Artifact) -> Callable[[], nn.Module]:
    arch = found.about.get("arch")
    if not isinstance(arch, str) or not arch.startswith(_OURS):
        raise ArtifactError(
            f"{path}: must name an architecture of torchvision, timm or the demo to be opened by itself, got {arch!r}; "
            "pass build= (or --arch) with what makes the dense model."
        )
    try:
        return builder(arch)
    except InputError as error:
        raise ArtifactError(f"{path}: {error}") from error


def _version() -> str:
    try:
        return version("squeeze")
    except PackageNotFoundError:
        return "unknown"
