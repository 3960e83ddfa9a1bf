"""What Decouple tells the report: held to the codes."""

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import squeeze
from squeeze.gating.codes import gather
from squeeze.gating.costs import require_gates
from squeeze.passes.decouple import budget
from squeeze.passes.decouple.findings import finding
from squeeze.report import render
from squeeze.report.finding_plots import distributions
from squeeze.report.findings import Distribution, Finding, found_by
from tests.gated_nets import quick_net, quick_task, telling_inputs, telling_net
from tests.report.sample import report


@pytest.fixture
def told() -> dict[str, Any]:
    task = quick_task()
    return finding(require_gates(quick_net(), task.example_inputs), task)


@pytest.fixture
def read(told: dict[str, Any]) -> Finding:
    (made,) = found_by([("decouple", {"finding": told})])
    return made


def test_rates_are_those_of_held_out_inputs(read: Finding) -> None:
    task = quick_task()
    codes = gather(quick_net(), task, task.holdout)
    for layer in read.layers:
        assert layer.series["on"] == pytest.approx(codes.on[:, codes.layer(layer.name)].mean(0), abs=1e-3)
        assert set(layer.series) == {"on", "information"}
        assert layer.outcome.startswith(f"of {len(layer.series['on'])}: ")
    assert "60 held-out inputs" in read.text and "no labels" in read.text


def test_costs_are_those_of_the_codes(read: Finding) -> None:
    task = quick_task()
    gated = require_gates(quick_net(), task.example_inputs)
    codes = gather(quick_net(), task, task.holdout)
    mean, most, alone, filters = read.claims
    dense = gated.costs.dense
    assert {claim.before for claim in (mean, most, alone)} == {dense}
    assert mean.after == pytest.approx(codes.share.mean() * dense, rel=1e-6)
    assert most.after == pytest.approx(codes.share.max() * dense, rel=1e-6)
    assert (filters.before, filters.after) == (24, pytest.approx(codes.on.sum(1).mean()))
    assert alone.after == pytest.approx(mean.after, rel=1e-6)  # nothing in this network reads less
    (spread,) = read.distributions
    counts, _ = np.histogram(codes.share.astype(float) * dense, bins=spread.edges)
    assert counts.tolist() == list(spread.counts) and sum(spread.counts) == 60


def test_training_data_are_taken_where_nothing_is_held_out() -> None:
    images = torch.randn(20, 1, 8, 8)
    task = quick_task(holdout=(), test=(), train=[(images, torch.arange(20) % 10)])
    told = finding(require_gates(quick_net(), task.example_inputs), task)
    assert "20 training inputs" in told["text"] and "tells of their class" in told["text"]


def test_the_page_has_it(read: Finding) -> None:
    page = render(replace(report(), findings=(read,)))
    assert "What Decouple found" in page
    assert "MACs of the costliest input" in page and "Inputs by their MACs" in page
    assert read.layers[0].outcome in page


def test_a_run_says_what_inputs_cost_at_its_end_on_average() -> None:
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(1, 16, 3), torch.nn.ReLU(), torch.nn.Conv2d(16, 16, 3), torch.nn.ReLU())
    net = torch.nn.Sequential(*net, torch.nn.Flatten(), torch.nn.Linear(256, 10)).eval()
    task = quick_task(train=[torch.randn(16, 1, 8, 8)])
    chosen = squeeze.Decouple(macs=0.6, epochs=1)
    result = squeeze.compress(net, chosen, task, finetuning=squeeze.FineTune(epochs=0))
    found = result.report.after.by_input
    codes = gather(result.model, task, task.holdout)
    assert found is not None and (found.inputs, found.source, found.batch) == (60, "holdout", 1)
    dense = result.report.before.macs
    assert dense is not None and found.mean == pytest.approx(codes.share.mean() * dense, rel=1e-5)
    assert found.mean == pytest.approx(0.6 * dense, rel=0.02)
    assert result.report.before.by_input is None  # all inputs cost the same
    assert result.report.findings[0].paths is not None


def test_what_is_held_out_in_the_order_of_its_classes_is_sampled_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "SAMPLES", 4)
    nothing, something = torch.zeros(8, 4, 4, 4), telling_inputs(torch.zeros(8, dtype=torch.long))
    held = DataLoader(torch.cat([nothing, something]), batch_size=2)
    net = telling_net()
    task = squeeze.DataTask(telling_net, nothing[:1], holdout=held)
    shares = budget.sampled(require_gates(net, nothing[:1]), task)
    assert shares.tolist() == sorted(shares.tolist()) and len(shares) == 4 and len(shares.unique()) == 2


def test_inputs_are_counted_in_whole_numbers() -> None:
    svg = distributions("few", [Distribution("Inputs", (10.0, 20.0, 30.0), (1, 2), 17.0)])
    texts = re.findall(r">\s*([\d.]+)\s*<", svg)
    assert {"1", "2"} <= set(texts) and not any("." in text for text in texts if float(text) < 3)
