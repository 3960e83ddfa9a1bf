"""Gated convolutions: what is skipped is what is masked."""

import copy
import pickle
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from squeeze.errors import InputError
from squeeze.nn import FollowingConv2d, GatedConv2d, ReadingConv2d, computing, observing, settled
from squeeze.nn.gates import Wire, binarised
from squeeze.nn.speeds import ALL, Line, Speed, Speeds

FORMS: dict[str, dict[str, Any]] = {
    "plain": {"kernel_size": 3, "padding": 1, "bias": False},
    "strided, dilated": {"kernel_size": 3, "stride": (1, 2), "padding": (2, 0), "dilation": (2, 1)},
    "same": {"kernel_size": (3, 5), "padding": "same", "dilation": 2},
    "reflect": {"kernel_size": 3, "padding": (1, 2), "padding_mode": "reflect"},
    "pointwise": {"kernel_size": 1},
}


def stirred(module: nn.Module) -> nn.Module:
    """Weights and statistics that do something, and gates of which about half are on."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            for tensor in (part.weight, part.bias, part.running_mean):
                nn.init.normal_(tensor)
            nn.init.uniform_(part.running_var, 0.5, 2)
        if isinstance(part, GatedConv2d):
            nn.init.normal_(part.gate.expand.weight)
            nn.init.normal_(part.gate.expand.bias)
    return module.double().eval()


class Chain(nn.Module):
    """A gated convolution, a depthwise one behind it if wanted, a gated reader, a reader without a gate."""

    def __init__(self, form: dict[str, Any], norm: bool = True, depthwise: bool = False) -> None:
        super().__init__()
        self.first = GatedConv2d(nn.Conv2d(3, 8, **form), nn.BatchNorm2d(8) if norm else None, 2, relu=not depthwise)
        self.depthwise = FollowingConv2d(nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.BatchNorm2d(8))
        self.second = GatedConv2d(nn.Conv2d(8, 6, 3, padding=1), None, 2)
        self.third = ReadingConv2d(nn.Conv2d(6, 4, 3, padding=1), nn.BatchNorm2d(4))
        self.first.sink = self.second.source = Wire()
        self.second.sink = self.third.source = Wire()
        if depthwise:
            self.depthwise.source = self.depthwise.sink = self.first.sink
        self.uses_depthwise = depthwise

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.first(x))
        y = torch.relu(self.depthwise(y)) if self.uses_depthwise else y
        return self.third(nn.functional.max_pool2d(torch.relu(self.second(y)), 2))


def chain(seed: int = 0, form: str = "plain", **how: bool) -> Chain:
    torch.manual_seed(seed)
    return stirred(Chain(FORMS[form], **how))  # type: ignore[return-value]


def run(model: nn.Module, x: Tensor, how: Any) -> Tensor:
    with torch.no_grad(), computing(how):
        return model(x)


@given(
    seed=st.integers(0, 10**6),
    form=st.sampled_from(list(FORMS)),
    norm=st.booleans(),
    depthwise=st.booleans(),
    batch=st.integers(1, 4),
)
@settings(max_examples=60, deadline=None)
def test_what_is_skipped_is_what_is_masked(seed: int, form: str, norm: bool, depthwise: bool, batch: int) -> None:
    model = chain(seed, form, norm=norm, depthwise=depthwise)
    x = torch.randn(batch, 3, 9, 10, dtype=torch.float64)
    expected = run(model, x, "masked")
    for way in ("conditional", "apart", "fastest"):
        assert torch.allclose(run(model, x, way), expected, atol=1e-11), way


@given(
    seed=st.integers(0, 10**6),
    form=st.sampled_from([name for name in FORMS if name != "reflect"]),
    depthwise=st.booleans(),
    batch=st.integers(1, 3),
)
@settings(max_examples=40, deadline=None)
def test_the_native_kernel_computes_the_same(seed: int, form: str, depthwise: bool, batch: int) -> None:
    model = chain(seed, form, depthwise=depthwise).float()
    x = torch.randn(batch, 3, 9, 10)
    expected = run(model, x, "masked")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Speed, "best", lambda speed, share: ("native" if "native" in speed.lines else ALL, 0.0))
        patch.setattr(Speeds, "fastest", lambda speeds, x, ways: "native")
        # A second call takes what the first one made.
        for _ in range(2):
            assert torch.allclose(run(model, x, "fastest"), expected, atol=1e-4)


@pytest.mark.parametrize("way", ["native", "some", ALL])
def test_hooks_on_a_gate_run_once_a_call_and_have_the_last_word(way: str) -> None:
    model, x, asked = chain(1).float(), torch.randn(2, 3, 9, 10), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Speed, "best", lambda speed, share: (way if way in speed.lines else ALL, 1.0))
        for _ in range(2):  # what runs natively is known from now on
            run(model, x, "fastest")
        model.first.gate.register_forward_pre_hook(lambda module, given: asked.append(module))
        only = torch.tensor([-1.0, 1.0]).repeat(4)
        model.first.gate.register_forward_hook(lambda module, given, logits: only.expand_as(logits))
        got = run(model, x, "fastest")
        fresh = copy.deepcopy(model)  # nothing is known of the copy: its ways are timed in this call
        assert torch.allclose(run(fresh, x, "fastest"), got, atol=1e-4)
    assert asked == [model.first.gate] + [fresh.first.gate]
    assert torch.allclose(run(model, x, "masked"), got, atol=1e-4)


def test_equal_samples_are_run_together_and_others_apart() -> None:
    model = chain(3)
    x = torch.randn(3, 3, 8, 8, dtype=torch.float64)[[0, 1, 0, 2, 1]]
    calls: list[int] = []
    plain = GatedConv2d.filters

    def counted(self: GatedConv2d, part: Tensor, rows: Any, present: Any) -> Tensor:
        calls.append(len(part))
        return plain(self, part, rows, present)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GatedConv2d, "filters", counted)
        with observing() as seen:
            run(model.first, x, "apart")
    codes = [tuple(code) for code in seen[model.first][0].code.tolist()]
    assert codes[0] == codes[2] and codes[1] == codes[4]
    assert sorted(calls) == sorted(codes.count(code) for code in set(codes))
    assert len(calls) > 1


def test_open_gates_change_nothing() -> None:
    torch.manual_seed(0)
    conv, norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
    gated = stirred(GatedConv2d(conv, norm, 2))
    nn.init.constant_(gated.gate.expand.bias, 100)
    x = torch.randn(2, 3, 7, 7, dtype=torch.float64)
    for way in ("masked", "conditional", "fastest"):
        assert torch.allclose(run(gated, x, way), norm(conv(x)), atol=1e-12)


@pytest.mark.parametrize("way", ["masked", "conditional", "apart", "fastest"])
@pytest.mark.parametrize("depthwise", [False, True])
def test_without_any_filter_readers_give_their_shift_alone(way: Any, depthwise: bool) -> None:
    model = chain(1, depthwise=depthwise)
    nn.init.constant_(model.first.gate.expand.bias, -100)
    x = torch.randn(3, 3, 8, 8, dtype=torch.float64)
    for batch in (x, x[:1]):
        with observing() as seen:
            y = run(model, batch, way)
        assert not seen[model.first][-1].code.any()
        nothing = torch.zeros(len(batch), 8, 8, 8, dtype=torch.float64)
        wire, model.second.source = model.second.source, None
        with torch.no_grad(), computing("masked"):
            second = model.second(nothing)
            expected = model.third(nn.functional.max_pool2d(torch.relu(second), 2))
        model.second.source = wire
        assert y.isfinite().all()
        assert torch.allclose(y, expected, atol=1e-12)


def test_training_reaches_weights_and_gates() -> None:
    model = chain(0).train()
    x = torch.randn(16, 3, 8, 8, dtype=torch.float64)
    model(x).square().mean().backward()
    for name, parameter in model.named_parameters():
        if not name.startswith("depthwise"):
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_in_training_half_of_the_samples_have_hard_codes() -> None:
    torch.manual_seed(0)
    logits = torch.randn(4000, 8, requires_grad=True)
    codes = binarised(logits, training=True)
    hard = ((codes == 0) | (codes == 1)).all(1)
    assert 0.45 < hard.double().mean() < 0.56  # of 8 soft numbers a few may be cut off at 0 or 1, hardly all
    assert bool(((codes >= 0) & (codes <= 1)).all())
    codes.sum().backward()
    assert logits.grad is not None
    # v = 1.2 σ - 0.1 rises wherever it is not cut off, for hard samples as for soft ones.
    assert (logits.grad[hard] > 0).double().mean() > 0.7


def test_settled_gates_are_hard_in_training() -> None:
    torch.manual_seed(0)
    logits = torch.randn(50, 8)
    with settled():
        assert torch.equal(binarised(logits, training=True), (logits > 0).float())


def test_observers_see_codes_and_responses() -> None:
    model = chain(0)
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    with observing() as outer:
        run(model, x, "conditional")
        with observing() as inner:
            run(model, x, "masked")
    assert len(outer[model.first]) == 2
    assert len(inner[model.first]) == 1
    assert outer[model.first][0].code.shape == (2, 8)
    assert outer[model.first][0].response is None
    with observing() as seen, torch.no_grad():
        y = model.train().first(x)
    response = seen[model.first][0].response
    assert response is not None
    on = seen[model.first][0].code == 1
    assert torch.allclose(response[on], y.relu().mean((2, 3))[on])


@pytest.mark.parametrize("layer", ["first", "depthwise", "third"])
@pytest.mark.parametrize("depthwise", [False, True])
@pytest.mark.parametrize("way", ["fastest", "conditional"])
def test_statistics_are_taken_where_only_a_norm_is_in_training(layer: str, depthwise: bool, way: Any) -> None:
    """As when they are taken anew after a cut: a folded norm, or one that sees a part, would not see all."""
    model, x = chain(0, norm=layer == "first", depthwise=depthwise), torch.randn(8, 3, 8, 8, dtype=torch.float64)
    norm: Any = model.get_submodule(layer).norm
    norm.momentum = None
    norm.reset_running_stats()
    norm.train()
    twin = copy.deepcopy(model)
    assert torch.allclose(run(model, x, way), run(twin, x, "masked"))
    wanted = twin.get_submodule(layer).norm
    assert torch.allclose(norm.running_mean, wanted.running_mean)
    assert torch.allclose(norm.running_var, wanted.running_var)
    assert norm.num_batches_tracked == (0 if layer == "depthwise" and not depthwise else 1)


def test_copies_have_wires_of_their_own() -> None:
    model, x = chain(0), torch.randn(1, 3, 8, 8, dtype=torch.float64)
    expected = run(model, x, "conditional")
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):  # noqa: S301
        assert twin.first.sink is twin.second.source
        assert twin.first.sink is not model.first.sink
        assert torch.equal(run(twin, x, "conditional"), expected)


def test_a_reader_refuses_what_its_gate_did_not_make() -> None:
    model = chain(0)
    run(model, torch.randn(1, 3, 8, 8, dtype=torch.float64), "conditional")
    with pytest.raises(InputError, match="must read what the gated convolution before it made"):
        run(model.second, torch.randn(1, 8, 8, 8, dtype=torch.float64), "conditional")


def test_another_size_than_the_one_measured_runs() -> None:
    model = chain(2)
    for size in (8, 12, 5):
        x = torch.randn(2, 3, size, size, dtype=torch.float64)
        assert torch.allclose(run(model, x, "fastest"), run(model, x, "masked"), atol=1e-11)


@pytest.mark.parametrize("way", ["masked", "conditional", "apart", "fastest"])
@pytest.mark.parametrize("depthwise", [False, True])
def test_no_samples(way: Any, depthwise: bool) -> None:
    """As come to a detector's heads where it finds nothing."""
    assert run(chain(0, depthwise=depthwise), torch.zeros(0, 3, 8, 8, dtype=torch.float64), way).shape == (0, 4, 4, 4)


