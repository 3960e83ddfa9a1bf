"""Runs that leave a model as it was, in whatever mode."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from squeeze.nn import computing


@contextmanager
def quietly(model: nn.Module, training: bool = False) -> Iterator[None]:
    """Eval (or training) mode, and only ops that a rule can see; afterwards everything is as it was."""
    modes = {module: module.training for module in model.modules()}
    own = {id(buffer): buffer for module in modes for buffer in module._buffers.values() if buffer is not None}
    buffers = [(buffer, buffer.detach().clone()) for buffer in own.values()]
    held = [pair for module in modes if not isinstance(module, torch.jit.ScriptModule) for pair in _held(module)]
    fast, mkldnn = torch.backends.mha.get_fastpath_enabled(), torch.backends.mkldnn.enabled
    try:
        model.train(training)
        torch.backends.mha.set_fastpath_enabled(False)
        if any(isinstance(module, nn.RNNBase) for module in modes):
            torch.backends.mkldnn.set_flags(False)
        with torch.random.fork_rng(enabled=training), computing("masked"):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        torch.backends.mkldnn.set_flags(mkldnn)
        with torch.no_grad():
            for buffer, before in buffers:
                if not buffer.is_meta and (buffer.shape != before.shape or not torch.equal(buffer, before)):
                    buffer.copy_(before)
        for values, kept in held:
            for name in values.keys() - kept.keys():
                del values[name]
            values.update(kept)
        for module, training in modes.items():
            module.training = training


def _held(module: nn.Module) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """What a module and its caches hold, and copies of that: many keep in eval mode what they computed."""
    own = vars(module)
    caches = [value for name, value in own.items() if type(value) is dict and not name.startswith("_")]
    return [(values, dict(values)) for values in (own, module._buffers, *caches)]
