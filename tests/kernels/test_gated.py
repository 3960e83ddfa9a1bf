"""The kernel of gated convolutions against PyTorch in double precision, for every instruction set that runs here."""

import copy
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from squeeze.kernels import gated, native
from squeeze.kernels.gated import Filters, GatedOperands, why_not
from squeeze.kernels.kept import KeptFilters, same, version_and_address

CODES = [name for name in ("avx512", "avx2", "neon", "portable") if native.code(name) is not None]
LISTS = st.sampled_from(["none", "one", "half", "all", "every"])
"""Of filters and of channels: "every" is a list of all, "all" is no list."""


def operands(outputs: int = 9, inputs: int = 7, kernel: Any = (3, 3), seed: int = 0, **settings: Any) -> GatedOperands:
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    depthwise = settings.get("groups", 1) > 1
    made = GatedOperands(random(outputs, 1 if depthwise else inputs, *kernel), random(outputs), (1, 1), (1, 1), (1, 1))
    hidden = max(inputs // 4, 1)
    controller = (random(hidden, inputs), random(hidden), random(outputs, hidden), random(outputs))
    return replace(made, **{"controller": controller} | settings)


def listed(which: str, size: int, seed: int) -> Tensor | None:
    if which == "all":
        return None
    chosen = torch.rand(size, generator=torch.Generator().manual_seed(seed)) < 0.5
    few = {"none": range(0), "one": [size - 1], "every": range(size), "half": chosen.nonzero().flatten().tolist()}
    return torch.tensor(list(few[which]), dtype=torch.int64)


def spread(x: Tensor, present: Tensor | None, size: int) -> Tensor:
    """Channels that are there among zeros for the others, in float64."""
    if present is None:
        return x.double()
    return x.new_zeros(len(x), size, *x.shape[2:], dtype=torch.float64).index_copy_(1, present, x.double())


def convolved(x: Tensor, of: GatedOperands) -> Tensor:
    bias = None if of.bias is None else of.bias.double()
    return functional.conv2d(x, of.weight.double(), bias, of.stride, of.padding, of.dilation, of.groups)


def decided(x: Tensor, of: GatedOperands) -> Tensor:
    reduce, reduce_bias, expand, expand_bias = (t.double() for t in of.controller)
    return functional.linear(functional.linear(x.mean((2, 3)), reduce, reduce_bias).relu(), expand, expand_bias)


def close(found: Tensor, wanted: Tensor, share: float = 1e-5) -> bool:
    if found.shape != wanted.shape or found.dtype is not torch.float32:
        return False
    return not wanted.numel() or float((found - wanted).abs().max()) <= share * max(float(wanted.abs().max()), 1e-3)


@contextmanager
def with_threads(threads: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


GEOMETRY = st.tuples(
    st.tuples(*[st.sampled_from([1, 2, 3, 5, 7])] * 2),
    st.tuples(*[st.integers(1, 3)] * 2),
    st.tuples(*[st.integers(0, 4)] * 2),
    st.tuples(*[st.integers(1, 2)] * 2),
)


@pytest.mark.parametrize("name", CODES)
@settings(max_examples=80, deadline=None)
@given(
    geometry=GEOMETRY,
    channels=st.tuples(st.integers(1, 40), st.integers(1, 30)),
    lists=st.tuples(LISTS, LISTS),
    size=st.tuples(st.integers(1, 3), st.integers(0, 33), st.integers(0, 33)),
    flags=st.tuples(st.booleans(), st.booleans()),
)
def test_filters_that_are_listed(name: str, geometry: Any, channels: Any, lists: Any, size: Any, flags: Any) -> None:
    kernel, stride, padding, dilation = geometry
    with_bias, scatter = flags
    of = operands(*channels, kernel, stride=stride, padding=padding, dilation=dilation)
    of = of if with_bias else replace(of, bias=None)
    sides = [max(n, d * (k - 1) + 1 - 2 * p, 1) for n, d, k, p in zip(size[1:], dilation, kernel, padding, strict=True)]
    rows, present = listed(lists[0], channels[0], 1), listed(lists[1], channels[1], 2)
    x = torch.randn(size[0], channels[1] if present is None else len(present), *sides)
    wanted = convolved(spread(x, present, channels[1]), of)
    if rows is not None:
        kept = wanted[:, rows]
        wanted = spread(kept, rows, channels[0]) if scatter else kept
    assert close(Filters(of, native.code(name)).convolve(x, rows, present, scatter), wanted)


@pytest.mark.parametrize("name", CODES)
@pytest.mark.parametrize("images", [1, 3])
@pytest.mark.parametrize("present", ["half", "all"])
def test_threads_share_wide_controllers(name: str, images: int, present: str) -> None:
    of = operands(1000, 2000, (1, 1), padding=(0, 0))
    assert of.controller is not None and of.controller[0].numel() > 3 * 2**18  # enough for three threads
    there = listed(present, 2000, 1)
    x = torch.randn(images, 2000 if there is None else len(there), 2, 2)
    filters, wanted = Filters(of, native.code(name)), decided(spread(x, there, 2000), of)
    for threads in (1, 2, 3, 5):
        with with_threads(threads):
            assert close(filters.logits(x, there), wanted)


@pytest.mark.parametrize("name", CODES)
@settings(max_examples=40, deadline=None)
@given(
    channels=st.tuples(st.integers(1, 40), st.integers(1, 70)),
    lists=st.lists(LISTS, min_size=1, max_size=3),
    size=st.tuples(st.integers(0, 3), st.integers(1, 20), st.integers(1, 20)),
)
def test_all_filters_of_one_input_after_the_other(name: str, channels: Any, lists: Any, size: Any) -> None:
    of = replace(operands(*channels), controller=None)
    filters = Filters(of, native.code(name))
    for number, which in enumerate(lists):
        there = listed(which, channels[1], number)
        x = torch.randn(size[0], channels[1] if there is None else len(there), *size[1:])
        assert close(filters.read(x, there), convolved(spread(x, there, channels[1]), of))


def test_only_what_has_no_controller_is_read_as_a_whole() -> None:
    x = torch.randn(1, 7, 8, 8)
    with pytest.raises(ValueError, match="must have no controller"):
        Filters(operands(), native.code()).read(x, None)
    without = Filters(replace(operands(), controller=None), native.code())
    for call in (without.logits, lambda x, present: without.gated(x, present, False)):
        with pytest.raises(ValueError, match="must have a controller"):
            call(x, None)
    with pytest.raises(ValueError, match="present must ascend"):
        without.read(x, torch.tensor([6, 5, 4, 3, 2, 1, 0]))
    assert close(without.read(x, None), convolved(x.double(), replace(operands(), controller=None)))


@pytest.mark.parametrize("name", CODES)
@settings(max_examples=60, deadline=None)
@given(
    channels=st.tuples(st.integers(1, 40), st.integers(1, 70)),
    present=LISTS,
    size=st.tuples(st.integers(0, 3), st.integers(1, 20), st.integers(1, 20)),
    open_=st.sampled_from([-100.0, 0.0, 100.0]),
    scatter=st.booleans(),
)
def test_a_gate_and_what_it_leaves_on(
    name: str, channels: Any, present: str, size: Any, open_: float, scatter: bool
) -> None:
    of = operands(*channels)
    of = replace(of, controller=(*of.controller[:3], of.controller[3] + open_))
    there = listed(present, channels[1], 2)
    x = torch.randn(size[0], channels[1] if there is None else len(there), *size[1:])
    whole, filters = spread(x, there, channels[1]), Filters(of, native.code(name))
    y, logits, rows, count = filters.gated(x, there, scatter)
    assert close(logits, decided(whole, of), 3e-6)
    assert torch.equal(filters.logits(x, there), logits)
    on = (logits > 0).any(0)
    assert rows.tolist() == (on.nonzero().flatten().tolist() or [0])
    assert count == int(on.sum())
    wanted = convolved(whole, of) * (logits > 0)[:, :, None, None]
    assert close(y, wanted if scatter else wanted[:, rows])
    assert y.is_contiguous()


@pytest.mark.parametrize("name", CODES)
@pytest.mark.parametrize("scatter", [False, True])
@pytest.mark.parametrize("which", ["half", "one", "none", "every"])
def test_a_depthwise_convolution_reads_the_channels_of_its_filters(name: str, scatter: bool, which: str) -> None:
    of = operands(20, 20, stride=(2, 2), groups=20)
    rows = listed(which, 20, 1)
    x = torch.randn(2, len(rows), 15, 11)
    wanted = convolved(spread(x, rows, 20), of)[:, rows]
    found = Filters(of, native.code(name)).convolve(x, rows, None, scatter)
    assert close(found, spread(wanted, rows, 20) if scatter else wanted)


@pytest.mark.parametrize("name", CODES)
@pytest.mark.parametrize("kernel", [(3, 3), (1, 1)])
def test_more_than_the_cache_holds_in_bands_and_in_parts(name: str, kernel: Any) -> None:
    of = operands(45, 64, kernel, padding=(kernel[0] // 2,) * 2)
    x, rows = torch.randn(2, 64, 60, 59), listed("half", 45, 3)
    filters = Filters(of, native.code(name))
    wanted = convolved(x.double(), of)[:, rows]
    outputs, logits = [], []
    for threads in (1, 2, 5):
        with with_threads(threads):
            outputs.append(filters.convolve(x, rows, None, False))
            logits.append(filters.logits(x, None))
    assert close(outputs[0], wanted)
    assert all(torch.equal(outputs[0], other) for other in outputs[1:])
    assert all(torch.equal(logits[0], other) for other in logits[1:])


def test_the_controller_agrees_with_pytorch_on_many_channels_and_positions() -> None:
    of, x = operands(512, 512, (1, 1)), torch.rand(1, 512, 56, 56)
    for name in CODES:
        assert close(Filters(of, native.code(name)).logits(x, None), decided(x.double(), of), 1e-6)


def test_input_of_any_layout() -> None:
    filters, x = Filters(operands(), native.code()), torch.randn(2, 7, 9, 10)
    for other in (x.to(memory_format=torch.channels_last), x.transpose(2, 3).contiguous().transpose(2, 3)):
        assert not other.is_contiguous()
        *found, on = (t.clone() if isinstance(t, Tensor) else t for t in filters.gated(other, None, False))
        for one, wanted in zip(found, filters.gated(x, None, False), strict=False):
            assert torch.equal(one, wanted)
        rows = torch.arange(8).repeat_interleave(2)[::2]
        assert torch.equal(filters.convolve(other, rows, None, False), filters.convolve(x, None, None, False)[:, :8])


def test_weights_of_any_layout() -> None:
    of, x = operands(), torch.randn(1, 7, 9, 10)
    other = replace(of, weight=of.weight.to(memory_format=torch.channels_last))
    assert torch.equal(*(Filters(o, native.code()).convolve(x, None, None, False) for o in (of, other)))


def test_an_empty_batch() -> None:
    filters, x = Filters(operands(), native.code()), torch.randn(0, 7, 9, 10)
    assert filters.convolve(x, None, None, False).shape == (0, 9, 9, 10)
    y, logits, rows, on = filters.gated(x, None, False)
    assert (y.shape, logits.shape, rows.tolist(), on) == ((0, 1, 9, 10), (0, 9), [0], 0)


def test_what_a_call_decides_stays_until_the_next_of_its_size_in_its_thread() -> None:
    filters = Filters(operands(), native.code())
    x, other = torch.randn(1, 7, 9, 10), torch.randn(1, 7, 9, 10)
    _, logits, rows, _ = filters.gated(x, None, False)
    before = logits.clone(), rows.clone()
    filters.gated(torch.randn(2, 7, 9, 10), None, False)
    filters.gated(torch.randn(1, 7, 9, 11), None, False)
    thread = threading.Thread(target=filters.gated, args=(other, None, False))
    thread.start()
    thread.join()
    assert torch.equal(logits, before[0]) and torch.equal(rows, before[1])
    for size in range(2, 2 * gated.SIZES):
        x = torch.randn(1, 7, size, 3)
        y, logits, rows, _ = filters.gated(x, None, False)
        assert close(y, (convolved(x.double(), operands()))[:, rows])
        assert len(filters._readied.known) <= gated.SIZES


def test_what_is_kept_follows_its_tensors_and_is_not_copied() -> None:
    of, x, kept = operands(), torch.randn(1, 7, 8, 8), KeptFilters()
    held = {"weight": of.weight, "bias": of.bias, "none": None}

    def places() -> Iterator[Any]:
        return ((held, name, value) for name, value in held.items())

    first = kept.get(lambda: of, places)
    assert kept.get(lambda: pytest.fail("nothing has changed"), places) is first
    of.bias.add_(1)
    second = kept.get(lambda: of, places)
    assert second is not first
    wanted = convolved(x.double(), of).float()
    torch.testing.assert_close(second.convolve(x, None, None, False), wanted, rtol=1e-4, atol=1e-4)
    for change in (
        lambda: held.update(weight=of.weight.clone()),
        lambda: held.update(none=torch.zeros(1)),
        lambda: setattr(of.bias, "data", of.bias.clone()),
        lambda: held.pop("none"),
    ):
        before = kept.get(lambda: of, places)
        change()
        assert kept.get(lambda: of, places) is not before
    for other in (copy.deepcopy(kept), kept.__reduce__()[0]()):
        with pytest.raises(LookupError):
            other.get(lambda: {}["made anew"], places)
    assert kept.get(lambda: pytest.fail("nothing has changed"), places) is not None
    of.weight.add_(1)
    held["weight"].add_(1)
    assert kept.get(lambda: replace(of, groups=3), places) is None
    assert KeptFilters().get(lambda: None, places) is None
    assert KeptFilters().get(lambda: of, lambda: ()) is None
    with torch.inference_mode():
        inferred = torch.zeros(1)
    assert KeptFilters().get(lambda: of, lambda: [({"weight": inferred}, "weight", inferred)]) is None


@pytest.mark.parametrize("as_before", [same, getattr(native.extension(), "unchanged", same)])
def test_what_has_changed_is_seen(as_before: Any) -> None:
    held: dict[str, Any] = {"tensor": torch.zeros(3), "none": None}
    seen = tuple((held, name, value, *version_and_address(value)) for name, value in held.items())
    assert as_before(seen) and as_before(())
    held["none"] = held["tensor"]
    assert not as_before(seen)
    del held["none"]
    assert not as_before(seen)
    held["none"] = None
    assert as_before(seen)
    held["tensor"].data = torch.ones(3)
    assert not as_before(seen)
    held["tensor"].data = seen[0][2].data
    held["tensor"].add_(1)
    assert not as_before(seen)


def test_the_module_refuses_what_it_is_not_made_for() -> None:
    module = native.extension()
    for name in () if module is None else ("gated", "unchanged"):
        with pytest.raises(TypeError):
            getattr(module, name)(((1, 2),))


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"weight": torch.zeros(9, 7, 3, 3, dtype=torch.float64)}, "float32"),
        ({"bias": torch.zeros(9, dtype=torch.float16)}, "float32"),
        ({"controller": (torch.zeros(1, dtype=torch.float64),) * 4}, "float32"),
        ({"groups": 3}, "groups"),
    ],
)
def test_what_it_cannot_compute_is_named(change: dict, word: str) -> None:
    assert why_not(operands()) == ""
    assert word in why_not(replace(operands(), **change))


