"""Damaged and made-up versions of good files: bytes at random, and JSON that means something else.

Every mutator draws from the `random.Random` it is given, so a seed names a mutant, and hypothesis can be the one that
draws (``st.randoms()``).
"""

import hashlib
import io
import json
import zipfile
from random import Random
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as parse
from torch import uint8

from tests.artefacts import joined, parts, resigned

BYTES = (b"\0", b"\xff", b"{", b"[", b'"', b"\\", b"9", b"-", b"\xf0", b".", b"c", b"R", b"}", b"\n", b"\x80\x02")
SIZES = (0, 1, 7, 2**16, 10**8 + 1, 2**31, 2**32, 2**48, 2**63, 2**64 - 1)


def nested(depth: int, value: Any = 0) -> Any:
    """A value within so many lists."""
    for _ in range(depth):
        value = [value]
    return value


VALUES: tuple[Any, ...] = (
    *(None, True, -1, 0, 1, 3, 2**31, 2**39, 2**40, 2**62, 2**63, 2**64, -(2**63), 10**30, 10**400),
    *(0.5, -0.0, float("nan"), float("inf"), 1e308, "", "x", "0", "..", "/etc/passwd", "../../up", "a/b", "a.b.c"),
    *("__class__", "__dict__", "first.weight.data", "\x1b[2J\r\n\x07", "\ud800", "\u202e", "$\\frac{", "<script>"),
    *("x" * 5000, "9" * 5000, [], {}, [[]], [-1], [0, 2**60], {"": ""}, {"kind": "drop"}, nested(90), nested(700)),
    *("os:system?command=true", "torchvision:vit_b_16?num_layers=100000000&hidden_dim=12", "cifar10:/", "digits:"),
)
"""What stands where something else is expected."""


def mutated_bytes(rng: Random, raw: bytes) -> bytes:
    """One to four changes at random places: overwritten, cut out, cut off, put in, repeated, a length changed."""
    for _ in range(rng.randint(1, 4)):
        place = rng.randrange(len(raw)) if raw else 0
        end = min(len(raw), place + rng.choice((1, 1, 2, 4, 8, 60)))
        kind = rng.randrange(8)
        if kind == 0:
            raw = raw[:place] + bytes([rng.randrange(256)]) + raw[place + 1 :]
        elif kind == 1:
            raw = raw[:place] + rng.choice(BYTES) + raw[end:]
        elif kind == 2:
            raw = raw[:place] + raw[end:]
        elif kind == 3 and rng.randrange(4) == 0:
            raw = raw[:place]
        elif kind == 4:
            raw = raw[:end] + raw[place:end] * rng.choice((1, 2, 50)) + raw[end:]
        elif kind == 5:
            raw = rng.choice(SIZES).to_bytes(8, "little") + raw[8:]
        elif kind == 6:
            other = rng.randrange(len(raw)) if raw else 0
            raw = raw[:place] + raw[other : other + end - place] + raw[end:]
        else:
            bit = 1 << rng.randrange(8)
            raw = raw[:place] + bytes([raw[place] ^ bit] if raw else []) + raw[place + 1 :]
    return raw


def copied(tree: Any) -> Any:
    """A JSON tree with nothing in common with the other."""
    return json.loads(json.dumps(tree))