@pytest.mark.parametrize("default", [torch.float64, torch.bfloat16])
def test_the_kernel_asks_nobody_for_the_default_precision(
    default: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, x = chain(0, depthwise=True).float(), torch.randn(1, 3, 8, 8)
    monkeypatch.setattr(Speed, "best", lambda speed, share: ("native" if "native" in speed.lines else ALL, 0.0))
    monkeypatch.setattr(Speeds, "fastest", lambda speeds, x, ways: "native")
    monkeypatch.setattr(Speeds, "chosen", lambda speeds, x: "native")
    before = torch.get_default_dtype()
    torch.set_default_dtype(default)
    try:
        found = [run(model, x, "fastest") for _ in range(2)]
    finally:
        torch.set_default_dtype(before)
    for y in found:
        assert y.dtype is torch.float32
        assert torch.allclose(y, run(model, x, "masked"), atol=1e-4)


@pytest.mark.parametrize("depthwise", [False, True])
def test_a_reader_has_gradients_where_its_gate_had_none(depthwise: bool) -> None:
    """A frozen trunk in no_grad hands on fewer channels; the head behind it learns, in eval mode, too."""
    model, x = chain(0, depthwise=depthwise), torch.randn(3, 3, 8, 8, dtype=torch.float64)
    gradients = []
    for way in ("masked", "conditional"):
        with torch.no_grad(), computing(way):
            y = torch.relu(model.first(x))
        y = torch.relu(model.depthwise(y)) if depthwise else y
        with torch.no_grad(), computing(way):
            z = torch.relu(model.second(y.detach()))
        model.zero_grad()
        (model.third(z).square().sum() + (y.square().sum() if depthwise else 0)).backward()
        learning = (model.third, *([model.depthwise] if depthwise else []))
        gradients.append([p.grad.clone() for part in learning for p in part.parameters()])
    for one, other in zip(*gradients, strict=True):
        assert torch.allclose(one, other, atol=1e-10)
        assert one.abs().max() > 0


def test_compiled_and_in_inference_mode() -> None:
    model, x = chain(0), torch.randn(2, 3, 8, 8, dtype=torch.float64)
    with torch.inference_mode():
        assert torch.allclose(model(x), run(model, x, "masked"), atol=1e-11)


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("depthwise", [False, True])
def test_traced_by_torch_it_has_no_code_of_its_example(depthwise: bool) -> None:
    model = chain(0, depthwise=depthwise)
    inputs = 3 * torch.randn(6, 1, 3, 8, 8, dtype=torch.float64)
    for _ in range(2):
        run(model, inputs[0], "fastest")
    with torch.no_grad():
        traced = torch.jit.trace(model, inputs[0])  # type: ignore[no-untyped-call]
        for x in inputs:
            assert torch.allclose(traced(x), run(model, x, "masked"), atol=1e-11)


def test_speed_says_up_to_which_share_skipping_pays() -> None:
    speed = Speed({ALL: Line(10.0, 0.0), "some": Line(2.0, 10.0), "native": Line(4.0, 7.0)})
    assert speed.best(0.1) == ("some", 3.0)
    assert speed.best(0.8)[0] == "native"
    assert speed.best(1.0) == (ALL, 10.0)
    assert speed.limit == pytest.approx(6 / 7)
    assert Speed({ALL: Line(1.0, 0.0), "some": Line(2.0, 0.0)}).limit == 0.0
    for _ in range(100):
        speed.saw(0.3)
    assert speed.share == pytest.approx(0.3, abs=1e-3)
