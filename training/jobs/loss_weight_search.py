"""Plain searches for the weights of the encoder's loss on the proxy: on a grid, at random, and on the finest grid."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from training.problems.loss_weight_proxy import LARGEST_SHARE, LossWeightProxy

SMALLEST, LARGEST = (1e-5, 1e-3), (1e-2, 1e1)
"""Bounds of the weights of rate and leak."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Weights (2,) per nat and per explained share, the largest leak over the limit on the way, gradients spent."""

    weights: Tensor
    violation: float
    gradients: int


def search(proxy: LossWeightProxy, limit: float, candidates: Iterable[Tensor], gradients: int) -> Choice:
    """Solve the lower level for every pair, keep the best that obeys the limit.

    The lower level is a sum over the shares, so each gradient is scaled by the curvature: a strong plain way.

    Args:
        proxy: The problem.
        limit: Largest leak allowed.
        candidates: Pairs of weights (2,), at least one.
        gradients: Gradients of the lower level in all, shared out evenly.

    Returns:
        The best pair that obeys the limit; the first where none does.
    """
    pairs = list(candidates)
    steps = gradients // len(pairs)
    best, utility, violation = pairs[0], float("inf"), 0.0
    for weights in pairs:
        shares = torch.full_like(proxy.worth, 0.5)
        for _ in range(steps):
            slope = weights[0] / (2 * (1 - shares).square()) - proxy.worth + weights[1] * proxy.leak
            shares = (shares - slope * (1 - shares) ** 3 / weights[0]).clamp(0.0, LARGEST_SHARE)
        over = float(proxy.leak @ shares) - limit
        violation = max(violation, over)
        if over <= 0 and float(proxy.validation(shares)) < utility:
            best, utility = weights, float(proxy.validation(shares))
    return Choice(best, violation, steps * len(pairs))


def finest(proxy: LossWeightProxy, limit: float) -> Choice:
    """The best of 7200 pairs by the closed form of the lower level, which no network has: how much there is to gain."""
    axes = [
        torch.logspace(float(np.log10(low)), float(np.log10(high)), count, dtype=torch.float64)
        for low, high, count in zip(SMALLEST, LARGEST, (60, 120), strict=True)
    ]
    pairs = [torch.stack(pair) for pair in itertools.product(*axes)]
    found = [(weights, proxy.lower_solution(weights)) for weights in pairs]
    allowed = [(weights, shares) for weights, shares in found if float(proxy.leak @ shares) <= limit]
    best, _ = min(allowed, key=lambda pair: float(proxy.validation(pair[1])))
    return Choice(best, 0.0, 0)


def grid(count: int) -> list[Tensor]:
    """The largest square grid of at most `count` pairs of weights (2,), even in the logarithms."""
    side = int(count**0.5)
    axes = [
        torch.logspace(float(np.log10(low)), float(np.log10(high)), side, dtype=torch.float64)
        for low, high in zip(SMALLEST, LARGEST, strict=True)
    ]
    return [torch.stack(pair) for pair in itertools.product(*axes)]


def scattered(count: int, seed: int) -> list[Tensor]:
    """Pairs of weights (2,) drawn evenly in the logarithms."""
    rng = torch.Generator().manual_seed(seed)
    low, high = (torch.tensor(bound, dtype=torch.float64).log() for bound in (SMALLEST, LARGEST))
    return [(low + (high - low) * torch.rand(2, generator=rng, dtype=torch.float64)).exp() for _ in range(count)]
