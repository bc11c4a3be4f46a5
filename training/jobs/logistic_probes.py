"""Logistic probes of codes: gradient-normalized Newton beside L-BFGS and scikit-learn on the very same objective."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.algorithm import iterate, require_positive
from training.optimizers.second_order.gradient_normalized_smoothness import gradient_normalized_smoothness
from training.problems.curved import CurvedObjective
from training.problems.logistic_regression import binary_logistic, softmax_logistic

Form = Literal["dense", "products"]

NEAR = 1e-8
"""Relative gap at which a probe counts as found."""
_TOLERANCES = tuple(10.0**-k for k in range(2, 11))  # of scikit-learn, tried in this order
_REPEATS = 3


@dataclass(frozen=True, slots=True)
class ProbeProblem:
    """Mean log loss of linear classes over features plus ridge |x|^2 / 2.

    Attributes:
        features: (n, d) float64; an intercept is a constant column, penalized like any other.
        labels: Classes (n,), integers in [0, num_classes).
        num_classes: With two, x is (d,) and gives the log-odds of class 1; with more it is (num_classes, d) by rows.
        ridge: Penalty > 0.
    """

    features: Tensor
    labels: Tensor
    num_classes: int
    ridge: float

    def __post_init__(self) -> None:
        """Refuse a penalty that is not positive; the objective refuses the rest."""
        require_positive(ridge=self.ridge)

    @property
    def dimension(self) -> int:
        """Number of coefficients."""
        return self.features.shape[1] * (1 if self.num_classes == 2 else self.num_classes)

    def objective(self, form: Form = "products") -> CurvedObjective:
        """The function with its exact Hessian, which for softmax is the Gauss-Newton matrix too."""
        if self.num_classes == 2:
            return binary_logistic(self.features, 2.0 * self.labels - 1, ridge=self.ridge, form=form)
        return softmax_logistic(self.features, self.labels, num_classes=self.num_classes, ridge=self.ridge, form=form)

    def log_odds(self, x: Tensor, features: Tensor) -> Tensor:
        """Logits (m, num_classes) of features (m, d), zero for the first of two classes."""
        if self.num_classes == 2:
            odds = features @ x
            return torch.stack([torch.zeros_like(odds), odds], dim=1)
        return features @ x.view(self.num_classes, -1).mT

    def accuracy(self, x: Tensor, features: Tensor, labels: Tensor) -> float:
        """Share of features (m, d) whose class (m,) has the largest logit."""
        return float((self.log_odds(x, features).argmax(1) == labels).double().mean())


class Descent(NamedTuple):
    """End of a solver (d,), gradient norm there, and the best value after growing numbers of oracle calls."""

    x: Tensor
    gradient_norm: float
    values: tuple[float, ...]
    calls: tuple[int, ...]

    def calls_to(self, value: float) -> float:
        """Fewest calls after which the value was reached; infinite if it never was."""
        return next((float(k) for found, k in zip(self.values, self.calls, strict=True) if found <= value), math.inf)

    def value_after(self, calls: float) -> float:
        """Best value within so many calls; NaN where even the first needs more."""
        return min((found for found, k in zip(self.values, self.calls, strict=True) if k <= calls), default=math.nan)


class Way(NamedTuple):
    """What one solver did with a problem.

    Attributes:
        x: Where it ended.
        gradient_norm: There.
        gap: Relative gap there to the best of all solvers.
        calls: Oracle calls to a relative gap of `NEAR`; NaN where the solver does not tell.
        gap_at_calls: Relative gap after as many calls as the first solver took to `NEAR`; NaN likewise.
        seconds: Processor time of the shortest fit that ends at a relative gap of at most `NEAR`; NaN if not timed.
    """

    x: Tensor
    gradient_norm: float
    gap: float
    calls: float
    gap_at_calls: float
    seconds: float


def newton_probe(
    problem: ProbeProblem, *, form: Form = "products", tolerance: float = 1e-8, max_steps: int = 200
) -> Descent:
    """Fit with gradient-normalized Newton from zero.

    Args:
        problem: The problem.
        form: Form of the exact Hessian; ``products`` leave its equations to conjugate gradients.
        tolerance: Gradient norm at which to stop.
        max_steps: Steps at most.

    Returns:
        The descent; a call is a point with value and gradient, a Hessian, or a product with one.
    """
    method = gradient_normalized_smoothness(problem.objective(form))
    start = torch.zeros(problem.dimension, dtype=torch.float64)
    values, calls = [], []
    for state, info in islice(iterate(method, start, seed=0), max_steps):
        values.append(float(state.value))
        calls.append(state.evaluations + state.curvatures + state.products)
        if info.stationarity <= tolerance or not info.is_accepted:
            break
    return Descent(state.x, info.stationarity, tuple(values), tuple(calls))


def lbfgs_probe(problem: ProbeProblem, *, max_calls: int = 5000) -> Descent:
    """Fit with scipy's L-BFGS from zero as far as round-off lets it.

    Args:
        problem: The problem.
        max_calls: Evaluations at most.

    Returns:
        The descent; a call is a point with value and gradient.
    """
    from scipy import optimize

    objective = problem.objective()
    values: list[float] = []

    def evaluate(x: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        point = torch.from_numpy(x)
        value = float(objective.value(point))
        values.append(min(value, *values[-1:]) if values else value)
        return value, objective.gradient(point).numpy()

    options: Any = {"maxiter": max_calls, "maxfun": max_calls, "gtol": 1e-12, "ftol": 1e-18}
    found = optimize.minimize(evaluate, np.zeros(problem.dimension), jac=True, method="L-BFGS-B", options=options)
    x = torch.from_numpy(found.x)
    norm = float(torch.linalg.vector_norm(objective.gradient(x)))
    return Descent(x, norm, tuple(values), tuple(range(1, len(values) + 1)))


def sklearn_probe(problem: ProbeProblem, solver: str, tolerance: float) -> Tensor:
    """Fit with scikit-learn's LogisticRegression.

    Args:
        problem: The problem.
        solver: Of scikit-learn.
        tolerance: Of scikit-learn: largest entry of the gradient at which to stop.

    Returns:
        Coefficients as in `ProbeProblem`.
    """
    from sklearn.linear_model import LogisticRegression

    strength = 1 / (problem.ridge * len(problem.labels))  # scikit-learn sums the losses
    model = LogisticRegression(C=strength, fit_intercept=False, solver=solver, tol=tolerance, max_iter=10_000)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it may complain of round-off before a tolerance
        model.fit(problem.features.numpy(), problem.labels.numpy())
    return torch.from_numpy(model.coef_).reshape(-1)


def compare(problem: ProbeProblem, forms: tuple[Form, ...], solvers: tuple[str, ...]) -> dict[str, Way]:
    """Solve by all ways.

    Args:
        problem: The problem.
        forms: Of gradient-normalized Newton; the first sets the number of calls at which gaps are compared.
        solvers: Of scikit-learn.

    Returns:
        Ways named by form, ``L-BFGS`` for scipy's, and by solver.
    """
    objective = problem.objective()
    descents: dict[str, Descent] = {form: newton_probe(problem, form=form) for form in forms}
    descents["L-BFGS"] = lbfgs_probe(problem)
    best = min(float(objective.value(descent.x)) for descent in descents.values())
    near = best * (1 + NEAR)
    budget = descents[forms[0]].calls_to(near)
    ways = {
        name: Way(
            descent.x,
            descent.gradient_norm,
            float(objective.value(descent.x)) / best - 1,
            descent.calls_to(near),
            descent.value_after(budget) / best - 1,
            math.nan,
        )
        for name, descent in descents.items()
    }
    for form in forms:
        steps = sum(value > near for value in descents[form].values) + 1
        seconds = _shortest(partial(newton_probe, problem, form=form, max_steps=steps))
        ways[form] = ways[form]._replace(seconds=seconds)
    for solver in solvers:
        ways[solver] = _sklearn_way(problem, objective, solver, best)
    return ways


def _sklearn_way(problem: ProbeProblem, objective: CurvedObjective, solver: str, best: float) -> Way:
    for tolerance in _TOLERANCES:
        x = sklearn_probe(problem, solver, tolerance)
        gap = float(objective.value(x)) / best - 1
        if gap <= NEAR:
            break
    norm = float(torch.linalg.vector_norm(objective.gradient(x)))
    seconds = _shortest(partial(sklearn_probe, problem, solver, tolerance)) if gap <= NEAR else math.nan
    return Way(x, norm, gap, math.nan, math.nan, seconds)


def _shortest(work: Callable[[], object]) -> float:
    times = []
    for _ in range(_REPEATS):
        begin = time.process_time()
        work()
        times.append(time.process_time() - begin)
    return min(times)
