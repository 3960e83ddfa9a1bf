"""The records of report.json: what a run did, and what that bought."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from squeeze.report.findings import Finding
from squeeze.report.records import decode, encode

SCHEMA = 1
SOURCES: Mapping[str, str] = {"holdout": "held-out", "train": "training"}
"""Of inputs, in words where they are not words."""


@dataclass(frozen=True)
class Origin:
    """What made a report: enough to make it again.

    Attributes:
        model: The network's name.
        task: The task's name, or "".
        metric: The metric by which models are chosen; larger is better; "" if there is none.
        command: As typed, or "" from Python.
        seed: Of every random number.
        versions: Of Python, squeeze and the libraries that matter.
        machine: The processor's name.
        threads: Of PyTorch, while the run computed.
        date: When it ended, ISO 8601 in UTC.
        checksum: SHA-256 of the weights that the run started from, or "".
        inputs: Shapes of the example inputs, to which all MACs belong.
    """

    model: str
    task: str = ""
    metric: str = ""
    command: str = ""
    seed: int = 0
    versions: Mapping[str, str] = field(default_factory=dict)
    machine: str = ""
    threads: int = 1
    date: str = ""
    checksum: str = ""
    inputs: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True)
class Method:
    """One pass, in the order in which they ran.

    Attributes:
        name: Of the pass.
        settings: Its fields, as given or by default.
    """

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Timing:
    """Measured latency of one forward pass.

    Attributes:
        backend: What computed it: "pytorch" or "onnxruntime".
        batch: Samples in one pass.
        threads: That the backend was given.
        median_ms: Median, in milliseconds, as are the next two.
        q1_ms: First quartile.
        q3_ms: Third quartile.
        device: Where it ran.
        runs: How many were measured.
    """

    backend: str
    batch: int
    threads: int
    median_ms: float
    q1_ms: float
    q3_ms: float
    device: str = "cpu"
    runs: int = 0


@dataclass(frozen=True)
class ByInput:
    """What single inputs cost a network with gates, for each of which that is something else.

    Attributes:
        mean: Multiply-accumulates as executed where what is off is skipped, controllers included.
        deviation: Their standard deviation.
        inputs: How many were looked at.
        source: Where they are from: "holdout", "test" or "train".
        batch: Inputs in the example inputs, to which `Stage.macs` belongs.
    """

    mean: float
    deviation: float
    inputs: int
    source: str
    batch: int = 1

    @property
    def words(self) -> str:
        """Which inputs: "143 held-out inputs"."""
        return f"{self.inputs:,} {SOURCES.get(self.source, self.source)} inputs"


@dataclass(frozen=True)
class Stage:
    """The model at one moment; what was not measured then is None or missing.

    Attributes:
        metrics: On the test set, by name.
        macs: Multiply-accumulates of one forward pass on the example inputs; bias, normalisation and activation do not
            count.
        params: Parameters.
        bytes: Size of the file, by format ("onnx", "safetensors").
        latency: By backend, batch size and threads.
        paper_macs: As `macs`, by the accounting of the methods' papers.
        by_input: What single inputs cost; None where all cost the same.
    """

    metrics: Mapping[str, float] = field(default_factory=dict)
    macs: int | None = None
    params: int | None = None
    bytes: Mapping[str, int] = field(default_factory=dict)
    latency: tuple[Timing, ...] = ()
    paper_macs: int | None = None
    by_input: ByInput | None = None


@dataclass(frozen=True)
class Layer:
    """One layer before and after.

    Attributes:
        name: Dotted name of the module.
        kind: Its type.
        macs_before: Multiply-accumulates on the example inputs.
        macs_after: 0 if it was removed.
        params_before: Parameters that it holds itself.
        params_after: 0 if it was removed.
        width_before: Output channels; None where a layer has none.
        width_after: 0 if it was removed.
        removed: Nothing of it is computed any more.
    """

    name: str
    kind: str
    macs_before: int
    macs_after: int
    params_before: int
    params_after: int
    width_before: int | None = None
    width_after: int | None = None
    removed: bool = False


@dataclass(frozen=True)
class Group:
    """Units that are coupled and go together with all their readers; or the inputs of a layer that reads only some.

    Attributes:
        name: The layer that produces them; or that reads them, and ", inputs".
        before: How many there were.
        after: How many are left.
    """

    name: str
    before: int
    after: int


@dataclass(frozen=True)
class Removed:
    """A residual block or a branch that went as a whole.

    Attributes:
        name: Of the block or branch.
        modules: What is no longer computed, outermost modules.
        method: The pass that removed it.
    """

    name: str
    modules: tuple[str, ...] = ()
    method: str = ""


@dataclass(frozen=True)
class Histogram:
    """Mask values at the end of a phase, before anything was removed.

    Attributes:
        kind: What the masks scale: "filters", "blocks", "branches" or "inputs".
        zeros: How many are exactly 0; they are not in `counts`.
        edges: Of the bins, ascending; one more than `counts`.
        counts: Masks in each bin.
    """

    kind: str
    zeros: int
    edges: tuple[float, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True)
class Phase:
    """A part of the run that trained.

    Attributes:
        name: The pass, or "finetune".
        series: Scalars by name, one value an epoch; None where there is none or it was not finite.
        quantiles: Of all mask values, by percentage ("0", "25", …), one value an epoch.
        masks: Final mask values, by kind.
    """

    name: str
    series: Mapping[str, tuple[float | None, ...]] = field(default_factory=dict)
    quantiles: Mapping[str, tuple[float | None, ...]] = field(default_factory=dict)
    masks: tuple[Histogram, ...] = ()


@dataclass(frozen=True)
class Pinned:
    """What could not be removed, and why; one record a reason.

    Attributes:
        reason: In a few words.
        count: Indices of all tensors together.
        tensors: Names of the tensors, with the dimension: "conv1.weight[0]".
        where: Lines of the user's code that are the cause.
    """

    reason: str
    count: int
    tensors: tuple[str, ...]
    where: tuple[str, ...] = ()


@dataclass(frozen=True)
class Report:
    """Everything that report.html shows. `to_dict` is report.json; docs/report.md describes it.

    Attributes:
        origin: What made it.
        methods: The passes, in order.
        before: The model as given.
        cut: Right after the cut, batch-norm statistics re-estimated, before fine-tuning; None if not measured.
        after: The finished model.
        layers: In the order in which they run.
        groups: What channels could go.
        removed: What went as a whole.
        history: The phases that trained, in order.
        pinned: What had to stay.
        notes: What the reader should know.
        findings: What passes found out layer by layer.
    """

    origin: Origin
    methods: tuple[Method, ...]
    before: Stage
    cut: Stage | None
    after: Stage
    layers: tuple[Layer, ...] = ()
    groups: tuple[Group, ...] = ()
    removed: tuple[Removed, ...] = ()
    history: tuple[Phase, ...] = ()
    pinned: tuple[Pinned, ...] = ()
    notes: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As JSON values, with the schema's version under "schema"."""
        return {"schema": SCHEMA, **encode(self)}

    @classmethod
    def from_dict(cls, data: Any) -> "Report":
        """Undo `to_dict`.

        Raises:
            ArtifactError: Not a report, or written by a newer squeeze.
        """
        return decode(cls, data, SCHEMA)
