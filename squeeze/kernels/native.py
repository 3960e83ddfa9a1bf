"""The compiled kernel, if the package was built with one: found, described and called through ctypes."""

import ctypes
from dataclasses import dataclass
from functools import cache
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

LAYOUT = 3
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
    _run: Any

    def run(self, layer: Layer, call: Call, threads: int) -> None:
        """One layer on one batch; the GIL is free meanwhile."""
        status = self._run(self._name, ctypes.byref(layer), ctypes.byref(call), threads)
        if status:
            raise RuntimeError(
                f"kernel {self.name}: must run on this processor, got status {status}; install squeeze again."
            )


@cache
def code(name: str = "") -> Code | None:
    """The best code that this processor runs, or the one of that name; None if there is none or nothing was built."""
    library = built()
    if library is None:
        return None
    vector, cached = _INT(), _INT()
    found = library.squeeze_clustered_code(name.encode(), ctypes.byref(vector), ctypes.byref(cached))
    return Code(found.decode(), vector.value, cached.value, found, library.squeeze_clustered_conv2d) if found else None


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
    return library
