"""What a search tells the report: how each input feature map was judged, what is left of it, kernels to look at."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from squeeze.nn.input_kernels import kernels_of
from squeeze.passes.kse.layers import Counts, Layer

TEXT = (
    "Each input feature map of a convolution is judged by the kernels that read it: it is important where they are "
    "large (sparsity, the sum of their absolute values) and unevenly spread (a low entropy, in bits). The indicator "
    "decides how many kernels stay; of the rest, each is replaced by the centroid of its cluster."
)
PICTURES, LINES, ROW = 3, 6, 5
"""Pictures in all, clusters in a picture, kernels beside a centroid."""
_CELLS = 1200
"""Numbers in a picture, about."""


def finding(layers: Sequence[Layer], counts: Counts, before: nn.Module, after: nn.Module) -> dict[str, Any]:
    """The fields of a `squeeze.report.findings.Finding`, as JSON values.

    Args:
        layers: Those that were judged.
        counts: What was decided.
        before: The model as it was given.
        after: The same with every kernel replaced by the centroid that stands for it.
    """
    return {
        "text": TEXT,
        "claims": claims(layers, counts),
        "layers": [judged(layer, counts[layer.name]) for layer in layers],
        "mosaics": mosaics(layers, counts, before, after),
    }


def judged(layer: Layer, counts: np.ndarray) -> dict[str, Any]:
    """Of one layer: three figures and the kernels left, for each input feature map."""
    found = layer.importance
    series = {"sparsity": found.sparsity, "entropy": found.entropy, "indicator": found.indicator}
    rounded = {name: _rounded(values.double().cpu().numpy()) for name, values in series.items()}
    rounded["kernels"] = counts.tolist()
    return {"name": layer.name, "series": rounded, "outcome": outcome(counts, layer.size)}


def outcome(counts: np.ndarray, size: int) -> str:
    """How many maps keep how many kernels: "of 64: 5 dropped, 12 × 16, 47 dense"."""
    found = Counter(counts.tolist())
    told = [f"{found.pop(0)} dropped"] if 0 in found else []
    dense = [f"{found.pop(size)} dense"] if size in found else []
    return f"of {size}: " + ", ".join([*told, *(f"{found[q]} × {q}" for q in sorted(found)), *dense])


def claims(layers: Sequence[Layer], counts: Counts) -> list[dict[str, Any]]:
    """Costs of the judged layers by the paper's formulas, before and after, and what these leave out.

    Compression: N·C·K² against Σ_c q_c·K² + N·log2(q_c) / 32, indices of clustered maps only. Acceleration: N·C against
    Σ_c q_c, times pixels; a sum for each (output, map that is read, pixel) is not in it.
    """
    weights, kept, macs, left, sums = 0, 0.0, 0, 0.0, 0.0
    for layer in layers:
        now, total = counts[layer.name], layer.size * layer.channels
        between = now[(now > 0) & (now < layer.size)]
        weights += total * layer.taps
        kept += float(now.sum()) * layer.taps + sum(layer.size * math.log2(q) / 32 for q in between.tolist())
        macs += layer.macs
        left += layer.macs * float(now.sum()) / total
        sums += layer.macs / layer.taps * float((now > 0).mean())
    rows = (
        ("Numbers stored for the clustered layers, indices counted", weights, kept),
        ("Multiplications of the clustered layers, sums of their results not counted", macs, left),
        ("Sums of these results, for each output and pixel", 0, sums),
    )
    return [{"name": name, "before": float(first), "after": float(last)} for name, first, last in rows]


def mosaics(layers: Sequence[Layer], counts: Counts, before: nn.Module, after: nn.Module) -> list[dict[str, Any]]:
    """A few layers from first to last: of each the most important map among those that are clustered."""
    clustered = [layer for layer in layers if layer.taps > 1 and _between(layer, counts).any()]
    chosen = [clustered[i] for i in sorted({*np.linspace(0, len(clustered) - 1, PICTURES).round().astype(int)})]
    return [_mosaic(layer, counts, before, after) for layer in chosen] if clustered else []


def _mosaic(layer: Layer, counts: Counts, before: nn.Module, after: nn.Module) -> dict[str, Any]:
    candidates = np.flatnonzero(_between(layer, counts))
    worth = layer.importance.indicator.double().cpu().numpy()[candidates]
    channel = int(candidates[worth.argmax()])
    given, standing = (_kernels(model, layer)[channel] for model in (before, after))
    centres, index = torch.unique(standing, dim=0, return_inverse=True)
    # Kernels that are no longer computed have none that stands for them.
    sizes = {n: int((index == n).sum()) for n in range(len(centres)) if bool(centres[n].any())}
    shown = sorted(sizes, key=lambda n: -sizes[n])[:LINES]
    row = max(1, min(ROW, _CELLS // (LINES * layer.taps) - 1))
    clusters = [
        {"centre": _rounded(centres[n].numpy()), "members": [_rounded(k.numpy()) for k in given[index == n][:row]]}
        for n in shown
    ]
    title = f"{layer.name}, map {channel}: {counts[layer.name][channel]} of {layer.size} kernels"
    return {"title": title, "columns": layer.conv.kernel_size[1], "clusters": clusters}


def _between(layer: Layer, counts: Counts) -> np.ndarray:
    return (counts[layer.name] > 0) & (counts[layer.name] < layer.size)


def _kernels(model: nn.Module, layer: Layer) -> Tensor:
    conv: Mapping[str, Tensor] = dict(model.get_submodule(layer.name).named_parameters())
    return kernels_of(conv["weight"].detach().double().cpu(), layer.conv.groups)


def _rounded(values: np.ndarray) -> list[float]:
    """Five digits are enough to look at."""
    return [float(f"{value:.5g}") for value in values.tolist()]
