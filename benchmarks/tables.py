"""The tables of README.md from the files in results/: `python -m benchmarks.tables` writes them between the marks."""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import tables_gated
from benchmarks.zoo.nets import listed
from benchmarks.zoo.table import text as rows_of_the_zoo

HERE = Path(__file__).parent
BEGIN, END = "<!-- tables.py writes from here -->", "<!-- to here -->"
TITLES = {
    "gal": "squeeze GAL",
    "gal-mixed": "squeeze GAL, blocks too",
    "magnitude": "squeeze Magnitude",
    "torch-pruning": "Torch-Pruning",
    "magnitude-long": "squeeze Magnitude, long",
    "torch-pruning-long": "Torch-Pruning, long",
}
KSE_TITLES = {
    "g4": "KSE, G = 4, T = 0",
    "g4-released": "the same, as released",
    "g5": "KSE, G = 5, T = 0",
    "g5-released": "the same, as released",
    "by-layer": "KSE by layer, as many multiplications as G = 4",
    "magnitude": "Magnitude, as many bytes as G = 4",
}
NETWORKS = {"resnet20": "ResNet-20", "resnet56": "ResNet-56"}
BACKENDS = {"pytorch": "PyTorch", "onnxruntime": "ONNX Runtime"}


def tables(folder: Path) -> str:
    """All tables, one section a network; a line that says so where there is none."""
    sections = []
    for network, title in NETWORKS.items():
        results = [json.loads(p.read_text()) for m in TITLES if (p := folder / f"{network}-{m}.json").exists()]
        if results:
            place = folder / f"{network}-latency.json"
            timed = json.loads(place.read_text()) if place.exists() else {"rows": []}
            sections.append("\n\n".join([f"### {title}, CIFAR-10", *section(results, timed)]))
    for network, title in NETWORKS.items():
        results = [
            json.loads(p.read_text()) for p in sorted(folder.glob(f"kse-{network}-*.json")) if "latency" not in p.stem
        ]
        if results:
            place = folder / f"kse-{network}-latency.json"
            timed = json.loads(place.read_text()) if place.exists() else {"rows": []}
            sections.append("\n\n".join([f"### KSE on {title}, CIFAR-10", *clustering(results, timed)]))
    if (place := folder / "zoo.json").exists():
        sections.append("\n\n".join(["### The zoo", *zoo(json.loads(place.read_text()))]))
    shows = (
        *(("trace", tracing), ("latency", speed), ("latency-inputs", speed)),
        *(("kernel", kernel), ("kse-latency", networks)),
    )
    for name, show in shows:
        if (place := folder / f"{name}.json").exists():
            sections.append("\n\n".join(show(json.loads(place.read_text()))))
    decoupled = [json.loads(p.read_text()) for p in sorted(folder.glob("decouple-*.json"))]
    if decoupled:
        sections.append("\n\n".join(tables_gated.decoupled(decoupled) + tables_gated.detected(decoupled)))
    for place in sorted(folder.glob("gated-*.json")):
        sections.append("\n\n".join(tables_gated.skipping(json.loads(place.read_text()))))
    return "\n\n".join(sections) or "No results yet."


def zoo(results: Sequence[dict[str, Any]]) -> list[str]:
    """The law, architecture by architecture, and which of the list were not put through it."""
    found = {result["net"]: result for result in results}
    missing = [name for name in listed() if name not in found]
    names = ", ".join(name.partition(":")[2] for name in missing)
    return [rows_of_the_zoo(found), *([f"Not swept yet: {len(missing)} of the list ({names})."] if missing else [])]


