"""From scores to a choice: the least important structures go, on aligned widths, until a budget is met."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from squeeze.errors import BudgetError
from squeeze.structure.groups import Structure
from squeeze.structure.parts import Choice, Group

TIGHT = 0.01
"""How far below its target a budget may end, as a share of the dense cost."""


@dataclass(frozen=True)
class Budget:
    """What stays, as a share of the dense model; exactly one is given.

    Attributes:
        macs: Share of the multiply-accumulates.
        params: Share of the parameters.
        units: Share of the units of all groups.
    """

    macs: float | None = None
    params: float | None = None
    units: float | None = None

    def __post_init__(self) -> None:
        given = {name: value for name, value in vars(self).items() if value is not None}
        if len(given) != 1:
            raise ValueError(
                f"budget: exactly one of macs, params and units must be given, got {list(given) or 'none'}; say "
                "macs=0.5."
            )
        name, value = next(iter(given.items()))
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1:
            raise ValueError(f"{name}: must be a share that stays, between 0 and 1, got {value!r}; 0.5 keeps half.")

    @property
    def target(self) -> float:
        """The share."""
        return next(value for value in (self.macs, self.params, self.units) if value is not None)

    def share(self, structure: Structure, choice: Choice) -> float:
        """What a choice leaves, as a share of the dense model."""
        if self.units is not None:
            total = sum(group.size for group in structure.groups)
            return 1 - sum(int(gone.sum()) for gone in choice.units) / max(total, 1)
        dense, left = structure.cost(), structure.cost(choice)
        return left.macs / max(dense.macs, 1) if self.macs is not None else left.params / max(dense.params, 1)


@dataclass(frozen=True, eq=False)
class Scores:
    """How important each structure is; larger stays longer, infinity stays for good.

    Attributes:
        units: One array for each group of the structure.
        blocks: By name; blocks that are left out stay.
        branches: By name; branches that are left out stay.
        inputs: One array for each weight of `Structure.inputs` that may read less; weights that are left out read all.
    """

    units: tuple[np.ndarray, ...]
    blocks: Mapping[str, float] = field(default_factory=dict)
    branches: Mapping[str, float] = field(default_factory=dict)
    inputs: Mapping[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class _Cut:
    """One thing that can be removed next: a block, a branch, or the units or inputs between two aligned widths."""

    score: float
    kind: Literal["units", "inputs", "block", "branch"]
    name: str
    group: int = -1
    units: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))

    @property
    def of(self) -> tuple[str, str]:
        """What it is a part of."""
        return self.kind, self.name


def select(structure: Structure, scores: Scores, budget: Budget, round_to: int = 8) -> Choice:
    """Remove what scores least, over the whole model, until the budget is met.

    Widths end on multiples of `round_to`, or where they were. The result is at or below the
    target, by at most `TIGHT` wherever the aligned grid allows it.

    Raises:
        BudgetError: Even the smallest model on the grid is above the budget; says how small it is.
    """
    cuts = sorted(_cuts(structure, scores, round_to), key=lambda cut: cut.score)
    return _within(structure, cuts, budget, round_to)


def _within(structure: Structure, cuts: list[_Cut], budget: Budget, round_to: int) -> Choice:
    """The first of these cuts, as many as the budget needs, and as little as it allows."""
    grid = _Grid(structure, round_to)
    count = _first(lambda n: budget.share(structure, grid.choice(cuts[:n])) <= budget.target, len(cuts))
    if count is None:
        raise _unreachable(structure, budget, grid.choice(cuts), round_to)
    return grid.choice(_fill(grid, cuts[:count], cuts[count:], budget))


def select_evenly(structure: Structure, scores: Scores, budget: Budget, round_to: int = 8) -> Choice:
    """Remove the same share of every group and of every layer's inputs (what scores least in each) within the budget.

    Raises:
        BudgetError: Even the smallest model on the grid is above the budget; says how small it is.
    """
    if budget.units is not None:
        pairs = zip(structure.groups, scores.units, strict=True)
        return Choice(tuple(_least(group, score, round_to, 1 - budget.units) for group, score in pairs))
    cuts = _cuts(structure, replace(scores, blocks={}, branches={}), round_to)
    sizes = {("units", group.name): group.size for group in structure.groups}
    sizes |= {("inputs", edge.tensor): edge.size for edge in structure.inputs}
    seen, ranked = dict.fromkeys(sizes, 0), []
    for cut in cuts:
        seen[cut.of] += len(cut.units)
        ranked.append(replace(cut, score=seen[cut.of] / sizes[cut.of]))
    ranked.sort(key=lambda cut: cut.score)
    return _within(structure, ranked, budget, round_to)


def _least(group: Group, importance: np.ndarray, round_to: int, share: float) -> np.ndarray:
    """(units,) What goes of a group: what scores least, at most this share, down to an aligned width."""
    most = min(share * group.size + 1e-9 * group.size, int(np.isfinite(importance).sum()))
    narrow = min((width for width in widths(group, round_to) if group.size - width <= most), default=group.size)
    gone = np.zeros(group.size, dtype=bool)
    gone[np.argsort(importance, kind="stable")[: group.size - narrow]] = True
    return gone


def widths(group: Group, round_to: int) -> list[int]:
    """Numbers of units a group may keep, descending from its size: aligned, and never none."""
    return _aligned(group.size, round_to // math.gcd(round_to, group.step))


def _aligned(size: int, step: int) -> list[int]:
    return [size, *range((size - 1) // step * step, 0, -step)]


def _cuts(structure: Structure, scores: Scores, round_to: int) -> list[_Cut]:
    cuts = []
    for number, (group, importance) in enumerate(zip(structure.groups, scores.units, strict=True)):
        whole = _Cut(-math.inf, "units", group.name, number)
        cuts += _parts(whole, importance, widths(group, round_to))
    for edge in structure.inputs:
        if edge.tensor in scores.inputs:
            whole = _Cut(-math.inf, "inputs", edge.tensor)
            cuts += _parts(whole, scores.inputs[edge.tensor], _aligned(edge.size, round_to))
    cuts += [_Cut(s, "block", name) for name, s in scores.blocks.items() if math.isfinite(s)]
    return cuts + _branch_cuts(structure, scores)


def _parts(whole: _Cut, importance: np.ndarray, levels: list[int]) -> list[_Cut]:
    """What goes from one width to the next, the least important first."""
    order, floor, cuts = np.argsort(importance, kind="stable"), whole.score, list[_Cut]()
    for wide, narrow in zip(levels, levels[1:], strict=False):
        units = order[len(order) - wide : len(order) - narrow]
        floor = max(floor, float(importance[units].mean()))
        if not math.isfinite(floor):
            break
        cuts.append(replace(whole, score=floor, units=units))
    return cuts


def _branch_cuts(structure: Structure, scores: Scores) -> list[_Cut]:
    siblings: dict[str, list[_Cut]] = {}
    keeps = {branch.concat: branch.spare for branch in structure.branches}
    concats = {branch.name: branch.concat for branch in structure.branches}
    for name, score in scores.branches.items():
        siblings.setdefault(concats[name], []).append(_Cut(score, "branch", name))
    cuts = []
    for concat, found in siblings.items():
        found.sort(key=lambda cut: cut.score)
        everyone = len(found) == sum(other == concat for other in concats.values())
        cuts += [c for c in (found[:-1] if everyone and not keeps[concat] else found) if math.isfinite(c.score)]
    return cuts


@dataclass(frozen=True, eq=False)
class _Grid:
    """Makes choices of cuts, on aligned widths."""

    structure: Structure
    round_to: int

    def choice(self, cuts: list[_Cut]) -> Choice:
        """What goes with these cuts."""
        units = self.structure.nothing().units
        for cut in cuts:
            if cut.kind == "units":
                units[cut.group][cut.units] = True
        names = {kind: frozenset(cut.name for cut in cuts if cut.kind == kind) for kind in ("block", "branch")}
        whole = Choice(units, names["block"], names["branch"])
        order: dict[str, list[int]] = {}
        for cut in cuts:
            if cut.kind == "inputs":
                order.setdefault(cut.name, []).extend(cut.units.tolist())
        return replace(whole, inputs=self._inputs(whole, order)) if order else whole

    def _inputs(self, whole: Choice, order: Mapping[str, list[int]]) -> dict[str, np.ndarray]:
        """Units that go elsewhere may be inputs that would have stayed here: others then stay, for the alignment."""
        kept, found = self.structure.kept(whole), {}
        for edge in self.structure.inputs:
            if edge.tensor in order:
                here = kept.get((edge.tensor, edge.dim), np.ones(edge.size, dtype=bool))
                going = [unit for unit in order[edge.tensor] if here[unit]]
                left = int(here.sum()) - len(going)
                more = min(-left % self.round_to if left else self.round_to, len(going))
                found[edge.tensor] = np.isin(np.arange(edge.size), going[: len(going) - more])
        return found


def _first(holds: Callable[[int], bool], end: int) -> int | None:
    """The smallest n ≤ end for which a monotone condition holds."""
    if not holds(end):
        return None
    low, high = -1, end
    while low + 1 < high:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def _fill(grid: _Grid, cuts: list[_Cut], rest: list[_Cut], budget: Budget) -> list[_Cut]:
    """Put back what the budget has room for; if much room is left, trade one more cut for a better fit."""
    best = _put_back(grid, cuts, budget)
    gap = budget.target - budget.share(grid.structure, grid.choice(best))
    for candidate in _next_of_each(rest)[:32] if gap > TIGHT else []:
        traded = _put_back(grid, [*cuts, candidate], budget, spare=candidate)
        room = budget.target - budget.share(grid.structure, grid.choice(traded))
        if 0 <= room < gap:
            best, gap = traded, room
        if gap <= TIGHT:
            break
    return best


def _next_of_each(rest: list[_Cut]) -> list[_Cut]:
    """The next cut of everything, the least important first."""
    seen: dict[tuple[str, str], _Cut] = {}
    for cut in rest:
        seen.setdefault(cut.of, cut)
    return list(seen.values())


def _put_back(grid: _Grid, cuts: list[_Cut], budget: Budget, spare: _Cut | None = None) -> list[_Cut]:
    """Undo cuts, the most important first and each group's last one first, while the budget holds."""
    kept, closed = list(cuts), set()
    for cut in sorted(cuts, key=lambda c: c.score, reverse=True):
        later = any(c.of == cut.of and c.score > cut.score for c in kept)
        if cut is spare or later or cut.of in closed:
            continue
        fewer = [c for c in kept if c is not cut]
        if budget.share(grid.structure, grid.choice(fewer)) <= budget.target:
            kept = fewer
        else:
            closed.add(cut.of)
    return kept


def _unreachable(structure: Structure, budget: Budget, smallest: Choice, round_to: int) -> BudgetError:
    name = next(n for n, v in vars(budget).items() if v is not None)
    what = "the share of the units that stays" if name == "units" else name
    least = budget.share(structure, smallest)
    finer = ", a smaller round_to" if round_to > 1 else ""
    return BudgetError(
        f"budget: {what} must be at least {math.ceil(least * 1000) / 1000:g} for this model, got {budget.target:g}; "
        f"the rest is pinned, ignored or the last of its group (see squeeze inspect). Choose a larger budget{finer}."
    )
