"""The compiled kernel, if the package was built with one: found, described and called through ctypes."""

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any, Literal, get_args

LAYOUT = 6
"""Of the structures below; a kernel that was built for another is not called."""
_POINTER, _INT = ctypes.c_void_p, ctypes.c_int64


class Layer(ctypes.Structure):
    """`squeeze::Layer` of native/clustered.h."""

    _fields_ = [
        ("outputs", _INT),
        ("kernel", _INT),
        ("stride", _INT),
        ("padding", _INT),
        ("vectors", _INT),
        ("clustered", _INT),
        ("channel", _POINTER),
        ("count", _POINTER),
        ("start", _POINTER),
        ("centroids", _POINTER),
        ("offsets", _POINTER),
        ("chunks", _INT),
        ("chunk", _POINTER),
        ("rows", _INT),
        ("stages", _INT),
        ("stage", _POINTER),
        ("dense", _INT),
        ("dense_channel", _POINTER),
        ("dense_weight", _POINTER),
        ("bias", _POINTER),
    ]


class Call(ctypes.Structure):
    """`squeeze::Call` of native/clustered.h."""

    _fields_ = [
        ("input", _POINTER),
        ("output", _POINTER),
        ("images", _INT),
        ("height", _INT),
        ("width", _INT),
        ("out_height", _INT),
        ("out_width", _INT),
        ("input_image", _INT),
        ("output_image", _INT),
    ]


class GatedLayer(ctypes.Structure):
    """`squeeze::GatedLayer` of native/gated.h."""

    _fields_ = [
        ("filters", _INT),
        ("channels", _INT),
        ("depthwise", _INT),
        ("kernel", _INT * 2),
        ("stride", _INT * 2),
        ("padding", _INT * 2),
        ("dilation", _INT * 2),
        ("weight", _POINTER),
        ("bias", _POINTER),
        ("hidden", _INT),
        ("hidden_padded", _INT),
        ("filters_padded", _INT),
        ("reduce", _POINTER),
        ("reduce_bias", _POINTER),
        ("expand", _POINTER),
        ("expand_bias", _POINTER),
    ]


class GatedCall(ctypes.Structure):
    """`squeeze::GatedCall` of native/gated.h."""

    _fields_ = [
        ("input", _POINTER),
        ("output", _POINTER),
        ("logits", _POINTER),
        ("present", _POINTER),
        ("rows", _POINTER),
        ("images", _INT),
        ("reads", _INT),
        ("count", _INT),
        ("height", _INT),
        ("width", _INT),
        ("out_height", _INT),
        ("out_width", _INT),
        ("scatter", _INT),
    ]


class GatedSite(ctypes.Structure):
    """`squeeze::GatedSite` of native/gated.h."""

    _fields_ = [("code", ctypes.c_char_p), ("layer", ctypes.POINTER(GatedLayer)), ("call", GatedCall)]


GatedStep = Literal["logits", "rows"]


@dataclass(frozen=True)
class Code:
    """The kernel for one instruction set.

    Attributes:
        name: "avx512", "avx2", "neon" or "portable".
        vector_bytes: Of one vector.
        cache_bytes: Of the first-level cache that are counted on.
    """

    name: str
    vector_bytes: int
    cache_bytes: int
    _name: bytes
    _library: Any

    def run(self, layer: Layer, call: Call, threads: int) -> None:
        """One layer on one batch; the GIL is free meanwhile."""
        status = self._library.squeeze_clustered_conv2d(self._name, ctypes.byref(layer), ctypes.byref(call), threads)
        if status:
            raise RuntimeError(
                f"kernel {self.name}: must run on this processor, got status {status}; install squeeze again."
            )

    def run_gated(self, step: GatedStep, layer: GatedLayer, call: GatedCall, threads: int) -> None:
        """One step of a gated convolution on one batch."""
        run = getattr(self._library, f"squeeze_gated_{step}")
        status: int = run(self._name, ctypes.byref(layer), ctypes.byref(call), threads)
        if status < 0:
            raise self.refused(status, layer)

    @property
    def gated(self) -> Callable[..., int]:
        """`squeeze_gated_conv2d` of native/gated.cpp: what it returns below 0, `refused` explains."""
        module = extension()
        run: Callable[..., int] = self._library.squeeze_gated_conv2d if module is None else module.gated
        return run

    def site(self, layer: GatedLayer, call: GatedCall) -> GatedSite:
        """What `gated` takes the address of."""
        return GatedSite(self._name, ctypes.pointer(layer), call)

    def refused(self, status: int, layer: GatedLayer) -> ValueError:
        """What is wrong with a call of a gated convolution."""
        wrong = {
            -2: f"rows must ascend within {layer.filters} filters",
            -3: f"present must ascend within {layer.channels} channels",
        }
        return ValueError(f"kernel {self.name}: {wrong.get(status, 'must run on this processor')}, got status {status}")


@cache
def code(name: str = "") -> Code | None:
    """The best code that this processor runs, or the one of that name; None if there is none or nothing was built."""
    library = built()
    if library is None:
        return None
    vector, cached = _INT(), _INT()
    found = library.squeeze_clustered_code(name.encode(), ctypes.byref(vector), ctypes.byref(cached))
    return Code(found.decode(), vector.value, cached.value, found, library) if found else None


@cache
def extension() -> Any:
    """The library as a module of Python, which is called faster; None if it was built without Python's headers."""
    if built() is None:
        return None
    try:
        return import_module("squeeze.kernels._clustered")
    except ImportError:
        return None


@cache
def built() -> Any:
    """The library that the package was built with, or None if there is none that fits."""
    spec = PathFinder.find_spec("squeeze.kernels._clustered", [str(Path(__file__).parent)])
    if spec is None or spec.origin is None:
        return None
    try:
        library = ctypes.CDLL(spec.origin)
    except OSError:  # built for another machine: as good as none
        return None
    layout = getattr(library, "squeeze_clustered_layout", None)
    if layout is None or layout() != LAYOUT:  # left from another version, in a development install
        return None
    library.squeeze_clustered_code.restype = ctypes.c_char_p
    library.squeeze_clustered_conv2d.argtypes = [ctypes.c_char_p, _POINTER, _POINTER, _INT]
    for step in get_args(GatedStep):
        run = getattr(library, f"squeeze_gated_{step}")
        run.argtypes, run.restype = [ctypes.c_char_p, _POINTER, _POINTER, _INT], _INT
    library.squeeze_gated_conv2d.argtypes = [_POINTER] * 4 + [_INT] * 3
    library.squeeze_gated_conv2d.restype = _INT
    return library
