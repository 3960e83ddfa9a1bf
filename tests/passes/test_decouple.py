"""Architecture decoupling: gates are learnt, within the budget, on any task."""

import copy
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import squeeze
from squeeze.counting import ModuleCounter, PeakMemory
from squeeze.errors import BudgetError, InputError
from squeeze.gating.codes import gather
from squeeze.gating.costs import require_gates
from squeeze.nn import FollowingConv2d, GatedConv2d, ReadingConv2d, computing, observing
from squeeze.passes.decouple.attribute import Attribute
from squeeze.passes.decouple.budget import brought_to
from squeeze.passes.decouple.gates import proved
from squeeze.plan import Gate
from squeeze.task import Batch
from squeeze.testing import check_pass
from squeeze.weights import checksum


class Net(nn.Module):
    """(N, 1, 8, 8) to 10: a stem, a residual body, an inverted one, a head."""

    def __init__(self, outputs: int = 10) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.conv1, self.bn1 = nn.Conv2d(16, 24, 3, padding=1, bias=False), nn.BatchNorm2d(24)
        self.conv2, self.bn2 = nn.Conv2d(24, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.wide, self.bn3 = nn.Conv2d(16, 32, 1), nn.BatchNorm2d(32)
        self.depth, self.bn4 = nn.Conv2d(32, 32, 3, padding=1, groups=32), nn.BatchNorm2d(32)
        self.narrow = nn.Conv2d(32, 16, 1)
        self.head = nn.Linear(16, outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.relu(x + self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))))
        y = nn.functional.relu6(self.bn3(self.wide(x)))
        x = x + self.narrow(nn.functional.relu6(self.bn4(self.depth(y))))
        return self.head(x.mean((2, 3)))


