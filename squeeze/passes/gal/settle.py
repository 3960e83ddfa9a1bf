"""From trained masks to a decision: what goes, and what the masks of the rest are."""

import math

import numpy as np

from squeeze.masks import SoftMasks
from squeeze.structure.groups import Structure
from squeeze.structure.parts import Choice


def zeros_go(masks: SoftMasks, structure: Structure, reach: np.ndarray, round_to: int) -> Choice:
    """What the paper removes: every mask that is exactly 0.

    Two things stay nevertheless. A group keeps at least one unit, a layer one input, and as many of the best zeros as
    bring the width up to a multiple of `round_to` channels.
    A concatenation keeps its best branch, unless something else stays in it.

    Args:
        masks: The trained masks.
        structure: What they were made for.
        reach: (M,) the masks before they were cut off at 0, which ranks the zeros.
        round_to: In channels.
    """
    gone = reach <= 0
    for part in masks.parts:
        if part.kind in ("filters", "inputs"):
            step = structure.groups[part.index].step if part.kind == "filters" else 1
            aligned = max(1, round_to // math.gcd(round_to, step))
            kept = max(1, int((~gone[part.span]).sum()))
            kept = min(part.size, math.ceil(kept / aligned) * aligned)
            order = np.argsort(-reach[part.span], kind="stable")
            gone[part.start + order[:kept]] = False
    concats: dict[str, list[int]] = {}
    for part in masks.parts:
        if part.kind == "branches" and not structure.branches[part.index].spare:
            concats.setdefault(structure.branches[part.index].concat, []).append(part.start)
    for members in concats.values():
        if gone[members].all():
            gone[members[int(np.argmax(reach[members]))]] = False
    return masks.choice(gone)


def settled(masks: SoftMasks, values: np.ndarray, removed: np.ndarray) -> np.ndarray:
    """The masks to fold: 0 for what goes, never 0 for what stays.

    What stays although its mask is 0 (for the budget, for the alignment, or as the last of its layer) gets the
    smallest mask that is above 0 among those of its group that stay: it comes back no louder than the weakest
    survivor. Where none survived it gets 1, as in the baseline.

    Args:
        masks: The trained masks.
        values: (M,) their values.
        removed: (M,) True where an entry goes.
    """
    settled = np.where(removed, 0.0, values)
    for part in masks.parts:
        mine = settled[part.span]
        alive = mine[mine > 0]
        mine[(mine <= 0) & ~removed[part.span]] = alive.min() if alive.size else 1.0
    return settled
