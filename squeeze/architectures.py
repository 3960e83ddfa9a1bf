"""Architectures by name: what ``--arch`` accepts."""

import difflib
import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from torch import nn

from squeeze.errors import InputError

Builder = Callable[[], nn.Module]


def builder(spec: str) -> Builder:
    """What makes the dense model that a name stands for.

    Args:
        spec: ``torchvision:NAME``, ``timm:NAME``, ``file.py:callable`` or ``package.module:callable``; keyword
            arguments may follow, as in ``torchvision:resnet18?num_classes=10``.

    Raises:
        InputError: There is no such thing; or, once called, it does not make a module.
    """
    where, _, options = spec.partition("?")
    kind, _, name = where.partition(":")
    if not kind or not name:
        raise InputError(
            f"arch: must be torchvision:NAME, timm:NAME, file.py:callable or package.module:callable, got {spec!r}."
        )
    settings = dict(_setting(spec, part) for part in options.split("&") if part)
    make = {"torchvision": _torchvision, "timm": _timm}.get(kind, lambda _: load_callable(where))(name)

    def build() -> nn.Module:
        try:
            model = make(**settings)
        except InputError:
            raise
        except Exception as error:
            raise InputError(
                f"arch: {spec} must build a model, got {type(error).__name__}: {_first_line(error)}; "
                "call it in Python to see why."
            ) from error
        if not isinstance(model, nn.Module):
            raise InputError(
                f"arch: {spec} must return an nn.Module, got {type(model).__name__}; name what builds one."
            )
        return model

    return build


def load_callable(spec: str) -> Callable[..., Any]:
    """The function or class that ``file.py:name`` or ``package.module:name`` stands for. This runs that file.

    Raises:
        InputError: The file cannot be imported, or has nothing of this name that can be called.
    """
    place, _, name = spec.rpartition(":")
    try:
        module = _module_of(Path(place)) if place.endswith(".py") else importlib.import_module(place)
    except FileNotFoundError as error:
        raise InputError(f"{place}: must be a file, got none there; check the path.") from error
    except Exception as error:
        raise InputError(
            f"{place}: must be importable, got {type(error).__name__}: {_first_line(error)}; run it in Python to see why."
        ) from error
    found = getattr(module, name, None)
    if not callable(found):
        names = [n for n, value in vars(module).items() if callable(value) and not n.startswith("_")]
        raise InputError(f"{place}: must have something callable named {name!r}, got none; {_hint(name, names)}")
    return found  # type: ignore[no-any-return]


def _module_of(path: Path) -> Any:
    """Import a file; as part of its package if it is in one, so that its own imports work."""
    path = path.resolve(strict=True)
    root, parts = path.parent, [path.stem]
    while (root / "__init__.py").exists():
        root, parts = root.parent, [root.name, *parts]
    name = ".".join(parts) if len(parts) > 1 else f"squeeze_user_{path.stem}_{abs(hash(path)):x}"
    if name in sys.modules:
        return sys.modules[name]
    before = list(sys.path)
    sys.path.insert(0, str(root))
    try:
        if len(parts) > 1:
            return importlib.import_module(name)
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None:
            raise InputError(f"{path.name}: must be a Python file, got something else; check the path.")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
        return module
    finally:
        sys.path[:] = before


def _torchvision(name: str) -> Callable[..., Any]:
    from torchvision import models

    if name not in models.list_models():
        raise InputError(
            f"arch: torchvision must have {name!r}, got no such model; {_hint(name, models.list_models())}"
        )
    return lambda **settings: models.get_model(name, weights=None, **_no_backbone(name, settings))


def _no_backbone(name: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Detectors and segmenters would else fetch the weights of their backbone."""
    from torchvision import models

    takes = models.get_model_builder(name).__code__.co_varnames
    return {"weights_backbone": None, **settings} if "weights_backbone" in takes else settings


def _timm(name: str) -> Callable[..., Any]:
    try:
        timm = importlib.import_module("timm")
    except ImportError as error:
        raise InputError(f"arch: timm:{name} needs the package timm, got no such package; pip install timm.") from error
    if not timm.is_model(name):
        raise InputError(f"arch: timm must have {name!r}, got no such model; {_hint(name, timm.list_models())}")
    return lambda **settings: timm.create_model(name, pretrained=False, **settings)


def _setting(spec: str, part: str) -> tuple[str, Any]:
    name, equals, text = part.partition("=")
    if not equals or not name.isidentifier():
        raise InputError(f"arch: options must be name=value joined by &, got {part!r} in {spec}.")
    known = {"true": True, "false": False, "none": None}
    if text.lower() in known:
        return name, known[text.lower()]
    for number in (int, float):
        try:
            return name, number(text)
        except ValueError:
            continue
    return name, text


def _hint(name: str, names: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(names), 3)
    return f"did you mean {' or '.join(close)}?" if close else "check the spelling."


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else "no message"
