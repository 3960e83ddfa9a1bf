"""Tiny networks with one hard structure each: `HARD`, by name."""

from tests.models.calling import CALLING
from tests.models.case import Case as Case
from tests.models.convolutions import CONVOLUTIONS
from tests.models.derived import DERIVED
from tests.models.gates import GATES
from tests.models.graphs import GRAPHS
from tests.models.movement import MOVEMENT
from tests.models.residual import RESIDUAL
from tests.models.sequences import SEQUENCES
from tests.models.sizes import SIZES
from tests.models.weights import WEIGHTS

HARD: dict[str, Case] = {
    **CONVOLUTIONS,
    **MOVEMENT,
    **GATES,
    **WEIGHTS,
    **SEQUENCES,
    **CALLING,
    **RESIDUAL,
    **GRAPHS,
    **SIZES,
    **DERIVED,
}
