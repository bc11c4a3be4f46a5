"""Job: choose the weights of the encoder's loss under a privacy constraint, on channels of frozen features (LV-HBA)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from training.algorithm import iterate
from training.jobs.encoder_trial import TrialSettings, trial_faces, trial_mask
from training.jobs.loss_weight_search import LARGEST, SMALLEST, Choice, finest, grid, scattered, search
from training.jobs.paired_trials import Change, train_pairs
from training.jobs.publishing import PROVENANCE, WEIGHTS_LICENSE
from training.objectives.encoder_loss import ARTIFACT_NAME, FILE_NAME, LossWeights
from training.optimizers.bilevel.lv_hba import GRADIENTS_PER_STEP, lv_hba
from training.problems.loss_weight_proxy import LARGEST_SHARE, LossWeightProxy, fit_proxy
from training.runs.config import JobConfig
from training.runs.context import RunContext
from training.runs.job import Job, Source
from training.runs.report import Check, Report

_JUDGED = {"reconstruction": "held-out reconstruction error", "fresh_probe": "cosine of a fresh probe (leak)"}
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
    trial_steps: int = Field(200, ge=0, description="steps of a short training with either weights; 0 for none")
    trial_seeds: int = Field(3, ge=1, description="pairs of short trainings")
    probe_steps: int = Field(100, ge=1, description="steps of the fresh probe on the code of a short training")
    publish: bool = Field(False, description="publish and promote the weights when they are sound")


def run(config: TuneLossWeightsConfig, context: RunContext) -> Report:
    """Tune, compare with the searches and the hand-set weights, publish `loss-weights` if asked and sound.

    The proxy's leak is the share of the code that a linear probe explains, about the square of the cosine that
    train-encoder pays for, so a weight w of the share is the weight 2 sqrt(limit) w of the cosine at the limit.

    Args:
        config: Settings.
        context: Run directory, store and metrics.

    Returns:
        The report: what each choice reaches on the proxy with the lower level solved exactly, and what the tuned
        weights change in short trainings of the encoder.
    """
    faces = trial_faces(config.faces, config.max_faces, config.seed, context.store)
    _, pixel_weight = trial_mask()
    pictures = (faces.degraded * pixel_weight.sqrt()).flatten(1)
    proxy = fit_proxy(pictures, faces.codes, faces.held, components=config.components)
    hand, limit = _hand_set(config, proxy)
    chosen = {
        "hand-set": Choice(hand, max(0.0, float(proxy.leak @ proxy.lower_solution(hand)) - limit), 0),
        "LV-HBA": _lv_hba(config, proxy, limit, hand, context),
        "grid search": search(proxy, limit, grid(config.candidates), GRADIENTS_PER_STEP * config.steps),
        "random search": search(
            proxy, limit, scattered(config.candidates, config.seed), GRADIENTS_PER_STEP * config.steps
        ),
    }
    chosen["fine grid, exact lower level"] = finest(proxy, limit)
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
    changes: Mapping[str, Change] = {}
    if config.trial_steps:
        hand_set = LossWeights(config.hand_rate, config.hand_leak)
        changes = train_pairs(
            faces,
            *(TrialSettings(steps=config.trial_steps, weights=weights) for weights in (hand_set, tuned)),
            seeds=config.trial_seeds,
            probe_steps=config.probe_steps,
            log=context.log,
        )
        rows += _trial_rows(changes, config)
    sound = is_sound(measured["LV-HBA"]["leak"], limit, changes)
    metrics["sound"] = float(sound)
    artifacts = (_publish(context, config, tuned, metrics, changes),) if config.publish and sound else ()
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
    tables = {
        "Choices of weights, on the proxy": [{"weights": name, **row} for name, row in measured.items()],
        "Short trainings, tuned less hand-set with 95 % interval": [
            {
                "measure": name,
                "hand-set": change.without,
                "tuned": change.with_it,
                "difference": change.with_it - change.without,
                "lower": change.lower,
                "upper": change.upper,
                "people": change.people,
                "seeds": change.seeds,
            }
            for name, change in changes.items()
        ],
        "in the service": rows,
    }
    return Report(metrics, checks, artifacts, tables=tables)


def is_sound(leak: float, limit: float, changes: Mapping[str, Change]) -> bool:
    """Whether tuned weights may be published.

    Args:
        leak: What they lead to on the proxy.
        limit: Largest leak allowed there.
        changes: Of the short trainings, tuned against hand-set; empty where there were none.

    Returns:
        True when the limit is kept on the proxy, and neither the encoder's reconstruction nor what a fresh probe reads
        in its code is clearly worse than with the hand-set weights. Weights that trained nothing are not sound.
    """
    judged = [changes[name] for name in _JUDGED if name in changes]
    kept = leak <= limit * (1 + 1e-6)
    return kept and len(judged) == len(_JUDGED) and not any(change.is_loss for change in judged)


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
) -> Choice:
    low, high = (torch.tensor(bound, dtype=torch.float64).log() for bound in (SMALLEST, LARGEST))
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
    while float(proxy.leak @ proxy.lower_solution(weights)) > limit and float(weights[1]) < LARGEST[1]:
        weights[1] *= 1.02
    return Choice(weights, violation, info.gradients)


def _measure(proxy: LossWeightProxy, limit: float, choice: Choice) -> dict[str, float]:
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


def _trial_rows(changes: Mapping[str, Change], config: TuneLossWeightsConfig) -> list[dict[str, Any]]:
    names = {**_JUDGED, "rate": "rate of the code, nats"}
    return [
        {
            "method": "lv_hba",
            "job": f"train-encoder for {config.trial_steps} steps, {config.trial_seeds} seeds; plain: hand-set weights",
            "measure": text,
            "without": changes[key].without,
            "with": changes[key].with_it,
            "n": changes[key].people,
        }
        for key, text in names.items()
    ]


def _publish(
    context: RunContext,
    config: TuneLossWeightsConfig,
    tuned: LossWeights,
    metrics: Mapping[str, float],
    changes: Mapping[str, Change],
) -> str:
    """Publish and promote the weights with what the trainings said; nothing reads them that does not ask for them."""
    sides = {name: {"hand-set": change.without, "tuned": change.with_it} for name, change in changes.items()}
    reference = context.publish(
        ARTIFACT_NAME,
        "loss-weights",
        {FILE_NAME: tuned.to_json()},
        config={"settings": config.model_dump(mode="json")},
        metrics={key: metrics[key] for key in ("limit", "weight_rate", "weight_leak")}
        | {f"{name}, {side}": value for name, values in sides.items() for side, value in values.items()},
        parents={"face-encoder": str(context.store.promoted("face-encoder"))} if config.faces else {},
        license=WEIGHTS_LICENSE,
        provenance={"data": PROVENANCE},
    )
    context.store.set_promoted(ARTIFACT_NAME, reference.partition("@")[2])
    return reference


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
