import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import tables
from benchmarks.zoo import table
from benchmarks.zoo.check import Checked
from benchmarks.zoo.nets import listed

MADE = {"machine": "a processor, 2 cores", "versions": {"torch": "2"}}
SETUP = {"macs": 0.5, "round_to": 8, "seed": 0, "device": "cpu", "threads": 2, "search_epochs": 8}


def result(method: str) -> dict[str, Any]:
    return {
        "method": method,
        "setup": SETUP,
        "accuracy": {"dense": 0.9173, "raw": 0.1, "cut": 0.6, "finetuned": 0.9051},
        "macs": {"dense": 40_550_000, "after": 20_214_000},
        "params": {"dense": 269_722, "after": 95_354},
        "epochs": 15,
        "made": MADE,
    }


def row(method: str, median: float) -> dict[str, Any]:
    return {"method": method, "backend": "pytorch", "batch": 1, "threads": 1, "median": median, "q1": 1.0, "q3": 4.0}


@pytest.fixture
def results(tmp_path: Path) -> Path:
    files = {method: result(method) for method in ("magnitude", "gal")}
    files["latency"] = {"rows": [row("gal", 1.5), row("dense", 3.0)], "made": MADE}
    for name, content in files.items():
        (tmp_path / f"resnet20-{name}.json").write_text(json.dumps(content))
    return tmp_path


def test_every_method_has_its_row_dense_first(results: Path) -> None:
    lines = tables.tables(results).splitlines()
    assert "### ResNet-20, CIFAR-10" in lines
    assert "| dense | 91.73 % |  |  | 40.5 M | 269.7 k |  |" in lines
    assert "| squeeze GAL | 90.51 % | 10.00 % | 60.00 % | 20.2 M (49.8 %) | 95.4 k (35.4 %) | 8 + 15 |" in lines
    assert "| squeeze Magnitude | 90.51 % | 10.00 % | 60.00 % | 20.2 M (49.8 %) | 95.4 k (35.4 %) | 15 |" in lines


def test_latency_stands_beside_dense(results: Path) -> None:
    lines = tables.tables(results).splitlines()
    assert "| dense | 3 (1–4) |" in lines
    assert "| squeeze GAL | 1.5 (1–4), 2.00× |" in lines


def test_kse_shows_what_the_paper_counts_beside_the_file(tmp_path: Path) -> None:
    common = {"dense": {"macs": 40_000_000, "params": 270_000, "bytes": 1_090_000}, "made": MADE}
    small = {"macs": 38_000_000, "paper_macs": 20_000_000, "params": 150_000, "bytes": 645_000}
    accuracy = {"dense": 0.9173, "raw": 0.3, "cut": 0.6}
    tuned = {"epochs": 2, "seed": 0}
    rows = {
        "g4": {"row": "g4", "setup": {"epochs": 0, "seed": 0}, "accuracy": accuracy},
        "g4-2": {"row": "g4", "setup": tuned, "accuracy": accuracy | {"finetuned": 0.9}},
        "latency": {"methods": ["dense", "g4"], "rows": [row("g4", 1.5), row("dense", 3.0)], "made": MADE},
    }
    for name, content in rows.items():
        (tmp_path / f"kse-resnet20-{name}.json").write_text(json.dumps(common | small | content))
    lines = tables.tables(tmp_path).splitlines()
    assert "### KSE on ResNet-20, CIFAR-10" in lines
    costs = "20.0 M, 2.00× | 150.0 k, 1.80× | 645.0 kB, 1.69× |"
    assert "| dense | 91.73 % |  |  | 40.0 M | 270.0 k | 1090.0 kB |" in lines
    assert f"| KSE, G = 4, T = 0 | 30.00 % | 60.00 % |  | {costs}" in lines
    assert f"| KSE, G = 4, T = 0 | 30.00 % | 60.00 % | 90.00 % (2 epochs) | {costs}" in lines
    assert "| KSE, G = 4, T = 0 | 1.5 (1–4), 2.00× |" in lines


