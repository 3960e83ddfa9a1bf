"""Whatever file of weights there is in the wild is read or refused in one line, and no code in it runs."""

import argparse
import io
import os
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from squeeze.errors import InputError
from squeeze.weights import Checkpoint, checksum, load_into, read_weights, write_checkpoint
from tests.memory import status


class Net(nn.Module):
    """A convolution, a normalisation, and two layers that share their weight."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3)
        self.bn = nn.BatchNorm2d(3)
        self.first = nn.Linear(3, 3)
        self.second = nn.Linear(3, 3)
        self.second.weight = self.first.weight


class Shout:
    """Pickles as a call that leaves a trace."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def check_refused(path: Path, *words: str, trust_pickle: bool = False) -> None:
    with pytest.raises(InputError) as caught:
        read_weights(path, trust_pickle)
    message = str(caught.value)
    assert message.startswith(f"{path}: must ")
    assert "\n" not in message
    for word in words:
        assert word in message


def same(left: Any, right: Any) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize("key", [None, "state_dict", "model", "model_state_dict", "net"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_weights_are_found_and_lose_the_prefixes_of_wrappers(tmp_path: Path, key: str | None, prefix: str) -> None:
    state = Net().state_dict()
    named = OrderedDict((prefix + name, tensor) for name, tensor in state.items())
    torch.save(named if key is None else {"epoch": 3, key: named, "optimizer": {"lr": 0.1}}, tmp_path / "x.pt")
    assert same(read_weights(tmp_path / "x.pt").weights, state)


def test_wrappers_inside_and_averages(tmp_path: Path) -> None:
    averaged = torch.optim.swa_utils.AveragedModel(Net())
    torch.save(averaged.state_dict(), tmp_path / "average.pt")
    assert same(read_weights(tmp_path / "average.pt").weights, averaged.module.state_dict())
    torch.save({"body._orig_mod.weight": torch.ones(2), "module.x": torch.ones(1)}, tmp_path / "inside.pt")
    assert sorted(read_weights(tmp_path / "inside.pt").weights) == ["body.weight", "module.x"]


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".th", ".bin", ""])
def test_the_content_counts_not_the_suffix(tmp_path: Path, suffix: str) -> None:
    state = {"weight": torch.randn(3, 2), "bias": torch.randn(3).bfloat16()}
    torch.save(state, tmp_path / f"a{suffix}")
    torch.save(state, tmp_path / f"b{suffix}", _use_new_zipfile_serialization=False)
    save_file(state, tmp_path / f"c{suffix}")
    assert all(same(read_weights(tmp_path / f"{letter}{suffix}").weights, state) for letter in "abc")


def test_options_beside_the_weights_do_no_harm(tmp_path: Path) -> None:
    torch.save({"model": {"w": torch.ones(2)}, "args": argparse.Namespace(lr=0.1)}, tmp_path / "x.pt")
    assert list(read_weights(tmp_path / "x.pt").weights) == ["w"]


