"""What keeps masks comparable: the scale of what is masked lies in the mask, never in the weights behind it."""

import torch
from torch import Tensor, nn

from squeeze.masks import KINDS, SoftMasks
from squeeze.passes.gal.fista import FISTA


class Balance:
    """Takes two freedoms from masks and weights that change nothing but the meaning of the masks.

    A mask m in front of weights w computes m · w, so w may grow while the penalty shrinks m: `absorb` puts the growth
    of every masked slice of the weights back into its mask. Where a normalisation follows, all masks of a group may
    shrink together for nothing: `level` brings them back to 1 on average. Both move a factor between masks and
    weights and leave the function as it is. With them the L1 norm weighs what a structure sends, and a mask of 0.1
    means the same in every group.

    Attributes:
        norms: (M,) of the masked slices after the last mask step.
    """

    def __init__(self, masks: SoftMasks, model: nn.Module) -> None:
        self._masks, self._model = masks, model
        self.norms = masks.norms(model)

    def absorb(self, fista: FISTA) -> None:
        """Give the slices the norms they had; kind by kind, as a branch and its filters share their slices."""
        for kind in KINDS:
            norms = self._masks.norms(self._model)
            known = (norms > 0) & (self.norms > 0) & norms.isfinite()
            factor = torch.where(known & self._of(kind), self.norms / norms, torch.ones_like(norms))
            self._shift(factor, fista)

    def level(self, fista: FISTA) -> None:
        """Bring the masks of every group to 1 on average.

        The momentum does not follow: what all masks of a group have in common is no motion.
        """
        factor = torch.ones_like(self._masks.values)
        for part in self._masks.parts:
            mean = self._masks.values[part.span].detach().mean()
            if part.kind == "filters" and bool(mean > 0) and bool(mean.isfinite()):
                factor[part.span] = mean
        self._masks.shift(self._model, factor)
        fista.rescale(self._masks.values, factor, momentum=False)
        self.norms = self._masks.norms(self._model)

    def _of(self, kind: str) -> Tensor:
        mark = torch.zeros_like(self._masks.values, dtype=torch.bool)
        for part in self._masks.parts:
            mark[part.span] = part.kind == kind
        return mark

    def _shift(self, factor: Tensor, fista: FISTA) -> None:
        self._masks.shift(self._model, factor)
        fista.rescale(self._masks.values, factor)
