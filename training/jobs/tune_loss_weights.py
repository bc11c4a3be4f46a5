"""Job: choose the weights of the encoder's loss under a privacy constraint, on channels of frozen features (LV-HBA)."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from training.algorithm import iterate
from training.jobs.encoder_trial import (
    TrialFaces,
    TrialSettings,
    evaluate_trial,
    train_trial,
    trial_faces,
    trial_mask,
)
from training.jobs.publishing import PROVENANCE, WEIGHTS_LICENSE
from training.objectives.encoder_loss import ARTIFACT_NAME, FILE_NAME, LossWeights
from training.optimizers.bilevel.lv_hba import GRADIENTS_PER_STEP, lv_hba
from training.problems.loss_weight_proxy import LARGEST_SHARE, LossWeightProxy, fit_proxy
from training.runs.config import JobConfig
from training.runs.context import RunContext
from training.runs.job import Job, Source
from training.runs.report import Check, Report

_SMALLEST, _LARGEST = (1e-5, 1e-3), (1e-2, 1e1)  # weights of rate and leak
_SCALE = 30.0  # of both levels; derivatives are then of order one


class TuneLossWeightsConfig(JobConfig):
    """Settings of the run."""

    faces: Path | None = Field(Path("data/faces"), description="crop set written by prepare-faces; null draws pictures")
    max_faces: int = Field(1200, ge=40, description="faces of the proxy; the short trainings use them too")
    components: int = Field(48, ge=2, description="principal components of degraded faces that serve as features")
    hand_rate: float = Field(1e-4, gt=0, description="hand-set weight of the rate")
    hand_leak: float = Field(0.2, gt=0, description="hand-set weight of the probe's cosine")
    leak_limit: float | None = Field(
        None,
        gt=0,
        description="share of the identity code a linear probe may explain; null: what hand-set weights reach",
    )
    steps: int = Field(3000, ge=1, description="LV-HBA steps; the searches get as many gradients")
    candidates: int = Field(49, ge=4, description="pairs of weights that each search tries")
    trial_steps: int = Field(50, ge=0, description="steps of a short training with either weights; 0 for none")
    trial_seeds: int = Field(2, ge=1)
    publish: bool = False


@dataclass(frozen=True, slots=True)
class _Choice:
    """Weights per nat and per explained share, the largest leak over the limit on the way, gradients spent."""

    weights: Tensor
    violation: float
    gradients: int


def run(config: TuneLossWeightsConfig, context: RunContext) -> Report:
    """Tune, compare with the searches and the hand-set weights, publish `loss-weights` if asked.

    The proxy's leak is the share of the code that a linear probe explains, about the square of the cosine that
    train-encoder pays for, so a weight w of the share is the weight 2 sqrt(limit) w of the cosine at the limit.

    Args:
        config: Settings.
        context: Run directory, store and metrics.

    Returns:
        The report: what each choice reaches on the proxy with the lower level solved exactly, and in short trainings.
    """
    faces = trial_faces(config.faces, config.max_faces, config.seed, context.store)
    _, pixel_weight = trial_mask()
    pictures = (faces.degraded * pixel_weight.sqrt()).flatten(1)
    proxy = fit_proxy(pictures, faces.codes, faces.held, components=config.components)
    hand, limit = _hand_set(config, proxy)
    chosen = {
        "hand-set": _Choice(hand, max(0.0, float(proxy.leak @ proxy.lower_solution(hand)) - limit), 0),
        "LV-HBA": _lv_hba(config, proxy, limit, hand, context),
        "grid search": _search(proxy, limit, _grid(config.candidates), GRADIENTS_PER_STEP * config.steps),
        "random search": _search(
            proxy, limit, _random(config.candidates, config.seed), GRADIENTS_PER_STEP * config.steps
        ),
    }
    chosen["fine grid, exact lower level"] = _reference(proxy, limit)
    measured = {name: _measure(proxy, limit, choice) for name, choice in chosen.items()}
    to_cosine = 2 * limit**0.5
    tuned = LossWeights(*(chosen["LV-HBA"].weights * torch.tensor([1.0, to_cosine])).tolist())
    metrics = {
        "limit": limit,
        "weight_rate": tuned.rate,
        "weight_leak": tuned.leak,
        **{f"{name} {key}": value for name, row in measured.items() for key, value in row.items()},
    }
    rows = _service_rows(measured, int(faces.held.sum()))
    if config.trial_steps:
        trials, more = _trials(config, faces, tuned)
        metrics |= trials
        rows += more
    artifacts = []
    if config.publish:
        reference = context.publish(
            ARTIFACT_NAME,
            "loss-weights",
            {FILE_NAME: tuned.to_json()},
            metrics=metrics,
            parents={"face-encoder": str(context.store.promoted("face-encoder"))} if config.faces else {},
            license=WEIGHTS_LICENSE,
            provenance={"data": PROVENANCE},
        )
        artifacts.append(reference)
    best = min(measured["grid search"]["utility"], measured["random search"]["utility"])
    checks = (
        Check("leak of the tuned weights over the limit", 1.0, measured["LV-HBA"]["leak"] / limit, 1e-6, "at_most"),
        Check(
            "validation reconstruction of the tuned weights over the better search",
            1.0,
            measured["LV-HBA"]["utility"] / best,
            0.1,
            "at_most",
        ),
    )
    table = [{"weights": name, **row} for name, row in measured.items()]
    return Report(
        metrics, checks, artifacts, tables={"Choices of weights, on the proxy": table, "in the service": rows}
    )


def _hand_set(config: TuneLossWeightsConfig, proxy: LossWeightProxy) -> tuple[Tensor, float]:
    """Hand-set weights in the proxy's units, and the limit: the two depend on each other through the cosine."""
    limit = config.leak_limit or float(proxy.leak.sum())
    weights = torch.tensor([config.hand_rate, 0.0], dtype=torch.float64)
    for _ in range(50):
        weights[1] = config.hand_leak / (2 * limit**0.5)
        if config.leak_limit is not None:
            break
        limit = float(proxy.leak @ proxy.lower_solution(weights))
    return weights, limit


