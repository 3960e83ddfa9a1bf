"""What goes into a checkpoint comes out, bit for bit; what was altered does not come out at all."""

import json
import math
import random
import struct

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.torch import save as serialize

from squeeze import checkpoint
from squeeze.errors import ArtifactError, InputError

DTYPES = (
    *(torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.bool, torch.uint8, torch.int8),
    *(torch.int16, torch.int32, torch.int64, torch.complex64, torch.complex128),
)


@st.composite
def tensors(draw):
    dtype = draw(st.sampled_from(DTYPES))
    shape = draw(st.lists(st.integers(0, 3), max_size=3))
    size = math.prod(shape) * dtype.itemsize
    raw = bytearray(draw(st.binary(min_size=size, max_size=size)))
    if dtype is torch.bool:
        raw = bytearray(byte % 2 for byte in raw)
    return torch.frombuffer(raw, dtype=dtype).reshape(shape) if raw else torch.empty(shape, dtype=dtype)


arrays = st.one_of(
    hnp.arrays(dtype, hnp.array_shapes(min_dims=0, min_side=0, max_side=3))
    for dtype in ("<u4", ">i2", "<f8", "|b1", "<c16")
)
scalars = st.none() | st.booleans() | st.integers(-(2**200), 2**200) | st.floats() | st.text(st.characters())
keys = scalars.filter(lambda key: key == key) | st.tuples(st.integers(), st.text())
trees = st.recursive(
    scalars | tensors() | arrays,
    lambda inner: (
        st.lists(inner, max_size=3) | st.lists(inner, max_size=3).map(tuple) | st.dictionaries(keys, inner, max_size=3)
    ),
    max_leaves=8,
)


def same(a, b) -> bool:
    if isinstance(a, torch.Tensor):
        bits = [t.reshape(-1).contiguous().view(torch.uint8).tolist() for t in (a, b)]
        return a.dtype == b.dtype and a.shape == b.shape and bits[0] == bits[1]
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a.items(), b.items(), strict=True))
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return (
        (math.isnan(a) and math.isnan(b)) or struct.pack("d", a) == struct.pack("d", b)
        if isinstance(a, float)
        else a == b
    )


@given(trees)
def test_round_trip_is_bit_exact(tmp_path_factory, tree):
    path = tmp_path_factory.mktemp("round") / "state.safetensors"
    checkpoint.save(path, tree)
    assert same(tree, checkpoint.load(path))


def test_random_states_come_back(tmp_path):
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    checkpoint.save(tmp_path / "a", states)
    first = random.random(), np.random.rand(), torch.rand(()).item()
    python, numpy, torch_state = checkpoint.load(tmp_path / "a")
    random.setstate(python)
    np.random.set_state(numpy)
    torch.set_rng_state(torch_state)
    assert first == (random.random(), np.random.rand(), torch.rand(()).item())


def test_optimizer_state_round_trip(tmp_path):
    net = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.1)
    net(torch.rand(4, 3)).sum().backward()
    optimizer.step()
    checkpoint.save(tmp_path / "a", optimizer.state_dict())
    loaded = checkpoint.load(tmp_path / "a")
    assert same(loaded, optimizer.state_dict()) and list(loaded["state"]) == [0, 1]
    torch.optim.AdamW(net.parameters()).load_state_dict(loaded)


def test_shared_overlapping_and_strided_tensors(tmp_path):
    base = torch.rand(4, 4)
    state = {"a": base, "same": base.view(4, 4), "row": base[1], "turned": base.t(), "spread": base[:1].expand(3, 4)}
    checkpoint.save(tmp_path / "a", state)
    loaded = checkpoint.load(tmp_path / "a")
    assert all(torch.equal(loaded[name], state[name]) for name in state)
    assert loaded["a"] is loaded["same"] and loaded["row"].data_ptr() != loaded["a"][1].data_ptr()
    assert (tmp_path / "a").stat().st_size < 4 * (16 + 4 + 16 + 12) + 1000


def test_parameters_and_ordered_dicts_become_what_they_derive_from(tmp_path):
    checkpoint.save(tmp_path / "a", torch.nn.BatchNorm1d(2).state_dict() | {"p": torch.nn.Parameter(torch.ones(1))})
    loaded = checkpoint.load(tmp_path / "a")
    assert type(loaded) is dict and type(loaded["p"]) is torch.Tensor
    assert loaded["num_batches_tracked"].shape == () and loaded["num_batches_tracked"].dtype == torch.int64


