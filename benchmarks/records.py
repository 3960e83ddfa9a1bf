"""Results: what each says of itself, whether one that is there is the one that was asked for, and writing them."""

import json
import os
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any


def circumstances() -> dict[str, Any]:
    """When, on what and with what."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    libraries = ("torch", "onnxruntime", "torch-pruning")
    return {
        "date": datetime.now(UTC).isoformat(timespec="minutes"),
        "machine": f"{names[0]}, {len(names)} cores" if names else platform.processor(),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in libraries},
    }


def finished(place: Path, setup: Mapping[str, Any]) -> dict[str, Any] | None:
    """The result that lies there; None if there is none.

    Raises:
        SystemExit: It was measured with another setup.
    """
    if not place.exists():
        return None
    found: dict[str, Any] = json.loads(place.read_text())
    if found["setup"] != setup:
        raise SystemExit(
            f"{place}: must be of the same setup, got {found['setup']}; delete it, or name other --results."
        )
    return found


def write_json(place: Path, content: Mapping[str, Any]) -> None:
    """The whole file or none."""
    place.parent.mkdir(parents=True, exist_ok=True)
    unfinished = place.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    os.replace(unfinished, place)