def places(tree: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) of a JSON tree."""
    found, left = [], [tree]
    while left:
        node = left.pop()
        items = list(node.items()) if isinstance(node, dict) else list(enumerate(node))
        found += [(node, key) for key, _ in items]
        left += [value for _, value in items if isinstance(value, dict | list)]
    return found


def mutated_tree(rng: Random, tree: Any) -> Any:
    """One to three changes at random places of a JSON tree: replaced, taken away, moved, renamed, repeated."""
    tree = copied(tree)
    for _ in range(rng.choice((1, 1, 2, 3))):
        spots = places(tree)
        if not spots:
            return rng.choice(VALUES)
        node, key = rng.choice(spots)
        kind = rng.randrange(8)
        if kind == 0:
            del node[key]
        elif kind == 1:
            other, where = rng.choice(spots)
            if where in (other if isinstance(other, dict) else range(len(other))):
                node[key] = copied(other[where])
        elif kind == 2 and isinstance(node, dict):
            node[str(rng.choice(VALUES))] = node.pop(key)
        elif kind == 3 and isinstance(node, list):
            node[key:key] = [node[key]] * rng.choice((1, 3, 300))
        elif kind == 4 and type(node[key]) is int:
            node[key] += rng.choice((-1, 1, 7, 2**33))
        elif kind == 5:
            node[key] = [node[key]]
        else:
            node[key] = copied(rng.choice(VALUES))
    return tree


def compact(tree: Any) -> str:
    """JSON without spaces."""
    return json.dumps(tree, separators=(",", ":"))


def mutated_json(rng: Random, raw: bytes) -> bytes:
    """JSON text: its tree or its bytes changed, or some of its text repeated until it is deep."""
    kind = rng.randrange(10)
    if kind == 0:
        return mutated_bytes(rng, raw)
    if kind == 1:
        place = rng.randrange(len(raw))
        return raw[:place] + rng.choice((b"[", b'{"a":', b"9", b"\xff")) * rng.choice((5, 5000, 200_000)) + raw[place:]
    return compact(mutated_tree(rng, json.loads(raw))).encode()


def mutated_artefact(rng: Random, raw: bytes) -> bytes:
    """An artefact: as it may be damaged, or changed and signed again by somebody who knows how."""
    kind = rng.randrange(8)
    if kind == 0:
        return mutated_bytes(rng, raw)
    if kind == 1:
        return resigned(mutated_bytes(rng, raw))
    header, body = parts(raw)
    if kind == 2:
        return resigned(joined(compact(mutated_tree(rng, header)), body))
    record = json.loads(header["__metadata__"]["squeeze"])
    part = rng.choice(("plan", "plan", "about", "aliases", None))
    if part is None:
        record = mutated_tree(rng, record)
    else:
        record[part] = mutated_tree(rng, record[part])
    header["__metadata__"]["squeeze"] = compact(record)
    return resigned(joined(compact(header), body))


def checksum(tree: str, raw: bytes) -> str:
    """What a checkpoint says of its content."""
    digest = hashlib.sha256(tree.encode())
    for name, tensor in sorted(parse(raw).items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(uint8).numpy().tobytes())
    return digest.hexdigest()


def mutated_checkpoint(rng: Random, raw: bytes) -> bytes:
    """A checkpoint of a training: damaged, or changed and with a true checksum."""
    kind = rng.randrange(8)
    if kind == 0:
        return mutated_bytes(rng, raw)
    header, body = parts(raw)
    if kind == 1:
        return joined(compact(mutated_tree(rng, header)), body)
    about = header["__metadata__"]
    if kind == 2:
        body = mutated_bytes(rng, body)[: len(body)].ljust(len(body), b"\0")
    else:
        about["tree"] = compact(mutated_tree(rng, json.loads(about["tree"])))
    try:
        about["sha256"] = checksum(about["tree"], joined(compact(header), body))
    except (SafetensorError, ValueError, TypeError, RuntimeError, AttributeError):
        about["sha256"] = "0" * 64
    return joined(compact(header), body)


def mutated_zip(rng: Random, raw: bytes) -> bytes:
    """What torch.save wrote: damaged, or with another pickle or other numbers in a zip that is whole, or packed."""
    if rng.randrange(4) == 0:
        return mutated_bytes(rng, raw)
    content = io.BytesIO()
    packed = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    with zipfile.ZipFile(io.BytesIO(raw)) as old, zipfile.ZipFile(content, "w", packed) as new:
        for entry in old.infolist():
            inside = old.read(entry)
            changed = rng.randrange(2) if entry.filename.endswith(".pkl") else rng.randrange(8) == 0
            new.writestr(entry.filename, mutated_bytes(rng, inside) if changed else inside)
    return content.getvalue()


def mutated_safetensors(rng: Random, raw: bytes) -> bytes:
    """A file of safetensors: damaged, or with another header."""
    if rng.randrange(3) == 0:
        return mutated_bytes(rng, raw)
    header, body = parts(raw)
    return joined(compact(mutated_tree(rng, header)), body)
