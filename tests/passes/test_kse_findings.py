"""What KSE tells the report and `squeeze inspect --kse`: held to the weights and to arithmetic."""

import math

import numpy as np
import pytest
import torch

import squeeze
from squeeze.passes.kse import importance
from squeeze.passes.kse.findings import outcome
from squeeze.plan import Cluster
from squeeze.report import render
from squeeze.report.findings import Finding, found_by
from tests.passes.test_kse import IMAGES, found, net

TAPS = {"first.0": 9, "second.0": 9, "last": 1}
PIXELS = 2 * 8 * 8
"""Of both example images."""


@pytest.fixture(scope="module")
def search() -> squeeze.Found:
    return found(net(), squeeze.KSE(G=4))


@pytest.fixture(scope="module")
def finding(search: squeeze.Found) -> Finding:
    (made,) = found_by([("kse", search.history)])
    return made


def test_figures_are_those_of_the_indicator(finding: Finding) -> None:
    judged = {layer.name: layer for layer in finding.layers}
    assert set(judged) == set(TAPS)
    expected = importance(net().second[0].weight, groups=2)
    for name in ("sparsity", "entropy", "indicator"):
        assert np.allclose(judged["second.0"].series[name], getattr(expected, name), rtol=1e-4)


def test_costs_are_those_of_the_formulas(search: squeeze.Found, finding: Finding) -> None:
    stored = macs = sums = 0.0
    for edit in search.edits:
        if isinstance(edit, Cluster):
            dense = [q for q in edit.counts if q == edit.size]
            coded = [q for q in edit.counts if 0 < q < edit.size]
            stored += TAPS[edit.module] * sum(edit.counts) + sum(edit.size * math.log2(q) / 32 for q in coded)
            macs += PIXELS * TAPS[edit.module] * sum(edit.counts)
            sums += PIXELS * edit.size * (len(dense) + len(coded))
    assert [claim.after for claim in finding.claims] == pytest.approx([stored, macs, sums])
    weights = 64 * 32 * 9 + 64 * 32 * 9 + 32 * 64
    assert [claim.before for claim in finding.claims] == [weights, PIXELS * weights, 0]


def test_pictures_show_kernels_of_the_layer_beside_what_stands_for_them(
    search: squeeze.Found, finding: Finding
) -> None:
    assert [mosaic.title.partition(",")[0] for mosaic in finding.mosaics] == ["first.0", "second.0"]
    mosaic = finding.mosaics[0]
    channel = int(mosaic.title.partition("map ")[2].partition(":")[0])
    given = net().requires_grad_(False).first[0].weight[:, channel].reshape(64, 9)
    standing = search.model.get_submodule("first.0").weight.detach()[:, channel].reshape(64, 9)
    for cluster in mosaic.clusters:
        mine = (standing - torch.tensor(cluster.centre)).abs().amax(1) < 1e-4
        for member in cluster.members:
            assert float((given[mine] - torch.tensor(member)).abs().amax(1).min()) < 1e-4


def test_the_outcome_in_words() -> None:
    assert outcome(np.array([0, 16, 64, 64, 8, 16, 0]), 64) == "of 64: 2 dropped, 1 × 8, 2 × 16, 2 dense"
    assert outcome(np.array([4, 4]), 4) == "of 4: 2 dense"


def test_an_overview_says_what_a_search_finds(finding: Finding) -> None:
    told = squeeze.KSE(G=4).overview(net(), squeeze.trace(net(), IMAGES))
    assert [layer["outcome"] for layer in told["layers"]] == [layer.outcome for layer in finding.layers]
    assert told["left_out"] == [["stem.0", "it is the first"]]


def test_the_page_has_it(finding: Finding) -> None:
    report = squeeze.compress(net(), squeeze.KSE(G=4), example_inputs=IMAGES).report
    assert report.findings == (finding,)
    assert report.after.paper_macs is not None and report.after.macs is not None
    assert report.after.paper_macs < report.after.macs
    page = render(report)
    assert "What KSE found" in page
    assert finding.layers[0].outcome in page
