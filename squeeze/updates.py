"""One update of what is trained: a batch in parts, in some precision, by one process or several."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Literal, get_args

import torch
from accelerate.utils import get_grad_scaler, send_to_device
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import Optimizer

from squeeze import processes
from squeeze.errors import InputError
from squeeze.norms import SharedStatistics
from squeeze.task import Batch

Kind = Literal["no", "bf16", "fp16"]


class Precision:
    """In which numbers the forward pass runs; weights, gradients and updates are always as the model has them.

    Args:
        kind: "bf16", "fp16" (whose gradients are scaled, so that they do not vanish), "no" for neither, or None
            for what ``accelerate launch`` was told, and "no" without it.
        device: Where training happens.

    Attributes:
        kind: As it is.
        scaler: Of fp16's gradients.

    Raises:
        InputError: There is no such precision, or the device does not have it.
    """

    def __init__(self, kind: str | None, device: torch.device) -> None:
        self.kind = kind or os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
        self.device = device
        if self.kind not in get_args(Kind):
            raise InputError(f"precision: must be {', '.join(get_args(Kind))}, got {self.kind!r}; choose one of them.")
        if self.kind == "fp16" and device.type == "cpu":
            raise InputError(
                "precision: must be no or bf16 on a CPU, got fp16; choose bf16, or move the model to a GPU."
            )
        if self.kind == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
            raise InputError("precision: must be no or fp16 on this GPU, got bf16; choose fp16.")
        self.scaler: GradScaler | None = get_grad_scaler() if self.kind == "fp16" else None

    def autocast(self) -> AbstractContextManager[Any]:
        """Run the forward pass in this precision."""
        if self.kind == "no":
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16 if self.kind == "bf16" else torch.float16)

    def state_dict(self) -> dict[str, Any]:
        """What must survive."""
        return self.scaler.state_dict() if self.scaler is not None else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Undo `state_dict`."""
        if self.scaler is not None:
            self.scaler.load_state_dict(dict(state))


@dataclass(frozen=True)
class Part:
    """What this process runs at once.

    Attributes:
        batch: Its rows of one of the batches.
        share: How much they count in the update; all parts of all processes sum up to 1.
        start: The first of them among all rows of the update.
    """

    batch: Batch
    share: float
    start: int = 0


class Update:
    """One update, made of the mean gradient over one or several batches, each divided among the processes.

    A learner runs its models on every part within `running`, gives each loss (a mean over the part's rows) to
    `backward`, then calls `step` for its optimisers. What it logs goes through `mean`.

    Args:
        batches: As the task gave them, the same in all processes.
        precision: Kept from update to update.

    Attributes:
        parts: What this process runs, one after the other.

    Raises:
        InputError: Batches cannot be divided.
    """

    def __init__(self, batches: Sequence[Batch], precision: Precision) -> None:
        self._precision = precision
        batches = [send_to_device(batch, precision.device) for batch in batches]
        if len(batches) == processes.count() == 1:
            self.parts = [Part(batches[0], 1.0)]
            return
        sizes = [rows(batch) for batch in batches]
        before = accumulate([0, *sizes[:-1]])
        mine = zip(batches, sizes, before, strict=True)
        self.parts = [self._mine(batch, size, begin, sum(sizes)) for batch, size, begin in mine]

    def _mine(self, batch: Batch, size: int, begin: int, total: int) -> Part:
        number, among = processes.rank(), processes.count()
        start, stop = size * number // among, size * (number + 1) // among
        if start == stop:  # too few rows for all: one that does not count keeps this process in step
            return Part(_cut(batch, size, 0, 1), 0.0, begin)
        return Part(_cut(batch, size, start, stop), (stop - start) / total, begin + start)

    @contextmanager
    def running(self, part: Part) -> Iterator[None]:
        """Run models on a part, in the precision of the run and with the batch statistics of all processes."""
        with self._precision.autocast(), self._shared(part):
            yield

    def _shared(self, part: Part) -> AbstractContextManager[Any]:
        return SharedStatistics(part.share > 0) if processes.count() > 1 else nullcontext()

    def backward(self, loss: Tensor, part: Part) -> None:
        """Add a part's gradient, by its share."""
        loss = loss if part.share == 1.0 else loss * part.share
        scaler = self._precision.scaler
        with self._shared(part):  # what is checkpointed runs again
            (loss if scaler is None else scaler.scale(loss)).backward()

    def collect(self, optimizer: Optimizer) -> bool:
        """Make an optimiser's gradients those of the whole update; False if they overflowed and mean nothing."""
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        add_up_gradients(parameters)
        if self._precision.scaler is None:
            return True
        self._precision.scaler.unscale_(optimizer)
        return all(bool(p.grad.isfinite().all()) for p in parameters if p.grad is not None)

    def step(self, optimizer: Optimizer) -> None:
        """`collect`, and move; gradients that overflowed move nothing."""
        self.collect(optimizer)
        if self._precision.scaler is None:
            optimizer.step()
        else:
            self._precision.scaler.step(optimizer)

    def finish(self) -> None:
        """After everything that a learner does for this update."""
        if self._precision.scaler is not None:
            self._precision.scaler.update()

    def mean(self, scalars: Sequence[Mapping[str, float]]) -> dict[str, float]:
        """Scalars of the whole update, from those of each part; the same in all processes."""
        if len(scalars) == processes.count() == 1:
            return dict(scalars[0])
        pairs = list(zip(scalars, self.parts, strict=True))
        sums = [sum(part.share * found[name] for found, part in pairs if part.share) for name in scalars[0]]
        everyones = processes.add_up(torch.tensor(sums, dtype=torch.float64, device=processes.home()))
        return dict(zip(scalars[0], everyones.tolist(), strict=True))


