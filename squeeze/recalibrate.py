"""Batch-norm statistics of a model that was cut, taken anew."""

from itertools import islice

import torch
from accelerate.utils import send_to_device
from torch import nn

from squeeze.modes import in_eval_mode
from squeeze.randomness import randomness_kept, seed_all
from squeeze.task import Task, device_of

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def reestimate_batchnorm(model: nn.Module, task: Task, batches: int = 50) -> int:
    """Replace running means and variances by their averages over training batches, in place.

    Nothing else changes: no weight, no mode, no random state, no statistics of a layer that does not run, and
    nothing at all without data. Labels are not used.

    Args:
        model: Runs as `Task.features` runs it; only its batch norms are in train mode meanwhile.
        task: Has the data.
        batches: At most so many of the first epoch.

    Returns:
        How many batches there were.
    """
    norms = [m for m in model.modules() if isinstance(m, NORMS) and m.running_mean is not None]
    if not norms or batches < 1:
        return 0
    momenta = {norm: norm.momentum for norm in norms}
    before = {norm: {name: value.clone() for name, value in norm.named_buffers(recurse=False)} for norm in norms}
    seen = 0
    with in_eval_mode(model), torch.no_grad(), randomness_kept():
        try:
            for norm in norms:
                norm.reset_running_stats()
                norm.momentum = None  # torch then averages over all batches alike
                norm.train()
            seed_all(0)
            for batch in islice(task.train_batches(0), batches):
                task.features(model, send_to_device(batch, device_of(model)))
                seen += 1
        finally:
            for norm in norms:
                norm.momentum = momenta[norm]
                if norm.num_batches_tracked == 0:
                    norm.load_state_dict(before[norm], strict=False)
    return seen
