"""Block bounds of a game between networks, by Hessian-vector products on chosen parameters (their last layers, say).

With player i's loss f_i of all players' parameters, at the current point:

    mu_i   smallest eigenvalue of the Hessian of f_i in player i's own block   (Lanczos)
    own_i  its largest absolute eigenvalue                                     (same Krylov space)
    L_ij   largest singular value of d^2 f_i / d theta_i d theta_j             (Golub and Kahan)

A Krylov space of k vectors sees extreme values from the inside: mu is estimated too large, own and L too small. What
comes of it is evidence about one point and one batch, `sampled`, and no proof. `damping` adds rho/2 |theta - anchor|^2
to every player's loss, that is rho to every mu and own: the least rho with a positive margin tells how far a game is
from a certificate. A loss that does not change with the scale of a player's block (a cosine of what its last layer
puts out) has mu <= 0 there, by Euler's theorem on homogeneous functions, so it is never certified without damping.

Source: the certificate is that of V. Sharma, "Small-Gain Nash: Certified Contraction to Nash Equilibria in
Differentiable Games", 2025, arXiv:2512.06791; the estimates are ours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from training.optimizers.games.block_bounds import BlockBounds
from training.optimizers.games.certificate import best_weights, certify, small_gain_margin

Parameters = Sequence[Tensor]


def network_bounds(
    losses: Sequence[Tensor], players: Sequence[Parameters], *, krylov: int = 8, generator: torch.Generator
) -> BlockBounds:
    """Estimate the bounds at the current parameters.

    Args:
        losses: Scalar loss of each player, with its graph; the graphs are kept.
        players: Parameters of each player that count, in the order of the losses.
        krylov: Dimension of the Krylov spaces, at least 2; one product each for own curvature, two for a coupling.
        generator: Source of the starting vectors.

    Returns:
        Bounds of evidence ``sampled``, float64.

    Raises:
        ValueError: There are not as many players as losses, or the Krylov space is too small.
    """
    count = len(losses)
    if len(players) != count or count < 1:
        raise ValueError(f"{count} losses for {len(players)} players")
    if krylov < 2:
        raise ValueError(f"krylov must be at least 2, got {krylov}")
    curvature, own = torch.zeros(count, dtype=torch.float64), torch.zeros(count, dtype=torch.float64)
    coupling = torch.zeros(count, count, dtype=torch.float64)
    for i, loss in enumerate(losses):
        slopes = [_flat_gradient(loss, block, block, graph=True) for block in players]
        low, high = _lanczos(_product(slopes[i], players[i]), slopes[i].numel(), krylov, generator)
        curvature[i], own[i] = low, max(abs(low), abs(high))
        for j in range(count):
            if j != i:
                # J_ij v = d(slope_j . v) / d theta_i, and its transpose from the slope in theta_i.
                forward, backward = _product(slopes[j], players[i]), _product(slopes[i], players[j])
                coupling[i, j] = _largest_singular(forward, backward, slopes[j].numel(), krylov, generator)
    return BlockBounds(curvature, coupling, own, "sampled")


def damped(bounds: BlockBounds, damping: float) -> BlockBounds:
    """Bounds of the game with ``damping / 2 |theta - anchor|^2`` added to every player's loss.

    Args:
        bounds: Of the game without.
        damping: rho >= 0.

    Returns:
        The bounds.

    Raises:
        ValueError: The damping is negative.
    """
    if not damping >= 0:
        raise ValueError(f"damping must be non-negative, got {damping}")
    return bounds._replace(curvature=bounds.curvature + damping, own=bounds.own + damping)


def damping_for_certificate(bounds: BlockBounds) -> float:
    """The infimum of the dampings with a certificate: minus the best margin, or 0 where that is positive."""
    return max(0.0, -small_gain_margin(bounds, best_weights(bounds)))


def certified_step(bounds: BlockBounds, *, damping: float = 0.0) -> float | None:
    """The certified Euler step of fastest contraction, alpha / beta^2, of the damped game.

    Args:
        bounds: Of the game without damping.
        damping: rho >= 0.

    Returns:
        The step, or None without a certificate.
    """
    blocks = [slice(i, i + 1) for i in range(bounds.curvature.numel())]
    certificate = certify(damped(bounds, damping), blocks)
    return None if certificate is None else certificate.euler_step


def _product(slope: Tensor, block: Parameters) -> Callable[[Tensor], Tensor]:
    """Multiply by the derivative of a slope along a block, transposed: v to d(slope . v) / d block."""
    return lambda v: _flat_gradient(slope @ v, block, block, graph=False)


def _flat_gradient(scalar: Tensor, block: Parameters, like: Parameters, *, graph: bool) -> Tensor:
    if not scalar.requires_grad:
        return torch.cat([torch.zeros_like(part).reshape(-1) for part in like])
    parts = torch.autograd.grad(
        scalar, list(block), create_graph=graph, retain_graph=True, allow_unused=True, materialize_grads=True
    )
    return torch.cat([part.reshape(-1) for part in parts])


def _unit(d: int, generator: torch.Generator, like: torch.dtype) -> Tensor:
    v = torch.randn(d, generator=generator, dtype=like)
    return v / torch.linalg.vector_norm(v)


def _lanczos(
    product: Callable[[Tensor], Tensor], d: int, krylov: int, generator: torch.Generator
) -> tuple[float, float]:
    """Smallest and largest Ritz value of a symmetric product, with full reorthogonalization."""
    dtype = torch.get_default_dtype()
    basis = [_unit(d, generator, dtype)]
    diagonal: list[float] = []
    beside: list[float] = []
    for k in range(min(krylov, d)):
        w = product(basis[k]).to(dtype)
        diagonal.append(float(w @ basis[k]))
        for _ in range(2):
            for v in basis:
                w = w - (w @ v) * v
        length = float(torch.linalg.vector_norm(w))
        if k + 1 == min(krylov, d) or length < 1e-6 * max(1e-12, abs(diagonal[0])):
            break
        beside.append(length)
        basis.append(w / length)
    tridiagonal = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
    for k, value in enumerate(beside):
        tridiagonal[k, k + 1] = tridiagonal[k + 1, k] = value
    values = torch.linalg.eigvalsh(tridiagonal)
    return float(values[0]), float(values[-1])


def _largest_singular(
    forward: Callable[[Tensor], Tensor],
    backward: Callable[[Tensor], Tensor],
    d: int,
    krylov: int,
    generator: torch.Generator,
) -> float:
    """Largest singular value of a product, as the root of the largest Ritz value of its Gram matrix."""
    _, high = _lanczos(lambda v: backward(forward(v)), d, krylov, generator)
    return max(high, 0.0) ** 0.5
