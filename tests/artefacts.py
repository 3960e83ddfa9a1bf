"""A small model with everything that makes saving hard, its plan, and what it is held against."""

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import squeeze
from squeeze.errors import ArtifactError
from squeeze.plan import Drop, Plan, Select, Slice, Step


class Net(nn.Module):
    """Tied weights, buffers of several types, one that no file holds, and a layer that can be dropped."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.bn = nn.BatchNorm1d(8)
        self.block = nn.Linear(8, 8)
        self.second = nn.Linear(8, 6)
        self.again = nn.Linear(8, 6)
        self.again.weight = self.second.weight
        self.register_buffer("steps", torch.arange(3))
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("unsaved", torch.full((6,), 0.1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(self.first(x)).relu()
        x = x + self.block(x)
        return (self.second(x) + self.again(x)) * self.unsaved


@dataclass(frozen=True)
class Saved:
    """What `save` takes."""

    model: nn.Module
    plan: Plan


KEPT = ((0, 2), (5, 8))
EDITS = (
    Drop("block", ("block",)),
    *(Slice(name, 0, 8, KEPT) for name in ("first.weight", "first.bias", "bn.weight", "bn.bias")),
    *(Slice(name, 0, 8, KEPT) for name in ("bn.running_mean", "bn.running_var")),
    Slice("second.weight", 1, 8, KEPT),
    Select("first", 6, ((0, 3), (4, 6))),
)
PLAN = Plan((Step("hand", {"why": "a test"}, EDITS),), {"seed": 0})


def small() -> nn.Module:
    torch.manual_seed(1)
    dense = Net()
    dense(torch.randn(16, 6))
    return squeeze.rewrite(dense, EDITS).eval()


def same(left: nn.Module, right: nn.Module) -> bool:
    first, second = left.state_dict(), right.state_dict()
    bits = (
        a.dtype == b.dtype and torch.equal(a.reshape(-1).view(torch.uint8), b.reshape(-1).view(torch.uint8))
        for a, b in zip(first.values(), second.values(), strict=True)
    )
    return list(first) == list(second) and all(bits)


def check_refused(path: Path, *words: str, build: Callable[[], nn.Module] | None = Net) -> None:
    with pytest.raises(ArtifactError) as caught:
        squeeze.load(path, build)
    message = str(caught.value)
    assert str(path) in message
    assert message.isprintable()
    assert len(message) < 800
    for word in words:
        assert word in message


def parts(raw: bytes) -> tuple[dict[str, Any], bytes]:
    """Header and numbers of a safetensors file."""
    size = int.from_bytes(raw[:8], "little")
    return json.loads(raw[8 : 8 + size]), raw[8 + size :]


def joined(header: str | bytes, body: bytes) -> bytes:
    """Undo `parts`."""
    text = header.encode() if isinstance(header, str) else header
    return len(text).to_bytes(8, "little") + text + body


def resigned(raw: bytes) -> bytes:
    """The bytes of an artefact with a true checksum, if there is a place for one."""
    found = re.search(rb'\\"sha256\\":\\"(.{64})\\"', raw)
    if found is None:
        return raw
    raw = raw[: found.start(1)] + b"0" * 64 + raw[found.end(1) :]
    return raw[: found.start(1)] + hashlib.sha256(raw).hexdigest().encode() + raw[found.end(1) :]
