"""The whole flow, in order: trace, search, rewrite, check, fine-tune, measure."""

import dataclasses
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from squeeze import processes
from squeeze.copying import copied, eval_copy
from squeeze.data_task import as_task
from squeeze.edits import rewrite
from squeeze.errors import InputError, NoEffectWarning, TraceError, TrainingError
from squeeze.finetune import FineTune, finetune
from squeeze.gating.activity import spent_on
from squeeze.latency import Latency, compare
from squeeze.locks import locked
from squeeze.parity import batch_of
from squeeze.passes.base import Found, Keeps, Pass
from squeeze.plan import Gate, Plan, Step
from squeeze.profiling import profile
from squeeze.progress import say
from squeeze.randomness import randomness_kept, seed_all
from squeeze.recalibrate import reestimate_batchnorm
from squeeze.report import ByInput, Measured, Report, Stages, build_report
from squeeze.report import origin as describe_origin
from squeeze.report.build import History
from squeeze.report.data import Origin
from squeeze.structure.groups import Structure
from squeeze.structure.reference import TOLERANCE, agree, masked
from squeeze.structure.trace import trace
from squeeze.task import Task, call, check_inputs, tensors_of
from squeeze.training import Run
from squeeze.weights import checksum

_HUGE = 1e9
"""Outputs beyond this mean that training diverged, even where they are finite."""


@dataclass(frozen=True, eq=False)
class Result:
    """A smaller model, and how it came about.

    Attributes:
        model: An ordinary module, in eval mode.
        plan: What turns the dense model into it, as data.
        dense: The model as it was given, untouched.
        task: What it was compressed for.
        structure: What the first trace found.
        stages: What was measured before, right after the cut, and at the end.
        history: Of the phases that trained.
        origin: Where and with what it was made.
        notes: What the reader of the report should know besides.
    """

    model: nn.Module
    plan: Plan
    dense: nn.Module
    task: Task
    structure: Structure
    stages: Stages
    history: History
    origin: Origin
    notes: tuple[str, ...] = ()

    @cached_property
    def report(self) -> Report:
        """What happened and what it bought."""
        return build_report(self.origin, self.plan, self.structure, self.stages, self.history, self.notes)


@processes.ended_by_launcher()
def compress(
    model: nn.Module,
    passes: Pass | Sequence[Pass],
    data: Any = None,
    example_inputs: Any = None,
    finetuning: FineTune | None = None,
    run: Run | None = None,
) -> Result:
    """Make a model smaller with one or several passes, and fine-tune it if there is data.

    Args:
        model: Trained; left bit-identical.
        passes: What decides what goes; several run one after the other, each on what the last one left.
        data: A `Task`; or a data loader, data set or list of batches, from which one is made; or None.
        example_inputs: What the model is traced and measured on; taken from the data if left out.
        finetuning: How to fine-tune; ``FineTune(epochs=0)`` not at all.
        run: Seed, folder for checkpoints, resume.

    Returns:
        The smaller model with its plan and report; with several processes, the same in all of them.

    Raises:
        InputError: Model and inputs do not fit, nothing can be removed, or another run is at work in the folder.
        BudgetError: More is asked for than can be removed.
        TrainingError: Training cannot go on.

    Warns:
        NoEffectWarning: A pass removed nothing.
    """
    run, finetuning = run or Run(), finetuning or FineTune()
    passes = [passes] if isinstance(passes, Pass) else list(passes)
    if not passes:
        raise InputError("compress: needs at least one pass, got none; pass e.g. squeeze.Magnitude(macs=0.5).")
    task = as_task(model, data, example_inputs)
    check_inputs(model, task.example_inputs)
    source = checksum(model.state_dict())
    processes.same("the model", source, "load the same weights, or seed all alike before building it")
    with locked(run.folder), randomness_kept():
        seed_all(run.seed)
        dense = eval_copy(model)
        before = _measured(dense, task)
        small, plan, structure, history = _searched(model, passes, task, run)
        reestimate_batchnorm(small, task)
        _keep(passes, len(passes) - 1, small, task, history)
        cut = Measured(processes.agreed(task.evaluate(small.eval(), "test")))
        if finetuning.epochs and _has_data(task):
            objectives = [chosen.objective for chosen in passes]
            small, epochs = finetune(small, dense, task, finetuning, objectives, run)
            history.append((finetuning.name, epochs))
            _keep(passes, len(passes), small, task, history)
    times = _timed({"before": dense, "after": small.eval()}, task)
    before, after = replace(before, latency=(times["before"],)), _measured(small, task)
    stages = Stages(before, replace(after, latency=(times["after"],)), cut)
    about = describe_origin(type(model).__name__, task.name, task.metric, seed=run.seed, checksum=source)
    return Result(small, replace(plan, provenance=_provenance(about)), model, task, structure, stages, history, about)


def _searched(
    model: nn.Module, passes: Sequence[Pass], task: Task, run: Run
) -> tuple[nn.Module, Plan, Structure, list[Any]]:
    """Run the passes one after the other, each on what the last one left."""
    small, plan, history = copied(model), Plan(), []
    structures = []
    for number, chosen in enumerate(passes):
        structure = trace(small, task.example_inputs, tell=None if run.quiet else say)
        structures.append(structure)
        processes.same("what can be removed", _described(structure), "give all the same model and inputs")
        found = chosen.search(small, structure, task, _numbered(run, number))
        if not found.edits:
            _require_something(structure, model)
        small = _carried_out(found, structure, chosen, task)
        plan = plan.then(Step(chosen.name, _settings(chosen), found.edits))
        history.append((chosen.name, found.history))
    return small, plan, structures[0], history


