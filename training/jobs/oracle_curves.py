"""The curve of one oracle: fitted three ways, judged on held-out people, and brought into rows, checks and a figure."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from training.jobs.match_curves import (
    Fit,
    Pairs,
    calibration_error,
    fit_lbfgs,
    fit_newton,
    fit_undamped,
    log_loss,
    match_probability,
)
from training.runs.figures import Figure, Series, plot_series
from training.runs.report import Check

FAR = 1e-3
"""False-accept rate of the privacy threshold at which the probability of a match is shown."""
_SOLVED = 1e-9


@dataclass(frozen=True, slots=True)
class OracleCurve:
    """Fits of one oracle.

    Attributes:
        name: Of the oracle.
        fitted: Pairs behind the fits.
        held: Pairs of other people.
        ours: Gradient-normalized Newton.
        peer: scikit-learn's L-BFGS.
        bare: Full Newton steps, unguarded.
        milliseconds: Processor time of `ours` and of `peer`.
    """

    name: str
    fitted: Pairs
    held: Pairs
    ours: Fit
    peer: Fit
    bare: Fit
    milliseconds: tuple[float, float]

    @property
    def loss(self) -> float:
        """Held-out balanced log loss in nats."""
        return log_loss(self.ours, self.held)

    @property
    def bare_evaluations(self) -> float:
        """Evaluations of unguarded Newton, infinite where it does not end."""
        return float(self.bare.evaluations) if self.bare.gradient_norm <= _SOLVED else math.inf

    def metrics(self) -> dict[str, float]:
        """Numbers of the report."""
        return {
            f"{self.name}_log_loss": self.loss,
            f"{self.name}_log_loss_lbfgs": log_loss(self.peer, self.held),
            f"{self.name}_calibration_error": calibration_error(self.ours, self.held),
            f"{self.name}_evaluations": float(self.ours.evaluations),
            f"{self.name}_iterations_lbfgs": float(self.peer.evaluations),
        }

    def checks(self, max_log_loss: float) -> list[Check]:
        """Claims: a good curve, as good as that of L-BFGS, in no more evaluations than its iterations."""
        name, iterations = self.name, float(self.peer.evaluations)
        excess = self.ours.objective - self.peer.objective
        return [
            Check(f"{name}: held-out balanced log loss", max_log_loss, self.loss, 0.0, "at_most"),
            Check(f"{name}: objective minus that of L-BFGS", 0.0, excess, 1e-9, "at_most"),
            Check(
                f"{name}: evaluations against iterations of L-BFGS",
                iterations,
                float(self.ours.evaluations),
                0.0,
                "at_most",
            ),
        ]

    def row(self, privacy_threshold: float) -> dict[str, object]:
        """Row of the table of curves; the threshold is that of the oracle at `FAR`."""
        return {
            "oracle": self.name,
            "genuine": len(self.fitted.genuine),
            "impostor": len(self.fitted.impostor),
            "slope": round(self.ours.slope, 3),
            "intercept": round(self.ours.intercept, 3),
            "log loss": round(self.loss, 5),
            "log loss, L-BFGS": round(log_loss(self.peer, self.held), 5),
            "calibration error": round(calibration_error(self.ours, self.held), 4),
            "evaluations": self.ours.evaluations,
            "iterations, L-BFGS": self.peer.evaluations,
            "unguarded Newton": self.bare.evaluations if self.bare_evaluations < math.inf else "does not end",
            "similarity at even odds": round(-self.ours.intercept / self.ours.slope, 4),
            f"probability at the privacy threshold, FAR {FAR:g}": round(
                match_probability(self.ours, privacy_threshold), 4
            ),
        }


def fit_curve(name: str, fitted: Pairs, held: Pairs, ridge: float) -> OracleCurve:
    """Fit the curve of an oracle three ways.

    Args:
        name: Of the oracle.
        fitted: Pairs to fit on.
        held: Pairs of other people.
        ridge: Penalty on both coefficients of the standardized similarity.

    Returns:
        The fits.
    """
    ours, ours_ms = _timed(lambda: fit_newton(fitted, ridge))
    peer, peer_ms = _timed(lambda: fit_lbfgs(fitted, ridge))
    return OracleCurve(name, fitted, held, ours, peer, fit_undamped(fitted, ridge), (ours_ms, peer_ms))


def service_rows(curves: Sequence[OracleCurve]) -> list[Mapping[str, object]]:
    """Rows of the table of service uses: means over the oracles, beside scikit-learn and unguarded Newton."""
    lbfgs = "calibrate the oracles; plain: scikit-learn's L-BFGS"
    newton = "calibrate the oracles; plain: full Newton steps, unguarded"
    errors = [[calibration_error(fit, curve.held) for fit in (curve.peer, curve.ours)] for curve in curves]
    evaluations = [(float(curve.peer.evaluations), float(curve.ours.evaluations)) for curve in curves]
    measures = (
        (lbfgs, "held-out balanced log loss, nats", [(log_loss(c.peer, c.held), c.loss) for c in curves]),
        (lbfgs, "held-out expected calibration error", errors),
        (lbfgs, "evaluations (plain: iterations) of a fit", evaluations),
        (lbfgs, "shortest processor time of a fit, ms", [curve.milliseconds[::-1] for curve in curves]),
        (newton, "evaluations of a fit", [(c.bare_evaluations, float(c.ours.evaluations)) for c in curves]),
    )
    return [
        {
            "method": "gradient_normalized_smoothness",
            "job": job,
            "measure": measure,
            "without": float(np.mean([plain for plain, _ in pairs])),
            "with": float(np.mean([ours for _, ours in pairs])),
            "n": len(curves[0].held.labels),
        }
        for job, measure, pairs in measures
    ]


def reliability_figure(directory: Path, curve: OracleCurve) -> Figure:
    """Share of genuine pairs, at equal priors, among held-out pairs of about the same predicted log-odds."""
    fit, held = curve.ours, curve.held
    logits = (fit.slope * held.similarities + fit.intercept).numpy()
    genuine = held.labels.numpy() > 0
    weights = held.weights.numpy()
    edges = np.array([-np.inf, -4, -3, -2, -1, 0, 1, 2, 3, 4, np.inf])
    predicted, observed = [], []
    for low, high in itertools.pairwise(edges):
        inside = (logits >= low) & (logits < high)
        if inside.any():
            share = weights[inside] / weights[inside].sum()
            predicted.append(float(share @ (1 / (1 + np.exp(-logits[inside])))))
            observed.append(float(share @ genuine[inside]))
    return plot_series(
        directory,
        f"reliability_{curve.name}",
        [Series(curve.name, predicted, observed, "points"), Series("perfect", [0.0, 1.0], [0.0, 1.0], "dashed")],
        x_label="predicted probability of a match",
        y_label="share of genuine pairs",
        caption=f"{curve.name}, held-out people, equal priors: points on the dashed line are calibrated.",
    )


def _timed(fit: Callable[[], Fit]) -> tuple[Fit, float]:
    """The fit, and the shortest of five processor times it took, in milliseconds."""
    times = []
    for _ in range(5):
        begin = time.process_time()
        found = fit()
        times.append(time.process_time() - begin)
    return found, 1e3 * min(times)
