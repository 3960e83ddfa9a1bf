"""The discriminator that tells the baseline's features from the generator's, and its losses (Lin et al. 2019, CVPR)."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

Regularizer = Literal["ar", "l1", "l2"]
WIDTHS = (128, 256, 128)


class Discriminator(nn.Module):
    """d → 128 → 256 → 128 → 1 with ReLU between; gives the logit of "these are the baseline's features".

    Weights come from N(0, 0.01), read as a variance: with a standard deviation of 0.01 four layers with ReLU
    would pass on less than a ten-thousandth of what they see, and the game would never start.

    Args:
        features: d, the width of the features.
        seed: Of the initial weights.
    """

    def __init__(self, features: int, seed: int) -> None:
        super().__init__()
        widths = (features, *WIDTHS, 1)
        layers = [nn.Linear(a, b) for a, b in zip(widths, widths[1:], strict=False)]
        generator = torch.Generator().manual_seed(seed)
        for layer in layers:
            nn.init.normal_(layer.weight, std=0.1, generator=generator)
            nn.init.zeros_(layer.bias)
        self.layers = nn.Sequential(*layers)

    def forward(self, features: Tensor) -> Tensor:
        """(N, d) features, in any precision, to (N,) logits."""
        features = features.to(next(self.parameters()).dtype)
        for layer in self.layers[:-1]:
            features = torch.relu(layer(features))
        logits: Tensor = self.layers[-1](features)
        return logits.squeeze(1)


def realness(logits: Tensor) -> Tensor:
    """-E[log D(f)]: small where the discriminator takes features for the baseline's."""
    return binary_cross_entropy_with_logits(logits, torch.ones_like(logits))


def fakeness(logits: Tensor) -> Tensor:
    """-E[log(1 - D(f))]: small where the discriminator takes features for the generator's."""
    return binary_cross_entropy_with_logits(logits, torch.zeros_like(logits))


def discriminator_loss(
    discriminator: Discriminator, baseline: Tensor, generated: Tensor, regularizer: Regularizer, decay: float
) -> Tensor:
    """What the discriminator minimises: -L_adv plus its regulariser R(W_D).

    ``"ar"`` adds -E[log D(f_g)], which keeps the discriminator from winning trivially; ``"l1"`` and ``"l2"``
    add ``decay · Σ|w|`` and ``decay / 2 · Σ w²`` over its weights.

    Args:
        discriminator: D.
        baseline: (N, d) f_b.
        generated: (N, d) f_g, detached.
        regularizer: Which R.
        decay: Strength of the norms.
    """
    fake = discriminator(generated)
    loss = realness(discriminator(baseline)) + fakeness(fake)
    if regularizer == "ar":
        return loss + realness(fake)
    weights = torch.cat([p.flatten() for p in discriminator.parameters() if p.dim() > 1])
    return loss + decay * (weights.abs().sum() if regularizer == "l1" else weights.square().sum() / 2)
