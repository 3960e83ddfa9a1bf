"""Whole runs of `squeeze prune` that die at random moments: ``python -m tests.killed_anywhere FOLDER COUNT SEED``.

Each is killed once, or twice, and resumed until it ends; half of them replace an earlier run. Prints for each when it
was killed, what lay in its folder then, what of the earlier run was lost before the new one was whole, and in what its
end differs from that of a run that nobody killed. Every run is a fork of this process, which has
imported everything before: the moments fall into the run, not into imports.
"""

import functools
import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch

import squeeze
from squeeze import artifact
from squeeze.files import write_bytes
from squeeze.folders import NEXT, RUN_FILES
from squeeze.locks import LOCK
from squeeze_cli import running, tables
from squeeze_cli.main import cli
from tests.cli import networks

COMMAND = (
    *("prune", "small.pt", "--arch", "networks.py:small", "--data", "digits", "--method", "gal", "--macs", "0.6"),
    *("--epochs", "3", "--finetune-epochs", "2", "--seed", "3", "--quiet", "--threads", "1", "--out"),
)
MEASURED = frozenset({"latency", "date", "command"})
"""What no two runs have in common."""


EARLIER = {"model.safetensors": b"old", "plan.json": b"old", "log": b"old", "checkpoints/kse.safetensors": b"old"}
"""Files of a run that is to be replaced."""


def begun(folder: Path, how: str = "") -> int:
    """A run in a fork."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            sink = os.open(folder.parent / f"{folder.name}.output", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(sink, 1)
            os.dup2(sink, 2)
            # A checkpoint after every step: one in a minute would hardly ever be written here.
            squeeze.Run = functools.partial(squeeze.Run, checkpoint_seconds=0)  # type: ignore[misc, assignment]
            code = cli.main([*COMMAND, str(folder), *how.split()], standalone_mode=False) or 0
        finally:
            os._exit(code)
    return child


def ended(child: int) -> int:
    """How it ended: 0, or what went wrong, or minus the signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killed(folder: Path, seconds: float, how: str) -> bool:
    """Let a run live so long; whether it had to be killed."""
    child = begun(folder, how)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    return ended(child) == -signal.SIGKILL


def plain(tree: Any) -> Any:
    """A report without what is measured anew each time."""
    if isinstance(tree, dict):
        return {key: plain(value) for key, value in tree.items() if key not in MEASURED}
    return [plain(item) for item in tree] if isinstance(tree, list) else tree


def outcome(folder: Path) -> dict[str, Any]:
    """What a run came to; what must be equal bit for bit, as text and bytes."""
    found = artifact.read(folder / "model.safetensors")
    report = json.loads((folder / "report.json").read_text())
    return {
        "weights": {name: (str(t.dtype), tuple(t.shape), t.numpy().tobytes()) for name, t in found.weights.items()},
        "edits": found.plan.steps,
        "plan.json": squeeze.Plan.from_json((folder / "plan.json").read_text()).steps,
        "report": plain(report),
        "onnx": (folder / "model.onnx").read_bytes(),
        "pt2": {k: t.detach().numpy().tobytes() for k, t in torch.export.load(folder / "model.pt2").state_dict.items()},
        "page": (folder / "report.html").read_text()[-20:],
    }


def strangers(folder: Path) -> list[str]:
    """Files that no run leaves behind when it ends."""
    known = {path for pattern in RUN_FILES for path in folder.glob(pattern)}
    return sorted(path.name for path in folder.rglob("*") if path.is_file() and path not in known)


def lost(folder: Path) -> list[str]:
    """Files of the earlier run that are gone before the new one is whole."""
    if not (folder / NEXT).exists():  # it has not begun, or is whole
        return []
    return [
        name for name, old in EARLIER.items() if not (folder / name).exists() or (folder / name).read_bytes() != old
    ]


def torn(folder: Path, earlier: bool) -> list[str]:
    """Whole names whose files are not whole, right after a death; temporary ones do not count."""
    broken = [f"{name}: lost" for name in lost(folder)] if earlier else []
    folder = folder / NEXT if earlier else folder
    readers = {"model.safetensors": artifact.read, "plan.json": lambda p: squeeze.Plan.from_json(p.read_text())}
    readers |= {"report.json": lambda p: json.loads(p.read_text()), "model.pt2": torch.export.load}
    readers |= {f"checkpoints/{name}.safetensors": squeeze.checkpoint.load for name in ("gal", "finetune")}
    for name, read in readers.items():
        if (folder / name).exists():
            try:
                read(folder / name)
            except Exception as error:  # noqa: BLE001 - whatever it is, the file is not whole
                broken.append(f"{name}: {error}")
    return broken


def main(root: Path, count: int, seed: int) -> list[dict[str, Any]]:
    """Kill so many runs."""
    os.chdir(root)
    shutil.copy(networks.__file__, root / "networks.py")
    torch.manual_seed(0)
    torch.save(networks.small().state_dict(), root / "small.pt")
    began = time.monotonic()
    assert ended(begun(root / "whole")) == 0, (root / "whole.output").read_text()
    length = time.monotonic() - began
    expected, rng, told = outcome(root / "whole"), random.Random(seed), []
    while len(told) < count:
        folder, moments = root / f"run{len(told)}", [rng.uniform(0, length) for _ in range(rng.choice((1, 1, 2)))]
        shutil.rmtree(folder, ignore_errors=True)
        earlier = len(told) % 2 == 1
        for name, old in EARLIER.items() if earlier else ():
            write_bytes(folder / name, old)
        if not killed(folder, moments[0], "--force" if earlier else ""):
            continue  # it was faster this time, and ended before
        left = sorted(path.name for path in folder.rglob("*") if path.is_file()) if folder.exists() else []
        problems = torn(folder, earlier)
        # Killed before it began to replace anything, it must be told again.
        again = "--resume" if not earlier or (folder / NEXT).exists() else "--force"
        for moment in moments[1:]:
            killed(folder, moment, again)
            problems += torn(folder, earlier)
        code = ended(begun(folder, again))
        if code == 0:
            found = outcome(folder)
            problems += [f"other {key}" for key in expected if found[key] != expected[key]]
            problems += strangers(folder)
        else:
            problems.append(f"ended with {code}: {(root / f'{folder.name}.output').read_text()[-800:]}")
        told.append({"of": length, "at": moments, "left": [n for n in left if n != LOCK], "problems": problems})
        print(json.dumps(told[-1]), flush=True)
    return told


if __name__ == "__main__":
    torch.set_num_threads(1)
    # What a run imports late, once instead of in every fork.
    assert running and tables
    place, count, seed = sys.argv[1:]
    main(Path(place).resolve(), int(count), int(seed))
