"""What nobody should open is opened: ``python -m tests.hostile SUBJECT COUNT [SEED]`` prints what came of it.

Each mutant may be read, or refused in one clear line. While one is open the process is watched: no code but installed
code is compiled or imported, no process or socket is opened, nothing outside of the folder is written to, no other file
than installed ones is read, and the process grows by no more than `ROOM` and so many times the file.
"""

import json
import os
import random
import re
import signal
import sys
import sysconfig
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import nn

import squeeze
from squeeze import Gate, Plan, Step, checkpoint
from squeeze.errors import SqueezeError
from squeeze.finetune import FineTune, finetune
from squeeze.training import Run
from squeeze.weights import load_into, read_weights, write_checkpoint
from squeeze_cli.opening import rewritten_report
from tests import mutants
from tests.artefacts import PLAN, Net, Saved, small
from tests.memory import status
from tests.report.sample import gated as gated_report
from tests.tasks import noise_task, tiny_net

ROOM = 96 * 2**20
"""Bytes by which a process may grow whatever the size of a file: threads, caches, the allocator's steps."""
TIMES = 40
"""Bytes for each byte of the file."""
SECONDS = 60
"""After which a reader counts as one that hangs."""
MESSAGE = 1000
"""Letters of the longest message that is clear."""


@dataclass(frozen=True)
class Subject:
    """One kind of file.

    Attributes:
        name: Of the file, whose suffix matters.
        make: Writes a good one.
        mutate: Makes a mutant of its bytes.
        read: Opens a file and uses what is in it.
        room: See `ROOM`.
    """

    name: str
    make: Callable[[Path], object]
    mutate: Callable[[random.Random, bytes], bytes]
    read: Callable[[Path], object]
    room: int = ROOM


def tuned(folder: Path, resume: bool = False) -> None:
    """Fine-tune a little, with a checkpoint in the folder."""
    torch.manual_seed(1)
    task = noise_task(40)
    settings = FineTune(epochs=2, lr=0.01, warmup=1, distill=0, name="x")
    finetune(tiny_net(4), None, task, settings, (), Run(folder, resume=resume, checkpoint_seconds=1e9))


def trained(path: Path) -> None:
    """A checkpoint from the middle of a training."""
    with TemporaryDirectory() as folder:
        tuned(Path(folder))
        state = checkpoint.load(Path(folder) / "checkpoints" / "x.safetensors")
    state["at"].update(epoch=1, history=state["at"]["history"][:1], total=1)
    checkpoint.save(path, state)


def resumed(path: Path) -> None:
    """Go on from a checkpoint."""
    copy = path.parent / "checkpoints" / "x.safetensors"
    copy.parent.mkdir(exist_ok=True)
    copy.write_bytes(path.read_bytes())
    tuned(path.parent, resume=True)


def replayed(path: Path) -> None:
    """Carry out a plan."""
    squeeze.rewrite(Net(), Plan.from_json(path.read_text(encoding="utf-8", errors="surrogateescape")).edits)


def chain() -> nn.Module:
    """Convolutions that can be gated: a plain one, a depthwise one behind it, a reader."""
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8), nn.BatchNorm2d(8)),
        *(nn.ReLU(), nn.Conv2d(8, 6, 1), nn.BatchNorm2d(6)),
    )


GATES = Plan((Step("hand", {}, (Gate("0", "1", 3, True, (("3", "4"),), (("6", "7"),)), Gate("6", "7", 2))),), {})


def gated(path: Path) -> None:
    """Put gates in, and run what comes of it."""
    plan = Plan.from_json(path.read_text(encoding="utf-8", errors="surrogateescape"))
    with torch.no_grad():
        squeeze.rewrite(chain().eval(), plan.edits)(torch.zeros(1, 3, 5, 5))


def reported(path: Path) -> None:
    """Write the page of a report."""
    rewritten_report(path.parent)


def weights(path: Path, **kwargs: Any) -> None:
    torch.save({"state_dict": tiny_net(4).state_dict(), "squeeze": '{"arch": "x"}', "epoch": 3}, path, **kwargs)


SUBJECTS = {
    "artefact": Subject(
        "small.safetensors",
        lambda path: squeeze.save(Saved(small(), PLAN), path, {"arch": "net.py:Net", "data": "digits"}),
        mutants.mutated_artefact,
        lambda path: squeeze.load(path, Net),
    ),
    "checkpoint": Subject("x.safetensors", trained, mutants.mutated_checkpoint, resumed),
    "plan": Subject("plan.json", lambda path: path.write_text(PLAN.to_json()), mutants.mutated_json, replayed),
    "gates": Subject("plan.json", lambda path: path.write_text(GATES.to_json()), mutants.mutated_json, gated),
    "report": Subject(
        "report.json",
        lambda path: path.write_text(json.dumps(gated_report().to_dict())),
        mutants.mutated_json,
        reported,
    ),
    "weights.pt": Subject(
        "w.pt", weights, mutants.mutated_zip, lambda path: load_into(tiny_net(4), read_weights(path)), 2**28 + ROOM
    ),
    "old weights.pt": Subject(
        "w.pt",
        lambda path: weights(path, _use_new_zipfile_serialization=False),
        mutants.mutated_bytes,
        lambda path: load_into(tiny_net(4), read_weights(path)),
        2**28 + ROOM,
    ),
    "weights.safetensors": Subject(
        "w.safetensors",
        lambda path: write_checkpoint(path, tiny_net(4), arch="x", data=None, input_shape=(1, 8, 8)),
        mutants.mutated_safetensors,
        lambda path: load_into(tiny_net(4), read_weights(path)),
    ),
}


