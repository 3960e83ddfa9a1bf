"""Decoupling networks out of the ordinary: what can be gated is, and what cannot is said."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import squeeze
from squeeze.errors import InputError
from squeeze.gating.codes import gather
from squeeze.gating.costs import GateCosts, require_gates
from squeeze.nn import ClusteredConv2d, GatedConv2d, ReadingConv2d, computing
from squeeze.task import Batch

X = torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(0))


class Chain(nn.Module):
    """(N, 1, 8, 8) to 4: a stem, three convolutions, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.first = nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(16, 24, 3, padding=1)
        self.norm = nn.BatchNorm2d(24)
        self.second, self.third = nn.Conv2d(24, 24, 3, padding=1), nn.Conv2d(24, 16, 3, padding=1)
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.ended(self.begun(x))

    def begun(self, x: Tensor) -> Tensor:
        """Up to the second convolution."""
        return self.norm(self.first(self.stem(x).relu())).relu()

    def ended(self, x: Tensor) -> Tensor:
        """From it."""
        return self.head(self.third(self.second(x).relu()).relu().mean((2, 3)))


def a_task(build: Callable[[], nn.Module] = Chain, dtype: torch.dtype = torch.float32) -> squeeze.DataTask:
    data = [(x.to(dtype), torch.arange(8) % 4) for x in X.split(8)]
    return squeeze.DataTask(build, data[0][0][:2], data, data, data)


def built(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return make().eval()


def quick(**settings: Any) -> squeeze.Decouple:
    return squeeze.Decouple(**{"macs": 0.7, "epochs": 1, "reduction": 8, **settings})


def gated_by(chosen: Any, make: Callable[[], nn.Module] = Chain, dtype: torch.dtype = torch.float32) -> squeeze.Result:
    model = built(make).to(dtype)
    return squeeze.compress(model, chosen, a_task(make, dtype), finetuning=squeeze.FineTune(epochs=0))


def gates(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, GatedConv2d)]


def require_skipped_is_masked(model: nn.Module) -> None:
    with torch.no_grad():
        with computing("masked"):
            expected = model(X)
        with computing("conditional"):
            assert torch.allclose(model(X), expected, atol=1e-5)


def test_a_network_whose_weights_are_all_frozen_gets_gates_alone() -> None:
    result = gated_by(quick(), lambda: Chain().requires_grad_(False))
    frozen = built(Chain).state_dict()
    assert torch.equal(result.model.get_parameter("second.conv.weight"), frozen["second.weight"])
    assert result.model.get_parameter("second.gate.expand.weight").requires_grad
    assert gates(result.model) == ["first", "second", "third"]


def test_a_network_that_checkpoints_learns_as_one_that_does_not() -> None:
    class Checkpointing(Chain):
        """In training the middle runs a second time for its gradients; so does half of it, with its gates."""

        def forward(self, x: Tensor) -> Tensor:
            if not self.training:
                return super().forward(x)
            return self.ended(checkpoint(self.begun, x, use_reentrant=False))

    one, other = (gated_by(quick(), make).model.state_dict() for make in (Checkpointing, Chain))
    for name, value in other.items():
        if not name.endswith(("running_mean", "running_var", "num_batches_tracked")):  # these see the middle twice
            assert torch.allclose(one[name], value, atol=1e-5), name


class Skipping(Chain):
    """Training leaves a convolution out."""

    def begun(self, x: Tensor) -> Tensor:
        y = super().begun(x)
        return y if self.training else y + self.second(y)

    def ended(self, x: Tensor) -> Tensor:
        return self.head(self.third(x).relu().mean((2, 3)))


