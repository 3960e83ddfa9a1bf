"""The test of meaning: without the filters that are most a class's own, that class should suffer most."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate.utils import send_to_device
from torch import Tensor, nn

from squeeze.gating.classes import attribute_of, class_paths
from squeeze.gating.codes import Codes
from squeeze.modes import in_eval_mode
from squeeze.nn import GatedConv2d, computing
from squeeze.paths.classes import by_layer, most_tied
from squeeze.task import Batch, Task, device_of

DRAWS = 3
"""Sets of random filters that a class's own are compared with."""
OFF = -1.0
"""A logit that leaves a filter off."""


@contextmanager
def silenced(model: nn.Module, filters: Mapping[str, np.ndarray]) -> Iterator[None]:
    """The gates of some filters are off inside, whatever the input; the network computes "masked" there.

    Args:
        model: Gated.
        filters: By name of the gated convolution, numbers of its filters.
    """
    with ExitStack() as held:
        held.enter_context(computing("masked"))  # the native kernel does not call the modules of the gate
        for name, numbers in filters.items():
            layer = model.get_submodule(name)
            if not isinstance(layer, GatedConv2d):
                raise TypeError(f"{name} has no gate")
            held.enter_context(_held_off(layer.gate, torch.from_numpy(np.ascontiguousarray(numbers))))
        yield


@contextmanager
def _held_off(gate: nn.Module, numbers: Tensor) -> Iterator[None]:
    def off(module: nn.Module, given: Any, logits: Tensor) -> Tensor:
        return logits.index_fill(1, numbers.to(logits.device), OFF)

    handle = gate.register_forward_hook(off)
    try:
        yield
    finally:
        handle.remove()


@dataclass(frozen=True, eq=False)
class Effect:
    """How one measure of the classes falls when the filters of one are silenced.

    Attributes:
        whole: (K,) of each class, with all filters.
        drops: (K, K) by how much column's class falls without the filters of row's class.
        random: (K,) the same for row's own class without as many random filters of the same layers, on average.
    """

    whole: np.ndarray
    drops: np.ndarray
    random: np.ndarray

    @property
    def own(self) -> float:
        """Mean drop of the class whose filters are silenced."""
        return float(np.diag(self.drops).mean())

    @property
    def others(self) -> float:
        """Mean drop of the classes beside it."""
        return float(self.drops[~np.eye(len(self.whole), dtype=bool)].mean())

    @property
    def hit(self) -> int:
        """For how many classes all others suffer less than they themselves."""
        rest = np.where(np.eye(len(self.whole), dtype=bool), -np.inf, self.drops)
        return int((np.diag(self.drops) > rest.max(1)).sum())

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {name: getattr(self, name).tolist() for name in ("whole", "drops", "random")}


@dataclass(frozen=True, eq=False)
class Silencing:
    """What it costs each class when the filters of one are silenced.

    Attributes:
        classes: (K,) those that were tried, two at least.
        filters: How many were silenced for each of them; fewer where fewer are its own.
        accuracy: The share of a class's inputs that are seen as that class.
        lead: Of the class's own feature over the largest other one, on average. It moves long before accuracy does.
    """

    classes: np.ndarray
    filters: tuple[int, ...]
    accuracy: Effect
    lead: Effect

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "classes": self.classes.tolist(),
            "filters": list(self.filters),
            "accuracy": self.accuracy.to_dict(),
            "lead": self.lead.to_dict(),
        }


def silencing(
    model: nn.Module, task: Task, batches: Sequence[Batch], codes: Codes, filters: int, classes: int
) -> Silencing | None:
    """Silence the filters of each class in turn.

    Which filters are a class's own is taken from every other input, and what silencing them costs is measured on the
    inputs between, so that no filter is judged by what chose it.

    Args:
        model: Gated; left as it is.
        task: Knows how the model is called.
        batches: The data that the codes are of, in the same order.
        codes: Of the network.
        filters: How many to silence for one class.
        classes: Try the largest so many.

    Returns:
        None where there are fewer than two classes on both sides, or none has a filter of its own.
    """
    attribute, _ = attribute_of(codes)
    chosen_on = np.arange(len(codes)) % 2 == 0
    first = codes.part(chosen_on)
    paths = class_paths(first, attribute[chosen_on])
    known = np.intersect1d(paths.classes, attribute[~chosen_on])
    if len(known) < 2:
        return None
    sizes = dict(zip(paths.classes.tolist(), paths.counts.tolist(), strict=True))
    tried = np.array(sorted(sorted(known.tolist(), key=lambda k: (-sizes[k], k))[:classes]))
    tied, generator = most_tied(paths, filters), np.random.default_rng(0)
    if not any(len(tied[label]) for label in tried.tolist()):
        return None
    judged = attribute[~chosen_on]

    def measured(off: Mapping[str, np.ndarray]) -> np.ndarray:
        with silenced(model, off):
            each = np.stack(_judged(_features(model, task, batches)[~chosen_on], judged))
        return np.stack([each[:, judged == label].mean(1) for label in tried.tolist()], 1)

    whole = measured({})
    drops, random = [], []
    for place, label in enumerate(tried.tolist()):
        own = by_layer(codes, tied[label])
        drops.append(whole - measured(own))
        draws = [measured(_alike(first, own, generator))[:, place] for _ in range(DRAWS)]
        random.append(whole[:, place] - np.mean(draws, 0))
    effects = [
        Effect(whole[row], np.stack([drop[row] for drop in drops]), np.array([drop[row] for drop in random]))
        for row in range(2)
    ]
    return Silencing(tried, tuple(len(tied[label]) for label in tried.tolist()), *effects)


def _judged(features: np.ndarray, classes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(S,) whether each input is seen as its class, and (S,) the lead of that class."""
    rows = np.arange(len(features))
    own, rest = features[rows, classes], features.copy()
    rest[rows, classes] = -np.inf
    return (features.argmax(1) == classes).astype(np.float64), (own - rest.max(1)).astype(np.float64)


def _alike(codes: Codes, own: Mapping[str, np.ndarray], generator: np.random.Generator) -> dict[str, np.ndarray]:
    """As many filters of the same layers at random, among those that are on at all: others cannot be missed."""
    found = {}
    for name, numbers in own.items():
        used = np.flatnonzero(codes.on[:, codes.layer(name)].any(0))
        found[name] = generator.choice(used, min(len(numbers), len(used)), replace=False)
    return found


def _features(model: nn.Module, task: Task, batches: Sequence[Batch]) -> np.ndarray:
    """(S, D) the network's own."""
    device, found = device_of(model), []
    with in_eval_mode(model), torch.no_grad(), computing("masked"):
        for batch in batches:
            found.append(task.features(model, send_to_device(batch, device)).float().cpu().numpy())
    return np.concatenate(found)