def section(results: Sequence[dict[str, Any]], timed: dict[str, Any]) -> list[str]:
    """Setup, accuracy and size, latency."""
    setup, made, dense = results[0]["setup"], results[0]["made"], results[0]
    versions = ", ".join(f"{name} {number}" for name, number in made["versions"].items())
    threads = f"{setup['threads']} thread{'s' * (setup['threads'] != 1)}"
    about = (
        f"At most {setup['macs']:.0%} of the MACs, widths in multiples of {setup['round_to']}, seed {setup['seed']}, "
        f"trained on {setup['device']} with {threads}. {made['machine']}; {versions}."
    )
    rows = [["dense", percent(dense["accuracy"]["dense"]), "", "", *cost(dense, "dense"), ""]]
    for found in results:
        accuracy, epochs = found["accuracy"], f"{found['epochs']}"
        if found["method"].startswith("gal"):
            epochs = f"{setup['search_epochs']} + {epochs}"
        stages = [percent(accuracy[stage]) for stage in ("finetuned", "raw", "cut")]
        rows.append([TITLES[found["method"]], *stages, *cost(found, "after"), epochs])
    header = ["", "accuracy, finished", "right after the cut", "BN re-estimated", "MACs", "parameters", "epochs"]
    return [about, table(header, rows), *latency(timed, TITLES)]


def clustering(results: Sequence[dict[str, Any]], timed: dict[str, Any]) -> list[str]:
    """Accuracy at each stage, cost by the paper's accounting beside the file's bytes, latency."""
    made, dense = results[0]["made"], results[0]
    versions = ", ".join(f"{name} {number}" for name, number in made["versions"].items())
    rows = [["dense", percent(dense["accuracy"]["dense"]), "", "", *sizes(dense["dense"], dense["dense"])]]
    for found in sorted(results, key=lambda it: (list(KSE_TITLES).index(it["row"]), it["setup"]["epochs"])):
        accuracy, epochs = found["accuracy"], found["setup"]["epochs"]
        tuned = f"{percent(accuracy['finetuned'])} ({epochs} epochs)" if epochs else ""
        stages = [percent(accuracy["raw"]), percent(accuracy["cut"]), tuned]
        rows.append([KSE_TITLES[found["row"]], *stages, *sizes(found, found["dense"])])
    header = ["", "one-shot", "BN re-estimated", "fine-tuned", "multiplications", "parameters", "bytes of the file"]
    return [
        f"Seed {dense['setup']['seed']}. {made['machine']}; {versions}.",
        table(header, rows),
        *latency(timed, KSE_TITLES),
    ]


def sizes(found: dict[str, Any], dense: dict[str, Any]) -> list[str]:
    """Multiplications by the paper's accounting, parameters without indices, and bytes; with the ratio to dense."""
    macs = found.get("paper_macs", found["macs"])
    cells = ((macs, dense["macs"], 1e6, " M"), (found["params"], dense["params"], 1e3, " k"))
    cells = (*cells, (found["bytes"], dense["bytes"], 1e3, " kB"))
    return [f"{v / unit:.1f}{name}" + (f", {d / v:.2f}×" if v != d else "") for v, d, unit, name in cells]


def latency(timed: dict[str, Any], titles: Mapping[str, str]) -> list[str]:
    """Medians, quartiles, and the speed-up over dense; a column for each backend and batch."""
    rows = timed["rows"]
    if not rows:
        return []
    columns = list(dict.fromkeys((row["backend"], row["batch"]) for row in rows))
    found = {(row["method"], row["backend"], row["batch"]): row for row in rows}
    header = ["ms, median (quartiles)", *(f"{BACKENDS[b]}, batch {n}" for b, n in columns)]
    methods = [name for name in ("dense", *titles) if any(row["method"] == name for row in rows)]
    cells = [
        [titles.get(name, name), *(timing(found[name, b, n], found["dense", b, n]) for b, n in columns)]
        for name in methods
    ]
    threads = rows[0]["threads"]
    about = f"All networks in turn, {threads} thread{'s' * (threads != 1)}, on the CPU of {timed['made']['machine']}:"
    return [about, table(header, cells)]


