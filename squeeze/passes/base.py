"""The contract of a pass: two methods on a frozen dataclass whose fields are its settings, and a third for few."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, runtime_checkable

from torch import Tensor, nn

from squeeze.plan import Edit
from squeeze.structure.groups import Structure
from squeeze.task import Batch, Task
from squeeze.training import Run

Loss = Callable[[nn.Module, Batch], Tensor]
"""A differentiable scalar of a model and a batch."""


@dataclass(frozen=True)
class Found:
    """What a pass decided.

    Attributes:
        model: A dense copy with the weights the pass wants, masks folded in; `edits` are still to be carried out.
        edits: What goes.
        tensors: Values for tensors that the edits create, by ``state_dict`` name.
        history: For the report, JSON values only: "epochs" (scalars of each), "left_out" (pairs of name and reason),
            "finding" (the fields of a `squeeze.report.findings.Finding` but its method); what else is there is kept.
    """

    model: nn.Module
    edits: tuple[Edit, ...]
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    history: Mapping[str, Any] = field(default_factory=dict)


@runtime_checkable
class Pass(Protocol):
    """One method of making a network smaller. `squeeze.testing.check_pass` proves that an object is one."""

    name: ClassVar[str]

    def search(self, model: nn.Module, structure: Structure, task: Task, run: Run) -> Found:
        """Decide what goes. May train a copy; the given model stays bit-identical."""

    def objective(self, model: nn.Module, loss: Loss) -> AbstractContextManager[Loss]:
        """What fine-tuning must keep doing for this pass; ``nullcontext(loss)`` if nothing."""


@runtime_checkable
class Keeps(Protocol):
    """What a pass has besides if weights that move can break what it promised, such as a budget met on average."""

    def keep(self, model: nn.Module, task: Task) -> Mapping[str, Any]:
        """Make it hold again, after later passes and after fine-tuning; changes values in place, and no shapes.

        Returns:
            What takes the place of entries of `Found.history`.
        """
