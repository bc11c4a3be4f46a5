"""Ways to calibrate strata: one curve per oracle, every stratum alone, and tied by a stiffness found in three ways."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from training.algorithm import iterate
from training.jobs.bsvrb_peers import implicit_quasi_newton, plain_loop
from training.jobs.strata import RIDGE, Score, Strata, fold, measure_spread, pool, score, standardize
from training.optimizers.bilevel.bsvrb import bsvrb
from training.problems.block_calibration import BlockPairs, solve_blocks, stiffness
from training.problems.multi_block import MultiBlockBilevel

POOLED, ALONE = "one curve per oracle", "every block alone"
TIED, EXACT = "tied blocks, BSVRB", "tied blocks, exact gradients"


@dataclass(frozen=True, slots=True, kw_only=True)
class WaySettings:
    """Folds that are set aside in turn; steps, blocks and pairs a step, step sizes and seed of the stochastic ways."""

    folds: int
    steps: int
    blocks: int
    batch_size: int
    step_size: float
    lower_step_size: float
    seed: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """Curves (s, 2), scores, stiffness chosen, loss set aside and seconds by way, and the scale of similarities."""

    curves: dict[str, Tensor]
    scores: dict[str, Score]
    chosen: dict[str, Tensor]
    values: dict[str, float]
    seconds: dict[str, float]
    spread: Tensor


def compare(strata: Strata, settings: WaySettings, rng: np.random.Generator) -> Comparison:
    """Fit the strata in all ways and score them on the held-out people.

    Args:
        strata: The strata.
        settings: Of the methods.
        rng: Deals people out to folds.

    Returns:
        What came of it.
    """
    whole = [stratum.pairs() for stratum in strata.fitting]
    spread = measure_spread(whole, strata.oracles)
    everything, held_out = (
        standardize(parts, strata.oracles, spread)
        for parts in (whole, [stratum.pairs() for stratum in strata.held_out])
    )
    problem = fold(strata, settings.folds, spread, rng)
    curves, chosen, seconds = _curves(problem, everything, strata.oracles, settings)
    scores = {name: score(curve, held_out) for name, curve in curves.items()}
    values = {name: float(problem.exact(x)[0]) for name, x in chosen.items()}
    return Comparison(curves, scores, chosen, values, seconds, spread)


def _curves(
    problem: MultiBlockBilevel,
    everything: Sequence[BlockPairs],
    oracles: Tensor,
    settings: WaySettings,
) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, float]]:
    """Curves (s, 2) by way, fitted on everybody; the stiffness behind them; the seconds it took to choose it."""
    start = torch.zeros(2, dtype=torch.float64)
    common: dict[str, Any] = {
        "blocks": min(settings.blocks, problem.num_blocks),
        "batch_size": settings.batch_size,
        "step_size": settings.step_size,
        "lower_step_size": settings.lower_step_size,
        "upper_momentum": 0.1,
    }

    def reduced() -> Tensor:
        path = iterate(bsvrb(problem, correction=1.0, **common), start, seed=settings.seed)
        return next(itertools.islice(path, settings.steps - 1, None))[0].x

    ways: dict[str, Callable[[], Tensor]] = {
        TIED: reduced,
        "tied blocks, no variance reduction": lambda: plain_loop(
            problem,
            start,
            steps=2 * settings.steps,
            adjoint_step_size=settings.lower_step_size,
            seed=settings.seed,
            **common,
        )[-1],
        EXACT: lambda: implicit_quasi_newton(problem, start, scale=1e3, box=8.0, max_evaluations=60).x,
    }
    chosen, seconds = {"start": start}, {}
    for name, way in ways.items():
        begin = time.process_time()
        chosen[name] = way()
        seconds[name] = time.process_time() - begin
    pooled, alone = pool(everything, oracles), torch.full((2,), RIDGE, dtype=torch.float64)
    shared = pooled[oracles]
    curves = {POOLED: shared, ALONE: solve_blocks(everything, torch.zeros_like(pooled), oracles, alone)}
    for name in ways:
        curves[name] = shared + solve_blocks(everything, pooled, oracles, stiffness(chosen[name]))
    return curves, chosen, seconds
