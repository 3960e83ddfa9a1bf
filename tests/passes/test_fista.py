"""FISTA against scikit-learn's coordinate descent, and its updates against the formulas written out by hand."""

import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import Lasso
from torch import nn

from squeeze.passes.gal.fista import FISTA


def problem(seed: int, samples: int = 60, width: int = 20) -> tuple[np.ndarray, np.ndarray]:
    """A regression whose true weights are sparse and of both signs."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(samples, width))
    true = rng.normal(size=width) * (rng.random(width) < 0.4)
    return x, x @ true + 0.05 * rng.normal(size=samples)


def solve(
    x: np.ndarray, y: np.ndarray, l1: float, *, nonnegative: bool, at_y: bool, weights: np.ndarray | None = None
) -> np.ndarray:
    """Minimise ‖y - xw‖² / 2n + l1 · Σ weights · |w| with the optimiser under test."""
    inputs, targets = torch.from_numpy(x), torch.from_numpy(y)
    w = nn.Parameter(torch.ones(x.shape[1], dtype=torch.float64))
    curvature = float(np.linalg.norm(x, 2) ** 2) / len(x)
    optimizer = FISTA(
        [w],
        lr=1 / curvature,
        l1=l1,
        weights=None if weights is None else torch.from_numpy(weights),
        nonnegative=nonnegative,
    )

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = (inputs @ w - targets).square().sum() / (2 * len(x))
        loss.backward()
        return loss

    for step in range(1500):
        if at_y:
            optimizer.step(closure)
        else:
            closure()
            optimizer.step()
        if step % 100 == 99:
            optimizer.restart()
    return w.detach().numpy()


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("nonnegative", [True, False])
@pytest.mark.parametrize("at_y", [True, False])
def test_agrees_with_lasso(seed: int, nonnegative: bool, at_y: bool) -> None:
    x, y = problem(seed)
    expected = Lasso(alpha=0.1, positive=nonnegative, fit_intercept=False, tol=1e-12, max_iter=100_000).fit(x, y).coef_
    found = solve(x, y, 0.1, nonnegative=nonnegative, at_y=at_y)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert ((found == 0) == (expected == 0)).all()
    assert 0 < (found == 0).sum() < len(found)


def test_weights_are_a_rescaled_lasso() -> None:
    """Σ cᵢ|wᵢ| is a plain Lasso in v = c w, on columns divided by c."""
    x, y = problem(3)
    weights = np.linspace(0.5, 4.0, x.shape[1])
    plain = Lasso(alpha=0.1, positive=True, fit_intercept=False, tol=1e-12, max_iter=100_000).fit(x / weights, y)
    found = solve(x, y, 0.1, nonnegative=True, at_y=True, weights=weights)
    np.testing.assert_allclose(found, plain.coef_ / weights, atol=1e-6)


def test_momentum_gets_there_in_fewer_steps_than_plain_proximal_descent() -> None:
    x, y = problem(4, samples=25)
    gram, target = x.T @ x / len(x), x.T @ y / len(x)
    lr = 1 / np.linalg.norm(gram, 2)
    plain = np.ones(x.shape[1])
    w = nn.Parameter(torch.ones(x.shape[1], dtype=torch.float64))
    optimizer = FISTA([w], lr=lr, l1=0.01)

    def objective(m: np.ndarray) -> float:
        return float(((x @ m - y) ** 2).sum() / (2 * len(x)) + 0.01 * m.sum())

    def closure() -> torch.Tensor:
        w.grad = torch.from_numpy(gram) @ w.detach() - torch.from_numpy(target)
        return w.new_zeros(())

    for _ in range(60):
        plain = np.maximum(0, plain - lr * (gram @ plain - target) - lr * 0.01)
        optimizer.step(closure)
    best = Lasso(alpha=0.01, positive=True, fit_intercept=False, tol=1e-12, max_iter=100_000).fit(x, y).coef_
    assert objective(w.detach().numpy()) - objective(best) < 0.1 * (objective(plain) - objective(best))


def by_hand(gradients: list[float], rates: list[float], l1: float, restart_at: int | None = None) -> list[float]:
    """The formulas in plain arithmetic: α, y and the threshold for one scalar that starts at 1."""
    m, before, alpha, iterates = 1.0, 1.0, 1.0, []
    for k, (gradient, lr) in enumerate(zip(gradients, rates, strict=True)):
        if k == restart_at or (k and lr != rates[k - 1]):
            alpha = 1.0
        after = (1 + math.sqrt(1 + 4 * alpha**2)) / 2
        y = m + (alpha - 1) / after * (m - before)
        u = y - lr * gradient
        m, before, alpha = max(0.0, math.copysign(max(abs(u) - lr * l1, 0.0), u)), m, after
        iterates.append(m)
    return iterates


def run(gradients: list[float], rates: list[float], l1: float, restart_at: int | None = None) -> list[float]:
    """The same with the optimiser."""
    m = nn.Parameter(torch.ones(1, dtype=torch.float64))
    optimizer = FISTA([m], lr=rates[0], l1=l1)
    iterates = []
    for k, (gradient, lr) in enumerate(zip(gradients, rates, strict=True)):
        if k == restart_at:
            optimizer.restart()
        optimizer.param_groups[0]["lr"] = lr
        m.grad = torch.tensor([gradient], dtype=torch.float64)
        optimizer.step()
        iterates.append(m.item())
    return iterates


GRADIENTS = [0.5, -0.2, 1.0, 0.3, -2.0, 0.7, 1.5, 1.5]


def test_iterates_are_those_of_the_formulas() -> None:
    rates = [0.1] * 8
    assert run(GRADIENTS, rates, 0.4) == pytest.approx(by_hand(GRADIENTS, rates, 0.4), abs=1e-12)


def test_a_new_learning_rate_restarts_the_momentum() -> None:
    rates = [0.1] * 4 + [0.01] * 4
    assert run(GRADIENTS, rates, 0.4) == pytest.approx(by_hand(GRADIENTS, rates, 0.4), abs=1e-12)


def test_restart_drops_the_momentum() -> None:
    rates = [0.1] * 8
    restarted = run(GRADIENTS, rates, 0.4, restart_at=4)
    assert restarted == pytest.approx(by_hand(GRADIENTS, rates, 0.4, restart_at=4), abs=1e-12)
    assert restarted != pytest.approx(run(GRADIENTS, rates, 0.4), abs=1e-3)


def test_reach_ranks_the_zeros() -> None:
    m = nn.Parameter(torch.tensor([0.5, 0.01, 0.0]))
    optimizer = FISTA([m], lr=0.1, l1=1.0)
    m.grad = torch.tensor([0.0, 0.0, 2.0])
    optimizer.step()
    torch.testing.assert_close(m.detach(), torch.tensor([0.4, 0.0, 0.0]))
    torch.testing.assert_close(optimizer.state[m]["reach"], torch.tensor([0.4, -0.09, -0.3]))


def test_continues_from_its_state_dict() -> None:
    torch.manual_seed(0)
    gradients = torch.randn(8, 5)

    def steps(m: nn.Parameter, optimizer: FISTA, rows: torch.Tensor) -> None:
        for row in rows:
            m.grad = row.clone()
            optimizer.step()

    straight = nn.Parameter(torch.ones(5))
    steps(straight, FISTA([straight], lr=0.1, l1=0.2), gradients)
    first = nn.Parameter(torch.ones(5))
    optimizer = FISTA([first], lr=0.1, l1=0.2)
    steps(first, optimizer, gradients[:4])
    second = nn.Parameter(first.detach().clone())
    resumed = FISTA([second], lr=0.7)
    resumed.load_state_dict(optimizer.state_dict())
    steps(second, resumed, gradients[4:])
    assert torch.equal(second, straight)


@pytest.mark.parametrize(("lr", "l1"), [(0.0, 0.1), (-1.0, 0.1), (float("inf"), 0.1), (0.1, -0.1), (0.1, float("nan"))])
def test_refuses_what_cannot_be(lr: float, l1: float) -> None:
    with pytest.raises(ValueError, match="FISTA: l"):
        FISTA([nn.Parameter(torch.ones(1))], lr=lr, l1=l1)
