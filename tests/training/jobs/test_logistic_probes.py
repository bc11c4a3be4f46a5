"""Logistic probes: all solvers end at one optimum, calls are counted, clocks stop at one gap."""

import math

import numpy as np
import pytest
import torch

from training.jobs.logistic_probes import (
    NEAR,
    Descent,
    ProbeProblem,
    compare,
    lbfgs_probe,
    newton_probe,
    sklearn_probe,
)
from training.problems.counted import counted


def draw_problem(seed=0, n=90, d=25, classes=2, ridge=1e-2, noise=1.0, scale=1.0):
    """Classes by the largest of noisy logits in three features; the last feature but one is ``scale`` times as long."""
    rng = np.random.default_rng(seed)
    features = np.concatenate([rng.normal(size=(n, d - 1)), np.ones((n, 1))], axis=1)
    features[:, -2] *= scale
    logits = features[:, :3] @ rng.normal(size=(3, classes)) + noise * rng.normal(size=(n, classes))
    return ProbeProblem(torch.from_numpy(features), torch.from_numpy(logits.argmax(1)), classes, ridge)


@pytest.mark.parametrize(("classes", "newton"), [(2, "newton-cholesky"), (4, "newton-cg")])
def test_all_solvers_end_at_the_same_probe(classes, newton):
    problem = draw_problem(classes=classes)
    products, dense = newton_probe(problem), newton_probe(problem, form="dense")
    assert max(products.gradient_norm, dense.gradient_norm) < 1e-8
    # the ridge makes the distance to the optimum at most the gradient norm over it
    peers = [dense.x, lbfgs_probe(problem).x, *(sklearn_probe(problem, name, 1e-9) for name in ("lbfgs", newton))]
    for x in peers:
        assert x.numpy() == pytest.approx(products.x.numpy(), abs=2e-5)


def test_coefficients_of_scikit_learn_mean_the_same_classes():
    from sklearn.linear_model import LogisticRegression

    for classes in (2, 4):
        problem = draw_problem(classes=classes, noise=0.3)
        model = LogisticRegression(C=1 / (problem.ridge * 90), fit_intercept=False, tol=1e-8, max_iter=1000)
        model.fit(problem.features.numpy(), problem.labels.numpy())
        fresh = draw_problem(seed=5, classes=classes).features
        x = newton_probe(problem).x
        named = torch.from_numpy(model.predict(fresh.numpy()))
        assert problem.accuracy(x, fresh, named) == 1.0
        assert problem.accuracy(x, problem.features, problem.labels) > 1.5 / classes


def test_the_calls_of_newton_are_points_hessians_and_products(monkeypatch):
    problem = draw_problem(classes=3)
    for form in ("products", "dense"):
        wrapped, calls = counted(problem.objective(form))
        monkeypatch.setattr(ProbeProblem, "objective", lambda self, form="products", wrapped=wrapped: wrapped)
        found = newton_probe(problem, form=form)
        monkeypatch.undo()
        if form == "dense":
            assert found.calls[-1] == calls["value"] + calls["curvature"]
        else:
            # every step takes at least one product
            assert found.calls[-1] >= calls["value"] + 2 * calls["curvature"]
        assert np.diff(found.values).max() <= 1e-15
        assert len(found.values) == calls["curvature"]


def test_calls_to_a_value_and_the_value_after_calls_are_read_off_the_descent():
    descent = Descent(torch.zeros(1), 0.0, (5.0, 3.0, 1.0), (2, 5, 9))
    assert descent.calls_to(3.0) == 5
    assert descent.calls_to(0.5) == math.inf
    assert descent.value_after(8) == 3.0
    assert math.isnan(descent.value_after(1))


def test_a_comparison_stops_every_clock_at_the_same_gap():
    problem = draw_problem(n=200, scale=10.0)
    ways = compare(problem, ("dense", "products"), ("lbfgs", "newton-cholesky"))
    assert set(ways) == {"dense", "products", "L-BFGS", "lbfgs", "newton-cholesky"}
    assert all(way.gap <= NEAR for way in ways.values())
    assert min(ways[name].gap for name in ("dense", "products", "L-BFGS")) == pytest.approx(0.0, abs=1e-15)
    assert ways["dense"].gap_at_calls <= NEAR < ways["L-BFGS"].gap_at_calls
    assert ways["dense"].calls < ways["L-BFGS"].calls < math.inf
    assert all(0 < ways[name].seconds < math.inf for name in ("dense", "products", "lbfgs", "newton-cholesky"))
    assert math.isnan(ways["lbfgs"].calls)


def test_a_penalty_that_is_not_positive_is_refused():
    with pytest.raises(ValueError, match="ridge must be positive"):
        draw_problem(ridge=0.0)