class Frames(Chain):
    """Each sample is seen twice, mirrored."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(torch.stack((x, x.flip(3)), 1).flatten(0, 1)).view(len(x), 2, -1).mean(1)


@pytest.mark.parametrize(("make", "name", "codes"), [(Skipping, "second", 0), (Frames, "stem", 16)])
def test_a_code_for_each_sample_is_asked_for(make: Callable[[], nn.Module], name: str, codes: int) -> None:
    with pytest.raises(InputError, match=f"{name} must have one code for each sample.*, got {codes} for 8 samples"):
        gated_by(quick(), make)
    if make is Skipping:
        assert gates(gated_by(quick(ignore=("second",)), make).model) == ["first", "third"]


class AskingWeight(Chain):
    """Its code asks a layer for the precision of its weight."""

    def ended(self, x: Tensor) -> Tensor:
        return super().ended(x.to(self.second.weight.dtype))


class AskingNorm(Chain):
    """Its code asks a batch norm for its width."""

    def begun(self, x: Tensor) -> Tensor:
        assert self.norm.num_features > 1
        return super().begun(x)


@pytest.mark.parametrize(
    ("make", "name", "reading"), [(AskingWeight, "second", set()), (AskingNorm, "first", {"third"})]
)
def test_layers_that_the_code_asks_for_more_stay_as_they_are(make: Any, name: str, reading: set[str]) -> None:
    result = gated_by(quick(macs=0.8), make)
    assert gates(result.model) == [other for other in ("first", "second", "third") if other != name]
    left_out = dict(dict(result.history)["decouple"]["left_out"])  # type: ignore[index,call-overload]
    assert left_out[name] == "the model's code asks more of it than its output"
    readers = {n for n, m in result.model.named_modules() if getattr(m, "source", None) is not None}
    assert readers == reading
    require_skipped_is_masked(result.model)


def test_in_bfloat16() -> None:
    result = gated_by(quick(), dtype=torch.bfloat16)
    task = a_task(dtype=torch.bfloat16)
    assert gather(result.model, task, task.holdout).share.mean() == pytest.approx(0.7, rel=0.05)


def test_costs_of_codes_in_half_precision() -> None:
    """Millions are beyond float16, and a sum of 512 beyond what bfloat16 tells from 511."""
    costs: GateCosts = require_gates(gated_by(quick()).model, X[:1]).costs
    codes = [(torch.rand(8, filters) < 0.6).double() for filters in costs.filters]
    wanted = costs.shares(codes)
    for dtype in (torch.float16, torch.bfloat16):
        assert torch.allclose(costs.shares([code.to(dtype) for code in codes]).double(), wanted, atol=1e-6)


def test_gates_beside_those_that_are_there() -> None:
    """A gated convolution is not gated again, nor one that reads what is gated; the last budget counts."""
    result = gated_by([quick(layers=("second",), macs=0.9), quick(macs=0.8)])
    assert gates(result.model) == ["first", "second"]
    assert isinstance(result.model.get_submodule("third"), ReadingConv2d)
    assert gather(result.model, a_task(), a_task().holdout).share.mean() == pytest.approx(0.8, rel=0.02)
    require_skipped_is_masked(result.model)
    with pytest.raises(InputError, match="a convolution that can be gated"):
        gated_by([quick(), quick()])


def test_kernels_are_clustered_beside_gates() -> None:
    result = gated_by([quick(layers=("third",), macs=0.9), squeeze.KSE()])
    clustered = [name for name, module in result.model.named_modules() if isinstance(module, ClusteredConv2d)]
    assert clustered == ["first", "second"]
    require_skipped_is_masked(result.model)


def test_inputs_are_not_picked_within_gated_convolutions() -> None:
    """The trunk of a residual network keeps its width, and layers that read it may pick."""

    class Residual(Chain):
        def ended(self, x: Tensor) -> Tensor:
            x = x + self.second(x).relu()
            return self.head(self.third(x).relu().mean((2, 3)))

    model = built(Residual)
    assert {edge.module for edge in squeeze.trace(model, X[:2]).inputs} >= {"second"}
    gated = gated_by(quick(layers=("second",), macs=0.9), Residual).model
    assert not [edge for edge in squeeze.trace(gated, X[:2]).inputs if edge.module.startswith("second")]


def test_samples_may_be_without_a_class_but_not_of_one_that_the_network_does_not_know() -> None:
    """At the end, when codes are looked at, it is too late to be refused."""
    given, net = a_task(), Chain()

    class Relabelled(squeeze.DataTask):
        unknown = -100

        def labels(self, batch: Batch) -> Tensor | None:
            labels = super().labels(batch)
            assert labels is not None
            return torch.where(torch.arange(len(labels)) % 5 == 0, self.unknown, labels)

    task = Relabelled(Chain, given.example_inputs, given.train, given.holdout, given.test)
    structure, pass_ = squeeze.trace(net, given.example_inputs), quick(macs=0.9)
    assert pass_.search(net, structure, task, squeeze.Run()).history["finding"]["paths"]["labelled"] is False
    task.unknown = 4
    with pytest.raises(InputError, match="labels must be classes from 0 to 3, .* got 4;"):
        pass_.search(net, structure, task, squeeze.Run())
