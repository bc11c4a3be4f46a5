"""The Langevin proposal: its gradient is that of the density, and its chains know nothing of any source."""

from __future__ import annotations

import numpy as np
import torch

from models.identity.mixture import VonMisesFisherMixture
from models.identity.sphere import normalize
from training.jobs.langevin_proposal import LangevinProposalConfig, _chains, log_density_objective


def mixture(concentration: float) -> VonMisesFisherMixture:
    rng = np.random.default_rng(0)
    means = normalize(rng.standard_normal((2, 6)))
    return VonMisesFisherMixture(np.array([0.3, 0.7]), means, np.array([concentration, concentration / 2]))


def test_the_objective_is_minus_the_log_density_and_its_gradient_the_derivative() -> None:
    density = mixture(8.0)
    objective = log_density_objective(density)
    points = normalize(np.random.default_rng(1).standard_normal((5, 6)))
    for point, expected in zip(points, density.log_density(points), strict=True):
        x = torch.from_numpy(point).requires_grad_()
        value = objective.value(x)
        assert np.isclose(-float(value.detach()), expected, atol=1e-9)
        (gradient,) = torch.autograd.grad(value, x)
        assert torch.allclose(objective.gradient(x.detach()), gradient, atol=1e-9)


def test_at_temperature_one_the_last_points_follow_the_density() -> None:
    density = mixture(6.0)
    config = LangevinProposalConfig(burn_in=30, window=30, scaled_step_size=0.1)
    chains = _chains(config, density)
    points = np.stack([next(chains).chains[0].numpy() for _ in range(150)])
    exact = density.sample(np.random.default_rng(2), 4000)
    error = (points.mean(0) - exact.mean(0)) / (exact.std(0) / np.sqrt(len(points)))
    assert np.abs(error).max() < 4.0


def test_every_proposal_is_a_chain_of_its_own() -> None:
    config = LangevinProposalConfig(burn_in=2, window=2)
    chains, again = _chains(config, mixture(6.0)), _chains(config, mixture(6.0))
    first, second = next(chains).x, next(chains).x
    assert not torch.allclose(first, second)
    assert torch.equal(first, next(again).x)
