"""The leak of identity under a linear map: its gradient, its bounds, its proximal maps."""

import math

import pytest
import torch

from training.problems.identity_leak import IdentityLeak, alternating_prox, contraction, removed_directions


@pytest.fixture
def problem() -> IdentityLeak:
    generator = torch.Generator().manual_seed(0)
    queries, gallery = (torch.randn(12, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    return IdentityLeak(queries, gallery, temperature=2.0, weight=0.3, ridge=0.1)


def some_point(seed: int) -> torch.Tensor:
    return 0.3 * torch.randn(25, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_gradient_is_the_derivative_and_the_value_the_mean_over_pairs(problem: IdentityLeak) -> None:
    x = some_point(1).requires_grad_()
    (slope,) = torch.autograd.grad(problem.smooth.value(x), x)
    assert torch.allclose(problem.smooth.gradient(x.detach()), slope, atol=1e-12)
    kept = torch.eye(5, dtype=torch.float64) - problem.matrix(x.detach())
    pairs = [
        math.log1p(math.exp(float(problem.queries[i] @ kept @ (problem.gallery[i] - problem.gallery[j])) / 2.0))
        for i in range(12)
        for j in range(12)
        if i != j
    ]
    assert float(problem.smooth.value(x.detach())) == pytest.approx(sum(pairs) / len(pairs))


def test_the_smoothness_bounds_every_curvature_and_is_no_wild_guess(problem: IdentityLeak) -> None:
    bound = problem.smoothness()
    zero = torch.zeros(25, dtype=torch.float64)
    curvature = torch.autograd.functional.hessian(problem.smooth.value, zero)
    assert isinstance(curvature, torch.Tensor)
    assert float(torch.linalg.eigvalsh(curvature)[-1]) <= bound
    # with everything removed all margins vanish, where the logistic curvature is at its largest
    flat = torch.autograd.functional.hessian(problem.smooth.value, torch.eye(5, dtype=torch.float64).flatten())
    assert isinstance(flat, torch.Tensor)
    assert float(torch.linalg.eigvalsh(flat)[-1]) == pytest.approx(bound / 1.1, rel=1e-3)


def test_the_alternating_map_solves_the_sum_and_a_warm_start_stays_there(problem: IdentityLeak) -> None:
    z, step = some_point(2) + 0.5 * torch.eye(5, dtype=torch.float64).flatten(), 0.7
    start = (torch.zeros_like(z), torch.zeros_like(z))
    x, corrections = alternating_prox(problem, z, step, start, rounds=400)

    def objective(v: torch.Tensor) -> float:
        return float(step * (problem.cheap.value(v) + 0.05 * v @ v) + 0.5 * (v - z).square().sum())

    for seed in range(20):
        other = problem.clip(x + 0.1 * some_point(seed + 10), step=1e-12)
        assert objective(other) >= objective(x) - 1e-9
    again, _ = alternating_prox(problem, z, step, corrections, rounds=1)
    assert torch.allclose(again, x, atol=1e-8)
    once, _ = alternating_prox(problem, z, step, start, rounds=1)
    assert not torch.allclose(once, x, atol=1e-4)


def test_points_of_the_domain_are_symmetric_between_nothing_and_all(problem: IdentityLeak) -> None:
    removed = problem.matrix(problem.clip(5 * some_point(3), step=0.1))
    assert torch.equal(removed, removed.mT) or torch.allclose(removed, removed.mT, atol=1e-12)
    values = torch.linalg.eigvalsh(removed)
    assert -1e-9 <= float(values[0]) <= float(values[-1]) <= 1 + 1e-9


def test_the_contraction_squares_to_what_is_kept_and_removed_directions_are_those_of_half_or_more() -> None:
    axes = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(4), dtype=torch.float64))[0]
    removed = (axes * torch.tensor([0.9, 0.5, 0.2], dtype=torch.float64)) @ axes.mT
    kept = contraction(removed)
    assert torch.allclose(kept @ kept, torch.eye(3, dtype=torch.float64) - removed, atol=1e-12)
    found = removed_directions(removed, at_least=0.45)
    assert torch.allclose(found @ found.mT, axes[:, :2] @ axes[:, :2].mT, atol=1e-12)


def test_bad_inputs_are_refused(problem: IdentityLeak) -> None:
    with pytest.raises(ValueError, match="two shapes"):
        IdentityLeak(problem.queries, problem.gallery[:3], 1.0, 1.0, 1.0)
    with pytest.raises(ValueError, match="two shapes"):
        IdentityLeak(problem.queries[:1], problem.gallery[:1], 1.0, 1.0, 1.0)
    with pytest.raises(ValueError, match="temperature"):
        IdentityLeak(problem.queries, problem.gallery, 0.0, 1.0, 1.0)
    with pytest.raises(ValueError, match="rounds"):
        alternating_prox(problem, some_point(0), 1.0, (some_point(0), some_point(0)), rounds=0)
