import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import tables

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
