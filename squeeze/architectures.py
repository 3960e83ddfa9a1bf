"""Architectures by name: what ``--arch`` accepts, and user code by ``file.py:name``."""

import difflib
import functools
import hashlib
import importlib
import importlib.util
import inspect
import math
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from squeeze.errors import InputError, SqueezeError
from squeeze.limits import memory_limited

Builder = Callable[[], nn.Module]

_OWN = ("squeeze.demo:digits_resnet",)
_FETCHING = ("weights", "pretrained", "checkpoint")
_ROOM = 2**28
"""Bytes that making a model may take, besides what the model itself does."""
_OVERHEAD = 2**10
"""Bytes that an operation counts for, whatever it makes: layers without number cost memory and time, however small."""


def builder(spec: str, limit: int | None = None) -> Builder:
    """What makes the dense model that a name stands for.

    Args:
        spec: ``torchvision:NAME``, ``timm:NAME``, ``file.py:callable`` or ``package.module:callable``; keyword
            arguments may follow, as in ``torchvision:resnet18?num_classes=10&norm_eps=1e-3``.
        limit: Bytes that the model may take, for a name from a file that is not trusted.

    Raises:
        InputError: There is no such thing; or, once called, it does not make a module.
    """
    where, _, options = spec.partition("?")
    kind, _, name = where.partition(":")
    if not kind or not name:
        close = f"did you mean torchvision:{where}?" if where in _torchvision_names() else "say which it is."
        raise InputError(
            "arch: must be torchvision:NAME, timm:NAME, file.py:callable or package.module:callable, "
            f"got {spec!r}; {close}"
        )
    settings = dict(_setting(spec, part) for part in options.split("&") if part)
    if kind in ("torchvision", "timm"):
        _refuse_fetching(spec, settings)
        make = _guarded(_torchvision(name) if kind == "torchvision" else _timm(name), spec, "arch")
    else:
        found = import_object(where, "arch")
        make = functools.partial(deepcopy, found) if isinstance(found, nn.Module) else _called(found, where, "arch")

    def build() -> nn.Module:
        with ExitStack() as bounds:
            if limit is not None:
                bounds.enter_context(memory_limited(2 * limit + _ROOM))
                bounds.enter_context(_Bounded(spec, limit))
            model = make(**settings)
        if not isinstance(model, nn.Module):
            raise InputError(
                f"arch: {spec} must return an nn.Module, got {type(model).__name__}; name what builds one."
            )
        return model

    return build


def runs_code(spec: str) -> bool:
    """The name stands for code of somebody else's, which must not run because a file says so."""
    return not spec.startswith(("torchvision:", "timm:")) and spec not in _OWN


def load_callable(spec: str, where: str = "data") -> Callable[..., Any]:
    """What ``file.py:name`` or ``package.module:name`` stands for; where it is a function, its errors become ours.

    Args:
        spec: The name.
        where: What it is for, in messages.

    Raises:
        InputError: See `import_object`; or, once called, it fails.
    """
    found = import_object(spec, where)
    return found if inspect.isclass(found) else _called(found, spec, where)


def import_object(spec: str, where: str) -> Any:
    """What ``file.py:name`` or ``package.module:name`` stands for. This runs that file.

    A file is imported as part of its package if it is in one, else it finds its neighbours, as a script does.
    A package may lie in the working folder.

    Args:
        spec: The name.
        where: What it is for, in messages.

    Raises:
        InputError: It cannot be imported, or has nothing of this name.
    """
    place, _, name = spec.rpartition(":")
    if not place or not name:
        raise InputError(f"{where}: must be file.py:name or package.module:name, got {spec!r}; name what to call.")
    module = _guarded(_module, place, where)(place)
    try:
        return functools.reduce(getattr, name.split("."), module)
    except AttributeError as error:
        names = [n for n, value in vars(module).items() if callable(value) and not n.startswith("_")]
        raise InputError(f"{where}: {place} must define {name!r}, got none; {_hint(name, names)}") from error


def _called(found: Any, spec: str, where: str) -> Callable[..., Any]:
    if not callable(found):
        raise InputError(f"{where}: {spec} must be a function or a class, got {found!r}; name what can be called.")
    call = _guarded(found, spec, where)
    place = spec.rpartition(":")[0]

    def run(*args: Any, **kwargs: Any) -> Any:
        # Functions may import their neighbours as late as when they run.
        with _importable(_root(Path(place))[0] if place.endswith(".py") else Path.cwd()):
            return call(*args, **kwargs)

    return run


def _guarded(function: Callable[..., Any], spec: str, where: str) -> Callable[..., Any]:
    """The function, with whatever it raises told in one line, with the line of the user's code."""

    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except SqueezeError:
            raise
        except (Exception, SystemExit) as error:
            text = " ".join(str(error).split())[:200] or "no message"
            raise InputError(
                f"{where}: {spec} must run, got {type(error).__name__}: {text}{_place(error)}; try it in Python."
            ) from error

    return run