@dataclass
class Watch:
    """What a process does while it is armed."""

    folder: Path
    armed: bool = False
    seen: list[str] = field(default_factory=list)

    def hook(self, event: str, args: tuple[Any, ...]) -> None:
        if self.armed:
            told = self._told(event, args)
            if told:
                self.seen.append(told[:300])

    def _told(self, event: str, args: tuple[Any, ...]) -> str:
        if event == "open":
            path, mode = os.fsdecode(args[0]) if isinstance(args[0], str | bytes) else "", str(args[1] or "")
            writes = bool(set(mode) & set("wax+")) or bool(args[2] & 0o1103)
            mine = not path or path.startswith(str(self.folder))
            return "" if mine or (not writes and path.startswith(INSTALLED)) else f"open {args!r}"
        if event in ("exec", "compile"):
            file = getattr(args[0], "co_filename", args[-1])
            return "" if str(file).startswith((*INSTALLED, "<")) else f"{event} {file}"
        if event in CHANGING:
            paths = [os.fsdecode(arg) for arg in args if isinstance(arg, str | bytes | Path)]
            return "" if all(path.startswith(str(self.folder)) for path in paths) else f"{event} {args!r}"
        return f"{event} {args!r}" if event.startswith(FORBIDDEN) else ""


FORBIDDEN = (
    *("os.system", "os.exec", "os.fork", "os.posix_spawn", "os.spawn", "os.startfile", "subprocess.", "pty."),
    *("socket.connect", "socket.bind", "socket.send", "socket.getaddrinfo", "webbrowser.", "urllib.", "shutil."),
)
CHANGING = frozenset(f"os.{name}" for name in "remove rename mkdir rmdir link symlink chmod chown truncate".split())
INSTALLED = (
    *sorted({p for p in sysconfig.get_paths().values()}),
    *(sys.base_prefix, sys.prefix, str(Path(__file__).parents[1]), "/proc/self/", "/proc/meminfo"),
)


def too_long(number: int, frame: object) -> None:
    """A reader hangs."""
    raise TimeoutError(f"more than {SECONDS} s")


@contextmanager
def watched(watch: Watch) -> Iterator[None]:
    """Armed, and not for ever."""
    signal.signal(signal.SIGALRM, too_long)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    watch.armed = True
    try:
        yield
    finally:
        watch.armed = False
        signal.setitimer(signal.ITIMER_REAL, 0)


def unclear(message: str) -> bool:
    """Not one line that says what must be and what was got."""
    return not message.isprintable() or len(message) > MESSAGE or not re.search(r"must|needs", message)


def attempt(subject: Subject, path: Path, raw: bytes, watch: Watch) -> str:
    """Open a mutant.

    Returns:
        "read", or the name of the error that refused it.

    Raises:
        AssertionError: It was refused in any other way than with a clear line.
    """
    path.write_bytes(raw)
    try:
        with watched(watch):
            subject.read(path)
    except SqueezeError as error:
        assert not unclear(str(error)), f"unclear: {str(error)!r:.500}"
        return type(error).__name__
    return "read"


def run(subject: Subject, count: int, seed: int, folder: Path) -> dict[str, Any]:
    """Open so many mutants, one half drawn by hypothesis, and tell what came of it."""
    path, watch = folder / subject.name, Watch(folder)
    subject.make(path)
    good = path.read_bytes()
    sys.addaudithook(watch.hook)
    for _ in range(3):
        attempt(subject, path, good, watch)  # what is imported late
    watch.seen.clear()
    outcomes: Counter[str] = Counter()
    failures: list[str] = []

    def one(rng: random.Random, name: object) -> None:
        raw = subject.mutate(rng, good)
        before, peak = status("VmSize"), status("VmPeak")
        try:
            outcomes[attempt(subject, path, raw, watch)] += 1
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is what we look for
            outcomes["failed"] += 1
            where = traceback.format_exception(error)
            failures.append(f"{name}: {type(error).__name__}: {str(error)[:300]} {''.join(where)[-900:]}")
        for seen in watch.seen:
            failures.append(f"{name}: {seen}")
        watch.seen.clear()
        grown = status("VmPeak")
        if grown > peak and grown > before + subject.room + TIMES * len(raw):
            failures.append(f"{name}: {len(raw)} bytes took {(grown - before) / 2**20:.0f} MiB")

    for number in range(count // 2):
        one(random.Random(f"{seed} {number}"), number)

    @settings(
        max_examples=count - count // 2,
        phases=[Phase.generate],
        database=None,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.randoms(use_true_random=False))
    def drawn(rng: random.Random) -> None:
        one(rng, "hypothesis")

    drawn()
    return {"mutants": sum(outcomes.values()), "outcomes": dict(outcomes), "failures": failures}


if __name__ == "__main__":
    torch.set_num_threads(1)
    name, count, *rest = sys.argv[1:]
    with TemporaryDirectory() as place:
        print(json.dumps(run(SUBJECTS[name], int(count), int(rest[0]) if rest else 0, Path(place).resolve())))
