"""The uncut model, and what is compared with it."""

from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property, partial

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from squeeze.copying import Holders, copied, sharing
from squeeze.structure.decisions import same_decided
from squeeze.structure.precision import Widened, widened
from squeeze.structure.quiet import quietly
from squeeze.structure.reference import TOLERANCE, agree, shaken
from squeeze.structure.smaller import fewer, shapes_of, twice
from squeeze.structure.watch import Watch
from squeeze.task import Inputs, call, tensors_of

Shapes = Sequence[torch.Size]
_LEVELS = (1e-5, 3e-5, 1e-4, 3e-4)


class Dense:
    """The uncut model, whose numbers are stirred so that a misplaced channel shows.

    Args:
        model: `stirred`.
        inputs: Its example inputs.
        shapes: Of its outputs.
        watch: Is told what is tried.
        proof: Smaller inputs on which outputs are compared, and the shapes of the outputs there; None for the
            example's own.
        long: A run takes long.
    """

    def __init__(
        self,
        model: nn.Module,
        inputs: Inputs,
        shapes: Shapes,
        watch: Watch,
        proof: tuple[Inputs, Shapes] | None = None,
        long: bool = False,
    ) -> None:
        self.model = model
        self.long = long
        self.watch = watch
        self.reduced = proof is not None
        self.inputs: Inputs
        self.shapes: Shapes
        self.inputs, self.shapes = proof or (inputs, shapes)
        self.whole_inputs, self.whole_shapes = inputs, shapes
        self.unbroken: set[frozenset[bytes]] = set()

    @cached_property
    def quick(self) -> "Dense":
        """The model on fewer positions, if it runs there, for finding what is to blame; not for proofs.

        It need not run in the same way there, so what works must be tried again on the example's own inputs.
        """
        if (inputs := fewer(self.inputs)) is None:
            return self
        quick = Dense(self.model, inputs, (), self.watch)
        try:
            quick.shapes = shapes_of(quick.outputs)
        except Exception:  # noqa: BLE001 - whatever the user's code raises, it wants the example's own
            return self
        return quick

    @cached_property
    def numberless(self) -> "Dense":
        """The model and its inputs without numbers, if it runs so, and if even the quick one takes long.

        As the quick one, for finding what is to blame; what it cannot say, or lets pass, is tried again with numbers.
        """
        if not self.long or self.quick is not self:
            return self.quick
        model, inputs = sharing(self.model), pytree.tree_map_only(Tensor, _without_numbers, self.inputs)
        holders = Holders(model)
        for tensor in dict.fromkeys([*model.parameters(), *model.buffers()]):
            bare = _without_numbers(tensor)
            holders.replace(
                tensor, nn.Parameter(bare, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else bare
            )
        found = Dense(model, inputs, (), self.watch)
        try:
            found.shapes = shapes_of(found.outputs)
        except Exception:  # noqa: BLE001 - whatever the user's code raises, it wants numbers
            return self
        return found if found.shapes == self.shapes else self

    def run(self, model: nn.Module) -> list[Tensor]:
        """The outputs of a model, this one or a smaller one."""
        with quietly(model), torch.no_grad():
            return tensors_of(call(model, self.inputs))

    def fits(self, model: nn.Module) -> bool:
        """On the example inputs, whole, a smaller model has outputs of the right shapes."""
        try:
            with quietly(model), torch.no_grad():
                return shapes_of(tensors_of(call(model, self.whole_inputs))) == self.whole_shapes
        except Exception:  # noqa: BLE001 - whatever the user's code raises, it does not fit
            return False

    def train(self, model: nn.Module) -> list[Tensor] | None:
        """As `run`, in training mode; None if the model needs more than example inputs for that."""
        own = copied(model)  # in training a forward may write to its parameters, and large ones are the given model's
        for samples in (lambda inputs: inputs, twice):
            # Whatever the user's code raises, training cannot be tried.
            with suppress(Exception), quietly(own, training=True), torch.no_grad():
                return tensors_of(call(own, samples(self.whole_inputs)))
        return None

    @cached_property
    def outputs(self) -> list[Tensor]:
        """Of the model."""
        return self.run(self.model)

    @cached_property
    def tolerance(self) -> float:
        """What outputs may differ by: rounding, enlarged as this model enlarges it, and no more."""
        with quietly(self.model), torch.no_grad():
            others = tensors_of(call(self.model, pytree.tree_map_only(Tensor, shaken, self.inputs)))
        levels = _LEVELS if shapes_of(others) == shapes_of(self.outputs) else ()
        return next((level for level in levels if agree(self.outputs, others, level / 10)), TOLERANCE)

    def same_precisely(self, expected: nn.Module, found: nn.Module) -> bool:
        """Two models compute the same in float64, where the second takes the decisions of the first.

        So they are compared where their outputs in float32 differ: rounding alone may decide which of two like boxes
        a detector keeps, and it need not show when inputs change slightly.
        """
        try:
            first, second = (partial(self._run_precisely, model) for model in (expected, found))
            return same_decided(first, second, _LEVELS[0])
        except Exception:  # noqa: BLE001 - code that does not run in float64 cannot be asked again
            return False

    def same_model(self, expected: nn.Module, found: nn.Module, outputs: Sequence[Tensor]) -> bool:
        """Two models, the second with these outputs, compute the same."""
        return self.same(self.run(expected), outputs) or self.same_precisely(expected, found)

    def _run_precisely(self, model: nn.Module) -> list[Tensor]:
        wide, inputs = widened(model, self.inputs)
        with quietly(wide), torch.no_grad(), Widened():
            return tensors_of(call(wide, inputs))

    def same(self, expected: Sequence[Tensor], found: Sequence[Tensor]) -> bool:
        """Two outputs differ by no more than the model's tolerance, which is looked into only where it matters."""
        if agree(expected, found, _LEVELS[0]):
            return True
        return agree(expected, found, TOLERANCE) and agree(expected, found, self.tolerance)

    @cached_property
    def trained(self) -> list[torch.Size] | None:
        """Of the outputs in training mode."""
        outputs = self.train(self.model)
        return None if outputs is None else shapes_of(outputs)


def _without_numbers(tensor: Tensor) -> Tensor:
    return torch.empty_like(tensor, device="meta", requires_grad=False)
