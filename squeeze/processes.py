"""One run in several processes, as `torchrun` starts them: who is who, and what they tell each other.

Every process holds the whole model and reads the same batches; only the work on a batch is divided. So whatever is
decided is decided everywhere alike, and the first process alone writes and speaks.
"""

import hashlib
import json
import os
import re
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from types import FrameType
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch import distributed as dist

from squeeze.errors import InputError, ProcessError, SqueezeError

Answer = TypeVar("Answer")

_PATIENCE = timedelta(seconds=5)
"""To find out who failed first; the answer comes at once or never."""


def count() -> int:
    """How many processes run together."""
    return dist.get_world_size() if _begun() else _number("WORLD_SIZE", 1)


def rank() -> int:
    """Which of them this one is, from 0."""
    return dist.get_rank() if _begun() else _number("RANK", 0 if count() == 1 else None)


def is_first() -> bool:
    """Whether this is the process that writes and speaks."""
    return rank() == 0


def _begun() -> bool:
    return dist.is_available() and dist.is_initialized()


def _number(name: str, default: int | None) -> int:
    text = os.environ.get(name, default)
    if text is None or not str(text).isdecimal():
        raise InputError(f"processes: {name} must be a whole number, got {text!r}; start with torchrun.")
    return int(text)


@contextmanager
def _collective() -> Iterator[None]:
    """Something that all processes do together; begins the group with the first of it."""
    if not dist.is_initialized():
        _begin()
    try:
        yield
    except RuntimeError as error:  # gloo and NCCL have no type of their own for a peer that is gone
        raise ProcessError(
            f"processes: all {count()} must run to the end, got one that ended before ({_reason(error)}); "
            "see what it or the launcher says, then run again with resume."
        ) from error


def _begin() -> None:
    try:
        dist.init_process_group()
    except (RuntimeError, ValueError) as error:
        raise InputError(
            f"processes: all {count()} must find each other, got {_reason(error)}; start with torchrun."
        ) from error


def _reason(error: Exception) -> str:
    """What an error says, without the line of C++ that it begins with and the advice that follows."""
    return re.sub(r"^\[\S+\] ", "", " ".join(str(error).split())).split(". ")[0]


def home() -> torch.device:
    """Where a tensor must lie to be sent."""
    if count() == 1:
        return torch.device("cpu")
    if not dist.is_initialized():
        _begin()
    return torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")


def add_up(tensor: Tensor) -> Tensor:
    """The sum over processes, in place; the same bits everywhere."""
    if count() > 1:
        with _collective():
            dist.all_reduce(tensor)
    return tensor


def gathered(numbers: Sequence[int]) -> list[list[int]]:
    """What each process gave, by rank; all must give equally many."""
    if count() == 1:
        return [list(numbers)]
    with _collective():
        mine = torch.tensor(numbers, dtype=torch.int64, device=home())
        everyones = [torch.empty_like(mine) for _ in range(count())]
        dist.all_gather(everyones, mine)
    return [theirs.tolist() for theirs in everyones]


def from_first(answer: Callable[[], Answer]) -> Answer:
    """What the first process says, asked there alone; JSON values.

    Raises:
        ProcessError: In the others, if the question failed in the first, where its own error is raised.
    """
    if count() == 1:
        return answer()
    said: dict[str, Any] = {}
    if not is_first():
        said = json.loads(_broadcast(b""))
        if "error" in said:
            raise ProcessError(str(said["error"]))
        return said["answer"]
    try:
        said["answer"] = answer()
    except SqueezeError as error:
        said["error"] = str(error)
        raise
    finally:
        _broadcast(json.dumps(said or {"error": "processes: the first one must go on, got an error there."}).encode())
    return said["answer"]


def agreed(measured: dict[str, float]) -> dict[str, float]:
    """What the first process measured, in all of them: what each did may differ in the last digits."""
    return from_first(lambda: {name: float(value) for name, value in measured.items()})


def _broadcast(content: bytes) -> bytes:
    """What the first process gives."""
    with _collective():
        size = torch.tensor([len(content)], device=home())
        dist.broadcast(size, src=0)
        data = torch.zeros(int(size), dtype=torch.uint8, device=home())
        if is_first():
            data.copy_(torch.frombuffer(bytearray(content), dtype=torch.uint8))
        dist.broadcast(data, src=0)
    return bytes(data.cpu().numpy().tobytes())


def same(what: str, content: str | bytes, remedy: str) -> None:
    """Make sure that all processes have the same of something.

    Raises:
        InputError: They have not; it is raised in all of them.
    """
    if count() == 1:
        return
    numbers = gathered([digest(content)])
    other = next((rank for rank, number in enumerate(numbers) if number != numbers[0]), None)
    if other is not None:
        raise InputError(
            f"processes: {what} must be the same in all {count()}, got another in number {other}; {remedy}."
        )


def digest(content: str | bytes) -> int:
    """A number that tells contents apart, fit for `gathered`."""
    data = content.encode() if isinstance(content, str) else content
    return int.from_bytes(hashlib.sha256(data).digest()[:8], "little", signed=True)


def digest_of(tensors: Iterable[Tensor]) -> int:
    """The same of tensors."""
    found = hashlib.sha256()
    for tensor in tensors:
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        found.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(flat.view(torch.uint8).numpy().data)
    return int.from_bytes(found.digest()[:8], "little", signed=True)


def speaks() -> bool:
    """Whether this process is the first that has an error to tell: the others end because of it, and say nothing."""
    if count() == 1:
        return True
    ignore_launcher()
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    try:
        address = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store = dist.TCPStore(*address, timeout=_PATIENCE)  # type: ignore[attr-defined]  # not in torch's stubs
        return store.add(f"squeeze/failed/{attempt}", 1) == 1
    except (LookupError, ValueError, RuntimeError):  # nobody to ask: rather said twice than not at all
        return True


@contextmanager
def ended_by_launcher() -> Iterator[None]:
    """While entered, SIGTERM, which a launcher sends when another process is gone, raises a ProcessError."""
    ours = count() > 1 and threading.current_thread() is threading.main_thread()
    if not ours or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, end_by_launcher)
    try:
        yield
    except ProcessError:
        ignore_launcher()
        raise
    except BaseException:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        raise
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def ignore_launcher() -> None:
    """From now on SIGTERM does not end this process, which is about to end, before it has said why."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


def end_by_launcher(number: int, frame: FrameType | None) -> None:
    """What `ended_by_launcher` does with the signal."""
    raise ProcessError(
        f"processes: all {count()} must run to the end, got SIGTERM, as the launcher sends it when one is gone; see "
        "what it says, then run again with resume."
    )
