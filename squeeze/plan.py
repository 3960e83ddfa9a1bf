"""What a compressed model is: edits in order, as data.

Edits say shapes; tensors say values. A `Plan` is enough to turn the dense model into the small one
without data, tracing or the pass that found it. `squeeze.edits.rewrite` carries it out.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

import numpy as np

from squeeze.errors import PlanError

SCHEMA = 1
_MOST_PARTS = 1024
"""Values that a module returns, at most: each is made whenever the rewritten model runs."""

_WIDEST = 2**16
"""Of a gate's bottleneck, at most."""

Ranges = tuple[tuple[int, int], ...]
"""Half-open ranges of indices, ascending and disjoint."""


@dataclass(frozen=True)
class Slice:
    """Keep these indices of one dimension of a parameter or buffer.

    Attributes:
        tensor: Dotted name, as in ``state_dict``.
        dim: The dimension that gets smaller.
        size: Its size before.
        keep: What stays.
    """

    kind: ClassVar[str] = "slice"
    tensor: str
    dim: int
    size: int
    keep: Ranges

    @classmethod
    def of(cls, tensor: str, dim: int, kept: np.ndarray) -> "Slice":
        """From a boolean array, True where an index stays."""
        return cls(tensor, dim, len(kept), _ranges(kept))

    def indices(self) -> np.ndarray:
        """The kept indices, ascending."""
        return _indices(self.keep)


@dataclass(frozen=True)
class Select:
    """Let a layer read these of its inputs only, of a tensor that keeps its width.

    Attributes:
        module: Dotted name of a convolution in one group, or of a linear layer.
        size: How many inputs its weight reads before.
        keep: Which of these it still reads.
    """

    kind: ClassVar[str] = "select"
    module: str
    size: int
    keep: Ranges

    @classmethod
    def of(cls, module: str, kept: np.ndarray) -> "Select":
        """From a boolean array, True where an input is still read."""
        return cls(module, len(kept), _ranges(kept))

    def indices(self) -> np.ndarray:
        """The inputs that are still read, ascending."""
        return _indices(self.keep)


def _ranges(kept: np.ndarray) -> Ranges:
    bounds = np.flatnonzero(np.diff(np.concatenate(([0], kept.astype(np.int8), [0])))).tolist()
    return tuple(zip(bounds[::2], bounds[1::2], strict=True))


def _indices(keep: Ranges) -> np.ndarray:
    starts, stops = np.array(keep, dtype=np.int64).reshape(-1, 2).T
    sizes = stops - starts
    return np.arange(sizes.sum()) + np.repeat(stops - sizes.cumsum(), sizes)


@dataclass(frozen=True)
class Drop:
    """Compute nothing of these modules any more; what they were added or joined to stays.

    Attributes:
        name: The block or branch, for people.
        modules: Dotted names of the modules that go, outermost first.
        parameters: Parameters outside these modules that nothing reads any more.
        parts: How many values each module returns; 0 for a bare one. May be left out.
    """

    kind: ClassVar[str] = "drop"
    name: str
    modules: tuple[str, ...]
    parameters: tuple[str, ...] = ()
    parts: tuple[int, ...] = ()


@dataclass(frozen=True)
class Cluster:
    """Let the kernels that read each input channel of a convolution be few.

    Attributes:
        module: Dotted name of the convolution.
        size: How many kernels read each input channel.
        counts: For each input channel how many are left: 0 drops it, `size` keeps it dense.
    """

    kind: ClassVar[str] = "cluster"
    module: str
    size: int
    counts: tuple[int, ...]


@dataclass(frozen=True)
class Resize:
    """Let a whole number that a module of the user's keeps say what is left (``num_heads``, ``split_size``).

    Attributes:
        module: Dotted name; "" for the model itself.
        attribute: The number's name in the module; with ``.0`` behind it, the first of several.
        size: Its value before.
        left: Its value afterwards.
    """

    kind: ClassVar[str] = "resize"
    module: str
    attribute: str
    size: int
    left: int


