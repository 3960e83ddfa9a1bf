"""The pass: put gates in, train them with the network, bring them to the budget."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, get_args

from torch import Tensor, nn

from squeeze import processes
from squeeze.copying import copied, eval_copy
from squeeze.distill import Distillation, divergence
from squeeze.edits import rewrite
from squeeze.errors import BudgetError, InputError
from squeeze.files import write_bytes
from squeeze.gating.costs import Gated, require_gates
from squeeze.gating.explained import has_gates
from squeeze.nn import GatedConv2d, settled
from squeeze.passes.base import Found, Loss
from squeeze.passes.decouple.attribute import Attribute
from squeeze.passes.decouple.budget import brought_to, require_reachable
from squeeze.passes.decouple.findings import finding
from squeeze.passes.decouple.gates import gates_of, proved
from squeeze.passes.decouple.learner import DecoupleLearner
from squeeze.passes.decouple.paying import NAMES, Runtime, paying
from squeeze.plan import Gate, Plan, Step
from squeeze.progress import say
from squeeze.randomness import randomness_kept, seed_all
from squeeze.recalibrate import reestimate_batchnorm
from squeeze.structure.groups import Structure
from squeeze.task import Task
from squeeze.training import Run, train, updates_in

SETTLING = 6
"""Rounds of bringing gates to the budget, at most."""
REST = 0.005
"""They rest where new statistics move the share of the MACs by no more than this share of it."""


@dataclass(frozen=True)
class Decouple:
    """Gates the filters of each layer, input by input, by a code that tells of the input (Li et al., ECCV 2020).

    The loss is task + λ_k · limiting of filters + λ_m · mutual information + λ_s · sparsity, summed over the gates.
    Without labels the task is to imitate the given network, and the attribute is the class that it sees.

    Attributes:
        macs: Share of the MACs that stays, on average over what is held out; λ_s is steered towards it.
        active: The paper's τ instead: the share of filters that may be on for nothing in each layer.
        lambda_s: Weight of the paper's sparsity, Σ |mean ‖z‖₁ - τ N|; not with `macs`.
        lambda_k: Weight of the limiting of filters.
        lambda_m: Weight of the mutual information; the paper's 0.01 is for 200 epochs: in ten it teaches codes nothing.
        epochs: Of training.
        lr: Learning rate of the weights; falls along half a cosine.
        lr_gates: Of the gates, by Adam; None for one that suits the length of the schedule.
        weight_decay: Of the weights; gates have none, it would pull them to one half.
        distill: Weight of the divergence from the given network; 0 for labels alone, as in the paper.
        accumulate: So many batches make one step.
        reduction: The bottleneck of a gate has so many times fewer neurons than its layer reads channels.
        paying: Gate only convolutions that run faster with a gate at half (or `active`) of their filters, measured on
            this machine in "pytorch", or as exported in ONNX Runtime, "onnx", where the whole network must be faster,
            too; None for all: what the network loses without the others are time, and explanations.
        stem: Gate convolutions that read the model's input, too.
        layers: Name patterns of the convolutions to gate; all if empty.
        ignore: Name patterns of layers that stay as they are.
    """

    name: ClassVar[str] = "decouple"

    macs: float | None = None
    active: float | None = None
    lambda_s: float = 1.5e-4
    lambda_k: float = 1.0
    lambda_m: float = 0.1
    epochs: int = 10
    lr: float = 1e-2
    lr_gates: float | None = None
    weight_decay: float = 1e-4
    distill: float = 1.0
    accumulate: int = 1
    reduction: int = 4
    paying: Runtime | None = None
    stem: bool = False
    layers: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        given = [name for name in ("macs", "active") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                f"Decouple: exactly one of macs and active must be given, got {given or 'none'}; say macs=0.5."
            )
        if self.macs is not None and not 0 < self.macs < 1:
            raise ValueError(
                f"Decouple: macs must be between 0 and 1, got {self.macs}; it is the share that stays, 0.5 for half."
            )
        if self.active is not None and not 0 <= self.active <= 1:
            raise ValueError(f"Decouple: active must be from 0 to 1, got {self.active}; it is a share of the filters.")
        if self.paying not in (None, *get_args(Runtime)):
            raise ValueError(f"Decouple: paying must be pytorch, onnx or None, got {self.paying!r}; pass None for all.")
        for name in ("lr", "lr_gates"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise ValueError(f"Decouple: {name} must be above 0 and finite, got {value}; try 0.01.")
        for name in ("lambda_s", "lambda_k", "lambda_m", "weight_decay", "distill"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"Decouple: {name} must be at least 0, got {getattr(self, name)}; pass 0 for none.")
        for name in ("epochs", "accumulate", "reduction"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"Decouple: {name} must be a whole number from 1, got {value!r}; pass 1 or more.")

    def search(self, model: nn.Module, structure: Structure, task: Task, run: Run) -> Found:
        """Train a gated copy of the model.

        Raises:
            InputError: There is no data, no convolution that can be gated, or none where it pays.
            BudgetError: The budget cannot be reached.
        """
        structure = structure.ignoring(self.ignore)
        gates, left_out = gates_of(self, model, structure, task.example_inputs)
        if self.paying is not None and gates:
            gates, slower = self._paying(self.paying, gates, model, task, run)
            left_out += slower
            if not gates:
                raise InputError(
                    f"Decouple: paying={self.paying} must find a convolution that is faster with a gate, got none of "
                    f"{len(slower)} (nearest to it is {slower[0][0]}: {slower[0][1]}); leave paying out to gate all, "
                    f"which saves MACs but hardly time in {NAMES[self.paying]}, or choose a pass that makes "
                    "layers smaller, such as gal."
                )
        if not gates:
            reasons = "; ".join(dict.fromkeys(reason for _, reason in left_out)) or "no convolution ran"
            raise InputError(
                f"Decouple: {type(model).__name__} must have a convolution that can be gated, got none ({reasons}); "
                "choose another pass."
            )
        with randomness_kept():
            seed_all(run.seed)
            gates = proved(gates, model, task.example_inputs)
            gated = require_gates(rewrite(model, gates), task.example_inputs)
        if self.macs is not None:
            require_reachable(self.macs, gated)
        learner = self._learner(model, gated, task, run)
        epochs = train(learner, task.train_batches, self.epochs, run, self.name)
        history: dict[str, Any] = {"epochs": epochs, "left_out": [list(pair) for pair in left_out]}
        if self.macs is not None:
            history["budget"] = self._brought_to_budget(gated, task, self.macs)
        history["labelled"] = learner.attribute.labelled
        history["finding"] = finding(gated, task)
        return Found(dense_of(model, gated.model, gates), gates, added(gated.model, gates), history)

    def keep(self, model: nn.Module, task: Task) -> dict[str, Any]:
        """Bring the gates back to the budget, and look at them again."""
        if not has_gates(model):
            return {}
        gated, told = require_gates(model, task.example_inputs), {}
        if self.macs is not None:
            try:
                require_reachable(self.macs, gated)
                told["budget"] = self._brought_to_budget(gated, task, self.macs)
            except BudgetError as error:  # what a later pass left may have no gates for it
                say(f"decouple: the gates stay as they are: {error}")
        return {**told, "finding": finding(gated, task)}

    @contextmanager
    def objective(self, model: nn.Module, loss: Loss) -> Iterator[Loss]:
        """The loss unchanged; gates are as they are at the end: hard, and not trained any more.

        What they say still moves with the weights before them: see `keep`.
        """
        controllers = [m.gate for m in model.modules() if isinstance(m, GatedConv2d)]
        trained = [p for gate in controllers for p in gate.parameters() if p.requires_grad]
        for parameter in trained:
            parameter.requires_grad_(False)
        try:
            with settled():
                yield loss
        finally:
            for parameter in trained:
                parameter.requires_grad_(True)

    def _paying(
        self, runtime: Runtime, gates: tuple[Gate, ...], model: nn.Module, task: Task, run: Run
    ) -> tuple[tuple[Gate, ...], list[tuple[str, str]]]:
        """Measured once a run: one that is resumed takes what it found."""
        place = None if run.folder is None else run.folder / "checkpoints" / f"{self.name}-gates.json"

        def chosen() -> dict[str, Any]:
            if place is not None and run.resume and place.exists():
                edits = Plan.from_json(place.read_text("utf-8")).edits
                names = [edit.module for edit in edits if isinstance(edit, Gate)]
                others = [gate.module for gate in gates if gate.module not in names]
                return {
                    "names": names,
                    "slower": [(name, "it was slower with a gate as the run began") for name in others],
                }
            found, slower = paying(gates, model, task.example_inputs, self.active or 0.5, runtime)
            if place is not None and found:  # where nothing pays the run ends, and the next one measures anew
                write_bytes(place, Plan((Step(self.name, {}, found),)).to_json().encode())
            return {"names": [gate.module for gate in found], "slower": [list(pair) for pair in slower]}

        said = processes.from_first(chosen)
        found = tuple(gate for gate in gates if gate.module in said["names"])
        return found, [(name, reason) for name, reason in said["slower"]]

    def _brought_to_budget(self, gated: Gated, task: Task, macs: float) -> dict[str, float]:
        """Statistics of batch norms, which move gates, and gates, which move statistics, in turn until both rest."""
        found: dict[str, float] = {}
        for _ in range(SETTLING):
            reestimate_batchnorm(gated.model, task)
            now = brought_to(macs, gated, task)
            found = {**now, "before": found.get("before", now["before"])}
            if abs(now["before"] - macs) <= REST * macs:
                break
        return found

    def _learner(self, model: nn.Module, gated: Gated, task: Task, run: Run) -> DecoupleLearner:
        baseline = eval_copy(model).requires_grad_(False)
        with randomness_kept():
            seed_all(run.seed)
            batches = task.train_batches(0)
            steps = updates_in(batches, self.accumulate)
            attribute = Attribute(task, baseline, batches)
            if not attribute.labelled:
                say("decouple: the data has no classes; the codes are to tell of the class that the model sees.")
            measure = partial(divergence, kind="kl", temperature=2.0)
            base = Distillation(task, baseline, self.distill if attribute.labelled else 1.0, measure)
            return DecoupleLearner(gated, base, attribute, self, steps, task)


def dense_of(model: nn.Module, gated: nn.Module, gates: tuple[Gate, ...]) -> nn.Module:
    """A copy of the model with the weights of the gated one, gates left out."""
    dense, state = copied(model), gated.state_dict()
    names = {}
    for gate in gates:
        for conv, norm in ((gate.module, gate.norm), *gate.follows, *gate.reads):
            names[f"{conv}.conv."], names[f"{conv}.norm."] = f"{conv}.", f"{norm}."
    plain = {}
    for name, value in state.items():
        prefix = next((prefix for prefix in names if name.startswith(prefix)), "")
        plain[names.get(prefix, "") + name.removeprefix(prefix)] = value
    wanted = dense.state_dict()
    dense.load_state_dict({name: value for name, value in plain.items() if name in wanted})
    return dense


def added(gated: nn.Module, gates: tuple[Gate, ...]) -> dict[str, Tensor]:
    """The values of what the gates add to the model."""
    state = gated.state_dict()
    return {n: v.detach().clone() for n, v in state.items() if any(n.startswith(f"{g.module}.gate.") for g in gates)}
