"""The loss-weight proxy: its closed form, its projection, what the features tell, and that LV-HBA finds the weights."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from training.algorithm import iterate
from training.optimizers.bilevel.lv_hba import lv_hba
from training.problems.loss_weight_proxy import LARGEST_SHARE, LossWeightProxy, fit_proxy, project_shares


def proxy(seed: int = 0, k: int = 8) -> LossWeightProxy:
    rng = torch.Generator().manual_seed(seed)
    worth = 0.05 * torch.rand(k, generator=rng, dtype=torch.float64) + 0.005
    leak = 0.01 * torch.rand(k, generator=rng, dtype=torch.float64)
    return LossWeightProxy(worth, leak, leak.flip(0), torch.ones(k, dtype=torch.float64))


@pytest.mark.parametrize("seed", [0, 1])
def test_the_closed_form_of_the_lower_level_beats_every_other_share(seed: int) -> None:
    found = proxy(seed)
    weights = torch.tensor([3e-4, 0.8], dtype=torch.float64)
    problem = found.problem(1.0, scale=1.0)
    best = found.lower_solution(weights)
    value = float(problem.lower(weights.log(), best))
    rng = torch.Generator().manual_seed(seed)
    for _ in range(200):
        other = (best + 0.05 * torch.randn(8, generator=rng, dtype=torch.float64)).clamp(0, LARGEST_SHARE)
        assert float(problem.lower(weights.log(), other)) >= value - 1e-12


def test_a_multiplier_acts_like_an_addition_to_the_weight_of_the_leak() -> None:
    found = proxy()
    limit, scale = 0.02, 30.0
    problem = found.problem(limit, scale=scale)
    assert problem.constraint is not None
    x = torch.tensor([3e-4, 0.5], dtype=torch.float64).log()
    heavier = torch.tensor([3e-4, 0.5 + found.leak_weight(0.2, scale=scale)], dtype=torch.float64).log()
    for shares in (torch.full((8,), 0.3, dtype=torch.float64), torch.linspace(0, 0.9, 8, dtype=torch.float64)):
        lagrangian = problem.lower(x, shares) + 0.2 * problem.constraint(x, shares)[0]
        constant = 0.2 * limit / torch.linalg.vector_norm(found.leak)
        assert float(lagrangian + constant) == pytest.approx(float(problem.lower(heavier, shares)), rel=1e-9)


def test_the_projection_is_the_nearest_point_that_obeys_box_and_limit() -> None:
    rng = torch.Generator().manual_seed(4)
    for _ in range(20):
        point, leak = torch.randn(6, generator=rng, dtype=torch.float64), torch.rand(6, generator=rng).double()
        nearest = project_shares(point, leak, 0.4)
        assert float(leak @ nearest) <= 0.4 + 1e-9
        assert bool(((nearest >= 0) & (nearest <= LARGEST_SHARE)).all())
        for _ in range(20):  # obtuse angle with every admissible point
            other = torch.rand(6, generator=rng, dtype=torch.float64) * LARGEST_SHARE
            other = other * min(1.0, 0.4 / float(leak @ other))
            assert float((point - nearest) @ (other - nearest)) <= 1e-9


def test_features_that_carry_the_code_leak_and_the_others_hardly() -> None:
    rng = torch.Generator().manual_seed(1)
    identity, expression = torch.randn(600, 4, generator=rng), torch.randn(600, 4, generator=rng)
    mixing, _ = torch.linalg.qr(torch.randn(20, 8, generator=rng))
    pictures = torch.cat([2 * identity, 1.9 * expression], 1) @ mixing.T
    held = torch.arange(600) % 3 == 0
    found = fit_proxy(pictures, identity, held, components=8)
    assert float(found.leak.sum()) == pytest.approx(1.0, abs=0.1)  # all of them together explain the whole code
    unrelated = fit_proxy(pictures, torch.randn(600, 4, generator=rng), held, components=8)
    assert float(unrelated.leak.sum()) < 0.012  # 8 features of 400 faces explain 0.02 by chance
    # four standard errors of a mean of eight variances, of 400 faces over 200
    assert float(found.validation_variance.mean()) == pytest.approx(1.0, abs=4 * ((2 / 400 + 2 / 200) / 8) ** 0.5)


def test_lv_hba_ends_near_the_best_weights_of_a_fine_grid_and_obeys_the_limit() -> None:
    found = proxy()
    limit = 0.5 * float(found.leak.sum())
    low, high = (torch.tensor(b, dtype=torch.float64) for b in ((1e-5, 1e-3), (1e-2, 10.0)))
    best = min(
        float(found.validation(shares))
        for rate in torch.logspace(-5, -2, 20, dtype=torch.float64)
        for weight in torch.logspace(-3, 1, 60, dtype=torch.float64)
        for shares in [found.lower_solution(torch.stack([rate, weight]))]
        if float(found.leak @ shares) <= limit
    )
    method = lv_hba(
        found.problem(limit, scale=30.0),
        project=found.projection(limit, low.log(), high.log()),
        project_lower=lambda shares: shares.clamp(0.0, LARGEST_SHARE),
    )
    start = torch.cat([torch.tensor([1e-3, 0.1]).double().log(), torch.full((8,), 0.5, dtype=torch.float64)])
    path = iterate(method, start, seed=0)
    for _ in range(800):
        state, _ = next(path)
    shares: Tensor = state.x[2:]
    assert float(found.leak @ shares) <= limit + 1e-9
    assert float(found.validation(shares)) <= 1.15 * best


def test_more_components_than_faces_are_refused() -> None:
    with pytest.raises(ValueError, match="components"):
        fit_proxy(torch.randn(10, 5), torch.randn(10, 3), torch.arange(10) < 3, components=7)