def batches(seed: int, count: int, labels: bool, classes: int = 10) -> list[Any]:
    """Blobs in places that tell the class."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(count):
        classes_here = torch.randint(0, classes, (32,), generator=generator)
        images = 0.3 * torch.randn(32, 1, 8, 8, generator=generator)
        for image, number in zip(images, classes_here.tolist(), strict=True):
            image[0, number % 8, (3 * number) % 8 :] += 2
        found.append((images, classes_here) if labels else images)
    return found


def a_task(labels: bool = True, classes: int = 10, outputs: int = 10) -> squeeze.DataTask:
    train, held, test = (batches(seed, count, labels, classes) for seed, count in ((0, 12), (1, 4), (2, 4)))
    return squeeze.DataTask(lambda: Net(outputs), torch.zeros(1, 1, 8, 8), train, held, test, "blobs")


@pytest.fixture(scope="module")
def trained() -> nn.Module:
    task = a_task()
    torch.manual_seed(0)
    model, _ = squeeze.finetune(
        task.build(), None, task, squeeze.FineTune(epochs=4, lr=0.1, distill=0), (), squeeze.Run()
    )
    return model


def quick(**settings: Any) -> squeeze.Decouple:
    return squeeze.Decouple(**{"macs": 0.6, "epochs": 4, **settings})


def compressed(model: nn.Module, chosen: Any, task: Any, epochs: int = 0) -> squeeze.Result:
    return squeeze.compress(model, chosen, task, finetuning=squeeze.FineTune(epochs=epochs))


@pytest.fixture(scope="module")
def decoupled(trained: nn.Module) -> squeeze.Result:
    return compressed(trained, quick(epochs=6), a_task())


def test_keeps_the_contract() -> None:
    check_pass(squeeze.Decouple(macs=0.8, epochs=2))
    check_pass(squeeze.Decouple(active=0.5, epochs=1, lambda_s=0.01))


def test_meets_the_budget_and_learns(trained: nn.Module, decoupled: squeeze.Result) -> None:
    task = a_task()
    codes = gather(decoupled.model, task, task.holdout)
    assert codes.share.mean() == pytest.approx(0.6, rel=0.02)
    assert codes.share.std() > 0  # it is for the input to say
    before = task.evaluate(trained, "test")["accuracy"]
    assert before > 0.6
    assert task.evaluate(decoupled.model, "test")["accuracy"] > before - 0.05
    assert [name for name, module in decoupled.model.named_modules() if isinstance(module, GatedConv2d)] == [
        *("conv1", "conv2", "wide", "narrow"),
    ]
    assert isinstance(decoupled.model.get_submodule("depth"), FollowingConv2d)


def test_what_is_counted_is_what_runs(decoupled: squeeze.Result) -> None:
    """The share by the codes, against every multiplication that is carried out for a sample."""
    gated = require_gates(decoupled.model, torch.zeros(1, 1, 8, 8))
    for x in batches(5, 1, False)[0][:4]:
        counter = ModuleCounter(PeakMemory([]))
        with torch.no_grad(), computing("conditional"), counter, observing() as seen:
            decoupled.model(x.unsqueeze(0))
        share = gated.costs.shares([seen[layer][-1].code for layer in gated.layers])
        assert sum(counter.macs.values()) == pytest.approx(float(share) * gated.costs.dense, rel=1e-6) or (
            # oneDNN is not asked; the counter sees the root alone
            counter.macs[""] == pytest.approx(float(share) * gated.costs.dense, rel=1e-6)
        )


def test_the_dense_cost_is_that_of_the_given_network(trained: nn.Module, decoupled: squeeze.Result) -> None:
    gated = require_gates(decoupled.model, torch.zeros(1, 1, 8, 8))
    assert gated.costs.dense == squeeze.profile(trained, torch.zeros(1, 1, 8, 8)).macs


def test_saved_and_loaded_it_is_the_same(decoupled: squeeze.Result, tmp_path: Any) -> None:
    path = squeeze.save(decoupled, tmp_path / "model.safetensors")
    again, x = squeeze.load(path, Net), batches(3, 1, False)[0]
    with torch.no_grad(), computing("masked"):
        assert torch.equal(again(x), decoupled.model(x))


def test_the_given_model_is_left_alone_and_weights_are_the_trained_ones(trained: nn.Module) -> None:
    before, task = checksum(trained.state_dict()), a_task()
    structure = squeeze.trace(trained, task.example_inputs)
    found = quick(epochs=1).search(trained, structure, task, squeeze.Run())
    assert checksum(trained.state_dict()) == before
    small = squeeze.rewrite(found.model, found.edits)
    small.load_state_dict(dict(found.tensors), strict=False)
    with torch.no_grad():
        for module in small.modules():
            if isinstance(module, GatedConv2d):
                nn.init.constant_(module.gate.expand.bias, 1e4)
        x = batches(3, 1, False)[0]
        assert torch.allclose(small.eval()(x), found.model.eval()(x), atol=1e-4)


def test_a_killed_search_goes_on_as_if_nothing_had_been(trained: nn.Module, tmp_path: Any) -> None:
    task = a_task()

    class Ending(list[Any]):
        def __iter__(self) -> Iterator[Any]:
            yield from self[:5]
            raise KeyboardInterrupt

    class Stopping(squeeze.DataTask):
        def train_batches(self, epoch: int) -> Iterable[Batch]:
            return Ending(self.train) if epoch == 1 else self.train

    stopping = Stopping(Net, task.example_inputs, task.train, task.holdout, task.test)
    structure = squeeze.trace(trained, task.example_inputs)
    settings = quick(epochs=2)
    whole = settings.search(trained, structure, task, squeeze.Run(tmp_path / "a", checkpoint_seconds=0))
    with pytest.raises(KeyboardInterrupt):
        settings.search(trained, structure, stopping, squeeze.Run(tmp_path / "b", checkpoint_seconds=0))
    again = settings.search(trained, structure, task, squeeze.Run(tmp_path / "b", resume=True, checkpoint_seconds=0))
    for name, value in whole.tensors.items():
        assert torch.equal(value, again.tensors[name]), name


def test_finetuning_moves_weights_and_of_the_gates_what_the_budget_needs(
    trained: nn.Module, decoupled: squeeze.Result
) -> None:
    task = a_task()
    finetuning = squeeze.FineTune(epochs=8, lr=0.1)
    result = squeeze.compress(trained, quick(epochs=6), task, finetuning=finetuning)
    ours, theirs = result.model.state_dict(), decoupled.model.state_dict()
    changed = {name for name in ours if not torch.equal(ours[name], theirs[name])}
    assert {name.split(".gate.")[1] for name in changed if ".gate." in name} == {"expand.bias"}
    assert any(name.endswith("conv.weight") for name in changed)
    assert all(parameter.requires_grad for parameter in result.model.parameters())
    codes = gather(result.model, task, task.holdout)
    assert codes.share.mean() == pytest.approx(0.6, rel=0.02)
    (finding,) = result.report.findings
    assert finding.claims[0].after == pytest.approx(float(codes.share.mean()) * finding.claims[0].before, rel=1e-6)
    without, tuned = (task.evaluate(model, "test")["accuracy"] for model in (decoupled.model, result.model))
    assert tuned > without - 0.02


def test_of_large_outputs_without_labels_the_attribute_has_a_thousand_values() -> None:
    conv = nn.Conv2d(1, 2, 1, bias=False)
    model = nn.Sequential(conv, nn.Flatten())
    conv.weight.data.copy_(torch.tensor([1.0, -1.0])[:, None, None, None])
    x = torch.zeros(3, 1, 32, 32)
    x[0, 0, 0, 0], x[1, 0, 31, 31], x[2, 0, 31, 31] = 1.0, 1.0, -1.0  # largest are features 0, 1023 and 2047 of 2048
    task = squeeze.DataTask(lambda: model, x[:1], [x])
    attribute = Attribute(task, model, [x])
    assert (attribute.classes, attribute(x).tolist()) == (1000, [0, 499, 999])


def test_without_labels_the_models_word_is_taken_and_said(
    trained: nn.Module, capsys: pytest.CaptureFixture[str]
) -> None:
    task = a_task(labels=False)
    result = compressed(trained, quick(epochs=2), task)
    assert "the data has no classes" in capsys.readouterr().err
    history = dict(result.history)["decouple"]
    assert history["labelled"] is False  # type: ignore[index,call-overload]


@pytest.mark.parametrize(
    ("classes", "outputs"),
    [(1, 10), (1, 1), (10, 500), (500, 500)],
    ids=["one", "one output", "many outputs", "more than inputs"],
)
def test_any_number_of_classes(classes: int, outputs: int) -> None:
    torch.manual_seed(0)
    result = compressed(Net(outputs).eval(), quick(epochs=1), a_task(classes=classes, outputs=outputs))
    with torch.no_grad():
        assert result.model(torch.randn(2, 1, 8, 8)).isfinite().all()


def test_another_size_of_input(decoupled: squeeze.Result) -> None:
    x = torch.randn(2, 1, 12, 10)
    with torch.no_grad():
        with computing("masked"):
            expected = decoupled.model(x)
        with computing("conditional"):
            assert torch.allclose(decoupled.model(x), expected, atol=1e-4)


def test_passes_compose(trained: nn.Module) -> None:
    task, x = a_task(), torch.zeros(1, 1, 8, 8)
    dense = squeeze.profile(trained, x).macs
    both = compressed(trained, [squeeze.Magnitude(macs=0.7), quick(epochs=2, macs=0.8)], task)
    assert gather(both.model, task, task.holdout).share.mean() == pytest.approx(0.8, rel=0.02)
    assert require_gates(both.model, x).costs.dense < 0.71 * dense
    after = compressed(trained, [quick(epochs=2, macs=0.8), squeeze.Magnitude(macs=0.7)], task)
    assert require_gates(after.model, x).costs.dense < 0.75 * dense
    with torch.no_grad():
        assert after.model(torch.randn(3, 1, 8, 8)).isfinite().all()


def test_a_promise_that_a_later_pass_made_impossible_is_said(
    trained: nn.Module, decoupled: squeeze.Result, capsys: pytest.CaptureFixture[str]
) -> None:
    model, task = copy.deepcopy(decoupled.model), a_task()
    told = quick(macs=0.01).keep(model, task)
    assert "the gates stay as they are: Decouple: macs must be at least" in " ".join(capsys.readouterr().err.split())
    assert checksum(model.state_dict()) == checksum(decoupled.model.state_dict())
    assert set(told) == {"finding"}
    assert quick().keep(trained, task) == {}


def test_labels_of_a_task_that_are_no_method_are_its_own_affair(trained: nn.Module) -> None:
    class Own(squeeze.DataTask):
        labels = torch.zeros(3)  # type: ignore[assignment]

    given = a_task()
    task = Own(Net, given.example_inputs, given.train, given.holdout, given.test)
    found = quick(epochs=1, macs=0.9).search(trained, squeeze.trace(trained, task.example_inputs), task, squeeze.Run())
    assert found.history["labelled"] is False


def test_layers_and_ignore(trained: nn.Module) -> None:
    task = a_task()
    structure = squeeze.trace(trained, task.example_inputs)
    for settings, expected in (
        ({"layers": ("conv*",)}, {"conv1", "conv2"}),
        ({"ignore": ("narrow", "conv1")}, {"conv2", "wide"}),
        ({"stem": True, "layers": ("stem", "wide")}, {"stem.0", "wide"}),
    ):
        chosen = quick(epochs=1, macs=0.95, **settings)
        found = chosen.search(trained, structure, task, squeeze.Run())
        assert {edit.module for edit in found.edits if isinstance(edit, Gate)} == expected


def test_a_budget_out_of_reach_is_said_before_anything_is_trained(trained: nn.Module, tmp_path: Any) -> None:
    with pytest.raises(BudgetError, match="macs must be at least 0\\.[0-9]+ for this model, got 0.005"):
        squeeze.compress(trained, quick(epochs=1, macs=0.005), a_task(), run=squeeze.Run(tmp_path))
    assert not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.parametrize("bias", [-300.0, 300.0])
def test_gates_far_from_the_budget_are_brought_to_it(trained: nn.Module, bias: float) -> None:
    """Few epochs may close gates far more than was asked for."""
    task = a_task()
    sites = squeeze.trace(trained, task.example_inputs).gateable
    edits = [Gate(s.conv, s.norm, 4, s.relu, s.follows, s.reads) for s in sites if not s.stem]
    torch.manual_seed(0)
    gated = require_gates(squeeze.rewrite(trained, edits), task.example_inputs)
    for layer in gated.layers:
        nn.init.normal_(layer.gate.expand.bias, mean=bias, std=20)
    found = brought_to(0.6, gated, task)
    assert found["after"] == pytest.approx(0.6, rel=0.02)
    assert gather(gated.model, task, task.holdout).share.mean() == pytest.approx(0.6, rel=0.02)


def test_nothing_to_gate_and_no_data_are_said(trained: nn.Module) -> None:
    linear = nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.ReLU(), nn.Linear(20, 10)).eval()
    with pytest.raises(InputError, match="must have a convolution that can be gated"):
        compressed(linear, quick(), a_task())
    with pytest.raises(InputError, match="needs data to learn its gates from"):
        squeeze.compress(trained, quick(), example_inputs=torch.zeros(1, 1, 8, 8))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"macs": None}, "exactly one of macs and active"),
        ({"active": 0.5}, "exactly one of macs and active"),
        ({"macs": 1.5}, "macs must be between 0 and 1"),
        ({"macs": None, "active": 1.5}, "active must be from 0 to 1"),
        ({"lr": 0.0}, "lr must be above 0"),
        ({"lambda_k": -1.0}, "lambda_k must be at least 0"),
        ({"epochs": True}, "epochs must be a whole number"),
        ({"reduction": 0}, "reduction must be a whole number"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        quick(**settings)


class Asking(nn.Module):
    """The code between asks for the number of channels; a trace does not see it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.first(x))
        if y.shape[1] != 8:
            y = 2 * y
        return self.third(torch.relu(self.second(y)))


