"""What numbers decide in a run (an order, a threshold, a selection), and the same decisions in another run.

Where two candidates are exactly alike, rounding decides which of them a detector keeps. Two models that compute the
same then have other outputs, in any precision. They agree if what every decision is made of agrees, and if the outputs
agree once the second model has taken the first one's decisions.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from squeeze.structure.reference import agree


@dataclass(frozen=True)
class _Decision:
    """An op that took floating-point numbers and gave whole ones or booleans.

    Attributes:
        name: Of the op.
        given: The floating-point tensors that it took.
        out: All that it gave.
    """

    name: str
    given: list[Tensor]
    out: Any


class Disagreement(Exception):
    """What a decision is made of is not the same in both runs."""


class Decisions(TorchDispatchMode):
    """Records every decision of a run.

    Attributes:
        made: In order.
    """

    def __init__(self) -> None:
        super().__init__()
        self.made: list[_Decision] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        given = _floating((args, kwargs))
        if given and _decides(out):
            self.made.append(_Decision(str(func), _cloned(given), _cloned(out)))  # later ops may write to them
        return out


class Deciding(TorchDispatchMode):
    """Takes recorded decisions again, after a look at what they are made of.

    Args:
        made: By the run before.
        tolerance: What the operands of a decision may differ by, over the largest number in them.
    """

    def __init__(self, made: Sequence[_Decision], tolerance: float) -> None:
        super().__init__()
        self.left = iter(made)
        self.tolerance = tolerance

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        given = _floating((args, kwargs))
        if not given or not _decides(out):
            return out
        before = next(self.left, None)
        if before is None or before.name != str(func):
            raise Disagreement(f"{func} where {before.name if before else 'nothing'} was")
        if [tensor.shape for tensor in given] != [tensor.shape for tensor in before.given]:
            return out  # it runs along what is cut, as max-pooling does: it stands for itself
        if not agree(before.given, given, self.tolerance):
            raise Disagreement(f"the operands of {func}")
        return _cloned(before.out)


def same_decided(expected: Callable[[], Sequence[Tensor]], found: Callable[[], Sequence[Tensor]], most: float) -> bool:
    """Two runs agree to a tolerance, where the second one takes the decisions of the first.

    Args:
        expected: Runs one model and returns its outputs.
        found: Runs the other.
        most: What numbers may differ by, over the largest of their tensor.
    """
    with Decisions() as decisions:
        first = expected()
    try:
        with Deciding(decisions.made, most):
            second = found()
    except Disagreement:
        return False
    return len(first) == len(second) and agree(first, second, most)


def _floating(values: Any) -> list[Tensor]:
    leaves = pytree.tree_leaves(values)
    return [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point()]


def _decides(out: Any) -> bool:
    leaves = pytree.tree_leaves(out)
    return any(isinstance(leaf, Tensor) and not leaf.dtype.is_floating_point for leaf in leaves)


def _cloned(out: Any) -> Any:
    return pytree.tree_map_only(Tensor, Tensor.clone, out)
