"""Frozen dataclasses to JSON values and back, trusting nothing that is read."""

import math
import sys
import types
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from squeeze.errors import ArtifactError, quoted

Record = TypeVar("Record")


def encode(value: Any) -> Any:
    """As JSON values: numbers that are not finite become None, values of other types their text."""
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: encode(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): encode(item) for key, item in value.items()}
    if isinstance(value, tuple | list | set | frozenset):
        return [encode(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int) else str(value)


def decode(record: type[Record], data: Any, schema: int) -> Record:
    """Read a record whose data names its schema.

    Raises:
        ArtifactError: The data do not have the record's fields and types, or their schema is newer than `schema`.
    """
    found = data.get("schema") if isinstance(data, Mapping) else None
    if not isinstance(found, int) or isinstance(found, bool) or found < 1:
        raise ArtifactError(
            f"report: schema must be a whole number from 1, got {quoted(repr(found), 60)}; use the report.json that a "
            "run wrote."
        )
    if found > schema:
        raise ArtifactError(
            f"report: schema must be at most {schema}, got {quoted(found, 60)}; a newer squeeze wrote it, so update "
            "squeeze."
        )
    return _record(record, data, "report")


def read(record: type[Record], data: Any, where: str) -> Record:
    """Read a record that is a part of something, named by `where`; lists may be tuples.

    Raises:
        ArtifactError: The data do not have the record's fields and types.
    """
    found: Record = _record(record, data, where)
    return found


def _record(record: Any, data: Any, where: str) -> Any:
    data = _expect(data, Mapping, "an object", where)
    hints, values = get_type_hints(record), {}
    for f in fields(record):
        if f.name in data:
            values[f.name] = _value(hints[f.name], data[f.name], f"{where}.{f.name}")
        elif f.default is MISSING and f.default_factory is MISSING:
            raise ArtifactError(f"{where}: must have {f.name}, got {quoted(sorted(data))}; the report was altered.")
    return record(**values)


def _value(hint: Any, data: Any, where: str) -> Any:
    origin, inner = get_origin(hint), get_args(hint)
    if hint is Any:
        return data
    if origin in (Union, types.UnionType):
        return None if data is None else _value(next(h for h in inner if h is not type(None)), data, where)
    if origin is tuple:
        return tuple(_value(inner[0], item, where) for item in _expect(data, list | tuple, "a list", where))
    if origin is not None:
        return {key: _value(inner[1], item, where) for key, item in _expect(data, Mapping, "an object", where).items()}
    if is_dataclass(hint):
        return _record(hint, data, where)
    if isinstance(data, bool) and hint is not bool:
        raise ArtifactError(f"{where}: must be {hint.__name__}, got {data}; the report was altered.")
    if isinstance(data, int | float) and not abs(data) <= sys.float_info.max:  # which nan is not, either
        raise ArtifactError(f"{where}: must be a finite number, got {quoted(data, 20)}; the report was altered.")
    if hint is float and isinstance(data, int):
        return float(data)
    return _expect(data, hint, hint.__name__, where)


def _expect(data: Any, kind: Any, name: str, where: str) -> Any:
    if not isinstance(data, kind):
        raise ArtifactError(f"{where}: must be {name}, got {quoted(repr(data), 60)}; the report was altered.")
    return data
