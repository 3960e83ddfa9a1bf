"""Codes in the plane: what lies together shares a path."""

import numpy as np

MOST = 1000
"""Points in the picture."""
_FEWEST = 5


def embedded(on: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """t-SNE of codes (van der Maaten and Hinton 2008), by the number of filters in which two differ.

    Args:
        on: (S, F) bool.

    Returns:
        The numbers (P,) of the inputs that are shown, spread evenly over all, and their places (P, 2); None where
        there are too few, or all have the same code. The same codes give the same picture.
    """
    chosen = np.unique(np.linspace(0, len(on) - 1, min(MOST, len(on))).astype(int))
    shown = on[chosen]
    varying = shown.any(0) & ~shown.all(0)
    if len(shown) < _FEWEST or varying.sum() < 2:
        return None
    from sklearn.manifold import TSNE  # takes a second to import

    perplexity = min(30.0, (len(shown) - 1) / 3)
    places = TSNE(2, perplexity=perplexity, init="pca", random_state=0).fit_transform(shown[:, varying].astype(float))
    return chosen, places
