"""Files made by somebody who knows how artefacts are signed: each ends in one line, and runs and takes nothing."""

import json
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import squeeze
from squeeze.artifact import is_artifact
from squeeze.errors import ArtifactError
from tests.artefacts import PLAN, Net, Saved, check_refused, joined, parts, resigned, small

MEMORY = 40
"""Bytes that reading may take for each byte of a file, besides a fixed amount."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return squeeze.save(Saved(small(), PLAN), tmp_path / "small.safetensors", {"arch": "net.py:Net"})


def signed(path: Path, change: Callable[[bytes], bytes]) -> None:
    """Change a file as somebody would who knows how it is signed."""
    path.write_bytes(resigned(change(path.read_bytes())))


def compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def change_record(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change what the file says of itself, and sign it again."""

    def changed(raw: bytes) -> bytes:
        header, body = parts(raw)
        record = json.loads(header["__metadata__"]["squeeze"])
        record = change(record) or record
        header["__metadata__"]["squeeze"] = compact(record)
        return joined(compact(header), body)

    signed(path, changed)


def change_header(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the tensors' part of the header, and sign it again."""

    def changed(raw: bytes) -> bytes:
        header, body = parts(raw)
        change(header)
        return joined(compact(header), body)

    signed(path, changed)


def test_a_newer_format_and_a_newer_plan_are_named(path: Path, tmp_path: Path) -> None:
    raw = path.read_bytes()
    change_record(path, lambda record: record.update(format=2, squeeze="9.9"))
    check_refused(path, "format 2", "9.9", "update squeeze")
    path.write_bytes(raw)
    change_record(path, lambda record: record["plan"].update(schema=99))
    check_refused(path, "99", "update squeeze")


def nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


HOSTILE_RECORDS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "no plan": lambda record: record.pop("plan") and None,
    "plan is text": lambda record: record.update(plan="x"),
    "plan is nested": lambda record: record.update(plan=nested(500)),
    "no edits": lambda record: record["plan"]["steps"][0].update(edits=3),
    "unknown edit": lambda record: record["plan"]["steps"][0]["edits"][0].update(kind="run"),
    "huge keep": lambda record: record["plan"]["steps"][0]["edits"][1].update(keep=[[0, 2**39]], size=2**39),
    "negative keep": lambda record: record["plan"]["steps"][0]["edits"][1].update(keep=[[-3, 2]]),
    "keep too much": lambda record: record["plan"]["steps"][0]["edits"][1].update(keep=[[0, 9]]),
    "many parts": lambda record: record["plan"]["steps"][0]["edits"][0].update(parts=[2**39]),
    "private module": lambda record: record["plan"]["steps"][0]["edits"][0].update(modules=["__class__.x"]),
    "unnamed module": lambda record: record["plan"]["steps"][0]["edits"][0].update(modules=[""]),
    "parameter that syncing needs": lambda record: record["plan"]["steps"][0]["edits"].append(
        {"kind": "drop", "name": "x", "modules": [], "parameters": ["first.weight"]}
    ),
    "about is a list": lambda record: record.update(about=[1]),
    "aliases of nothing": lambda record: record.update(aliases={"a": "nowhere"}),
    "aliases are numbers": lambda record: record.update(aliases=3),
    "format is text": lambda record: record.update(format="new"),
    "control codes": lambda record: record["plan"]["steps"][0]["edits"][1].update(tensor="a\n\x1b[2Jb" + "c" * 9999),
    "long values": lambda record: record["plan"]["steps"][0]["edits"][0].update(kind="x" * 9999),
    "another kind": lambda record: record.update(kind="x" * 1000),
}


def test_signing_again_is_not_what_is_refused(path: Path) -> None:
    before = path.read_bytes()
    change_record(path, lambda record: None)
    change_header(path, lambda header: None)
    assert isinstance(squeeze.load(path, Net), Net)
    change_record(path, lambda record: record["plan"]["provenance"].update(seed=1))
    assert isinstance(squeeze.load(path, Net), Net)
    assert path.read_bytes() != before


@pytest.mark.parametrize("name", HOSTILE_RECORDS)
def test_hostile_records_are_refused(path: Path, name: str) -> None:
    change_record(path, HOSTILE_RECORDS[name])
    check_refused(path)


