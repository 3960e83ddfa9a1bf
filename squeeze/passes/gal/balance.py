"""What keeps masks comparable: the scale of what is masked lies in the mask, never in the weights behind it."""

import torch
from torch import Tensor, nn

from squeeze.masks import KINDS, SoftMasks
from squeeze.passes.gal.fista import FISTA


class Balance:
    """Takes two freedoms from masks and weights that would change nothing but the meaning of the masks.

    A mask m in front of weights w computes m · w, so w may grow while the penalty shrinks m: `absorb` puts the growth
    of every masked slice of the weights back into its mask, which leaves the function as it is. Where a normalisation
    follows, all masks of a group may shrink together for nothing, and leave weights so small that fine-tuning tears
    them apart: `level` keeps the energy of what is read, Σ m²‖w‖², where the dense network has it. With both, a mask
    says what its structure sends, measured against its group.

    Attributes:
        norms: (M,) of the masked slices, as the dense network has them.
    """

    def __init__(self, masks: SoftMasks, model: nn.Module) -> None:
        self._masks, self._model = masks, model
        self.norms = masks.norms(model)

    def absorb(self, fista: FISTA) -> Tensor:
        """Give the slices the norms they had; kind by kind, as a branch and its filters share their slices.

        Returns:
            (M,) what the masks were divided by.
        """
        divided = torch.ones_like(self.norms)
        for kind in KINDS:
            norms = self._masks.norms(self._model)
            known = (norms > 0) & (self.norms > 0) & norms.isfinite()
            factor = torch.where(known & self._of(kind), self.norms / norms, torch.ones_like(norms))
            self._shift(factor, fista)
            divided *= factor
        return divided

    def level(self, fista: FISTA) -> Tensor:
        """Bring the energy behind every group back to the dense network's, by the masks alone.

        The momentum does not follow: what all masks of a group have in common is no motion.

        Returns:
            (M,) what the masks were divided by.
        """
        masks = self._masks.values.detach()
        factor = torch.ones_like(masks)
        for part in self._masks.parts:
            energy = self.norms[part.span].square()
            root_mean = ((masks[part.span].square() * energy).sum() / energy.sum()).sqrt()
            if part.kind in ("filters", "inputs") and bool(root_mean > 0) and bool(root_mean.isfinite()):
                factor[part.span] = root_mean
        masks.div_(factor)
        fista.rescale(self._masks.values, factor, momentum=False)
        return factor

    def _of(self, kind: str) -> Tensor:
        mark = torch.zeros_like(self._masks.values, dtype=torch.bool)
        for part in self._masks.parts:
            mark[part.span] = part.kind == kind
        return mark

    def _shift(self, factor: Tensor, fista: FISTA) -> None:
        self._masks.shift(self._model, factor)
        fista.rescale(self._masks.values, factor)