def test_readers_that_cannot_do_with_fewer_channels_get_all() -> None:
    torch.manual_seed(0)
    model, x = Asking().eval(), torch.randn(2, 3, 10, 10)
    gates = [Gate(s.conv, s.norm, 2, s.relu, s.follows, s.reads) for s in squeeze.trace(model, x).gateable]
    assert [bool(gate.reads) for gate in gates] == [True, True, False]
    assert [bool(gate.reads) for gate in proved(gates, model, x)] == [False, True, False]


def test_code_that_says_float32_is_no_hindrance() -> None:
    class Insisting(nn.Module):
        """In float64 it does not run."""

        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.second(torch.relu(self.first(x)).float())

    torch.manual_seed(0)
    model, x = Insisting().eval(), torch.randn(2, 3, 10, 10)
    gates = [Gate(s.conv, s.norm, 2, s.relu, s.follows, s.reads) for s in squeeze.trace(model, x).gateable]
    assert [gate.reads for gate in proved(gates, model, x)] == [(("second", ""),), ()]


def test_gates_are_not_put_where_they_cost_as_much(trained: nn.Module) -> None:
    class Squeezing(nn.Module):
        """A 1×1 convolution at one position: as many multiplications as its gate would take."""

        def __init__(self) -> None:
            super().__init__()
            self.conv, self.tiny, self.out = nn.Conv2d(1, 16, 3), nn.Conv2d(16, 16, 1), nn.Conv2d(16, 16, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(self.conv(x))
            x = self.out(x * torch.sigmoid(self.tiny(x.mean((2, 3), keepdim=True))))
            return x.mean((2, 3))[:, :10]

    torch.manual_seed(0)
    result = compressed(Squeezing().eval(), quick(epochs=1, macs=0.9), a_task())
    assert [n for n, m in result.model.named_modules() if isinstance(m, GatedConv2d)] == ["out"]
    left_out = dict(dict(result.history)["decouple"]["left_out"])  # type: ignore[index,call-overload]
    assert left_out["tiny"] == "a gate would cost as much"


def test_a_copy_of_a_reader_stays_dense_where_its_input_is_not_all_gated() -> None:
    model: Callable[[Tensor], Tensor] = copy.deepcopy(Net())
    sites = {site.conv: site for site in squeeze.trace(Net().eval(), torch.zeros(1, 1, 8, 8)).gateable}
    assert sites["conv2"].reads == () and sites["narrow"].reads == ()
    assert not isinstance(model, ReadingConv2d)


def test_what_a_gate_costs_is_in_units_of_the_layer_without_it(
    decoupled: squeeze.Result, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = decoupled.model.get_submodule("conv2")
    assert isinstance(layer, GatedConv2d)
    monkeypatch.setattr("squeeze.nn.gated.seconds", lambda way: 1.0)
    few, many = (layer.cost(torch.randn(1, 24, 8, 8), share) for share in (0.1, 1.0))
    assert 0 < few <= many