HOSTILE_HEADERS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "overlap": lambda header: header["first.weight"].update(data_offsets=header["bn.weight"]["data_offsets"]),
    "outside": lambda header: header["first.weight"].update(data_offsets=[0, 2**60]),
    "backwards": lambda header: header["first.weight"].update(data_offsets=[8, 4]),
    "negative": lambda header: header["first.weight"].update(data_offsets=[-8, 4]),
    "huge shape": lambda header: header["first.weight"].update(shape=[2**40, 2**40]),
    "overflowing shape": lambda header: header["first.weight"].update(shape=[2**32, 2**32, 2**32]),
    "negative shape": lambda header: header["first.weight"].update(shape=[-5, -6]),
    "huge and empty": lambda header: header.update(zero={"dtype": "F32", "shape": [0, 2**62], "data_offsets": [0, 0]}),
    "unknown type": lambda header: header["first.weight"].update(dtype="PY"),
    "other type": lambda header: header["first.weight"].update(dtype="I32"),
    "nested": lambda header: header.update(zero=nested(500)),
    "control codes": lambda header: header.update({"a\n\x1b[2Jb" + "c" * 9999: header.pop("first.weight")}),
    "other metadata": lambda header: header["__metadata__"].update(x=[1]),
    "name of another": lambda header: header.update(__class__=header.pop("first.weight")),
}


@pytest.mark.parametrize("name", HOSTILE_HEADERS)
def test_hostile_headers_are_refused(path: Path, name: str) -> None:
    change_header(path, HOSTILE_HEADERS[name])
    check_refused(path)


@pytest.mark.parametrize("size", [0, 1, 2**20, 10**8 + 1, 2**63, 2**64 - 1])
def test_a_hostile_length_is_refused(path: Path, size: int) -> None:
    signed(path, lambda raw: size.to_bytes(8, "little") + raw[8:])
    check_refused(path)


def test_what_is_not_utf8_is_refused(path: Path) -> None:
    signed(path, lambda raw: raw.replace(b"a test", b"\xff\xfe\xff\xfe\xff\xfe"))
    check_refused(path, "damaged")


def bomb(raw: bytes, text: str) -> bytes:
    """A file whose record holds this text for a plan."""
    record = compact({"sha256": "0" * 64, "kind": "squeeze artefact", "format": 1, "squeeze": "1"})[:-1]
    record += f',"about":{{}},"aliases":{{}},"plan":{text}}}'
    return joined(compact({"__metadata__": {"squeeze": record}}), b"")


@pytest.mark.parametrize(
    "text",
    ["[" * 200_000, "[" * 200_000 + "]" * 200_000, '{"a":' * 100_000, "9" * 200_000, "[" + "{}," * 200_000 + "{}]"],
)
def test_json_bombs_are_refused_in_little_memory(path: Path, text: str) -> None:
    signed(path, lambda raw: bomb(raw, text))
    tracemalloc.start()
    try:
        check_refused(path)
        taken = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert taken < MEMORY * path.stat().st_size + 2**20


def test_a_record_of_absurd_size_is_refused(path: Path) -> None:
    signed(path, lambda raw: bomb(raw, '"' + "x" * 2**24 + '"'))
    check_refused(path, "absurd")


@given(place=st.integers(0, 3000), value=st.integers(0, 255))
def test_whatever_is_signed_loads_or_is_refused(
    tmp_path_factory: pytest.TempPathFactory, place: int, value: int
) -> None:
    path = tmp_path_factory.mktemp("any") / "x.safetensors"
    squeeze.save(Saved(small(), PLAN), path)
    raw = bytearray(path.read_bytes())
    start = raw.index(b"sha256") + 80
    raw[start + place % (len(raw) - start)] = value
    signed(path, lambda _: bytes(raw))
    try:
        assert isinstance(squeeze.load(path, Net), Net)
    except ArtifactError as error:
        assert str(error).isprintable()


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.safetensors")
    assert not is_artifact(tmp_path / "pipe.safetensors")
    check_refused(tmp_path / "pipe.safetensors", "a pipe")
