"""Reports made by hand, with known figures."""

from dataclasses import replace

from squeeze.gating.overview import Overview
from squeeze.report.data import (
    ByInput,
    Group,
    Histogram,
    Layer,
    Method,
    Origin,
    Phase,
    Pinned,
    Removed,
    Report,
    Stage,
    Timing,
)
from squeeze.report.findings import Claim, Cluster, Distribution, Finding, Judged, Mosaic


def timing(median: float, spread: float = 0.01, backend: str = "onnxruntime", batch: int = 1) -> Timing:
    return Timing(backend, batch, 1, median, median * (1 - spread), median * (1 + spread))


def report(layers: int = 3, name: str = "conv{}", prose: str = "because") -> Report:
    """A full report in which every section has something to show, with as many layers as asked for."""
    rows = tuple(
        Layer(name.format(i), "Conv2d", 2_000_000, 1_000_000 * (i % 3), 5000, 2500, 64, 32 * (i % 3), i % 3 == 0)
        for i in range(layers)
    )
    epochs = range(20)
    search = Phase(
        "gal",
        {
            "lambda": tuple(1e-4 * 1.2**e for e in epochs),
            "share": tuple(1 - 0.025 * e for e in epochs),
            prose: (1.0, None),
        },
        {level: tuple(1 - e * shift for e in epochs) for level, shift in (("0", 0.05), ("50", 0.03), ("100", 0.0))},
        (Histogram("filters", 30, (0.0, 0.5, 1.0), (10, 24)),),
    )
    return Report(
        origin=Origin(name.format("net"), "digits", "accuracy", f"squeeze prune {prose}", versions={"torch": prose}),
        methods=(Method("gal", {"macs": 0.5, prose: prose}),),
        before=Stage({"accuracy": 0.9512}, 82_400_000, 1_230_000, {"onnx": 4_920_000}, (timing(2.0),)),
        cut=Stage({"accuracy": 0.71}, 41_200_000, 600_000),
        after=Stage({"accuracy": 0.9487}, 41_200_000, 600_000, {"onnx": 2_400_000}, (timing(1.25),)),
        layers=rows,
        groups=(Group(name.format(0), 64, 32),),
        removed=(Removed(name.format("block"), (name.format(1),), "gal"),),
        history=(search, Phase("finetune", {"loss": (0.9, 0.5, 0.4)})),
        pinned=(Pinned(prose, 10, (name.format("fc"),), (prose,)),),
        notes=(prose,),
        findings=(finding(name, prose),),
    )


def finding(name: str = "conv{}", prose: str = "because") -> Finding:
    """Two judged layers of four and five parts, and a picture of three matrices."""
    layers = (
        Judged(name.format(0), {"weight": (0.0, 1.0, 2.0, 4.0), prose: (1.0, 1.0, 1.0, 1.0)}, prose),
        Judged(name.format(1), {"weight": (0.5, 0.5, 0.5, 0.5, 3.0)}, "all stay"),
    )
    clusters = (Cluster((1.0, 0.0, 0.5, 0.25), ((0.75, 0.0, 0.5, 0.25),)), Cluster((0.0, -1.0, 0.0, 0.0)))
    claims = (Claim(prose, 1000, 400), Claim("sums", 0, 7))
    counts = (Distribution(prose, (0.0, 1.0, 2.0), (3, 1), 0.75),)
    return Finding("kse", prose, claims, layers, (Mosaic(prose, 2, clusters),), counts, overview(name))


def overview(name: str = "conv{}") -> Overview:
    """Two classes, three filters in two layers, four inputs, one of which is of a class that is not shown."""
    return Overview(
        labelled=False,
        classes=(3, 14),
        inputs=(2, 1),
        filters={name.format(0): (5, 2), name.format(1): (0,)},
        varying=4,
        rates=((1.0, 0.5, 0.0), (0.0, 0.0, 1.0)),
        apart=((0.0, 0.25), (0.25, 0.0)),
        x=(0.0, 0.1, 0.9, 1.0),
        y=(0.5, 0.5, 0.5, 0.6),
        rows=(0, 0, 1, -1),
    )


def gated() -> Report:
    """The report of a network with gates: an input cost 41.2 M, now it costs 20.6 M on average."""
    made = report()
    return replace(made, after=replace(made.after, by_input=ByInput(20_600_000.0, 1_500_000.0, 143, "holdout", 2)))
