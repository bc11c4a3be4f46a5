"""Bounds by Hessian-vector products against dense Hessians, and what damping does to the certificate."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from training.optimizers.games.block_bounds import linear_bounds
from training.optimizers.games.network_bounds import (
    certified_step,
    damped,
    damping_for_certificate,
    network_bounds,
)


def quadratic_game(seed: int, shift: float) -> tuple[list[Tensor], list[list[Tensor]], Tensor]:
    """Two quadratic players of 6 and 4 numbers, and the constant Jacobian of their field."""
    generator = torch.Generator().manual_seed(seed)
    first, second = torch.randn(6, 6, generator=generator), torch.randn(4, 4, generator=generator)
    first, second = (first + first.T) / 4 + shift * torch.eye(6), (second + second.T) / 4 + shift * torch.eye(4)
    into_first, into_second = torch.randn(6, 4, generator=generator), 0.3 * torch.randn(4, 6, generator=generator)
    x = torch.randn(2, 3, generator=generator).requires_grad_()
    y = torch.randn(4, generator=generator).requires_grad_()
    flat = x.reshape(-1)
    losses = [0.5 * flat @ first @ flat + flat @ into_first @ y, 0.5 * y @ second @ y + y @ into_second @ flat]
    jacobian = torch.cat([torch.cat([first, into_first], 1), torch.cat([into_second, second], 1)])
    return losses, [[x], [y]], jacobian


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_full_krylov_space_gives_the_bounds_of_the_dense_jacobian(seed: int) -> None:
    losses, players, jacobian = quadratic_game(seed, shift=0.5)
    found = network_bounds(losses, players, krylov=6, generator=torch.Generator().manual_seed(9))
    exact = linear_bounds(jacobian.double(), (slice(0, 6), slice(6, 10)))
    assert torch.allclose(found.curvature, exact.curvature, atol=2e-4)
    assert torch.allclose(found.own, exact.own, atol=2e-4)
    assert torch.allclose(found.coupling, exact.coupling, atol=2e-4)
    assert found.evidence == "sampled"


def test_a_small_krylov_space_errs_on_the_inside() -> None:
    losses, players, jacobian = quadratic_game(4, shift=0.0)
    found = network_bounds(losses, players, krylov=2, generator=torch.Generator().manual_seed(9))
    exact = linear_bounds(jacobian.double(), (slice(0, 6), slice(6, 10)))
    assert bool((found.curvature >= exact.curvature - 1e-6).all())
    assert bool((found.own <= exact.own + 1e-6).all())
    assert bool((found.coupling <= exact.coupling + 1e-6).all())


def test_a_cosine_of_what_the_last_layer_puts_out_has_no_positive_curvature() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(3, 5, generator=generator).requires_grad_()
    features, wanted = torch.randn(20, 5, generator=generator), F.normalize(torch.randn(20, 3, generator=generator))
    loss = 1 - (F.normalize(features @ weight.T, dim=1) * wanted).sum(1).mean()
    bounds = network_bounds([loss], [[weight]], krylov=15, generator=generator)
    assert float(bounds.curvature[0]) <= 1e-6
    assert certified_step(bounds) is None


def test_the_least_damping_separates_games_with_a_certificate_from_those_without() -> None:
    losses, players, _ = quadratic_game(1, shift=-0.5)
    bounds = network_bounds(losses, players, krylov=6, generator=torch.Generator().manual_seed(9))
    needed = damping_for_certificate(bounds)
    assert needed > 0
    assert certified_step(bounds, damping=0.99 * needed) is None
    assert certified_step(bounds, damping=1.01 * needed) is not None
    assert damping_for_certificate(damped(bounds, 1.1 * needed)) == 0.0


def test_certified_steps_contract_the_damped_game() -> None:
    losses, players, jacobian = quadratic_game(2, shift=0.0)
    bounds = network_bounds(losses, players, krylov=6, generator=torch.Generator().manual_seed(9))
    rho = 2 * damping_for_certificate(bounds)
    step = certified_step(bounds, damping=rho)
    assert step is not None
    update = torch.eye(10) - step * (jacobian + rho * torch.eye(10))
    assert float(torch.linalg.eigvals(update).abs().max()) < 1


def test_players_that_do_not_meet_have_no_coupling() -> None:
    x, y = torch.ones(2, requires_grad=True), torch.ones(3, requires_grad=True)
    bounds = network_bounds(
        [x.square().sum(), 2 * y.square().sum()], [[x], [y]], generator=torch.Generator().manual_seed(0)
    )
    assert bounds.coupling.abs().max() == 0
    assert bounds.curvature.tolist() == pytest.approx([2.0, 4.0])


def test_bad_input_is_refused() -> None:
    losses, players, _ = quadratic_game(0, shift=0.0)
    generator = torch.Generator().manual_seed(0)
    with pytest.raises(ValueError, match="2 losses for 1 players"):
        network_bounds(losses, players[:1], generator=generator)
    with pytest.raises(ValueError, match="krylov"):
        network_bounds(losses, players, krylov=1, generator=generator)
    with pytest.raises(ValueError, match="damping"):
        damped(network_bounds(losses, players, generator=generator), -1.0)
