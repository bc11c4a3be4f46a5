"""Loss weights of an encoder as a constrained bilevel problem: noisy channels on frozen, whitened features.

Each of k whitened features phi_j (mean 0, variance 1) is sent as s_j phi_j + noise of variance 1. Its share of signal
v_j = s_j^2 / (1 + s_j^2) in [0, 1) is the lower variable. The best linear readers then have, per face,

    reconstruction   sum_j p_j (1 - v_j)          p_j: what feature j is worth to the picture
    rate             sum_j v_j / (2 (1 - v_j))    nats to a standard normal prior
    leak             sum_j c_j v_j                share of the identity code that a linear probe explains

The lower level minimizes reconstruction + exp(x_0) rate + exp(x_1) leak over v, which is convex, subject to
leak <= limit. The upper level is the reconstruction on validation faces by the reader of the training faces, whose
features have variance m_j there: sum_j p_j ((1 - v_j)^2 m_j + v_j (1 - v_j)).

Without the constraint the lower level has the closed form (1 - v_j)^2 = exp(x_0) / (2 (p_j - exp(x_1) c_j)), so what a
pair of weights would lead to is known exactly. A multiplier of the constraint acts like an addition to exp(x_1).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from training.problems import Bilevel

LARGEST_SHARE = 0.98
"""Bound on v: a standard deviation of the signal of 7 times the noise."""


@dataclass(frozen=True, slots=True)
class LossWeightProxy:
    """What the features are worth and what they tell, all (k,) float64.

    Attributes:
        worth: p, in units of the reconstruction term; positive.
        leak: c on the training faces, not negative.
        validation_leak: c on the validation faces.
        validation_variance: m, variance of the whitened features on the validation faces.
    """

    worth: Tensor
    leak: Tensor
    validation_leak: Tensor
    validation_variance: Tensor

    def reconstruction(self, shares: Tensor) -> Tensor:
        """Training reconstruction at shares (k,), a scalar."""
        return self.worth @ (1 - shares)

    def rate(self, shares: Tensor) -> Tensor:
        """Rate in nats at shares (k,), a scalar."""
        return 0.5 * (shares / (1 - shares)).sum()

    def validation(self, shares: Tensor) -> Tensor:
        """Validation reconstruction at shares (k,), a scalar."""
        lost = 1 - shares
        return self.worth @ (lost.square() * self.validation_variance + shares * lost)

    def lower_solution(self, weights: Tensor) -> Tensor:
        """The lower level's solution without the constraint.

        Args:
            weights: Weights of rate and leak, (2,), positive.

        Returns:
            Shares, (k,).
        """
        gain = self.worth - weights[1] * self.leak
        lost = (weights[0] / (2 * gain.clamp_min(1e-300))).sqrt()
        return (1 - lost).clamp(0.0, LARGEST_SHARE)

    def problem(self, limit: float, *, scale: float) -> Bilevel:
        """The bilevel problem in x = log weights and y = shares.

        Args:
            limit: Largest leak allowed, positive.
            scale: Factor on both levels' values; it moves no solution, but steps want derivatives of order one.

        Returns:
            The problem; its constraint is (leak - limit) / |c|, of gradient one.
        """
        length = torch.linalg.vector_norm(self.leak)

        def lower(x: Tensor, y: Tensor) -> Tensor:
            weights = x.exp()
            value = self.reconstruction(y) + weights[0] * self.rate(y) + weights[1] * (self.leak @ y)
            return scale * value

        return Bilevel(
            upper=lambda _, y: scale * self.validation(y),
            lower=lower,
            num_upper=2,
            constraint=lambda _, y: ((self.leak @ y - limit) / length)[None],
        )

    def leak_weight(self, multiplier: float, *, scale: float) -> float:
        """What a multiplier of `problem`'s constraint adds to the weight of the leak."""
        return multiplier / (scale * float(torch.linalg.vector_norm(self.leak)))

    def projection(self, limit: float, low: Tensor, high: Tensor) -> Callable[[Tensor], Tensor]:
        """Project on boxes of log weights and shares with leak <= limit.

        Args:
            limit: Largest leak allowed, positive.
            low: Smallest log weights, (2,).
            high: Largest log weights, (2,).

        Returns:
            Maps (2 + k,) to (2 + k,).
        """

        def project(point: Tensor) -> Tensor:
            x = torch.maximum(torch.minimum(point[:2], high), low)
            return torch.cat([x, project_shares(point[2:], self.leak, limit)])

        return project


def project_shares(shares: Tensor, leak: Tensor, limit: float) -> Tensor:
    """Nearest shares in [0, `LARGEST_SHARE`] with leak @ shares <= limit, by bisection on the multiplier.

    Args:
        shares: (k,).
        leak: c, (k,), not negative.
        limit: Positive.

    Returns:
        (k,).
    """
    boxed = shares.clamp(0.0, LARGEST_SHARE)
    if float(leak @ boxed) <= limit:
        return boxed
    low, high = 0.0, float((shares / leak.clamp_min(1e-300)).clamp(max=1e12).max())
    for _ in range(60):
        middle = (low + high) / 2
        over = float(leak @ (shares - middle * leak).clamp(0.0, LARGEST_SHARE)) > limit
        low, high = (middle, high) if over else (low, middle)
    return (shares - high * leak).clamp(0.0, LARGEST_SHARE)


def fit_proxy(pictures: Tensor, codes: Tensor, held: Tensor, *, components: int) -> LossWeightProxy:
    """Measure worth and leak of the principal components of pictures.

    Args:
        pictures: Flattened pictures, (n, p), in the units of the reconstruction term.
        codes: Identity codes, (n, d).
        held: Validation faces, (n,) bool.
        components: k, below the number of training faces.

    Returns:
        The proxy. The worth of all components adds up to the mean absolute error of the mean picture times the share of
        the variance they hold; a component explains cov(phi, code)^2 of the code, less what chance explains.

    Raises:
        ValueError: There are not more training faces than components, or fewer than two validation faces.
    """
    pictures, codes = pictures.double(), codes.double()
    train, validation = pictures[~held], pictures[held]
    if not 0 < components < len(train) or len(validation) < 2:
        raise ValueError(f"{components} components of {len(train)} training and {len(validation)} validation faces")
    center = train.mean(0)
    _, singular, rows = torch.linalg.svd(train - center, full_matrices=False)
    scale = singular[:components] / len(train) ** 0.5
    features = (train - center) @ rows[:components].T / scale
    unseen = (validation - center) @ rows[:components].T / scale
    code_center = codes[~held].mean(0)
    variance = (codes[~held] - code_center).square().sum(1).mean()

    def explained(phi: Tensor, of: Tensor) -> Tensor:
        covariance = phi.T @ (of - code_center) / len(phi)
        chance = phi.square().mean(0) * variance / len(phi)  # what as many faces explain of unrelated codes
        return ((covariance.square().sum(1) - chance) / variance).clamp_min(0.0)

    error = (train - center).abs().mean()
    share = scale.square() / (singular.square().sum() / len(train))
    return LossWeightProxy(
        worth=error * share,
        leak=explained(features, codes[~held]).clamp_min(1e-6),
        validation_leak=explained(unseen, codes[held]),
        validation_variance=unseen.square().mean(0),
    )
