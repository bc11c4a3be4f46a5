"""Solvers of the projection job's problem: sliding, and proximal gradient with and without momentum."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from training.algorithm import iterate
from training.optimizers.composite.gradient_sliding import rf_sgs
from training.problems.identity_leak import IdentityLeak, alternating_prox


@dataclass(frozen=True, slots=True)
class Effort:
    """Gradients of f of every solver, inner effort of sliding, and the seed of its samples."""

    steps: int
    tau: float
    seed: int


class Solved(NamedTuple):
    """Gradients of f, cheap calls and processor seconds so far, and the value at the point."""

    gradients: int
    cheap: int
    seconds: float
    value: float


def slide(problem: IdentityLeak, effort: Effort) -> tuple[torch.Tensor, Solved]:
    """Solve by sliding; returns the point (k * k,) and what it took."""
    method = rf_sgs(
        problem.smooth,
        problem.cheap.sampled(),
        smoothness=problem.smoothness(),
        strong_convexity=problem.ridge,
        tau=effort.tau,
        prox=problem.clip,
    )
    begin = time.process_time()
    start = torch.zeros(problem.dim**2, dtype=torch.float64)
    state, _ = next(itertools.islice(iterate(method, start, seed=effort.seed), effort.steps - 1, None))
    spent = time.process_time() - begin
    return state.x, Solved(state.smooth_gradients, state.cheap_gradients, spent, problem.value(state.x))


def proximal(
    problem: IdentityLeak, smoothness: float, steps: int, rounds: int, *, accelerated: bool
) -> tuple[torch.Tensor, Solved]:
    """Take proximal gradient steps, with or without momentum; a round of the warm inner prox is a cheap call.

    Args:
        problem: The problem.
        smoothness: A Lipschitz constant of the gradient of f.
        steps: Gradients of f.
        rounds: Rounds of the inner prox in each step.
        accelerated: With momentum (FISTA for strongly convex problems).

    Returns:
        The point (k * k,) and what it took.
    """
    gradient = problem.smooth.gradient
    root = (problem.ridge / (smoothness + problem.ridge)) ** 0.5
    momentum = (1 - root) / (1 + root) if accelerated else 0.0
    begin = time.process_time()
    x = ahead = torch.zeros(problem.dim**2, dtype=torch.float64)
    corrections = (x, x)
    for _ in range(steps):
        z = ahead - gradient(ahead) / smoothness
        new, corrections = alternating_prox(problem, z, 1 / smoothness, corrections, rounds=rounds)
        ahead, x = new + momentum * (new - x), new
    return x, Solved(steps, steps * rounds, time.process_time() - begin, problem.value(x))


def race(
    problem: IdentityLeak, effort: Effort, every_rounds: Sequence[int]
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Solve in every way.

    Args:
        problem: The problem.
        effort: Of sliding; the peers take as many gradients of f.
        every_rounds: Rounds of the inner prox that the peers try.

    Returns:
        Rows of the solvers, and the smallest gap of each kind; every solver's last point is the yardstick.
    """
    smoothness = problem.smoothness()
    found = {"sliding": slide(problem, effort)[1]}
    for rounds in every_rounds:
        for name, accelerated in (("FISTA", True), ("proximal gradient", False)):
            key = f"{name}, {rounds} rounds"
            found[key] = proximal(problem, smoothness, effort.steps, rounds, accelerated=accelerated)[1]
    best = proximal(problem, smoothness, 6 * effort.steps, 2 * max(every_rounds), accelerated=True)[1].value
    best = min(best, *(each.value for each in found.values()))
    rows: list[dict[str, Any]] = [
        {
            "solver": name,
            "gradients": each.gradients,
            "cheap calls": each.cheap,
            "gap": each.value - best,
            "seconds": round(each.seconds, 2),
        }
        for name, each in found.items()
    ]
    start = problem.value(torch.zeros(problem.dim**2, dtype=torch.float64)) - best
    gaps = {"start": start} | {
        kind: min(row["gap"] for row in rows if row["solver"].startswith(kind))
        for kind in ("sliding", "FISTA", "proximal gradient")
    }
    return rows, gaps