def test_what_cannot_be_saved_is_named(tmp_path):
    with pytest.raises(TypeError, match=r"state\['a'\]\[1\].*got object"):
        checkpoint.save(tmp_path / "a", {"a": [1, object()]})
    with pytest.raises(TypeError, match="dtype object"):
        checkpoint.save(tmp_path / "a", np.array([None]))
    assert not (tmp_path / "a").exists()


def test_any_flipped_byte_is_found(tmp_path):
    checkpoint.save(tmp_path / "a", {"weight": torch.arange(3.0), "epoch": 2})
    raw = (tmp_path / "a").read_bytes()
    for place in range(len(raw)):
        (tmp_path / "a").write_bytes(raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :])
        with pytest.raises(ArtifactError):
            checkpoint.load(tmp_path / "a")


@pytest.mark.parametrize("length", [0, 7, 8, 60, -1])
def test_truncated_file(tmp_path, length):
    checkpoint.save(tmp_path / "a", {"weight": torch.ones(3)})
    (tmp_path / "a").write_bytes((tmp_path / "a").read_bytes()[:length])
    with pytest.raises(ArtifactError, match="start the run over"):
        checkpoint.load(tmp_path / "a")


@pytest.mark.parametrize(
    "tree",
    [
        *("[", "[]", "{}", "[[]]", '["gone"]', '["tensor","7"]', '["tensor"]', '["dict",[["list"],1]]', '["dict",[1]]'),
        *('["array","O",[1],"0"]', '["array","<f8",[7],"0"]', '["array","i4,i4",[1],"0"]', '["complex","0"]'),
        *('["float","x"]', "[" * 100_000, '["list",' * 500 + "1" + "]" * 500, "9" * 5000),
    ],
)
def test_hostile_tree_with_a_true_checksum(tmp_path, monkeypatch, tree):
    with monkeypatch.context() as patch:
        patch.setattr(json, "dumps", lambda *_, **__: tree)
        checkpoint.save(tmp_path / "a", torch.zeros(3, dtype=torch.uint8))
    with pytest.raises(ArtifactError, match="damaged"):
        checkpoint.load(tmp_path / "a")


@pytest.mark.parametrize("header", [[], {}, {"__metadata__": 1}, {"__metadata__": {"kind": [], "version": {}}}])
def test_hostile_header(tmp_path, header):
    text = json.dumps(header).encode()
    (tmp_path / "a").write_bytes(len(text).to_bytes(8, "little") + text)
    with pytest.raises(ArtifactError, match="without its header"):
        checkpoint.load(tmp_path / "a")


def test_other_files_and_newer_versions(tmp_path):
    (tmp_path / "a").write_bytes(serialize({"w": torch.ones(1)}, metadata={"kind": "other", "version": "1"}))
    with pytest.raises(ArtifactError, match="'other'"):
        checkpoint.load(tmp_path / "a")
    (tmp_path / "a").write_bytes(serialize({}, metadata={"kind": checkpoint.KIND, "version": "2"}))
    with pytest.raises(ArtifactError, match="version 2; update"):
        checkpoint.load(tmp_path / "a")
    (tmp_path / "a").write_bytes(serialize({}, metadata={"kind": checkpoint.KIND, "version": "0"}))
    with pytest.raises(ArtifactError, match="version 0"):
        checkpoint.load(tmp_path / "a")
    with pytest.raises(InputError, match="no such file"):
        checkpoint.load(tmp_path / "missing")


def test_numbers_named_many_times_are_not_copied_many_times(tmp_path, monkeypatch):
    tree = json.dumps(["list", *([["array", "|u1", [100], "0"]] * 2)])
    with monkeypatch.context() as patch:
        patch.setattr(json, "dumps", lambda *_, **__: tree)
        checkpoint.save(tmp_path / "a", torch.zeros(100, dtype=torch.uint8))
    with pytest.raises(ArtifactError, match="damaged"):
        checkpoint.load(tmp_path / "a")


def test_what_a_file_says_of_itself_is_told_in_one_line(tmp_path):
    header = {"kind": "\x1b[2J\n" + "x" * 9999, "version": "1"}
    (tmp_path / "a").write_bytes(serialize({}, metadata=header))
    with pytest.raises(ArtifactError) as caught:
        checkpoint.load(tmp_path / "a")
    assert str(caught.value).isprintable() and len(str(caught.value)) < 400
