"""Data of the block-coordinate job, after the paper's recipes, and the solvers it is compared with."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from training.optimizers.block_coordinate.objectives import (
    BlockObjective,
    LinearModel,
    Penalty,
    QuadraticForm,
    logistic,
)


def sparse_regression(seed: int, *, n: int, d: int) -> tuple[Tensor, Tensor]:
    """Sparse columns of very different lengths: (N(0,1) + 1) scaled by 10 N(0,1), density 10 log(n)/n; sparse truth.

    Args:
        seed: Seed of the draw.
        n: Samples.
        d: Coordinates.

    Returns:
        A (n, d) and b (n,).
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    def chance(probability: float, *shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64) < probability

    matrix = (normal(n, d) + 1) * (10 * normal(d)) * chance(10 * math.log(n) / n, n, d)
    return matrix, matrix @ (normal(d) * chance(0.1, d)) + normal(n)


def two_moons(seed: int, *, nodes: int, num_labels: int) -> tuple[QuadraticForm, Tensor]:
    """Propagate labels over the 5-nearest-neighbor graph of two moons; the unlabeled nodes are the coordinates.

    Args:
        seed: Seed of points and labeled nodes.
        nodes: Points of both moons.
        num_labels: Nodes with a known label of -1 or +1.

    Returns:
        The quadratic, with the graph's Laplacian, and the true labels of its coordinates.
    """
    from sklearn.datasets import make_moons
    from sklearn.neighbors import kneighbors_graph

    points, classes = make_moons(nodes, noise=0.06, random_state=seed)
    weights = torch.from_numpy(kneighbors_graph(points, 5).toarray())
    weights = torch.maximum(weights, weights.mT)
    labels = torch.from_numpy(2.0 * classes - 1)
    order = torch.randperm(nodes, generator=torch.Generator().manual_seed(seed))
    known, free = order[:num_labels], order[num_labels:].sort().values
    laplacian = torch.diag(weights.sum(dim=1)) - weights
    linear = weights[free[:, None], known] @ labels[known]
    # A component without a label has a singular Laplacian; a small ridge keeps the quadratic definite.
    matrix = laplacian[free[:, None], free] + 1e-6 * torch.eye(len(free), dtype=torch.float64)
    return QuadraticForm(matrix, linear), labels[free]


def digit_classification(weight: float) -> tuple[LinearModel, Tensor]:
    """Digits 3 against 8 with pixels in [0, 1]: logistic loss with an l1 penalty, and the labels -1 and +1."""
    from sklearn.datasets import load_digits

    images, targets = load_digits(return_X_y=True)
    chosen = (targets == 3) | (targets == 8)
    labels = torch.from_numpy(2.0 * (targets[chosen] == 8) - 1)
    return logistic(torch.from_numpy(images[chosen] / 16.0), labels, penalty=Penalty(weight)), labels


def total(objective: BlockObjective, x: Tensor) -> float:
    """f and the penalty at a point."""
    return float(objective.value(x, objective.image(x)) + objective.penalty.value(x))


def conjugate_gradient_gaps(quadratic: QuadraticForm, best: float, steps: int) -> list[float]:
    """Scipy's conjugate gradients on the whole system: the gap after every product with Q."""
    from scipy.sparse.linalg import cg

    gaps: list[float] = []
    cg(
        quadratic.matrix.numpy(),
        quadratic.linear.numpy(),
        rtol=0.0,
        maxiter=steps,
        callback=lambda x: gaps.append(total(quadratic, torch.from_numpy(x.copy())) - best),
    )
    return gaps


def least_squares_residual(matrix: Tensor, targets: Tensor, steps: int) -> float:
    """Half the squared residual of scipy's LSQR after so many products with A and its transpose."""
    from scipy.sparse.linalg import lsqr

    x = lsqr(matrix.numpy(), targets.numpy(), atol=0.0, btol=0.0, conlim=0.0, iter_lim=steps)[0]
    return float(0.5 * (matrix @ torch.from_numpy(x) - targets).square().sum())


def positive_lasso(matrix: Tensor, targets: Tensor, weight: float, **settings: Any) -> tuple[Tensor, int]:
    """Scikit-learn's coordinate descent on |A x - b|^2/2 + weight |x|_1 over x >= 0: the point and its epochs."""
    from sklearn.linear_model import Lasso

    fitted = Lasso(alpha=weight / len(targets), positive=True, fit_intercept=False, **settings)
    _fit_quietly(fitted, matrix, targets)
    return torch.from_numpy(fitted.coef_), int(fitted.n_iter_)


def sparse_logistic(objective: LinearModel, labels: Tensor, solver: str, passes: int, *, tol: float = 1e-300) -> Tensor:
    """Scikit-learn's l1 logistic regression after at most so many passes over the data."""
    from sklearn.linear_model import LogisticRegression

    fitted = LogisticRegression(
        l1_ratio=1.0,
        C=1 / objective.penalty.weight,
        solver=solver,
        fit_intercept=False,
        tol=tol,
        max_iter=passes,
        random_state=0,
    )
    _fit_quietly(fitted, objective.matrix, labels)
    return torch.from_numpy(fitted.coef_[0])


def _fit_quietly(model: Any, matrix: Tensor, targets: Tensor) -> None:
    """Fit a scikit-learn model without its warnings: stopping early is the purpose."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(matrix.numpy(), targets.numpy())


def first_below(gaps: list[float], target: float) -> float:
    """The number of the first entry at or below the target, from one; infinity if there is none."""
    return next((k for k, gap in enumerate(gaps, start=1) if gap <= target), math.inf)


def smallest_effort(gap: Callable[[int], float], target: float, most: int) -> float:
    """Bisect for the fewest passes whose gap is at most the target; infinity if ``most`` are not enough."""
    if gap(most) > target:
        return math.inf
    low, high = 0, most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if gap(middle) <= target else (middle, high)
    return high


def identification(supports: np.ndarray[Any, Any]) -> int:
    """The step, from one, after which rows of booleans equal the last row for good."""
    wrong = np.flatnonzero((supports != supports[-1]).any(axis=1))
    return int(wrong[-1]) + 2 if len(wrong) else 1
