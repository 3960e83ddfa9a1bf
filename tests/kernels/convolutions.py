"""Clustered convolutions made at random, some of their channels dense and some dropped."""

import torch

from squeeze.kernels import ClusteredOperands


def random_operands(
    shape: tuple[int, int, int] = (16, 24, 4),
    kernel: int = 3,
    groups: int = 1,
    stride: int = 1,
    padding: int | None = None,
    seed: int = 0,
) -> ClusteredOperands:
    """Of channels, outputs and clusters in a group: every fourth channel is dense, every fifth dropped."""
    channels, outputs, clusters = shape
    generator = torch.Generator().manual_seed(seed)
    counts, rows = [], []
    for c in range(channels * groups):
        some = min(int(torch.randint(1, clusters + 1, (), generator=generator)), outputs)
        counts.append(0 if c % 5 == 4 else outputs if c % 4 == 3 else some)
    total = sum(counts)
    for c, count in enumerate(counts):
        own = (
            torch.arange(outputs) if count == outputs else torch.randint(max(count, 1), (outputs,), generator=generator)
        )
        rows.append(own + sum(counts[:c]) if count else torch.full((outputs,), total))
    padding = kernel // 2 if padding is None else padding
    return ClusteredOperands(
        torch.randn(total, kernel, kernel, generator=generator),
        torch.stack(rows).view(groups, channels, outputs).to(torch.int32),
        None,
        tuple(counts),
        torch.randn(outputs * groups, generator=generator),
        (stride, stride),
        (padding, padding),
        (1, 1),
    )
