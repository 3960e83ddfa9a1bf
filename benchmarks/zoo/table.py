"""The zoo's results as text."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

HEADER = ("architecture", "groups", "blocks", "branches", "pinned", "smallest", "error", "seconds", "ONNX", "faults")


def read(log: Path) -> dict[str, dict[str, Any]]:
    """The last result of every net in a log."""
    lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    return {found["net"]: found for found in map(json.loads, lines)}


def row(found: Mapping[str, Any]) -> str:
    """One net on one line."""
    return " | ".join(cells(found))


def cells(found: Mapping[str, Any]) -> list[str]:
    """One net, a text a column."""
    reasons = ", ".join(f"{reason} {share:.0%}" for reason, share in found["reasons"].items())
    return [
        found["net"],
        *(str(found[key]) for key in ("groups", "blocks", "branches")),
        f"{found['pinned']:.0%}" + (f" ({reasons})" if found["pinned"] > 0.2 else ""),
        f"{found['smallest']:.1%}",
        f"{max(found['error'], found['bodies']):.0e}",
        f"{found['seconds']:.1f}",
        found["onnx"].partition(":")[0],
        "; ".join(found["faults"]) or "none",
    ]


def text(results: Mapping[str, Mapping[str, Any]]) -> str:
    """The whole table in Markdown, and the sums."""
    rows = [HEADER, ("---",) * len(HEADER), *(cells(found) for found in results.values())]
    faults = [fault for found in results.values() for fault in found["faults"]]
    kinds = {kind: sum(fault.startswith(kind) for fault in faults) for kind in ("wrong cut", "crash", "timeout")}
    passed = sum(not found["faults"] for found in results.values())
    sums = ", ".join(f"{count} × {kind}" for kind, count in kinds.items())
    lines = [f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in rows]
    return "\n".join([*lines, "", f"{len(results)} architectures, {passed} passed; {sums}."])


def compact(results: Mapping[str, Mapping[str, Any]]) -> str:
    """One line of JSON a net."""
    return "[\n" + ",\n".join(json.dumps(found) for found in results.values()) + "\n]\n"
