"""Probes of codes: sparse ones by block coordinate descent and by scikit-learn, dense ones, and what they chose."""

from __future__ import annotations

import itertools
import time
import warnings
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from training.algorithm import iterate
from training.jobs.block_recipes import smallest_effort
from training.optimizers.block_coordinate.block_coordinate_descent import block_coordinate_descent
from training.optimizers.block_coordinate.objectives import Penalty, least_squares
from training.optimizers.block_coordinate.selection import greedy_proximal_coordinates
from training.optimizers.block_coordinate.updates import two_metric_update

Matrix = NDArray[np.float64]

_NEAR = 1e-8


class Fitted(NamedTuple):
    """Coefficients (d,), value of the objective, passes to a relative gap of 1e-8, processor seconds of the solver."""

    weights: Matrix
    value: float
    passes: float
    seconds: float


def sparse_probe(
    codes: Matrix, target: Matrix, weight: float, *, block: int, max_steps: int, tolerance: float
) -> Fitted:
    """Minimize |A w - y|^2 / 2 + weight |w|_1 by two-metric steps on greedy blocks.

    Args:
        codes: A (n, d).
        target: y (n,).
        weight: Of the penalty.
        block: Coordinates a step, at most d.
        max_steps: Steps at most.
        tolerance: Stationarity over the weight at which to stop.

    Returns:
        The probe; a greedy selection counts as one pass, an updated coordinate as 1/d. The gap is to its last value.
    """
    objective = least_squares(torch.from_numpy(codes), torch.from_numpy(target), penalty=Penalty(weight))
    size = min(block, codes.shape[1])
    method = block_coordinate_descent(
        objective, selection=greedy_proximal_coordinates(size, objective), update=two_metric_update(objective)
    )
    begin = time.process_time()
    states = []
    for state, info in itertools.islice(
        iterate(method, torch.zeros(codes.shape[1], dtype=torch.float64), seed=0), max_steps
    ):
        states.append(state)
        if info.stationarity <= tolerance * weight:
            break
    seconds = time.process_time() - begin
    last = _value(codes, target, weight, states[-1].x.numpy())
    near = next(state for state in states if _value(codes, target, weight, state.x.numpy()) <= last * (1 + _NEAR))
    passes = near.full_gradients + near.coordinates / codes.shape[1]
    return Fitted(states[-1].x.numpy(), last, passes, seconds)


def lasso(codes: Matrix, target: Matrix, weight: float) -> Fitted:
    """Solve the same problem by scikit-learn's cyclic coordinate descent.

    Args:
        codes: A (n, d).
        target: y (n,).
        weight: Of the penalty.

    Returns:
        The probe; the gap is to its own last value.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import Lasso

    def solve(tol: float, passes: int) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            alpha = weight / len(codes)
            return Lasso(alpha=alpha, fit_intercept=False, tol=tol, max_iter=passes).fit(codes, target)

    begin = time.process_time()
    model = solve(1e-10, 20_000)
    seconds = time.process_time() - begin
    last = _value(codes, target, weight, model.coef_)

    def gap(passes: int) -> float:
        return _value(codes, target, weight, solve(0.0, passes).coef_) / last - 1

    passes = smallest_effort(gap, _NEAR, int(model.n_iter_))
    return Fitted(model.coef_, last, passes, seconds)


def audit_list(weights: Matrix, channels: int) -> list[dict[str, Any]]:
    """Order channels by how much of the probes' choice they hold.

    Args:
        weights: Coefficients of the probes (p, d), channel by channel.
        channels: c, which divides d.

    Returns:
        Rows with the channel, its share of the chosen coefficients, and its share of their absolute sum.
    """
    by_channel = np.abs(weights).reshape(len(weights), channels, -1)
    chosen = (by_channel > 0).sum((0, 2))
    size = by_channel.sum((0, 2))
    order = np.argsort(-chosen / max(chosen.sum(), 1) - size / max(size.sum(), 1e-300), kind="stable")
    return [
        {
            "channel": int(channel),
            "share of the chosen": float(chosen[channel] / max(chosen.sum(), 1)),
            "share of the size": float(size[channel] / max(size.sum(), 1e-300)),
            "probes": int((by_channel[:, channel] > 0).any(1).sum()),
        }
        for channel in order
    ]


def ridge_score(codes: Matrix, targets: Matrix, held: NDArray[np.bool_]) -> float:
    """Held-out R2 of ridge regression, its penalty chosen on the training people.

    Args:
        codes: Standardized codes (n, d).
        targets: Components (n, p).
        held: Which rows are held out (n,).

    Returns:
        The share of the variance explained, over all components; negative where the mean is better.
    """
    from sklearn.linear_model import RidgeCV

    model = RidgeCV(alphas=np.logspace(1, 6, 11)).fit(codes[~held], targets[~held])
    return held_out_r2(targets[held], model.predict(codes[held]))


def _value(codes: Matrix, target: Matrix, weight: float, found: Matrix) -> float:
    return float(0.5 * ((codes @ found - target) ** 2).sum() + weight * np.abs(found).sum())


def held_out_r2(targets: Matrix, predicted: Matrix) -> float:
    """Share of the second moment of targets (n,) or (n, p) that a prediction explains; negative if zero is better."""
    return float(1 - ((targets - predicted) ** 2).sum() / (targets**2).sum())
