"""Latency of several networks in turn, in PyTorch and in ONNX Runtime."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor, nn

import squeeze

REPEATS = {1: 300, 128: 30}
"""Rounds by batch size."""


def measured(models: Mapping[str, nn.Module], onnx: Mapping[str, Path], inputs: Tensor, threads: int) -> dict[str, Any]:
    """Each batch size: one round runs every network in both backends, then the next round.

    Args:
        models: By method.
        onnx: The same networks as files, with a dynamic batch.
        inputs: One sample.
        threads: For both backends.
    """
    rows = []
    for batch, repeats in REPEATS.items():
        names = {
            f"{method}, {type(it).__name__}": (method, it) for group in (models, onnx) for method, it in group.items()
        }
        times = squeeze.compare(
            {name: candidate for name, (_, candidate) in names.items()},
            inputs.repeat(batch, *(1 for _ in inputs.shape[1:])),
            threads=threads,
            repeats=repeats,
        )
        rows += [{"method": names[name][0], **asdict(found)} for name, found in times.items()]
    return {"unit": "ms", "methods": list(models), "rows": rows}
