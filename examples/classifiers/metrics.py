"""How the networks are judged."""

from torch import Tensor


def correct(logits: Tensor, labels: Tensor) -> int:
    """How many samples have their label as the largest logit.

    Args:
        logits: (N, classes).
        labels: (N,), class numbers.
    """
    return int((logits.argmax(1) == labels).sum())
