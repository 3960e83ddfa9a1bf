"""Who waits for a trace is told what takes the time, by a clock that the test turns."""

import itertools

import torch
from torch import nn

from squeeze.structure.trace import trace
from squeeze.structure.watch import Watch


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))


def test_the_step_that_takes_longest_is_named_after_five_seconds() -> None:
    lines, now = list[str](), iter([0.0, 0.0, 1.0, 4.9, 5.0, 9.0, 10.5])
    watch = Watch(lines.append, lambda: next(now))
    for step in ("first", "second", "third", "fourth", "fifth"):
        watch.step(step)
    assert lines == ["tracing has taken 5 s so far, 4 s of them for second"]
    watch.step("sixth")
    assert lines[1:] == ["tracing has taken 10 s so far, 4 s of them for fourth"]


def test_a_slow_trace_names_ops_and_groups_and_a_quick_one_says_nothing() -> None:
    said: dict[float, list[str]] = {1e-6: [], 3.0: []}
    for seconds, lines in said.items():
        ticks = itertools.count()
        # Every step takes longer than the one before.
        trace(net(), torch.randn(2, 3), tell=lines.append, clock=lambda t=ticks, s=seconds: next(t) ** 2 * s)
    assert said[1e-6] == []
    assert all(line.startswith("tracing has taken ") for line in said[3.0])
    assert any("aten." in line for line in said[3.0])


def test_a_group_that_takes_long_is_named() -> None:
    lines, clock = list[str](), [0.0]

    class Slow(nn.Linear):
        """Slow where fewer inputs come than it was made for."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            clock[0] += 7.0 * (x.shape[-1] < 8)
            return super().forward(x)

    trace(
        nn.Sequential(nn.Linear(3, 8), nn.ReLU(), Slow(8, 2)),
        torch.randn(2, 3),
        tell=lines.append,
        clock=lambda: clock[0],
    )
    assert lines and all("trying to cut 0" in line for line in lines)
