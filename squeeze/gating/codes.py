"""The codes of a data set: which filters of a gated network were on for each of its inputs."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from accelerate.utils import send_to_device
from safetensors import SafetensorError
from safetensors.numpy import load as parse
from safetensors.numpy import save as serialize
from torch import nn

from squeeze.errors import ArtifactError, InputError, quoted
from squeeze.files import read_bytes, write_bytes
from squeeze.gating.costs import require_gates
from squeeze.gating.inputs import classes_of
from squeeze.modes import in_eval_mode
from squeeze.nn import GatedConv2d, computing, observing
from squeeze.task import Batch, Task, device_of
from squeeze.weights import checksum

KIND = "file of codes"


@dataclass(frozen=True, eq=False)
class Codes:
    """What a gated network did with S inputs.

    Attributes:
        layers: Names of its gated convolutions, in the model's order.
        filters: How many each has; they sum up to F.
        on: (S, F) bool, the filters that were on.
        logits: (S, F) float32, what the gates said before they were binarised.
        labels: (S,) int64 the class of each input; -1 where the data has none.
        predicted: (S,) int64 the class that the network saw: its largest feature.
        features: (S, D) float32, the network's own.
        share: (S,) float32, the multiply-accumulates of each, as a share of those of the network without gates.
    """

    layers: tuple[str, ...]
    filters: tuple[int, ...]
    on: np.ndarray
    logits: np.ndarray
    labels: np.ndarray
    predicted: np.ndarray
    features: np.ndarray
    share: np.ndarray

    def __len__(self) -> int:
        return len(self.on)

    def layer(self, name: str) -> slice:
        """Where the filters of a layer lie among all."""
        start = sum(self.filters[: self.layers.index(name)])
        return slice(start, start + self.filters[self.layers.index(name)])

    def part(self, chosen: np.ndarray) -> "Codes":
        """Those of some inputs; `chosen` indexes them."""
        return replace(self, **{name: getattr(self, name)[chosen] for name in _ARRAYS})

    def save(self, path: Path | str, model: nn.Module) -> Path:
        """Write one file, atomically; `load_codes` reads it.

        Args:
            path: Of the file.
            model: That the codes are of: the file holds a checksum of its weights.
        """
        arrays = {name: np.ascontiguousarray(getattr(self, name)) for name in _ARRAYS}
        arrays["filters"] = np.array(self.filters, dtype=np.int64)
        weights = checksum(model.state_dict())
        metadata = {"squeeze": KIND, "layers": "\n".join(self.layers), "checksum": weights}
        write_bytes(Path(path), serialize(arrays, metadata))
        return Path(path)


_ARRAYS = {
    "on": np.bool_,
    "logits": np.float32,
    "labels": np.int64,
    "predicted": np.int64,
    "features": np.float32,
    "share": np.float32,
}


def gather(model: nn.Module, task: Task, batches: Iterable[Batch], most: int | None = None) -> Codes:
    """Run a gated network on data, and note its codes.

    Args:
        model: Gated; left as it is.
        task: Knows how the model is called, and may know labels (`squeeze.task.HasLabels`).
        batches: The data.
        most: Stop after so many inputs.

    Raises:
        InputError: The model has no gate, or there is no data, or its labels are no classes.
    """
    gated = require_gates(model, task.example_inputs)
    found: dict[str, list[np.ndarray]] = {name: [] for name in _ARRAYS}
    count, device = 0, device_of(model)
    for batch in batches:
        if most is not None and count >= most:
            break
        batch = send_to_device(batch, device)
        with in_eval_mode(model), torch.no_grad(), computing("masked"), observing() as seen:
            features = task.features(model, batch).float()
        signals = [seen[module][-1] for module in gated.layers]
        labels = classes_of(task, batch, features)
        parts = {
            "on": torch.cat([signal.code > 0 for signal in signals], 1),
            "logits": torch.cat([signal.logits for signal in signals], 1).float(),
            "labels": torch.full((len(features),), -1) if labels is None else labels.clamp(min=-1),
            "predicted": features.argmax(1),
            "features": features,
            "share": gated.costs.shares([signal.code for signal in signals]),
        }
        left = None if most is None else most - count
        for name, tensor in parts.items():
            found[name].append(tensor[:left].cpu().numpy().astype(_ARRAYS[name]))
        count += len(features)
    if not count:
        raise InputError("codes: must be gathered from data, got none; pass --data, or batches.")
    return Codes(
        gated.costs.names, gated.costs.filters, **{name: np.concatenate(arrays) for name, arrays in found.items()}
    )


def require_finite(codes: Codes) -> Codes:
    """The codes, if the network made numbers of all inputs.

    Raises:
        InputError: It did not.
    """
    finite = np.isfinite(codes.logits).all(1) & np.isfinite(codes.features).all(1)
    if not finite.all():
        raise InputError(
            f"data: the network must make finite numbers of every input, got nan or infinity of {int((~finite).sum())} "
            f"of {len(codes)}, of number {int(np.argmin(finite))} (from 0) first; leave such inputs out, or train anew."
        )
    return codes


def joined(parts: Sequence[Codes]) -> Codes:
    """Codes of the same network, one after the other."""
    arrays = {name: np.concatenate([getattr(part, name) for part in parts]) for name in _ARRAYS}
    return Codes(parts[0].layers, parts[0].filters, **arrays)


def load_codes(path: Path | str, model: nn.Module | None = None) -> Codes:
    """Read a file that `Codes.save` wrote.

    Args:
        path: Of the file.
        model: What the codes must be of, if given.

    Raises:
        ArtifactError: Not such a file, damaged, or of another network: of another architecture, of other weights, or
            silent about which.
    """
    path = Path(path)
    raw = read_bytes(path, f"a {KIND}", ArtifactError)
    try:
        arrays = parse(raw)
        metadata = _metadata(raw)
        layers = tuple(metadata["layers"].split("\n"))
        filters = tuple(int(count) for count in arrays["filters"])
        found = Codes(layers, filters, **{name: arrays[name] for name in _ARRAYS})
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise ArtifactError(f"{path}: must be a {KIND}, got another or a damaged one ({quoted(error)}).") from error
    if problem := _problem(found):
        raise ArtifactError(f"{path}: must be a whole {KIND}, got {problem}; gather them again.")
    if model is not None:
        _require_of(model, found, metadata.get("checksum", ""), path)
    return found


def _require_of(model: nn.Module, codes: Codes, weights: str, path: Path) -> None:
    """Codes that were read are the model's.

    Raises:
        ArtifactError: They are of another architecture, or of other weights.
    """
    gated = {n: m.conv.out_channels for n, m in model.named_modules() if isinstance(m, GatedConv2d)}
    if gated != dict(zip(codes.layers, codes.filters, strict=True)):
        raise ArtifactError(
            f"{path}: must hold the codes of {type(model).__name__}, got those of another architecture "
            f"({len(codes.layers)} gated layers, {sum(codes.filters)} filters, not {len(gated)} and "
            f"{sum(gated.values())}); gather them with this model."
        )
    if weights != checksum(model.state_dict()):
        got = "those of others" if weights else "a file that does not say of which"
        raise ArtifactError(
            f"{path}: must hold the codes of these weights of {type(model).__name__}, got {got}; gather them again "
            "with squeeze paths."
        )


def _metadata(raw: bytes) -> dict[str, str]:
    size = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + size])
    return dict(header["__metadata__"])


def _problem(codes: Codes) -> str:
    samples, filters = len(codes.on), sum(codes.filters)
    if len(codes.layers) != len(codes.filters) or min(codes.filters, default=0) < 1:
        return f"{len(codes.layers)} layers with {len(codes.filters)} numbers of filters"
    wide = {"on": filters, "logits": filters, "features": codes.features.shape[-1] if codes.features.ndim else 0}
    for name, kind in _ARRAYS.items():
        array = getattr(codes, name)
        if array.dtype != kind or array.shape != ((samples, wide[name]) if name in wide else (samples,)):
            return f"{name} of shape {array.shape}"
    return "" if np.isfinite(codes.logits).all() else "logits that are not finite"
