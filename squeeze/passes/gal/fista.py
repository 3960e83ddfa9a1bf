"""FISTA as a PyTorch optimiser (Beck and Teboulle 2009; in GAL: Lin et al. 2019, CVPR, section 3.4)."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


class FISTA(Optimizer):
    """Accelerated proximal gradient for ``H(m) + l1 · Σ weights · |m|``, with m >= 0 if asked; zeros are exact.

    With η = lr / metric, element by element, and S the soft threshold:

        α' = (1 + sqrt(1 + 4 α²)) / 2
        y  = m + (α - 1) / α' · (m - m_previous)
        m' = max(0, S_{η · l1 · weights}(y - η ∇H))

    The penalty acts in the threshold only: do not add it to what is back-propagated.

    ``step()`` uses the gradients that are there, taken at m: the model then only ever runs with masks that are
    non-negative and sparse, and the gradient comes for free with that of the weights (GAL's authors do the same).
    ``step(closure)`` moves the parameters to y first and lets the closure compute the gradient there, which is
    what the O(1/k²) theory asks for.

    Args:
        params: What is optimised, or parameter groups.
        lr: Step size, above 0. A change restarts the momentum.
        l1: Weight of the penalty, from 0.
        weights: Multiplies `l1` element by element; broadcasts against every parameter.
        metric: Divides `lr` element by element, likewise: FISTA in a diagonal metric, with the same minimum.
        nonnegative: Keep m >= 0.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        lr: float,
        l1: float = 0.0,
        weights: Tensor | None = None,
        metric: Tensor | None = None,
        nonnegative: bool = True,
    ) -> None:
        if not (lr > 0 and math.isfinite(lr)):
            raise ValueError(
                f"FISTA: lr must be above 0, got {lr}; pass a step size, at most 1 / the largest curvature."
            )
        if not (l1 >= 0 and math.isfinite(l1)):
            raise ValueError(f"FISTA: l1 must be at least 0, got {l1}; pass 0 for no penalty.")
        self.weights = torch.ones(()) if weights is None else weights
        self.metric = torch.ones(()) if metric is None else metric
        super().__init__(params, {"lr": lr, "l1": l1, "nonnegative": nonnegative, "alpha": 1.0, "last_lr": lr})

    def restart(self) -> None:
        """Drop the momentum, as if the present masks were the first."""
        for group in self.param_groups:
            group["alpha"] = 1.0

    @torch.no_grad()
    def rescale(self, p: Tensor, factor: Tensor, momentum: bool = True) -> None:
        """Follow a change of variables p → p / factor that happened outside: gradient and momentum go with it.

        Args:
            p: What was divided, already.
            factor: By what.
            momentum: False if the change ends the common motion of p, so that the momentum shall not keep it up.
        """
        for name in ("previous", "reach") if momentum else ("reach",):
            if name in self.state[p]:
                self.state[p][name] = self.state[p][name] / factor
        if p.grad is not None:
            p.grad.mul_(factor)

    @torch.no_grad()
    def step(
        self, closure: Callable[[], Any] | None = None, penalty: Callable[[Tensor, Tensor], float] | None = None
    ) -> Any:
        """One proximal step.

        Args:
            closure: Zeroes the gradients, back-propagates H and returns it; called with the parameters at y.
            penalty: Given y - η ∇H and η · weights, the `l1` to use from now on; called for every parameter.

        Returns:
            What the closure returned, or None.
        """
        momenta = [_momentum(group) for group in self.param_groups]
        here = {p: p.clone() for group in self.param_groups for p in group["params"]}
        pairs = zip(self.param_groups, momenta, strict=True)
        ahead = {p: self._ahead(p, momentum) for group, momentum in pairs for p in group["params"]}
        loss = None
        if closure is not None:
            for p, y in ahead.items():
                p.copy_(y)
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                rate = group["lr"] / self.metric.to(p)
                moved = ahead[p] if p.grad is None else ahead[p] - rate * p.grad
                speed = rate * self.weights.to(p)
                if penalty is not None:
                    group["l1"] = penalty(moved, speed)
                self._shrink(p, moved, group["l1"] * speed, group["nonnegative"])
                self.state[p]["previous"] = here[p]
        return loss

    def _ahead(self, p: Tensor, momentum: float) -> Tensor:
        return p + momentum * (p - self.state[p]["previous"]) if momentum else p.clone()

    def _shrink(self, p: Tensor, moved: Tensor, threshold: Tensor, nonnegative: bool) -> None:
        # What lies below 0 here is how far an entry is from coming back: it ranks the zeros.
        reach = (moved if nonnegative else moved.abs()) - threshold
        self.state[p]["reach"] = reach
        p.copy_(reach.clamp(min=0) if nonnegative else moved.sign() * reach.clamp(min=0))


def _momentum(group: dict[str, Any]) -> float:
    """(α - 1) / α', moving α on; 0 at the first step, after `restart` and after a change of the learning rate."""
    if group["lr"] != group["last_lr"]:
        group["alpha"], group["last_lr"] = 1.0, group["lr"]
    alpha = group["alpha"]
    group["alpha"] = (1 + math.sqrt(1 + 4 * alpha**2)) / 2
    return (alpha - 1) / group["alpha"]
