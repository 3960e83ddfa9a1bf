"""What a code should be: telling of the input's attribute, in step with what its filters give, and sparse."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from squeeze import processes
from squeeze.nn import Signal
from squeeze.task import widened


class SideHeads(nn.Module):
    """Q(a | z) for each gate: a linear map from its code to the classes, without bias; for training only.

    I(a; z) ≥ H(a) + E[log Q(a | z)] for any Q (Barber and Agakov 2003), so the cross-entropies of the heads are
    I's variational upper limit on H(a | z), and lowering them raises the bound.

    Args:
        sizes: Filters of each gate.
        classes: Values of the attribute.
    """

    def __init__(self, sizes: Sequence[int], classes: int) -> None:
        super().__init__()
        self.heads = nn.ModuleList(nn.Linear(size, classes, bias=False) for size in sizes)

    def forward(self, codes: Sequence[Tensor], attribute: Tensor) -> Tensor:
        """Σ over the gates of the cross-entropy between Q(· | z) and the attribute (B,), a scalar."""
        losses = [
            functional.cross_entropy(widened(head(code)), attribute)
            for head, code in zip(self.heads, codes, strict=True)
        ]
        return torch.stack(losses).sum()


def limiting(signals: Sequence[Signal]) -> Tensor:
    """Σ over the gates of KL(softmax(o) ‖ softmax(z)), a scalar: what is off should answer little.

    o (B, N) are the mean responses of the filters, z their code; the mean is taken over samples and filters, as in the
    authors' code.
    """
    losses = []
    for signal in signals:
        if signal.response is None:
            raise TypeError("responses are there in training only")
        answered = functional.log_softmax(widened(signal.response), dim=1)
        wanted = functional.log_softmax(widened(signal.code), dim=1)
        losses.append(functional.kl_div(wanted, answered, reduction="none", log_target=True).mean())
    return torch.stack(losses).sum()


def activity(codes: Sequence[Tensor], target: float, part: float = 1.0) -> Tensor:
    """Σ over the gates of |mean over samples of ‖z‖₁ - τ N|, a scalar (τ: the share of filters that may be on).

    Args:
        codes: (B, N) of each gate.
        target: τ.
        part: How much these samples count among those of all processes. The mean is over all; summed over the
            processes by this weight, their values and gradients are those of one process that has all samples.
    """
    over = torch.stack([widened(code).sum(1).mean() - target * code.shape[1] for code in codes])
    return (over * processes.add_up(part * over.detach()).sign()).sum()
