"""Counting while a model runs: multiply-accumulates by the module that asked for them, and the peak of memory."""

import weakref
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.hooks import RemovableHandle

from squeeze.contractions import macs_of, may_hide_macs
from squeeze.nn import CountsMacs
from squeeze.task import tensors_of


class PeakMemory:
    """The most bytes of tensors alive at one time, storages counted once however many views they have."""

    def __init__(self, free: Iterable[Tensor]) -> None:
        """Start at zero; what is in `free` (the model's own tensors) is never counted."""
        self.peak = 0
        self._now = 0
        self._alive: set[int] = set()
        self._free = [tensor.untyped_storage() for tensor in free if tensor.layout == torch.strided]
        self._alive.update(id(storage) for storage in self._free)

    def see(self, tensors: Iterable[Tensor]) -> None:
        """Count the storages that were not seen before, until they die."""
        for tensor in tensors:
            if tensor.layout != torch.strided:
                continue
            storage = tensor.untyped_storage()
            key, size = id(storage), storage.nbytes()
            if key not in self._alive:
                self._alive.add(key)
                self._now += size
                weakref.finalize(storage, self._forget, key, size).atexit = False
        self.peak = max(self.peak, self._now)

    def _forget(self, key: int, size: int) -> None:
        self._alive.discard(key)
        self._now -= size


class ModuleCounter(TorchDispatchMode):
    """Counts every operator that runs, for the innermost module that is being called.

    Attributes:
        macs: By dotted module name; "" is the model itself.
        outputs: Shape of the first tensor that each called module returned last.
        paper: By name of the module, for modules that count as their method's paper does: see `squeeze.nn.CountsMacs`.
        unknown: Operators that may multiply and accumulate but cannot be counted.
        memory: The peak over all results.
    """

    def __init__(self, memory: PeakMemory) -> None:
        super().__init__()
        self.macs: Counter[str] = Counter()
        self.paper: Counter[str] = Counter()
        self.outputs: dict[str, tuple[int, ...]] = {}
        self.unknown: set[str] = set()
        self.memory = memory
        self._calls: list[str] = []

    def __torch_dispatch__(self, func: OpOverload, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if torch.is_inference_mode_enabled():
            # There composite operators arrive whole; their parts are what is counted.
            with self:
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        out = func(*args, **kwargs)
        macs = macs_of(func, args, kwargs, out)
        if macs:
            self.macs[self._calls[-1] if self._calls else ""] += macs
        elif macs is None and may_hide_macs(func):
            self.unknown.add(str(func))
        self.memory.see(tensors_of(out))
        return out

    @contextmanager
    def watching(self, model: nn.Module) -> Iterator[None]:
        """Count what runs inside, for the modules of `model`."""
        handles: list[RemovableHandle] = []
        for name, module in model.named_modules():
            handles.append(module.register_forward_pre_hook(self._entering(name)))
            handles.append(module.register_forward_hook(self._leaving(name), always_call=True))
        try:
            with self:
                yield
        finally:
            for handle in handles:
                handle.remove()

    def _entering(self, name: str) -> Any:
        def enter(module: nn.Module, args: Any) -> None:
            self._calls.append(name)

        return enter

    def _leaving(self, name: str) -> Any:
        def leave(module: nn.Module, args: Any, out: Any) -> None:
            self._calls.pop()
            tensors = tensors_of(out)
            if tensors:
                self.outputs[name] = tuple(tensors[0].shape)
            if tensors and isinstance(module, CountsMacs):
                self.paper[name] += module.macs(tensors[0].shape).paper

        return leave