def _lv_hba(
    config: TuneLossWeightsConfig, proxy: LossWeightProxy, limit: float, start: Tensor, context: RunContext
) -> _Choice:
    low, high = (torch.tensor(bound, dtype=torch.float64).log() for bound in (_SMALLEST, _LARGEST))
    method = lv_hba(
        proxy.problem(limit, scale=_SCALE),
        project=proxy.projection(limit, low, high),
        project_lower=lambda shares: shares.clamp(0.0, LARGEST_SHARE),
    )
    x0 = torch.cat([start.log(), torch.full_like(proxy.worth, 0.5)])
    violation = 0.0
    path = iterate(method, x0, seed=config.seed)
    for step in range(1, config.steps + 1):
        state, info = next(path)
        # theta alone can violate: the pair (x, y) is projected
        violation = max(violation, info.violation * float(torch.linalg.vector_norm(proxy.leak)))
        if step % 500 == 0:
            context.log({"step": step, "lower_gap": info.lower_gap, "violation": info.violation})
    weights = state.x[:2].exp()
    weights[1] += proxy.leak_weight(float(state.multiplier[0]), scale=_SCALE)
    # train-encoder has no constraint: what the iterates still owe to it is paid by the weight
    while float(proxy.leak @ proxy.lower_solution(weights)) > limit and float(weights[1]) < _LARGEST[1]:
        weights[1] *= 1.02
    return _Choice(weights, violation, info.gradients)