Pairs = tuple[tuple[str, str], ...]
"""Dotted names of convolutions, each with that of the batch norm behind it, or ""."""


@dataclass(frozen=True)
class Gate:
    """Let a convolution compute, for each input anew, only some of its filters.

    Attributes:
        module: Dotted name of the convolution.
        norm: Of the batch norm behind it, which moves into it; "" for none.
        hidden: Width of the bottleneck that decides.
        relu: A ReLU follows.
        follows: Depthwise convolutions behind it, whose channels are on and off with its filters.
        reads: All convolutions that read what comes of it, and need not read what is off; may be empty.
    """

    kind: ClassVar[str] = "gate"
    module: str
    norm: str
    hidden: int
    relu: bool = False
    follows: Pairs = ()
    reads: Pairs = ()


Edit = Slice | Select | Drop | Cluster | Resize | Gate


@dataclass(frozen=True)
class Step:
    """One pass: its method's name, its settings, and what it changed."""

    method: str
    settings: Mapping[str, Any]
    edits: tuple[Edit, ...]


@dataclass(frozen=True)
class Plan:
    """Steps in order, and where they come from (seed, versions, input shapes, source checksum)."""

    steps: tuple[Step, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def edits(self) -> tuple[Edit, ...]:
        """All edits, in the order in which they are replayed."""
        return tuple(edit for step in self.steps for edit in step.edits)

    def then(self, step: Step) -> "Plan":
        """This plan, followed by one more step."""
        return Plan((*self.steps, step), self.provenance)

    def to_json(self) -> str:
        """The plan as JSON text."""
        steps = [
            {
                "method": s.method,
                "settings": dict(s.settings),
                "edits": [{"kind": e.kind, **asdict(e)} for e in s.edits],
            }
            for s in self.steps
        ]
        return json.dumps({"schema": SCHEMA, "provenance": dict(self.provenance), "steps": steps}, indent=1)

    @classmethod
    def from_json(cls, text: str) -> "Plan":
        """Read a plan, trusting nothing in it.

        Raises:
            PlanError: Not a plan, or written by a newer squeeze.
        """
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise PlanError(
                f"plan: must be JSON, got text that is not ({error}); use the plan.json of a run."
            ) from error
        data = _mapping(data, "plan")
        schema = data.get("schema")
        if not isinstance(schema, int) or isinstance(schema, bool) or schema < 1:
            raise PlanError(
                f"plan: schema must be a whole number, got {_quoted(schema)}; the file was not written by squeeze."
            )
        if schema > SCHEMA:
            raise PlanError(
                f"plan: schema must be at most {SCHEMA}, got {_quoted(schema)} of a newer squeeze; update squeeze."
            )
        steps = tuple(_step(step) for step in _sequence(data.get("steps"), "steps"))
        return cls(steps, _mapping(data.get("provenance", {}), "provenance"))


def _step(data: Any) -> Step:
    data = _mapping(data, "step")
    edits = tuple(_edit(edit) for edit in _sequence(data.get("edits"), "edits"))
    return Step(_text(data.get("method"), "method"), _mapping(data.get("settings", {}), "settings"), edits)


def _edit(data: Any) -> Edit:
    data = _mapping(data, "edit")
    kind = data.get("kind")
    if kind == "slice":
        return Slice(_text(data.get("tensor"), "tensor"), _count(data.get("dim"), "dim"), *_kept(data))
    if kind == "select":
        return Select(_text(data.get("module"), "module"), *_kept(data))
    if kind == "drop":
        return Drop(
            _text(data.get("name"), "name"),
            tuple(_text(name, "modules") for name in _sequence(data.get("modules"), "modules")),
            tuple(_text(name, "parameters") for name in _sequence(data.get("parameters", []), "parameters")),
            tuple(_count(count, "parts", _MOST_PARTS) for count in _sequence(data.get("parts", []), "parts")),
        )
    if kind == "cluster":
        size = _count(data.get("size"), "size")
        counts = tuple(_count(count, "counts") for count in _sequence(data.get("counts"), "counts"))
        if max(counts, default=0) > size:
            raise PlanError(f"plan: counts must be at most {size}, got {max(counts)}; the plan was altered.")
        return Cluster(_text(data.get("module"), "module"), size, counts)
    if kind == "resize":
        size, left = _count(data.get("size"), "size"), _count(data.get("left"), "left")
        if not 1 <= left <= size:
            raise PlanError(f"plan: left must be from 1 to {size}, got {left}; the plan was altered.")
        return Resize(_text(data.get("module"), "module"), _text(data.get("attribute"), "attribute"), size, left)
    if kind == "gate":
        relu = data.get("relu", False)
        if not isinstance(relu, bool):
            raise PlanError(f"plan: relu must be true or false, got {_quoted(relu)}; the plan was altered.")
        names = _text(data.get("module"), "module"), _text(data.get("norm"), "norm")
        pairs = _pairs(data.get("follows", []), "follows"), _pairs(data.get("reads", []), "reads")
        return Gate(*names, _count(data.get("hidden"), "hidden", _WIDEST), relu, *pairs)
    raise PlanError(
        "plan: an edit's kind must be 'slice', 'select', 'drop', 'cluster', 'resize' or 'gate', got "
        f"{_quoted(kind)}; update squeeze, or check the file."
    )


def _pairs(value: Any, what: str) -> Pairs:
    pairs = [tuple(_text(name, what) for name in _sequence(pair, what)) for pair in _sequence(value, what)]
    if any(len(pair) != 2 for pair in pairs):
        raise PlanError(f"plan: {what} must be pairs of names, got others; the plan was altered.")
    return tuple((pair[0], pair[1]) for pair in pairs)


def _mapping(value: Any, what: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise PlanError(f"plan: {what} must be an object, got {type(value).__name__}; the plan was altered.")
    return value


def _sequence(value: Any, what: str) -> Sequence[Any]:
    if not isinstance(value, list):
        raise PlanError(f"plan: {what} must be a list, got {type(value).__name__}; the plan was altered.")
    return value


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise PlanError(f"plan: {what} must be text, got {_quoted(value)}; the plan was altered.")
    return value


def _count(value: Any, what: str, most: int = 2**40) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
        raise PlanError(
            f"plan: {what} must be a whole number from 0 to {most}, got {_quoted(value)}; the plan was altered."
        )
    return value


def _kept(data: Mapping[str, Any]) -> tuple[int, Ranges]:
    """A size, and what is kept of it."""
    size = _count(data.get("size"), "size")
    keep = tuple(_range(pair) for pair in _sequence(data.get("keep"), "keep"))
    bounds = [0, *(bound for pair in keep for bound in pair), size]
    if bounds != sorted(bounds) or not keep:
        raise PlanError(
            f"plan: keep must be ascending ranges within 0..{size}, got {list(keep)[:4]}; the plan was altered."
        )
    return size, keep


def _range(value: Any) -> tuple[int, int]:
    bounds = tuple(_count(bound, "keep") for bound in _sequence(value, "keep"))
    if len(bounds) != 2 or bounds[0] >= bounds[1]:
        raise PlanError(
            f"plan: keep must hold ranges [start, stop) with start < stop, got {_quoted(value)}; the plan was altered."
        )
    return bounds[0], bounds[1]


def _quoted(value: Any) -> str:
    """What a file holds, in at most 60 characters."""
    if isinstance(value, list | dict):
        return f"{type(value).__name__} of {len(value)}"
    text = repr(value[:60] if isinstance(value, str) else value)
    return text if len(text) <= 60 else f"{text[:57]}..."
