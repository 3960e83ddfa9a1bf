"""The tables of networks with gates."""

from collections.abc import Sequence
from typing import Any

DEEP = "random forest"
"""The classifier that the table shows by depth."""


def skipping(found: dict[str, Any]) -> list[str]:
    """Pairs of layers and whole networks, as times of the dense ones in the same backend."""
    setup, measured = found["setup"], [*found["pairs"], *found["networks"]]
    both = {"torch": "PyTorch", "onnx": "ONNX Runtime"}
    backends = {b: name for b, name in both.items() if any(f"{b}, dense" in row["times"] for row in measured)}
    rows = []
    for row in measured:
        cells = [row["name"]]
        for b in backends:
            there = f"{b}, dense" in row["times"]
            cells.append(f"{row['times'][f'{b}, dense']['median']:.3g}" if there else "")
            cells += [f"{row['ratios'][f'{b}, {s}']:.2f}" if there else "" for s in ("50%", "25%")]
        rows.append(cells)
    threads = f"{setup['threads']} thread{'s' * (setup['threads'] != 1)}"
    about = (
        f"Batch 1, {threads}, random weights, all in turn, medians of "
        f"{setup['repeats']}; behind the dense times in ms, what a half and a quarter of the filters take, as a share "
        f"of that. {found['made']['machine']}."
    )
    header = ["", *(title for name in backends.values() for title in (f"{name}, ms", "50 %", "25 %"))]
    return [
        f"### Skipping filters, {threads}",
        about,
        *_table(header, rows),
    ]


def decoupled(results: Sequence[dict[str, Any]]) -> list[str]:
    """Accuracy, what inputs cost, and how long single images take."""
    rows = []
    for found in results:
        setup, share, accuracy = found["setup"], found["share"], found["accuracy"]
        low, high = share["quantiles"][0], share["quantiles"][-1]
        filters = found["filters"]
        cells = [
            f"{setup['network']}, macs={setup['macs']:g}",
            f"{accuracy['dense']:.2%} → {accuracy['gated']:.2%}",
            f"{share['mean']:.1%} ± {share['deviation']:.1%} ({low:.1%} to {high:.1%})",
            f"{filters['always']:.0%}, {filters['never']:.0%}",
            f"{setup['epochs']} + {setup['finetuning']}",
        ]
        times = found.get("latency", {}).get("quartiles", {})
        for backend in ("PyTorch", "ONNX Runtime"):
            dense, gated = (times.get(f"{way}, {backend}") for way in ("dense", "gated"))
            cells.append("" if not dense or not gated else f"{dense[1]:.3g} → {gated[1]:.3g}")
        rows.append(cells)
    header = [
        "",
        "accuracy",
        "MACs of an input",
        "filters on always, never",
        "epochs",
        "PyTorch, ms",
        "ONNX Runtime, ms",
    ]
    about = "Single test images, one thread; MACs as a share of the dense network's: mean, deviation, extremes."
    return ["### Decoupling on CIFAR-10", about, *_table(header, rows)]


def detected(results: Sequence[dict[str, Any]]) -> list[str]:
    """How well attacks are told, by which detector and from how many layers."""
    parts = []
    for found in results:
        if "detection" not in found:
            continue
        detection, setup = found["detection"], found["setup"]
        verdicts = detection["verdicts"]
        rows = [["attack succeeds", *(f"{verdict['success']:.0%}" for verdict in verdicts)]]
        for name in dict.fromkeys(name for verdict in verdicts for name in verdict["auc"]):
            rows.append([name, *(_area(verdict["auc"].get(name)) for verdict in verdicts)])
        depths = [verdict["depth"].get(DEEP, {}) for verdict in verdicts]
        for count in dict.fromkeys(count for depth in depths for count in depth):
            rows.append([f"{DEEP}, codes of the first {count} layers", *(_area(depth.get(count)) for depth in depths)])
        parts += [
            f"### Telling attacks: {setup['network']}, macs={setup['macs']:g}",
            f"Area under the ROC curve. {detection['fit']} clean images ({detection['sources'][0]}) to fit on, "
            f"{detection['judged']} to judge by ({detection['sources'][1]}), all seen rightly before the attack.",
            *_table(["", *(verdict["attack"] for verdict in verdicts)], rows),
        ]
    return parts


def _area(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [header, ["---", *("---:" for _ in header[1:])], *rows]
    return ["\n".join(f"| {' | '.join(line)} |" for line in lines)]
