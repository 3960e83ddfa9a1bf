"""`make zoo`: its list, its checks and its table."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import squeeze
from benchmarks.zoo import table
from benchmarks.zoo.check import Checked, check, permuted
from benchmarks.zoo.nets import Net, listed, net
from tests import law

SLOW = (
    "transformers:BertModel",
    "transformers:GPT2LMHeadModel",
    "transformers:ViTForImageClassification",
    "transformers:WhisperForConditionalGeneration",
)
"""A few of the list; all of it is `make zoo`."""


def tiny(width: int = 6) -> Net:
    def build() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.LayerNorm(width), nn.Linear(width, 3)).eval()

    return Net("own:tiny", build, torch.randn(1, 4), torch.randn(2, 4))


def test_list_names_every_net_once_and_its_source() -> None:
    lines = [line for line in Path(table.__file__).with_name("nets.txt").read_text().splitlines() if line[:1] != "#"]
    assert len(lines) == len(listed()) > 200
    assert {name.partition(":")[0] for name in listed()} == {"torchvision", "detector", "flow", "timm", "transformers"}


def test_a_line_builds_the_same_numbers_each_time_and_none_is_trivial() -> None:
    one = net("torchvision resnet18 3x32x32 num_classes=7")
    first, second = one.build().state_dict(), one.build().state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert one.build()(one.inputs).shape == (1, 7)
    assert not [n for n, t in first.items() if t.numel() > 1 and bool((t == t.flatten()[0]).all())]


def test_a_net_that_keeps_the_law_has_no_faults() -> None:
    found = check(tiny())
    assert found.faults == []
    assert (found.groups, found.units, found.macs) == (1, 6, 6 * (4 + 3))
    assert found.smallest == pytest.approx(1 / 6)


def test_units_that_change_places_are_noticed_where_a_group_is_wrong() -> None:
    model, x = tiny().build().double(), torch.randn(5, 4, dtype=torch.float64)
    structure = squeeze.trace(tiny().build(), torch.randn(1, 4))
    assert law.distance(law.run(model, x), law.run(permuted(model, structure), x)) < law.TOLERANCE
    group = structure.groups[0]
    wrong = replace(structure, groups=(replace(group, axes=tuple(a for a in group.axes if not a.reads)),))
    assert law.distance(law.run(model, x), law.run(permuted(model, wrong), x)) > 1e-3


class Best(nn.Module):
    """The places of the two best, of which two are alike but for rounding."""

    def __init__(self, scores: tuple[float, ...], shift: float = 0.0) -> None:
        super().__init__()
        self.scores = nn.Parameter(torch.tensor(scores, dtype=torch.float64))
        self.places = nn.Parameter(torch.arange(3, dtype=torch.float64) + shift)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.places[self.scores.topk(1).indices]


def test_rounding_may_decide_and_a_wrong_cut_is_found_all_the_same() -> None:
    x, model = torch.ones(1, dtype=torch.float64), Best((1.0, 2.0, 2.0 - 1e-13))
    assert law.apart(model, Best((1.0, 2.0 - 1e-13, 2.0)), x) == 0
    assert law.apart(model, Best((1.0, 1.9, 2.0)), x) == pytest.approx(1)
    assert law.apart(model, Best((1.0, 2.0 - 1e-13, 2.0), shift=0.1), x) == pytest.approx(0.1)


def test_table_counts_what_went_wrong(tmp_path: Path) -> None:
    log = tmp_path / "zoo.jsonl"
    records = [Checked("a:good"), Checked("b:bad", faults=["wrong cut: masked is not removed, 1, bodies 0"])]
    log.write_text("".join(json.dumps(r.record()) + "\n" for r in [Checked("b:bad", faults=["crash: x"]), *records]))
    text = table.text(table.read(log))
    assert text.endswith("2 architectures, 1 passed; 1 × wrong cut, 0 × crash, 0 × timeout.")
    assert json.loads(table.compact(table.read(log)))[0]["net"] == "b:bad"


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
@pytest.mark.filterwarnings("ignore")
def test_net_keeps_the_law(name: str) -> None:
    assert check(net(listed()[name])).faults == []
