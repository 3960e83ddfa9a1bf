"""What the networks are trained for."""

from torch import Tensor
from torch.nn import functional as F


def classification(logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy.

    Args:
        logits: (N, classes).
        labels: (N,), class numbers.
        smoothing: Probability that is spread evenly over all classes.
    """
    return F.cross_entropy(logits, labels, label_smoothing=smoothing)
