"""Passes by name, and their settings from text: ``--method NAME --set field=value``."""

import ast
import dataclasses
import difflib
import inspect
import re
import types
from collections.abc import Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from squeeze.errors import InputError

GROUP = "squeeze.passes"
FINETUNE = "finetune."
"""Stands before the names of fine-tuning's settings."""

WORDS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}

REQUIRED = "(required)"
"""Stands where a setting has no default."""

Record = TypeVar("Record")


@dataclasses.dataclass(frozen=True)
class Setting:
    """One field of a pass, as `squeeze methods` lists it.

    Attributes:
        name: Of the field.
        type: What it must be, in words.
        default: As `written`, or `REQUIRED`.
        doc: What the docstring of the pass says about it.
    """

    name: str
    type: str
    default: str
    doc: str


def installed() -> dict[str, EntryPoint]:
    """The passes that installed packages offer, by name."""
    return {entry.name: entry for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name)}


def find_pass(name: str) -> type[Any]:
    """The class of a pass, by its name or as ``file.py:Pass``.

    Raises:
        InputError: There is no such pass, it cannot be imported, or it is no dataclass.
    """
    if ":" in name:
        from squeeze.architectures import load_callable

        found = load_callable(name)
    else:
        found = _load(_named(name))
    if not (inspect.isclass(found) and dataclasses.is_dataclass(found)):
        raise InputError(
            f"--method: {name} must be a dataclass whose fields are its settings, got {found!r}; see squeeze methods."
        )
    return found


def _named(name: str) -> EntryPoint:
    known = installed()
    if name not in known:
        raise InputError(
            f"--method: must be one of {', '.join(known)} or file.py:Pass, got {name!r}; "
            f"{_meant(name, known)}see squeeze methods."
        )
    return known[name]


def _load(entry: EntryPoint) -> Any:
    try:
        return entry.load()
    except (ImportError, AttributeError) as error:
        package = entry.dist.name if entry.dist else "an unknown package"
        raise InputError(
            f"--method: {entry.name} must be importable, got {error} from {package}; reinstall it."
        ) from error


def parse_assignments(assignments: Sequence[str]) -> dict[str, str]:
    """Split ``field=value`` texts.

    Raises:
        InputError: A text holds no ``=``.
    """
    parsed = {}
    for text in assignments:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise InputError(f"--set: must be field=value, got {text!r}; write e.g. --set round_to=1.")
        parsed[name.strip()] = value.strip()
    return parsed


def build(
    record: type[Record], texts: Mapping[str, str], values: Mapping[str, Any], what: str, prefix: str = ""
) -> Record:
    """Make a frozen dataclass from texts, which are converted by each field's type, and from values as they are.

    Args:
        record: The dataclass.
        texts: By name of the field, from ``--set``.
        values: By name of the field, from options of their own.
        what: Whose settings these are, for messages.
        prefix: What stood before the names of `texts` on the command line.

    Raises:
        InputError: A field that does not exist, is given twice or is missing, or a value that can't be.
    """
    hints = get_type_hints(record)
    known = {field.name: field for field in dataclasses.fields(record) if field.init}  # type: ignore[arg-type]
    for name in values:
        if name not in known:
            raise InputError(f"--{name}: must be a setting of {what}, got one that it has not; leave it out.")
    for name in texts:
        if name not in known:
            raise InputError(
                f"--set: a setting of {what} must be one of {', '.join(known)}, got {name!r}; "
                f"{_meant(name, known)}see squeeze methods."
            )
    for name in sorted(texts.keys() & values.keys()):
        raise InputError(f"--set: must name what no other option names, got {prefix}{name} twice; drop one of them.")
    for name, field in known.items():
        if _default(field) == REQUIRED and name not in texts and name not in values:
            raise InputError(f"--set: {what} must be given {prefix}{name}, got none; add --set {prefix}{name}=VALUE.")
    converted = {name: convert(text, hints[name], f"{prefix}{name}") for name, text in texts.items()}
    try:
        return record(**converted, **values)
    except (ValueError, TypeError) as error:
        raise InputError(str(error)) from error