def test_the_zoo_names_what_was_not_swept(tmp_path: Path) -> None:
    first, second, *others = listed()
    content = table.compact(
        {first: {**Checked(first).record(), "groups": 7}, second: Checked(second, faults=["crash: x"]).record()}
    )
    (tmp_path / "zoo.json").write_text(content)
    lines = tables.tables(tmp_path).splitlines()
    assert f"| {first} | 7 | 0 | 0 | 0% | 100.0% | 0e+00 | 0.0 | not tried | none |" in lines
    assert "2 architectures, 1 passed; 0 × wrong cut, 1 × crash, 0 × timeout." in lines
    assert (
        lines[-1].startswith(f"Not swept yet: {len(others)} of the list (")
        and others[-1].partition(":")[2] in lines[-1]
    )


def test_only_what_lies_between_the_marks_is_replaced(results: Path, tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{tables.BEGIN}\nold\n{tables.END}\nafter\n")
    tables.main(["--results", str(results), "--readme", str(readme)])
    text = readme.read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "old" not in text and "squeeze GAL" in text
    with pytest.raises(SystemExit, match="put them where the tables go"):
        tables.updated("no marks", "content")


def test_a_folder_without_results_says_so(tmp_path: Path) -> None:
    assert tables.tables(tmp_path) == "No results yet."


def taken(**steps: float) -> dict[str, dict[str, float]]:
    return {step: {"wall": 9.0, "cpu": cpu} for step, cpu in steps.items()}


def test_a_trace_stands_beside_its_peer_and_what_the_peer_could_not_do_is_said(tmp_path: Path) -> None:
    ours = taken(forward=0.1, trace=0.5, plan=0.01, rewrite=0.1, score=0.15)
    memory = {f"memory-{run}": {"model": 100, "peak": peak} for run, peak in (("forward", 40), ("trace", 150))}
    common = {"squeeze": ours, **memory}
    networks = {
        "quick": common | {"torch-pruning": taken(build_dependency=0.2, pruner=0.21, step=0.35), "notes": {}},
        "endless": common | {"notes": {"torch-pruning": "not done after 300 s"}},
        "small": {"squeeze": ours, "notes": {}},
    }
    found = {"setup": {"threads": 1, "repeats": 3}, "networks": networks, "made": MADE}
    (tmp_path / "trace.json").write_text(json.dumps(found))
    lines = tables.tables(tmp_path).splitlines()
    assert "| quick | 0.10 | 0.51 | 0.41 | 0.25 | 0.35 | 150 of 240 MiB |" in lines
    assert "| endless | 0.10 | 0.51 | not done after 300 s | 0.25 | not done after 300 s | 150 of 240 MiB |" in lines
    assert "| small | 0.10 | 0.51 |" in lines


def test_speed_is_compared_with_the_macs_that_were_saved(tmp_path: Path) -> None:
    backend = {"before": {"median": 100.0}, "after": {"median": 62.5}, "speedup": 1.6, "ratio": 0.8}
    row = {"macs": {"before": 4000, "after": 2000}, "pytorch": backend, "onnxruntime": backend}
    setup = {"macs": 0.5, "round_to": 8, "threads": 1, "repeats": 50, "batch": 1}
    (tmp_path / "latency.json").write_text(json.dumps({"setup": setup, "networks": {"net": row}, "made": MADE}))
    cell = "100 → 62.5, 1.60×, ratio 0.80"
    assert f"| net | 50.0% | {cell} | {cell} |" in tables.tables(tmp_path).splitlines()
    less = {"setup": setup | {"structures": ["inputs"]}, "networks": {"other": row}, "made": MADE}
    (tmp_path / "latency-inputs.json").write_text(json.dumps(less))
    assert "### What layers that read less buy" in tables.tables(tmp_path).splitlines()


def test_kernel_and_networks_stand_beside_what_they_are_compared_with(tmp_path: Path) -> None:
    ms = {"clustered": [1.0, 2.0, 3.0], "torch": [7, 8, 9], "torch_channels_last": [5, 6, 7], "onnxruntime": [4, 5, 6]}
    layer = {"channels": 64, "size": 14, "threads": 1, "ms": ms}
    rows = [{**layer, "ratio": 4, "way": "native: avx2"}, {**layer, "ratio": 8, "way": "dense: measured to be faster"}]
    (tmp_path / "kernel.json").write_text(json.dumps({"rows": rows, "made": MADE}))
    times = {side: {"median": median} for side, median in (("torch", 9.0), ("onnxruntime", 6.0), ("clustered", 3.0))}
    network = {"macs": {"before": 80, "after": 70, "paper": 20}, "rows": [{"batch": 1, "ways": {"native": 5}, **times}]}
    setup = {"G": 4, "T": 1.0, "threads": 1, "repeats": 30}
    content = {"setup": setup, "networks": {"VGG-16": network}, "made": MADE}
    (tmp_path / "kse-latency.json").write_text(json.dumps(content))
    lines = tables.tables(tmp_path).splitlines()
    assert "| 64 channels, 14×14 | 5 | 8 | 6 | 2, 2.50× | 2, 2.50×, kept dense |" in lines
    assert "| VGG-16, batch 1 | 4.00× | 3.00× | 2.00× | 9 | 6 | 3 | 5 native |" in lines


def test_gates_show_shares_of_the_dense_time_and_what_inputs_cost(tmp_path: Path) -> None:
    ways = [f"{backend}, {share}" for backend in ("torch", "onnx") for share in ("dense", "50%", "25%")]
    row = {
        "name": "64 channels, 28×28",
        "ratios": dict(zip(ways, (1, 0.5, 0.25, 1, 0.8, 0.6), strict=True)),
        "times": {way: {"median": 2.0} for way in ways},
    }
    skipping = {"setup": {"threads": 1, "repeats": 50}, "pairs": [row], "networks": [], "made": MADE}
    (tmp_path / "gated-1.json").write_text(json.dumps(skipping))
    alone = {**row, "times": {way: time for way, time in row["times"].items() if way.startswith("torch")}}
    two = {**skipping, "setup": {"threads": 2, "repeats": 50}, "pairs": [alone]}
    (tmp_path / "gated-2.json").write_text(json.dumps(two))
    found = {
        "setup": {"network": "resnet20", "macs": 0.5, "epochs": 5, "finetuning": 0},
        "accuracy": {"dense": 0.9173, "gated": 0.901},
        "share": {"mean": 0.5, "deviation": 0.02, "quantiles": [0.4, 0.48, 0.5, 0.52, 0.6]},
        "filters": {"always": 0.4, "never": 0.1, "all": 688},
        "latency": {"quartiles": {"dense, PyTorch": [1, 2, 3], "gated, PyTorch": [1, 1.5, 2]}},
        "detection": {
            "verdicts": [
                {
                    "attack": "FGSM",
                    "success": 0.9,
                    "auc": {"random forest": 0.97},
                    "depth": {"random forest": {"1": 0.5, "18": 0.96}},
                },
                {"attack": "PGD", "success": 0.0, "auc": {}, "depth": {}},
            ],
            "fit": 369,
            "judged": 352,
            "sources": ["holdout", "test"],
        },
    }
    (tmp_path / "decouple-resnet20-50.json").write_text(json.dumps(found))
    lines = tables.tables(tmp_path).splitlines()
    assert "| 64 channels, 28×28 | 2 | 0.50 | 0.25 | 2 | 0.80 | 0.60 |" in lines
    assert "| 64 channels, 28×28 | 2 | 0.50 | 0.25 |" in lines
    assert (
        "| resnet20, macs=0.5 | 91.73% → 90.10% | 50.0% ± 2.0% (40.0% to 60.0%) | 40%, 10% | 5 + 0 | 2 → 1.5 |  |"
    ) in lines
    assert "| attack succeeds | 90% | 0% |" in lines
    assert "| random forest | 0.970 |  |" in lines
    assert "| random forest, codes of the first 18 layers | 0.960 |  |" in lines