def _keep(passes: Sequence[Pass], count: int, small: nn.Module, task: Task, history: list[Any]) -> None:
    """Let the first so many passes keep what they promised, now that others have moved the weights.

    The history tells how it went. What a pass promised no longer holds where it ran again, with other settings.
    """
    for number, chosen in enumerate(passes[:count]):
        if isinstance(chosen, Keeps) and chosen.name not in [later.name for later in passes[number + 1 :]]:
            name, told = history[number]
            history[number] = (name, {**told, **chosen.keep(small, task)})


def _carried_out(found: Found, structure: Structure, chosen: Pass, task: Task) -> nn.Module:
    """The smaller model, compared on the example inputs with one that is only masked."""
    small = rewrite(found.model, found.edits)
    if found.tensors:
        small.load_state_dict(dict(found.tensors), strict=False)
    if not found.edits:
        warnings.warn(
            f"{chosen.name}: removed nothing; ask for less to stay, or see squeeze inspect.", NoEffectWarning, 3
        )
    # A gate near its threshold may fall either way by rounding alone: passes that put gates in prove them themselves.
    gated = any(isinstance(edit, Gate) for edit in found.edits)
    reference = None if gated else masked(found.model, structure, structure.choice(found.edits))
    with torch.no_grad():
        got = tensors_of(call(eval_copy(small), task.example_inputs))
        expected = tensors_of(call((reference or copied(found.model)).eval(), task.example_inputs))
    if _diverged(expected):
        raise TrainingError(
            f"{chosen.name}: the model must stay finite while the pass trains it, got outputs beyond {_HUGE:g}; "
            "lower the learning rates of the pass (squeeze methods lists them), or train the model first."
        )
    shapes = [t.shape for t in got] == [t.shape for t in expected]
    if not shapes or (reference is not None and not agree(expected, got, TOLERANCE)):
        raise TraceError(
            f"{chosen.name}: the cut model must compute what the masked one does, got other outputs on the example "
            "inputs; please report this network."
        )
    return small


def _diverged(outputs: Sequence[Tensor]) -> bool:
    numbers = [t for t in outputs if t.is_floating_point() and t.numel()]
    return any(not bool(t.isfinite().all()) or float(t.abs().max()) > _HUGE for t in numbers)


def _measured(model: nn.Module, task: Task) -> Measured:
    metrics = processes.agreed(task.evaluate(model, "test"))
    spent = processes.from_first(lambda: _by_input(model, task))
    by_input = None if spent is None else ByInput(**spent)
    return Measured(metrics, profile(model, task.example_inputs), by_input=by_input)


def _by_input(model: nn.Module, task: Task) -> dict[str, Any] | None:
    """The fields of a `ByInput`; None where all inputs cost the same, or nobody knows."""
    found = spent_on(model, task, ("holdout", "test", "train"))
    if found is None:
        return None
    source, spent = found
    batch = max(1, batch_of(tensors_of(task.example_inputs)))
    return asdict(ByInput(spent.mean, spent.deviation, len(spent.each), source, batch))


def _timed(models: Mapping[str, nn.Module], task: Task) -> dict[str, Latency]:
    """Measured by one process while the others wait."""
    times = processes.from_first(
        lambda: {name: asdict(found) for name, found in compare(models, task.example_inputs, repeats=30).items()}
    )
    return {name: Latency(**found) for name, found in times.items()}


def _described(structure: Structure) -> str:
    """What must be the same in all processes."""
    groups = [
        (group.name, group.maskable, [(axis.tensor, axis.dim, axis.units.tolist()) for axis in group.axes])
        for group in structure.groups
    ]
    blocks, branches = [block.name for block in structure.blocks], [branch.name for branch in structure.branches]
    return json.dumps([groups, blocks, branches, [edge.module for edge in structure.inputs]])


def _has_data(task: Task) -> bool:
    return next(iter(task.train_batches(0)), None) is not None


def _require_something(structure: Structure, model: nn.Module) -> None:
    if not structure.removable:
        reasons = list(dict.fromkeys(pin.reason for pin in structure.pinned))[:3]
        raise InputError(
            f"{type(model).__name__}: must have something that can be removed, got none "
            f"({'; '.join(reasons) or 'no layer with weights ran'}); see squeeze inspect."
        )


def _numbered(run: Run, number: int) -> Run:
    """Each pass after the first has a folder of its own for its checkpoints."""
    return run if run.folder is None or number == 0 else replace(run, folder=run.folder / f"pass{number + 1}")


def _settings(chosen: Pass) -> dict[str, Any]:
    fields: dict[str, Any] = (
        dataclasses.asdict(chosen) if dataclasses.is_dataclass(chosen) and not isinstance(chosen, type) else {}
    )
    return {name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()}


def _provenance(about: Origin) -> dict[str, Any]:
    return {"model": about.model, "seed": about.seed, "versions": dict(about.versions), "date": about.date}
