"""`make zoo`: every architecture of the list through the law, each in a process of its own, one line of JSON each."""

import argparse
import fnmatch
import json
import multiprocessing
import resource
import signal
import traceback
import warnings
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.zoo import table
from benchmarks.zoo.check import Checked, check, prepare
from benchmarks.zoo.nets import LIST, listed, net


def main() -> None:
    """Check what is listed and not done yet, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("patterns", nargs="*", default=["*"], help="names of nets, as in timm:res*")
    parser.add_argument("--list", type=Path, default=LIST, help="the file that lists them")
    parser.add_argument(
        "--log", type=Path, default=Path("benchmarks/work/zoo.jsonl"), help="one line a net; what is there is done"
    )
    parser.add_argument("--again", choices=("all", "failed"), help="check again what is in the log")
    parser.add_argument("--onnx", action="store_true", help="also write ONNX and compare")
    parser.add_argument("--limit", type=int, default=600, help="seconds of computing that a net may take")
    parser.add_argument("--write", type=Path, help="where the results go, compact")
    given = parser.parse_args()
    lines = {n: line for n, line in listed(given.list).items() if any(fnmatch.fnmatch(n, p) for p in given.patterns)}
    done = {} if given.again == "all" else table.read(given.log)
    if given.again == "failed":
        done = {name: found for name, found in done.items() if not found["faults"]}
    prepare()
    given.log.parent.mkdir(parents=True, exist_ok=True)
    for number, (name, line) in enumerate(lines.items(), 1):
        if name not in done:
            found = _alone(name, line, given.onnx, given.limit)
            with given.log.open("a", encoding="utf-8") as log:
                log.write(json.dumps(found) + "\n")
            print(f"{number}/{len(lines)} {table.row(found)}", flush=True)
    results = {name: found for name, found in table.read(given.log).items() if name in lines}
    print(table.text(results))
    if given.write:
        given.write.write_text(table.compact(results), encoding="utf-8")


def _alone(name: str, line: str, onnx: bool, limit: int) -> dict[str, Any]:
    """Check a net in a process that may die or be killed."""
    context = multiprocessing.get_context("fork")  # torch and timm are imported once
    here, there = context.Pipe()
    process = context.Process(target=_child, args=(line, onnx, limit, there))
    process.start()
    there.close()
    try:
        found = here.recv()
    except EOFError:
        process.join()
        late = process.exitcode == -signal.SIGXCPU
        fault = f"timeout: more than {limit} s" if late else f"crash: the process died ({process.exitcode})"
        found = Checked(name, faults=[fault]).record()
    process.join()
    return {**found, "net": name}


def _child(line: str, onnx: bool, limit: int, answer: Connection) -> None:
    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 5))  # of computing: the machine may be busy besides
    try:
        found = check(net(line), onnx)
    except Exception as error:  # noqa: BLE001 - whatever goes wrong is the finding
        where = traceback.extract_tb(error.__traceback__)[-1]
        text = f"crash: {type(error).__name__}: {str(error)[:500]} ({Path(where.filename).name}:{where.lineno})"
        found = Checked("", faults=[text])
    answer.send(found.record())


if __name__ == "__main__":
    main()
