"""Logistic curves over oracle similarities: pairs, fits by gradient-normalized Newton and its peers, scores."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.oracles.thresholds import CalibrationError
from training.algorithm import solve
from training.optimizers.second_order.gradient_normalized_smoothness import gradient_normalized_smoothness
from training.problems.curved import dense_matrix
from training.problems.logistic_regression import binary_logistic


@dataclass(frozen=True, slots=True)
class Pairs:
    """Similarities of pairs of one oracle: (m,) of the same person, (n,) of different people."""

    genuine: NDArray[np.float64]
    impostor: NDArray[np.float64]

    @property
    def similarities(self) -> Tensor:
        """All similarities, genuine first."""
        return torch.from_numpy(np.concatenate([self.genuine, self.impostor]))

    @property
    def labels(self) -> Tensor:
        """+1 for genuine, -1 for impostor pairs."""
        return torch.cat([torch.ones(len(self.genuine)), -torch.ones(len(self.impostor))]).double()

    @property
    def weights(self) -> Tensor:
        """Half of the weight for either kind, however many pairs there are."""
        shares = [torch.full((len(part),), 0.5 / len(part)) for part in (self.genuine, self.impostor)]
        return torch.cat(shares).double()


@dataclass(frozen=True, slots=True)
class Fit:
    """A fitted curve, and what fitting it took; ``gradient_norm`` belongs to the standardized coordinates."""

    slope: float
    intercept: float
    objective: float
    gradient_norm: float
    evaluations: int


def measure_pairs(first: NDArray[np.float32], second: NDArray[np.float32]) -> Pairs:
    """Compare two photos of each person, and the first photos of all different people.

    Args:
        first: Unit-norm embeddings (n, dim), one per person.
        second: The other photo of the same people, (n, dim).

    Returns:
        n genuine and n (n - 1) / 2 impostor similarities.

    Raises:
        CalibrationError: There are fewer than two people.
    """
    if len(first) < 2 or first.shape != second.shape:
        raise CalibrationError(f"need two photos of at least two people, got {first.shape} and {second.shape}")
    left, right = first.astype(np.float64), second.astype(np.float64)
    upper = np.triu_indices(len(left), 1)
    return Pairs((left * right).sum(axis=1), (left @ left.T)[upper])


def fit_newton(pairs: Pairs, ridge: float) -> Fit:
    """Fit the curve with gradient-normalized Newton and the exact Hessian.

    Args:
        pairs: Similarities.
        ridge: Penalty on both coefficients of the standardized similarity.

    Returns:
        The curve; ask its gradient norm whether it converged.
    """
    features, mean, deviation = _standardized(pairs)
    loss = binary_logistic(features, pairs.labels, ridge=ridge, weights=pairs.weights)
    method = gradient_normalized_smoothness(loss)
    found = solve(method, torch.zeros(2, dtype=torch.float64), max_steps=100, tolerance=1e-9)
    return _fit(found.x, mean, deviation, float(found.state.value), found.info.stationarity, found.state.evaluations)


def fit_lbfgs(pairs: Pairs, ridge: float) -> Fit:
    """Fit the same curve with scikit-learn's L-BFGS; its iterations stand for evaluations, which it does not tell.

    Args:
        pairs: Similarities.
        ridge: Penalty on both coefficients of the standardized similarity.

    Returns:
        The curve.
    """
    from sklearn.linear_model import LogisticRegression

    features, mean, deviation = _standardized(pairs)
    # scikit-learn sums the weighted losses, so weights of total one leave C = 1 / ridge
    model = LogisticRegression(C=1 / ridge, fit_intercept=False, tol=1e-8, max_iter=1000)
    model.fit(features.numpy(), pairs.labels.numpy(), sample_weight=pairs.weights.numpy())
    x = torch.from_numpy(model.coef_[0])
    loss = binary_logistic(features, pairs.labels, ridge=ridge, weights=pairs.weights)
    gradient_norm = float(torch.linalg.vector_norm(loss.gradient(x)))
    return _fit(x, mean, deviation, float(loss.value(x)), gradient_norm, int(model.n_iter_[0]))


def fit_undamped(pairs: Pairs, ridge: float) -> Fit:
    """Fit the same curve with full Newton steps from zero, which nothing guards.

    Args:
        pairs: Similarities.
        ridge: Penalty on both coefficients of the standardized similarity.

    Returns:
        The curve after the step that brought the gradient norm below 1e-9, or where the hundredth step ended; numbers
        that are not finite when the steps ran away.
    """
    features, mean, deviation = _standardized(pairs)
    loss = binary_logistic(features, pairs.labels, ridge=ridge, weights=pairs.weights)
    x, evaluations = torch.zeros(2, dtype=torch.float64), 1
    gradient = loss.gradient(x)
    while evaluations <= 100 and float(torch.linalg.vector_norm(gradient)) > 1e-9:
        step, failure = torch.linalg.solve_ex(dense_matrix(loss.curvature(x), 2), gradient)
        if int(failure) or not bool(torch.isfinite(step).all()):
            x = x * math.nan
            break
        x = x - step
        gradient = loss.gradient(x)
        evaluations += 1
    return _fit(x, mean, deviation, float(loss.value(x)), float(torch.linalg.vector_norm(gradient)), evaluations)


def log_loss(fit: Fit, pairs: Pairs) -> float:
    """Log loss in nats with half of the weight on genuine and half on impostor pairs."""
    logits = pairs.labels * (fit.slope * pairs.similarities + fit.intercept)
    return float(pairs.weights @ torch.nn.functional.softplus(-logits))


def calibration_error(fit: Fit, pairs: Pairs, *, bins: int = 10) -> float:
    """Expected calibration error at equal priors: mean over bins of |share of genuine pairs - mean probability|.

    Args:
        fit: The curve.
        pairs: Held-out pairs, half of the weight on either kind.
        bins: Of equal width in probability.

    Returns:
        The error in [0, 1]; bins count by the weight of their pairs.
    """
    probability = torch.sigmoid(fit.slope * pairs.similarities + fit.intercept)
    return binned_error(probability, (pairs.labels > 0).double(), pairs.weights, bins=bins)


def binned_error(probability: Tensor, genuine: Tensor, weights: Tensor, *, bins: int = 10) -> float:
    """Expected calibration error of probabilities (n,) of being genuine (n,), 0 or 1, with weights (n,) of sum one."""
    index = (probability * bins).long().clamp(max=bins - 1)
    excess = torch.zeros(bins, dtype=torch.float64).index_add(0, index, weights * (genuine - probability))
    return float(excess.abs().sum())


def match_probability(fit: Fit, similarity: float) -> float:
    """Probability of a match at equal priors."""
    return float(torch.sigmoid(torch.tensor(fit.slope * similarity + fit.intercept, dtype=torch.float64)))


def _standardized(pairs: Pairs) -> tuple[Tensor, float, float]:
    similarities = pairs.similarities
    mean = float(pairs.weights @ similarities)
    deviation = float((pairs.weights @ (similarities - mean).square()).sqrt())
    if not deviation > 0:
        raise CalibrationError("all similarities are equal")
    return torch.stack([(similarities - mean) / deviation, torch.ones_like(similarities)], dim=1), mean, deviation


def _fit(x: Tensor, mean: float, deviation: float, objective: float, gradient_norm: float, evaluations: int) -> Fit:
    slope = float(x[0]) / deviation
    return Fit(slope, float(x[1]) - slope * mean, objective, gradient_norm, evaluations)