def test_pickled_modules_are_refused_unless_trusted(tmp_path: Path) -> None:
    model, path = Net(), tmp_path / "whole.pt"
    for content in (model, {"model": model, "epoch": 1}):
        torch.save(content, path)
        check_refused(path, "Net", "runs code", "--trust-pickle", "state_dict()")
        assert same(read_weights(path, trust_pickle=True).weights, model.state_dict())


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_file_does_not_run(tmp_path: Path, zipped: bool) -> None:
    trace = tmp_path / "ran"
    path = tmp_path / "x.pt"
    torch.save({"w": torch.ones(1), "x": Shout(trace)}, path, _use_new_zipfile_serialization=zipped)
    check_refused(path, "got a pickled getattr", "--trust-pickle")
    assert not trace.exists()


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize(
    "content",
    [b"", b"hello\n", b"PK\x03\x04 not a zip", b"\x80\x02nothing", bytes(99), b"\xff" * 99, b"\x80\x02}q\x00."],
)
def test_what_is_not_weights_is_refused(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"other{suffix}"
    path.write_bytes(content)
    check_refused(path, "weights")


@pytest.mark.parametrize(
    "content", [{}, {"epoch": 3}, {"state_dict": {}}, [torch.ones(1)], torch.ones(1), {1: torch.ones(1)}]
)
def test_what_holds_no_weights_is_refused(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "x.pt")
    check_refused(tmp_path / "x.pt", "state_dict()")


def test_places_that_hold_no_file(tmp_path: Path) -> None:
    check_refused(tmp_path, "a folder")
    check_refused(tmp_path / "nowhere.pt", "no such file")


def test_another_kind_of_file_is_refused_without_torchs_advice(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(b"\x08\x08\x12\x07pytorch")
    with pytest.raises(InputError, match=r"a damaged or other one \(Unsupported operand 8\); take a good copy"):
        read_weights(tmp_path / "net.onnx")


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    torch.save({"w": torch.randn(4)}, tmp_path / "a.pt")
    torch.save({"w": torch.randn(4)}, tmp_path / "b.pt", _use_new_zipfile_serialization=False)
    save_file({"w": torch.randn(4)}, tmp_path / "c.safetensors")
    for path in list(tmp_path.iterdir()):
        whole = path.read_bytes()
        for length in range(0, len(whole), 7):
            path.write_bytes(whole[:length])
            check_refused(path)


@pytest.mark.parametrize("zipped", [True, False])
def test_damage_anywhere_is_refused_or_harmless(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "x.pt"
    torch.save({"a": torch.randn(3)}, path, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    for place in range(0, len(whole), 3):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        try:
            assert all(isinstance(name, str) for name in read_weights(path).weights)
        except InputError as error:
            assert str(error).isprintable()


def test_a_torchscript_archive_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "script.pt"
    with pytest.warns(FutureWarning):
        torch.jit.save(torch.jit.script(nn.Linear(2, 2)), path)
    check_refused(path, "TorchScript", "--trust-pickle")


def loaded(model: nn.Module, weights: dict[str, torch.Tensor]) -> nn.Module:
    return load_into(model, Checkpoint(Path("x.pt"), weights))


def check_unfit(weights: dict[str, torch.Tensor], *words: str) -> None:
    model = Net()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(InputError) as caught:
        loaded(model, weights)
    assert str(caught.value).startswith("x.pt: must hold the weights of Net")
    for word in words:
        assert word in str(caught.value)
    assert same(model.state_dict(), before)


def test_missing_extra_and_misshapen_weights_are_named() -> None:
    state = Net().state_dict()
    check_unfit(
        {n: t for n, t in state.items() if not n.startswith("bn.")}, "lacks bn.weight", "1 more", "architecture"
    )
    check_unfit(state | {"head.weight": torch.ones(1)}, "has besides head.weight")
    check_unfit(state | {"a\n\x1b[2J": torch.ones(1)}, "has besides a??[2J")
    check_unfit(state | {"conv.bias": torch.ones(4)}, "conv.bias (4,) for (3,)")
    check_unfit(state | {"conv.bias": torch.ones(3, dtype=torch.int64)}, "conv.bias torch.int64 for torch.float32")


def test_what_old_files_leave_out_is_filled_in() -> None:
    state = Net().state_dict()
    del state["bn.num_batches_tracked"], state["second.weight"]
    model = loaded(Net(), state)
    assert model.second.weight is model.first.weight
    assert torch.equal(model.second.weight, state["first.weight"])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_precision_is_the_models(dtype: torch.dtype) -> None:
    state = {n: t.to(dtype) if t.is_floating_point() else t for n, t in Net().state_dict().items()}
    model = loaded(Net(), state)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert torch.equal(model.conv.weight, state["conv.weight"].float())


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors"])
def test_a_checkpoint_says_what_it_is(tmp_path: Path, suffix: str) -> None:
    model, path = Net(), tmp_path / "new" / f"x{suffix}"
    model.conv.to(memory_format=torch.channels_last)
    write_checkpoint(path, model, arch="a.py:b", data="digits", input_shape=(1, 8, 8))
    read = read_weights(path)
    assert same(read.weights, model.state_dict())
    assert read.meta == {"arch": "a.py:b", "data": "digits", "input_shape": [1, 8, 8]}
    again = load_into(Net(), read)
    assert same(again.state_dict(), model.state_dict())
    if suffix == ".safetensors":
        with safe_open(path, "pt") as file:
            assert set(file.keys()) == set(model.state_dict())
    else:
        assert "state_dict" in torch.load(path, weights_only=True)


def test_safetensors_hold_tensors_only(tmp_path: Path) -> None:
    class Extra(Net):
        def get_extra_state(self) -> str:
            return "more"

    with pytest.raises(InputError, match=r"x.safetensors: must hold tensors only, got _extra_state"):
        write_checkpoint(tmp_path / "x.safetensors", Extra(), arch="a.py:b", data=None, input_shape=(1,))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("about", ["{", "[" * 100_000, "[1]", 7, {"arch": "x"}, None])
def test_strange_words_about_itself_are_passed_over(tmp_path: Path, about: Any) -> None:
    torch.save({"state_dict": {"w": torch.ones(1)}, "squeeze": about}, tmp_path / "x.pt")
    assert read_weights(tmp_path / "x.pt").meta == {}


@given(st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.int8, torch.bool, torch.complex64]))
def test_a_checksum_is_of_content_not_of_layout(dtype: torch.dtype) -> None:
    weights = {"b": torch.randn(3, 4).to(dtype), "a": torch.ones((), dtype=dtype), "c": torch.ones(0, dtype=dtype)}
    turned = {name: weights[name].t().contiguous().t() for name in sorted(weights)}
    assert checksum(weights) == checksum(turned)
    assert len(checksum(weights)) == 64


def test_a_checksum_sees_names_types_shapes_and_numbers() -> None:
    weights = {"a": torch.zeros(4), "b": torch.zeros(4)}
    changed = [
        {"a": torch.zeros(4), "c": torch.zeros(4)},
        {"a": torch.zeros(4), "b": torch.zeros(4, dtype=torch.int32)},
        {"a": torch.zeros(4), "b": torch.zeros(2, 2)},
        {"a": torch.zeros(4), "b": torch.tensor([0.0, 0.0, 0.0, -0.0])},
        {"a": torch.zeros(8)},
    ]
    assert len({checksum(w) for w in (weights, *changed)}) == 6


class Huge:
    """Three gigabytes, said in a few bytes that run no code."""

    def __init__(self, kind: Any, *arguments: Any) -> None:
        self._reduced = kind, arguments

    def __reduce__(self) -> Any:
        return self._reduced


def packed(path: Path, compression: int, **changed: bytes) -> Path:
    """Some weights as torch.save writes them, packed in another way, and with other records."""
    content = io.BytesIO()
    torch.save({"w": torch.zeros(2**28)}, content)
    with zipfile.ZipFile(content) as old, zipfile.ZipFile(path, "w", compression) as new:
        for entry in old.infolist():
            name = Path(entry.filename).stem
            if name in changed or not changed or entry.file_size < 1000:
                new.writestr(entry.filename, changed.get(name, old.read(entry)))
    return path


def check_refused_in_little_memory(path: Path) -> None:
    before = max(status("VmPeak"), status("VmSize"))
    with pytest.raises(InputError, match="far more memory than its size"):
        read_weights(path)
    assert status("VmPeak") <= before + 2**29


@pytest.mark.parametrize("huge", [Huge(bytearray, 3 * 10**9), Huge(torch.Tensor, 30_000, 30_000)])
def test_a_pickle_that_asks_for_memory_is_refused(tmp_path: Path, huge: Huge) -> None:
    path = packed(tmp_path / "huge.pt", zipfile.ZIP_STORED, data=pickle.dumps({"a": huge}, 2))
    check_refused_in_little_memory(path)


def test_a_zip_that_unpacks_to_far_more_is_refused(tmp_path: Path) -> None:
    path = packed(tmp_path / "bomb.pt", zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 2**21
    check_refused_in_little_memory(path)


def test_an_old_file_that_announces_far_more_is_refused(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(77)}, tmp_path / "w.pt", _use_new_zipfile_serialization=False)
    raw = (tmp_path / "w.pt").read_bytes()
    size = b"K" + bytes([77]) + b"N"  # how many numbers a storage has
    assert size in raw
    (tmp_path / "w.pt").write_bytes(raw.replace(size, b"J" + (2**30).to_bytes(4, "little") + b"N"))
    check_refused_in_little_memory(tmp_path / "w.pt")


def test_weights_stay_when_their_file_shrinks(tmp_path: Path) -> None:
    """A mapped file would kill the process here."""
    save_file({"w": torch.ones(10**5)}, tmp_path / "w.safetensors")
    found = read_weights(tmp_path / "w.safetensors")
    os.truncate(tmp_path / "w.safetensors", 100)
    assert found.weights["w"].sum() == 10**5


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "w.pt")
    with pytest.raises(InputError, match="a pipe"):
        read_weights(tmp_path / "w.pt")