def tracing(found: dict[str, Any]) -> list[str]:
    """Seconds of processor time and memory of `squeeze.trace`, beside Torch-Pruning's dependency graph and pruner."""
    rows, grown = [], []
    for name, row in found["networks"].items():
        ours = row.get("squeeze")
        traced = seconds(ours, "trace", "plan") if ours else row["notes"].get("squeeze", "")
        cells = [name, seconds(ours, "forward"), traced]
        if "memory-trace" in row and "memory-forward" in row:
            peer, note = row.get("torch-pruning"), row["notes"].get("torch-pruning", "")
            allowed = 2 * row["memory-trace"]["model"] + row["memory-forward"]["peak"]
            cells += [seconds(peer, "build_dependency", "pruner") if peer else note]
            cells += [seconds(ours, "score", "rewrite"), seconds(peer, "step") if peer else note]
            rows.append([*cells, f"{row['memory-trace']['peak']:.0f} of {allowed:.0f} MiB"])
        else:
            grown.append(cells)
    setup, made = found["setup"], found["made"]
    versions = ", ".join(f"{name} {number}" for name, number in made["versions"].items())
    about = (
        f"Seconds of processor time, median of {setup['repeats']}, {threads_of(setup['threads'])}, a process for each, "
        f"224 px, batch 1, random weights. {made['machine']}; {versions}."
    )
    header = ["", "forward", "trace + plan", "Torch-Pruning: graph + pruner"]
    header += ["scores + rewrite", "Torch-Pruning: step", "memory of a trace"]
    return [
        "### What can be removed, and removing it",
        about,
        table(header, rows),
        *([table(header[:3], grown)] if grown else []),
    ]


def seconds(row: dict[str, Any] | None, *steps: str) -> str:
    """Of several steps together."""
    return "" if row is None else f"{sum(row[step]['cpu'] for step in steps):.2f}"


def threads_of(number: int) -> str:
    """In words."""
    return f"{number} thread{'s' * (number != 1)}"


def speed(found: dict[str, Any]) -> list[str]:
    """Latency before and after, and how much of the saved MACs it is worth."""
    rows = []
    for name, row in found["networks"].items():
        share = row["macs"]["after"] / row["macs"]["before"]
        cells = [name, f"{share:.1%}"]
        for backend in BACKENDS:
            now = row[backend]
            times = f"{now['before']['median']:.3g} → {now['after']['median']:.3g}"
            cells.append(f"{times}, {now['speedup']:.2f}×, ratio {now['ratio']:.2f}")
        rows.append(cells)
    setup = found["setup"]
    about = (
        f"Magnitude at {setup['macs']:.0%} of the MACs, widths in multiples of {setup['round_to']}, random weights, "
        f"batch {setup['batch']}, {threads_of(setup['threads'])}, before and after in turn, median of "
        f"{setup['repeats']} in ms. {found['made']['machine']}."
    )
    less = "inputs" in setup.get("structures", ())
    title = "### What layers that read less buy" if less else "### What half of the MACs buys"
    return [title, about, table(["", "MACs left", *BACKENDS.values()], rows)]


def kernel(found: dict[str, Any]) -> list[str]:
    """One table for each number of threads: what the dense convolution takes, and how much faster the clustered is."""
    parts = ["### Clustered 3×3 convolutions on the native kernel"]
    names = {"onnxruntime": "ONNX Runtime", "torch": "PyTorch", "torch_channels_last": "PyTorch, channels last"}
    for threads in dict.fromkeys(row["threads"] for row in found["rows"]):
        by_shape: dict[tuple[int, int], dict[int, dict[str, Any]]] = {}
        for row in found["rows"]:
            if row["threads"] == threads:
                by_shape.setdefault((row["channels"], row["size"]), {})[row["ratio"]] = row
        ratios = sorted({ratio for rows in by_shape.values() for ratio in rows})
        lines = []
        for (channels, size), rows in by_shape.items():
            dense = next(iter(rows.values()))["ms"]
            cells = [f"{channels} channels, {size}×{size}", *(f"{dense[name][1]:.3g}" for name in names)]
            lines.append([*cells, *(gained(rows[ratio]) if ratio in rows else "" for ratio in ratios)])
        header = [threads_of(threads), *(f"{name}, ms" for name in names.values())]
        parts.append(table([*header, *(f"squeeze, N/{ratio}" for ratio in ratios)], lines))
    about = (
        "Batch 1, all ways in turn, medians; the times are those of the dense convolution, and behind squeeze's is how "
        f"much faster it is than ONNX Runtime. {found['made']['machine']}."
    )
    return [parts[0], about, *parts[1:]]