def test_without_a_native_kernel_the_caller_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert gated.available()
    monkeypatch.setattr(gated, "code", lambda: None)
    assert not gated.available()
    assert "compiler" in why_not(operands())
    weight = torch.zeros(1)
    assert KeptFilters().get(operands, lambda: [({"weight": weight}, "weight", weight)]) is None


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ((torch.zeros(1, 7, 8, 8).double(), None, None), "float32"),
        ((torch.zeros(1, 6, 8, 8), None, None), "7"),
        ((torch.zeros(1, 7, 8, 8), None, torch.arange(6)), "6"),
        ((torch.zeros(7, 8, 8), None, None), "batch"),
        ((torch.zeros(1, 7, 0, 8), None, None), "1 positions"),
        ((torch.zeros(1, 7, 8, 8), torch.arange(9).int(), None), "int64"),
        ((torch.zeros(1, 7, 8, 8), None, torch.zeros(7, 1).long()), "int64"),
        ((torch.zeros(1, 7, 8, 8), torch.tensor([0, 9]), None), "rows"),
        ((torch.zeros(1, 7, 8, 8), torch.tensor([-1, 0]), None), "rows"),
        ((torch.zeros(1, 7, 8, 8), torch.tensor([3, 3]), None), "rows"),
        ((torch.zeros(1, 2, 8, 8), None, torch.tensor([4, 2])), "present"),
        ((torch.zeros(1, 2, 8, 8), None, torch.tensor([4, 7])), "present"),
    ],
)
def test_what_does_not_fit_is_refused(arguments: Any, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        Filters(operands(), native.code()).convolve(*arguments, scatter=False)


def test_a_convolution_without_a_gate_has_no_logits() -> None:
    filters, x = Filters(operands(controller=None), native.code()), torch.zeros(1, 7, 8, 8)
    for call in (lambda: filters.logits(x, None), lambda: filters.gated(x, None, False)):
        with pytest.raises(ValueError, match="controller"):
            call()


def test_a_processor_without_the_instructions_is_refused() -> None:
    lacking = replace(native.code(), name="avx1024", _name=b"avx1024")
    with pytest.raises(ValueError, match="avx1024"):
        Filters(operands(), lacking).convolve(torch.zeros(1, 7, 8, 8), None, None, scatter=False)
