"""Bounds of mutual information against linear Gaussian codes, whose information is known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from training.objectives.mutual_information import (
    IdentityPosterior,
    InformationError,
    contrastive_bound,
    gaussian_log_density,
    leave_one_out_bound,
    vclub,
)

DIM = 2


def linear_pairs(count: int, correlation: float, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Pairs a, u of standard Gaussians (n, DIM) with a correlation: DIM independent linear channels."""
    u = torch.randn(count, DIM, generator=rng, dtype=torch.float64)
    noise = torch.randn(count, DIM, generator=rng, dtype=torch.float64)
    return correlation * u + math.sqrt(1 - correlation**2) * noise, u


def true_information(correlation: float) -> float:
    return -0.5 * DIM * math.log(1 - correlation**2)


def kl(variance: float, shift: float, model_variance: float) -> float:
    """Divergence of N(m, variance) from N(m', model_variance), with the mean of (m - m')^2 as shift."""
    return 0.5 * ((variance + shift) / model_variance - 1 + math.log(model_variance / variance))


@pytest.mark.parametrize("correlation", [0.3, 0.7, 0.9])
def test_the_truth_lies_between_the_bounds(correlation: float, generator: torch.Generator) -> None:
    batches, size, truth = 60, 64, true_information(correlation)
    upper, lower = [], []
    for _ in range(batches):
        a, u = linear_pairs(size, correlation, generator)
        std = torch.full_like(a, math.sqrt(1 - correlation**2))
        upper.append(float(leave_one_out_bound(correlation * u, std, a).mean()))
        # the best critic is the log density of a given u
        scores = gaussian_log_density(a[:, None], correlation * u, 2 * std.log())
        lower.append(float(contrastive_bound(scores).mean()))
    above, below = torch.tensor(upper), torch.tensor(lower)
    assert float(above.mean()) >= truth - 2 * float(above.std()) / math.sqrt(batches)
    assert float(below.mean()) <= truth + 2 * float(below.std()) / math.sqrt(batches)
    assert max(lower) <= math.log(size)
    # with 64 faces and the right laws both are close
    assert float(above.mean()) == pytest.approx(truth, abs=0.1 + 0.1 * truth)
    assert float(below.mean()) == pytest.approx(truth, abs=0.1 + 0.1 * truth)


def test_a_critic_that_says_nothing_bounds_by_zero_and_a_wrong_one_by_less(generator: torch.Generator) -> None:
    a, u = linear_pairs(256, 0.9, generator)
    assert float(contrastive_bound(torch.zeros(256, 256)).abs().max()) < 1e-12
    assert float(contrastive_bound(-(a @ u.T)).mean()) < 0


def test_a_critic_that_knows_every_pair_reaches_the_log_of_their_number() -> None:
    assert float(contrastive_bound(100 * torch.eye(50)).mean()) == pytest.approx(math.log(50))


@pytest.mark.parametrize(("slope", "variance"), [(0.9, 0.19), (0.5, 0.5), (0.2, 2.0), (1.3, 0.8)])
def test_vclub_misses_the_truth_by_the_difference_of_two_divergences(
    slope: float, variance: float, generator: torch.Generator
) -> None:
    correlation, count = 0.9, 200_000
    a, u = linear_pairs(count, correlation, generator)
    found = float(vclub(slope * a, torch.full_like(a, math.log(variance)), u)) * count / (count - 1)
    # given a, u is N(correlation a, 1 - correlation^2); alone it is N(0, 1); a has variance 1
    product = DIM * kl(1.0, slope**2, variance)
    joint = DIM * kl(1 - correlation**2, (correlation - slope) ** 2, variance)
    per_pair = 2 * DIM * slope * correlation / variance  # size of a summand
    tolerance = 4 * per_pair / math.sqrt(count)
    assert found - true_information(correlation) == pytest.approx(product - joint, abs=tolerance)


def test_a_lazy_posterior_reports_nothing_of_what_is_there(generator: torch.Generator) -> None:
    a, u = linear_pairs(50_000, 0.743, generator)
    assert true_information(0.743) == pytest.approx(0.8, abs=0.01)
    assert abs(float(vclub(torch.zeros_like(a), torch.zeros_like(a), u))) < 1e-12
    # and one that is barely alive reports less than a tenth
    assert float(vclub(0.05 * a, torch.zeros_like(a), u)) < 0.08


def test_the_average_over_all_pairs_is_that_of_all_pairs(generator: torch.Generator) -> None:
    mean, log_variance, u = (torch.randn(7, 5, generator=generator, dtype=torch.float64) for _ in range(3))
    pairs = gaussian_log_density(u[None], mean[:, None], log_variance[:, None])
    assert float(vclub(mean, log_variance, u)) == pytest.approx(float(pairs.diagonal().mean() - pairs.mean()))


def test_a_fitted_posterior_sees_what_is_written_and_not_what_is_not(generator: torch.Generator) -> None:
    torch.manual_seed(0)
    identity = torch.nn.functional.normalize(torch.randn(256, 8, generator=generator), dim=1)
    written = torch.cat([identity, torch.randn(256, 8, generator=generator)], dim=1)
    silent = torch.randn(256, 16, generator=generator)
    found = []
    for codes in (written, silent):
        posterior = IdentityPosterior(16, 8, width=32)
        optimizer = torch.optim.Adam(posterior.parameters(), 1e-2)
        for _ in range(150):
            rows = torch.randint(0, 128, (64,), generator=generator)
            optimizer.zero_grad()
            posterior.negative_log_likelihood(codes[rows], identity[rows]).backward()
            optimizer.step()
        found.append(float(posterior.penalty(codes[128:], identity[128:]).detach()))
    assert found[0] > 3.0
    assert found[1] < 0.5


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_faces_bound_nothing(count: int) -> None:
    few = torch.ones(count, 3)
    with pytest.raises(InformationError, match="two"):
        vclub(few, few, few)
    with pytest.raises(InformationError, match="two"):
        leave_one_out_bound(few, few, few)
    with pytest.raises(InformationError, match="two"):
        contrastive_bound(torch.ones(count, count))


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InformationError, match="shape"):
        vclub(torch.ones(4, 2), torch.ones(4, 2), torch.ones(4, 3))
    with pytest.raises(InformationError, match="shape"):
        leave_one_out_bound(torch.ones(4, 2), torch.ones(4, 2), torch.ones(3, 2))
    with pytest.raises(InformationError, match="square"):
        contrastive_bound(torch.ones(4, 3))