def convert(text: str, annotation: Any, name: str) -> Any:
    """Text as a value of the annotated type: numbers, bools, text, choices, None, and tuples of these.

    Raises:
        InputError: It is not one.
    """
    try:
        return _convert(text, annotation)
    except ValueError as error:
        raise InputError(f"--set {name}: must be {describe(annotation)}, got {text!r}; see squeeze methods.") from error


def _convert(text: str, annotation: Any) -> Any:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        return _first(text, arguments)
    if origin is Literal:
        return next(value for value in arguments if str(value) == text) if text in map(str, arguments) else _refuse()
    if origin in (tuple, list, frozenset) or annotation is tuple:
        parts = [part.strip() for part in text.strip("()").split(",") if part.strip()]
        kinds = [arguments[0]] * len(parts) if len(arguments) < 2 or arguments[1] is Ellipsis else list(arguments)
        return (origin or tuple)(_convert(part, kind) for part, kind in zip(parts, kinds, strict=True))
    if annotation is type(None):
        return None if text.lower() == "none" else _refuse()
    if annotation is bool:
        return WORDS[text.lower()] if text.lower() in WORDS else _refuse()
    if annotation in (int, float, str):
        return annotation(text)
    if annotation is Any:
        return _literal(text)
    return _refuse()


def _first(text: str, annotations: Sequence[Any]) -> Any:
    # None first and text last, so that "none" and "3" become what they look like.
    for annotation in sorted(annotations, key=lambda kind: (kind is str, kind is not type(None))):
        try:
            return _convert(text, annotation)
        except ValueError:
            continue
    return _refuse()


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except SyntaxError:
        return text


def _refuse() -> Any:
    raise ValueError


def describe(annotation: Any) -> str:
    """A type as people write it: ``int``, ``number``, ``filters|blocks``, ``none``."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return "|".join(str(value) for value in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join(describe(kind) for kind in arguments)
    if origin in (tuple, list, frozenset):
        return f"{describe(arguments[0])}, ..." if arguments else "a list"
    names: dict[Any, str] = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
    return (
        "none" if annotation is type(None) else names.get(annotation, getattr(annotation, "__name__", str(annotation)))
    )


def settings_of(record: type[Any]) -> list[Setting]:
    """The settings of a pass, with what its docstring says about each."""
    hints, docs = get_type_hints(record), _attribute_docs(inspect.getdoc(record) or "")
    return [
        Setting(field.name, describe(hints[field.name]), _default(field), docs.get(field.name, ""))
        for field in dataclasses.fields(record)
        if field.init
    ]


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default is not dataclasses.MISSING:
        value = field.default
    elif field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    else:
        return REQUIRED
    return written(value) or "(empty)"


def written(value: Any) -> str:
    """A setting as ``--set`` takes it."""
    if isinstance(value, tuple | list | frozenset):
        return ",".join(str(item) for item in value)
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _attribute_docs(doc: str) -> dict[str, str]:
    """What the section ``Attributes:`` or ``Args:`` of a Google docstring says, by name."""
    section = re.search(r"^(?:Attributes|Args):\n((?:[ \t]+.*\n?|\n)+)", doc, re.MULTILINE)
    entries: dict[str, str] = {}
    name = ""
    for line in (section.group(1) if section else "").splitlines():
        start = re.match(r"^ {4}(\w+)(?: \(.*?\))?: (.*)$", line)
        if start:
            name = start.group(1)
            entries[name] = start.group(2)
        elif name and line.strip():
            entries[name] += " " + line.strip()
    return {name: text.replace("``", "") for name, text in entries.items()}


def _meant(name: str, known: Any) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {close[0]!r}? " if close else ""
