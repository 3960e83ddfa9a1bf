"""What the networks are trained for."""

from torch import Tensor
from torch.nn import functional as F


def classification(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy.

    Args:
        logits: (N, classes).
        labels: (N,), class numbers.
    """
    return F.cross_entropy(logits, labels)