def _place(error: BaseException) -> str:
    """The innermost line outside of installed packages, as " (file.py:3)"."""
    if isinstance(error, SyntaxError) and error.filename:
        return f" ({Path(error.filename).name}:{error.lineno})"
    installed = (*sysconfig.get_paths().values(), str(Path(__file__).parent), "<")
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(installed)]
    return f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""


@dataclass(frozen=True, eq=False)
class _Folder:
    """Finds modules in one folder."""

    path: str

    def find_spec(self, name: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """See `importlib.abc.MetaPathFinder`."""
        return PathFinder.find_spec(name, [self.path]) if path is None else None


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Modules in a folder can be imported, before those that are installed."""
    finder = _Folder(str(folder))
    finders: list[Any] = sys.meta_path
    finders.insert(finders.index(PathFinder) if PathFinder in finders else len(finders), finder)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        finders.remove(finder)


def _module(place: str) -> ModuleType:
    if not place.endswith(".py"):
        with _importable(Path.cwd()):
            return importlib.import_module(place)
    path = Path(place)
    if not path.is_file():
        raise InputError(
            f"{place}: must be a Python file, got {'a folder' if path.is_dir() else 'none'}; check the path."
        )
    path = path.resolve()
    root, name = _root(path)
    with _importable(root):
        if "." not in name:
            return _single(path)
        module = importlib.import_module(name)
    if module.__file__ is None or Path(module.__file__).resolve() != path:
        raise InputError(
            f"{place}: must be the module {name}, got another one at {module.__file__}; rename the folder."
        )
    return module


def _root(path: Path) -> tuple[Path, str]:
    """The folder to import a file from, and its dotted name there."""
    path = path.resolve()
    root, parts = path.parent, [path.stem]
    while (root / "__init__.py").exists():
        root, parts = root.parent, [root.name, *parts]
    return root, ".".join(parts)


def _single(path: Path) -> ModuleType:
    """A file by itself, under a name that no other module has; read again if it was changed."""
    stamp = f"{path} {path.stat().st_mtime_ns}"
    name = f"{path.stem}_{hashlib.sha256(stamp.encode()).hexdigest()[:12]}"
    if name in sys.modules:
        return sys.modules[name]
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


def _torchvision_names() -> list[str]:
    from torchvision import models

    return models.list_models()


def _torchvision(name: str) -> Callable[..., Any]:
    from torchvision import models

    if name not in _torchvision_names():
        raise InputError(
            f"arch: torchvision must have {name!r}, got no such model; {_hint(name, _torchvision_names())}"
        )
    # Detectors and segmenters would else fetch the weights of their backbone.
    backbone = "weights_backbone" in inspect.signature(models.get_model_builder(name)).parameters
    return functools.partial(models.get_model, name, weights=None, **({"weights_backbone": None} if backbone else {}))


def _timm(name: str) -> Callable[..., Any]:
    try:
        timm = importlib.import_module("timm")
    except ImportError as error:
        raise InputError(f"arch: timm:{name} needs the package timm, got no such package; pip install timm.") from error
    if not timm.is_model(name):
        raise InputError(f"arch: timm must have {name!r}, got no such model; {_hint(name, timm.list_models())}")
    return functools.partial(timm.create_model, name, pretrained=False)


def _refuse_fetching(spec: str, settings: Mapping[str, Any]) -> None:
    for name in settings:
        if name.startswith(_FETCHING):
            raise InputError(f"arch: {spec} must fetch no weights, got {name}; leave it out, they come from MODEL.")


def _setting(spec: str, part: str) -> tuple[str, Any]:
    name, equals, text = part.partition("=")
    if not equals or not name.isidentifier():
        raise InputError(
            f"arch: options must be name=value joined by &, got {part!r} in {spec}; write e.g. ?num_classes=10."
        )
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


class _Bounded(TorchDispatchMode):
    """Stops the making of a model before it takes more memory than it should."""

    def __init__(self, spec: str, limit: int) -> None:
        super().__init__()
        self._spec, self._limit, self._taken = spec, limit, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._taken += _OVERHEAD
        if args and isinstance(args[0], list | tuple) and all(isinstance(size, int) for size in args[0]):
            dtype = (kwargs or {}).get("dtype") or torch.get_default_dtype()
            self._taken += math.prod(args[0]) * dtype.itemsize
        self._check(self._taken)
        made = func(*args, **(kwargs or {}))
        if isinstance(made, Tensor):
            self._check(made.untyped_storage().nbytes())
        return made

    def _check(self, taken: int) -> None:
        if taken > self._limit:
            raise InputError(
                f"arch: {self._spec} must fit its file, which needs less than {self._limit} bytes, got {taken}; "
                "name the architecture yourself if you trust the file."
            )
