"""The folder of a run: every file that is promised, and each of them holds the model or tells of it."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

import squeeze
from squeeze import FineTune, Magnitude, Plan
from squeeze.compress import Result
from squeeze.errors import InputError
from squeeze.report import Report
from squeeze.runs import write_run
from tests.tasks import tiny_net

ABOUT = {"arch": "tests.tasks:tiny_net", "data": None, "input_shape": [1, 8, 8]}
FILES = ["model.onnx", "model.pt2", "model.safetensors", "plan.json", "report.html", "report.json"]
X = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def build() -> nn.Module:
    torch.manual_seed(0)
    return tiny_net(16).eval()


@cache
def small() -> Result:
    settings = FineTune(epochs=0)
    return squeeze.compress(build(), Magnitude(macs=0.5, round_to=1), example_inputs=X[:1], finetuning=settings)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, Path]:
    folder = tmp_path_factory.mktemp("run")
    return write_run(small(), folder, ABOUT, "squeeze compress net.pt"), folder


def test_all_files_are_there_and_no_other(written: tuple[Result, Path]) -> None:
    _, folder = written
    assert sorted(path.name for path in folder.iterdir() if path.is_file()) == FILES
    assert all(path.stat().st_size for path in folder.iterdir())


def test_the_artefact_computes_the_same_bit_for_bit(written: tuple[Result, Path]) -> None:
    result, folder = written
    loaded = squeeze.load(folder / "model.safetensors", build)
    assert torch.equal(loaded(X), result.model(X))
    assert repr(loaded) == repr(result.model)


def test_exports_compute_the_same(written: tuple[Result, Path]) -> None:
    result, folder = written
    with torch.no_grad():
        expected = result.model(X)
        exported = torch.export.load(folder / "model.pt2").module()(X)
    assert torch.allclose(exported, expected, atol=1e-5)
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: X.numpy()})
    assert np.abs(found - expected.numpy()).max() <= 1e-4


def test_the_plan_replays(written: tuple[Result, Path]) -> None:
    result, folder = written
    plan = Plan.from_json((folder / "plan.json").read_text())
    assert plan.edits == result.plan.edits
    again = squeeze.rewrite(build(), plan.edits)
    assert {n: t.shape for n, t in again.state_dict().items()} == {
        n: t.shape for n, t in result.model.state_dict().items()
    }


def test_the_report_reads_back_and_has_what_was_measured(written: tuple[Result, Path]) -> None:
    result, folder = written
    report = Report.from_dict(json.loads((folder / "report.json").read_text()))
    assert report == Report.from_dict(json.loads(json.dumps(result.report.to_dict())))
    assert report.origin.command == "squeeze compress net.pt"
    for stage in (report.before, report.after):
        assert {timing.backend for timing in stage.latency} == {"pytorch", "onnxruntime"}
    assert report.after.bytes == {
        "onnx": (folder / "model.onnx").stat().st_size,
        "safetensors": (folder / "model.safetensors").stat().st_size,
    }
    assert report.after.bytes["onnx"] < report.before.bytes["onnx"]
    assert report.after.macs == result.structure.cost(result.structure.choice(result.plan.edits)).macs


def test_the_page_stands_alone(written: tuple[Result, Path]) -> None:
    page = (written[1] / "report.html").read_text()
    assert page.lstrip().lower().startswith("<!doctype html>")
    assert "<script src" not in page and 'href="http' not in page
    assert "magnitude" in page.lower()


def test_a_folder_that_cannot_be_written_to_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError) as caught:
        write_run(small(), tmp_path / "file", ABOUT)
    assert "file" in str(caught.value) and str(caught.value).isprintable()