def rows(batch: Batch) -> int:
    """How many samples a batch holds.

    Raises:
        InputError: Its tensors are not of one length.
    """
    lengths = sorted({len(tensor) for tensor in _tensors(batch) if tensor.dim()})
    if len(lengths) != 1:
        raise InputError(
            "data: a batch that is divided or accumulated must hold tensors with one row a sample, got "
            f"{'lengths ' + ', '.join(map(str, lengths)) if lengths else 'no tensor'}; stack the samples, or train "
            "in one process without accumulate."
        )
    return lengths[0]


def _tensors(tree: Any) -> list[Tensor]:
    if isinstance(tree, Tensor):
        return [tree]
    children = tree.values() if isinstance(tree, Mapping) else tree if isinstance(tree, list | tuple) else ()
    return [tensor for child in children for tensor in _tensors(child)]


def _cut(tree: Any, size: int, start: int, stop: int) -> Any:
    """Rows of everything that has one a sample: tensors, and lists without tensors in them (of texts, say)."""
    if isinstance(tree, Tensor):
        return tree[start:stop] if tree.dim() else tree
    if isinstance(tree, Mapping):
        return {name: _cut(value, size, start, stop) for name, value in tree.items()}
    if isinstance(tree, list | tuple):
        if len(tree) == size and not _tensors(tree):
            return tree[start:stop]
        children = [_cut(child, size, start, stop) for child in tree]
        return type(tree)(*children) if hasattr(tree, "_fields") else type(tree)(children)
    return tree


@torch.no_grad()
def add_up_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Sum gradients over the processes, in few messages; what has one nowhere gets none."""
    if processes.count() == 1:
        return
    trained = [p for p in parameters if p.requires_grad]
    if not trained:
        return
    there = torch.tensor([p.grad is not None for p in trained], dtype=torch.float32, device=processes.home())
    used = [p for p, some in zip(trained, processes.add_up(there).tolist(), strict=True) if some]
    for kind in dict.fromkeys((p.dtype, p.device) for p in used):
        alike = [p for p in used if (p.dtype, p.device) == kind]
        for p in alike:
            if p.grad is None:
                p.grad = torch.zeros_like(p)
            elif p.grad.layout is not torch.strided:
                p.grad = p.grad.to_dense()
        flat = processes.add_up(torch.cat([p.grad.reshape(-1) for p in alike if p.grad is not None]))
        for p, piece in zip(alike, flat.split([p.numel() for p in alike]), strict=True):
            if p.grad is not None:
                p.grad.copy_(piece.view(p.shape))
