"""What the codes should tell of: the class of the input, or what the baseline takes it for."""

from collections.abc import Iterable
from itertools import islice

import torch
from accelerate.utils import send_to_device
from torch import Tensor, nn

from squeeze.errors import InputError
from squeeze.gating.inputs import classes_of
from squeeze.task import Batch, Task, device_of, labels_of

MOST = 1000
"""Values of the attribute where there are no labels: of outputs that are maps, each of millions would be a class."""


class Attribute:
    """The attribute a of each sample.

    Args:
        task: May know labels.
        baseline: Frozen, in eval mode; its largest feature is the label where there is none; of more than a thousand
            features, the stretch of neighbours in which that lies.
        batches: Some data.

    Attributes:
        classes: How many values it has.
        labelled: It is the label.

    Raises:
        InputError: There is no data, or its labels are no classes of the baseline.
    """

    def __init__(self, task: Task, baseline: nn.Module, batches: Iterable[Batch]) -> None:
        self._task, self._baseline = task, baseline
        first = next(islice(batches, 1), None)
        if first is None:
            raise InputError("Decouple: needs data to learn its gates from, got none; pass data=....")
        batch = send_to_device(first, device_of(baseline))
        features = self._features(batch)
        self.labelled = classes_of(task, batch, features) is not None
        count = features.shape[1]
        self.classes = max(2, count if self.labelled else min(count, MOST))

    def __call__(self, batch: Batch) -> Tensor:
        """(B,) int64."""
        labels = labels_of(self._task, batch) if self.labelled else None
        if labels is not None:
            return labels
        features = self._features(batch)
        return features.argmax(1) * self.classes // features.shape[1]

    def _features(self, batch: Batch) -> Tensor:
        with torch.no_grad():
            return self._task.features(self._baseline, batch)
