"""The frozen baseline, and how features are read from it and from the generator."""

from collections.abc import Iterable
from itertools import islice

import torch
from accelerate.utils import send_to_device
from torch import Tensor, nn

from squeeze.copying import eval_copy
from squeeze.errors import InputError
from squeeze.task import Batch, Task, device_of, widened


class Features(nn.Module):
    """A task's features as a module, so that `functional_call` can put masked parameters into the model it reads.

    Attributes:
        width: D.
        scale: What features are divided by: the baseline's standard deviation, so that the weights of the
            losses mean the same for any output.
    """

    def __init__(self, model: nn.Module, task: Task, scale: float = 1.0) -> None:
        super().__init__()
        self.model = model
        self.task = task
        self.scale = scale

    def forward(self, batch: Batch) -> Tensor:
        """(N, D) features of a batch, in float32 or float64."""
        features = self.task.features(self.model, batch)
        return widened(features.reshape(len(features), -1)) / self.scale


def frozen_baseline(
    model: nn.Module, task: Task, batches: Iterable[Batch], accumulate: int = 1
) -> tuple[Features, int]:
    """A copy of the model in eval mode without gradients, scaled by its features on the first batches.

    Returns:
        The baseline's features, and their width D.

    Raises:
        InputError: There is no data, or the features are not (N, D) and finite.
    """
    first = list(islice(batches, accumulate))
    if not first:
        raise InputError("GAL: needs data to learn its masks from, got none; pass data=..., unlabelled will do.")
    baseline = Features(eval_copy(model).requires_grad_(False), task)
    with torch.no_grad():
        features = torch.cat([baseline(send_to_device(batch, device_of(model))) for batch in first])
    scale = float(features.std(correction=0))
    if not features.isfinite().all():
        raise InputError(
            "GAL: the model's features must be finite, got NaN or infinity on the first batch; check model and data."
        )
    baseline.scale = scale if scale > 0 else 1.0
    return baseline, features.shape[1]