def _search(proxy: LossWeightProxy, limit: float, candidates: Iterable[Tensor], gradients: int) -> _Choice:
    """The plain way: solve the lower level for every pair, keep the best that obeys the limit.

    The lower level is a sum over the shares, so each gradient is scaled by the curvature: a strong plain way.
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
    return _Choice(best, violation, steps * len(pairs))


def _reference(proxy: LossWeightProxy, limit: float) -> _Choice:
    """The best of 7200 pairs by the closed form of the lower level, which no network has: how much there is to gain."""
    axes = [
        torch.logspace(float(np.log10(low)), float(np.log10(high)), count, dtype=torch.float64)
        for low, high, count in zip(_SMALLEST, _LARGEST, (60, 120), strict=True)
    ]
    pairs = [torch.stack(pair) for pair in itertools.product(*axes)]
    found = [(weights, proxy.lower_solution(weights)) for weights in pairs]
    allowed = [(weights, shares) for weights, shares in found if float(proxy.leak @ shares) <= limit]
    best, _ = min(allowed, key=lambda pair: float(proxy.validation(pair[1])))
    return _Choice(best, 0.0, 0)


def _grid(count: int) -> list[Tensor]:
    side = int(count**0.5)
    axes = [
        torch.logspace(float(np.log10(low)), float(np.log10(high)), side, dtype=torch.float64)
        for low, high in zip(_SMALLEST, _LARGEST, strict=True)
    ]
    return [torch.stack(pair) for pair in itertools.product(*axes)]


def _random(count: int, seed: int) -> list[Tensor]:
    rng = torch.Generator().manual_seed(seed)
    low, high = (torch.tensor(bound, dtype=torch.float64).log() for bound in (_SMALLEST, _LARGEST))
    return [(low + (high - low) * torch.rand(2, generator=rng, dtype=torch.float64)).exp() for _ in range(count)]


def _measure(proxy: LossWeightProxy, limit: float, choice: _Choice) -> dict[str, float]:
    shares = proxy.lower_solution(choice.weights)
    return {
        "rate weight": float(choice.weights[0]),
        "leak weight": float(choice.weights[1]),
        "utility": float(proxy.validation(shares)),
        "leak": float(proxy.leak @ shares),
        "held-out leak": float(proxy.validation_leak @ shares),
        "rate": float(proxy.rate(shares)),
        "largest violation": max(choice.violation, float(proxy.leak @ shares) - limit, 0.0),
        "gradients": float(choice.gradients),
    }


def _service_rows(measured: dict[str, dict[str, float]], n: int) -> list[dict[str, Any]]:
    names = {
        "utility": "validation reconstruction error at equal leak",
        "largest violation": "largest leak over the limit on the way",
    }
    return [
        {
            "method": "lv_hba",
            "job": f"weights of the encoder's loss, against {plain}",
            "measure": text,
            "without": measured[plain][key],
            "with": measured["LV-HBA"][key],
            "n": n,
        }
        for plain in ("hand-set", "grid search", "random search")
        for key, text in names.items()
        if (plain, key) != ("hand-set", "largest violation")
    ]


def _trials(
    config: TuneLossWeightsConfig, faces: TrialFaces, tuned: LossWeights
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Train with either weights and measure error and leak on held-out faces; means over the seeds."""
    arms = {"hand-set": LossWeights(config.hand_rate, config.hand_leak), "tuned": tuned}
    found: dict[str, list[dict[str, float]]] = {name: [] for name in arms}
    for seed, (name, weights) in itertools.product(range(config.trial_seeds), arms.items()):
        trial = train_trial(faces, TrialSettings(steps=config.trial_steps, seed=seed, weights=weights))
        found[name].append(evaluate_trial(faces, trial.average, trial, probe_steps=60))
    mean = {name: {key: float(np.mean([row[key] for row in rows])) for key in rows[0]} for name, rows in found.items()}
    words = {"reconstruction": "held-out reconstruction error", "fresh_probe": "cosine of a fresh probe (leak)"}
    rows = [
        {
            "method": "lv_hba",
            "job": f"short training of the encoder ({config.trial_steps} steps), against hand-set weights",
            "measure": text,
            "without": mean["hand-set"][key],
            "with": mean["tuned"][key],
            "n": config.trial_seeds,
        }
        for key, text in words.items()
    ]
    return {f"trial {name} {key}": value for name, row in mean.items() for key, value in row.items()}, rows


JOB = Job(
    name="tune-loss-weights",
    summary="weights of the encoder's loss under a limit on the leak, by constrained bilevel steps",
    source=Source(
        "Constrained Bi-Level Optimization: Proximal Lagrangian Value Function Approach and Hessian-free Algorithm",
        "https://arxiv.org/abs/2401.16164",
        2024,
    ),
    config=TuneLossWeightsConfig,
    run=run,
    wants_large_malloc_thresholds=True,
    presets={
        "smoke": {"faces": None, "max_faces": 160, "components": 12, "steps": 800, "candidates": 16, "trial_steps": 0}
    },
)
