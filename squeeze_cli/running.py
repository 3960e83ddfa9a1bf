"""What `squeeze prune` does between parsing and printing."""

import dataclasses
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import numpy as np

import squeeze
from squeeze import processes
from squeeze.errors import BudgetError, InputError, TraceError
from squeeze.files import append_line
from squeeze.folders import NEXT, claim_folder, settle, unmake
from squeeze.locks import locked
from squeeze.models import Opened
from squeeze.progress import say
from squeeze.runs import write_run
from squeeze.selection import Budget, Scores, select
from squeeze.structure.groups import Structure
from squeeze_cli.given import COMMAND, Method, Source, Target
from squeeze_cli.opening import opened
from squeeze_cli.settings import FINETUNE, build, find_pass, parse_assignments

DEFAULT_MACS = 0.5


@dataclass(frozen=True, eq=False)
class Job:
    """A run that can begin.

    Attributes:
        opened: The model and its data.
        chosen: The pass.
        finetuning: How to fine-tune.
        run: Seed, resume and so on.
        folder: Of the run, as the user knows it.
        force: Replace an earlier run, when this one is whole.
    """

    opened: Opened
    chosen: squeeze.Pass
    finetuning: squeeze.FineTune
    run: squeeze.Run
    folder: Path
    force: bool


def prepared(source: Source, method: Method, target: Target, quiet: bool) -> Job:
    """Everything that can be wrong in what was typed, found out before anything is written.

    Raises:
        InputError: The pass, a setting, the model or its data cannot be had.
    """
    chosen, finetuning = settled(method)
    folder = target.out or Path("runs") / f"{Path(source.model).stem}-{chosen.name}"
    run = squeeze.Run(folder, target.seed, target.resume, quiet, precision=target.precision)
    return Job(opened(source), chosen, finetuning, run, folder, target.force)


def settled(method: Method) -> tuple[squeeze.Pass, squeeze.FineTune]:
    """The pass and the fine-tuning with their settings.

    Raises:
        InputError: There is no such pass or setting, or a value that can't be.
    """
    found, texts = find_pass(method.method), parse_assignments(method.assignments)
    later = {name.removeprefix(FINETUNE): texts.pop(name) for name in list(texts) if name.startswith(FINETUNE)}
    given = {"macs": method.macs, "params": method.params, "epochs": method.epochs, "ignore": method.ignore or None}
    values = {name: value for name, value in given.items() if value is not None}
    # A budget is a setting that is None unless it is given: one is needed, and half of the MACs is what most want.
    budgets = {field.name for field in dataclasses.fields(found) if field.default is None}
    if "macs" in budgets and not budgets & (values.keys() | texts.keys()):
        values["macs"] = DEFAULT_MACS
    chosen = build(found, texts, values, getattr(found, "name", method.method))
    if not isinstance(chosen, squeeze.Pass):
        lacks = [name for name in ("name", "search", "objective") if not hasattr(chosen, name)]
        raise InputError(
            f"--method: {method.method} must have name, search and objective, got none called {' or '.join(lacks)}; "
            "write it as squeeze.Pass says."
        )
    epochs = {} if method.finetune_epochs is None else {"epochs": method.finetune_epochs}
    return chosen, build(squeeze.FineTune, later, epochs, "fine-tuning", FINETUNE)


def look_ahead(job: Job) -> Structure:
    """What a run could remove, without running it.

    Raises:
        TraceError: The model cannot be traced.
        BudgetError: More is asked for than can be removed.
    """
    settings: dict[str, Any] = dataclasses.asdict(job.chosen)  # type: ignore[call-overload]
    structure = squeeze.trace(job.opened.model, job.opened.task.example_inputs, tell=None if job.run.quiet else say)
    structure = structure.ignoring(settings.get("ignore") or ())
    shares = {name: settings[name] for name in ("macs", "params") if settings.get(name) is not None}
    # A pass without it does not choose widths: its budget is not one of what can be cut.
    if shares and "round_to" in settings:
        kinds = settings.get("structures") or ()
        blocks = {block.name: 0.0 for block in structure.blocks if "blocks" in kinds}
        branches = {branch.name: 0.0 for branch in structure.branches if "branches" in kinds}
        inputs = {edge.tensor: np.zeros(edge.size) for edge in structure.inputs if "inputs" in kinds}
        stays = 0.0 if "filters" in kinds or not kinds else np.inf
        units = tuple(np.full(group.size, stays) for group in structure.groups)
        scores = Scores(units, blocks, branches, inputs)
        select(structure, scores, Budget(**shares), settings["round_to"] or 1)
    return structure


@processes.ended_by_launcher()
def pruned(job: Job) -> squeeze.Result:
    """Run, and write the folder; of several processes, the first one writes.

    Raises:
        SqueezeError: See `squeeze.compress` and `squeeze.runs.write_run`.
    """
    command = str(click.get_current_context().meta.get(COMMAND, ""))
    with _claimed(job) as place:
        _log(place, f"began: {command}")
        result = squeeze.compress(
            job.opened.model,
            job.chosen,
            job.opened.task,
            finetuning=job.finetuning,
            run=dataclasses.replace(job.run, folder=place),
        )
        if not processes.is_first():
            return result
        final = write_run(result, place, job.opened.about, command, job.opened.plan)
        _log_history(place, final)
        settle(job.folder, place)
    return final


@contextmanager
def _claimed(job: Job) -> Iterator[Path]:
    """Where the run works; gone again after a mistake, and with the error in its log after anything else."""
    place = job.folder
    made = [path for path in (job.folder / NEXT, job.folder) if not path.exists()]
    try:
        with ExitStack() as held:
            place = Path(processes.from_first(lambda: _claim(job, held)))
            yield place
    except (InputError, BudgetError, TraceError):
        for path in made if processes.is_first() else ():
            unmake(path)
        raise
    except (squeeze.SqueezeError, KeyboardInterrupt) as error:
        _log(place, f"stopped: {error or type(error).__name__}")
        raise


def _claim(job: Job, held: ExitStack) -> str:
    held.enter_context(locked(job.folder))
    return str(claim_folder(job.folder, job.force, job.run.resume))


def _log_history(folder: Path, result: squeeze.Result) -> None:
    for phase in result.report.history:
        for epoch, row in enumerate(zip(*phase.series.values(), strict=False)):
            told = (f"{name} {value:.5g}" for name, value in zip(phase.series, row, strict=True) if value is not None)
            _log(folder, f"{phase.name} epoch {epoch + 1}: {', '.join(told)}")
    for note in result.report.notes:
        _log(folder, f"note: {note}")
    _log(folder, f"finished: {result.report.after.macs} MACs, {dict(result.report.after.metrics)}")


def _log(folder: Path, line: str) -> None:
    if processes.is_first():
        append_line(folder / "log", f"{datetime.now(UTC).isoformat(timespec='seconds')} {' '.join(line.split())}")