def gained(row: dict[str, Any]) -> str:
    """A clustered layer: its time, the speed-up over ONNX Runtime, and whether it was left dense."""
    ms = {name: quartiles[1] for name, quartiles in row["ms"].items()}
    kept = "" if row["way"].startswith("native") else ", kept dense"
    return f"{ms['clustered']:.3g}, {ms['onnxruntime'] / ms['clustered']:.2f}×{kept}"


def networks(found: dict[str, Any]) -> list[str]:
    """Whole networks after KSE: measured beside theoretical speed-up."""
    rows = []
    for name, network in found["networks"].items():
        macs = network["macs"]
        for row in network["rows"]:
            ms = {side: row[side]["median"] for side in ("torch", "onnxruntime", "clustered")}
            ways = ", ".join(f"{count} {way}" for way, count in row["ways"].items())
            gains = [f"{ms[side] / ms['clustered']:.2f}×" for side in ("torch", "onnxruntime")]
            times = [f"{time:.3g}" for time in ms.values()]
            rows.append(
                [f"{name}, batch {row['batch']}", f"{macs['before'] / macs['paper']:.2f}×", *gains, *times, ways]
            )
    setup = found["setup"]
    about = (
        f"KSE with G = {setup['G']}, T = {setup['T']:g} on random weights, {threads_of(setup['threads'])}, all in "
        f"turn, median of {setup['repeats']} in ms. The paper counts the MACs of centroids only. "
        f"{found['made']['machine']}."
    )
    header = ["", "speed-up by the paper", "measured over PyTorch", "over ONNX Runtime"]
    header += ["PyTorch", "ONNX Runtime", "squeeze", "clustered layers"]
    return ["### Whole networks after KSE", about, table(header, rows)]


def timing(row: dict[str, Any], dense: dict[str, Any]) -> str:
    """One measurement."""
    text = f"{row['median']:.3g} ({row['q1']:.3g}–{row['q3']:.3g})"
    return text if row is dense else f"{text}, {dense['median'] / row['median']:.2f}×"


def cost(found: dict[str, Any], stage: str) -> list[str]:
    """MACs and parameters, with the share of the dense ones."""
    cells = []
    for key, unit, name in (("macs", 1e6, "M"), ("params", 1e3, "k")):
        value, dense = found[key][stage], found[key]["dense"]
        share = "" if stage == "dense" else f" ({100 * value / dense:.1f} %)"
        cells.append(f"{value / unit:.1f} {name}{share}")
    return cells


def percent(value: float) -> str:
    """A share."""
    return f"{100 * value:.2f} %"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """In Markdown; figures to the right."""
    lines = [header, ["---", *("---:" for _ in header[1:])], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def updated(text: str, content: str) -> str:
    """A document with what lies between the marks replaced."""
    head, _, rest = text.partition(BEGIN)
    _, mark, tail = rest.partition(END)
    if not mark:
        raise SystemExit(
            f"README.md: must hold {BEGIN!r} and {END!r}, got a text without; put them where the tables go."
        )
    return f"{head}{BEGIN}\n\n{content}\n\n{END}{tail}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the tables into the README."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=HERE / "results")
    parser.add_argument("--readme", type=Path, default=HERE / "README.md")
    given = parser.parse_args(arguments)
    text = given.readme.read_text(encoding="utf-8")
    given.readme.write_text(updated(text, tables(given.results)), encoding="utf-8")
    print(f"{given.readme}: written")


if __name__ == "__main__":
    main()
