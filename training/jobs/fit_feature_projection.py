"""Job: can a linear map take identity out of the picture features of the search index? Sliding against plain ways."""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from pydantic import Field
from safetensors.numpy import save

from training.algorithm import iterate
from training.audit.statistics import rank_k
from training.jobs.index_features import (
    NEAREST,
    Features,
    Matrix,
    discriminant_directions,
    embed_folder,
    planted_features,
    principal_basis,
    search_measures,
    unit_rows,
    within_whitener,
)
from training.optimizers.composite.gradient_sliding import rf_sgs
from training.problems.identity_leak import IdentityLeak, alternating_prox, contraction, removed_directions
from training.runs.config import ConfigError, JobConfig
from training.runs.context import RunContext
from training.runs.job import Job, Source
from training.runs.report import Check, Report

_METHOD = "gradient_sliding"


class FitFeatureProjectionConfig(JobConfig):
    """Settings of the run."""

    folder: Path | None = Field(None, description="folder of photos, one main face in each; None plants directions")
    boxes: Path | None = Field(None, description="CSV of the face of each file: file, x1, y1, x2, y2")
    labels: Path | None = Field(None, description="CSV with columns file,identity; else the name without _NNNN")
    max_people: int = Field(280, ge=20, description="people with two photos, of either half")
    directions: int = Field(48, ge=4, description="principal directions of the features that may be removed")
    temperature: float = Field(0.1, gt=0)
    weights: tuple[float, ...] = Field(
        (0.01, 0.03, 0.1), min_length=1, description="weights of the group penalty tried"
    )
    ridge: float = Field(0.05, gt=0, description="pull toward the identity map")
    steps: int = Field(40, ge=10, description="gradients of the leak, equal for every solver")
    tau: float = Field(4.0, gt=0, description="inner effort of sliding")
    rounds: tuple[int, ...] = Field((1, 3, 10), min_length=1, description="rounds of the inner prox tried for FISTA")
    dropped: tuple[int, ...] = Field((4, 8, 16, 32), min_length=1, description="directions that plain ways drop")
    publish: bool = Field(False, description="publish the projection where it lowers the search for people")


class Solved(NamedTuple):
    """Gradients of f, cheap calls and processor seconds so far, and the value at the point."""

    gradients: int
    cheap: int
    seconds: float
    value: float


def run(config: FitFeatureProjectionConfig, context: RunContext) -> Report:
    """Fit on people of one half, measure the search for people of the other half before and after.

    Args:
        config: Settings.
        context: Run directory and metrics.

    Returns:
        The report; the solvers' gaps, every projection, and what it does to search.

    Raises:
        ConfigError: A folder is given without boxes, or has too few people with two photos.
    """
    features = _features(config)
    center = features.fit.reshape(-1, features.fit.shape[-1]).mean(0)
    basis = principal_basis(features.fit - center, config.directions)
    context.log({"fitted_people": len(features.fit), "held_out_people": len(features.held)})
    solvers, gaps = _race(config, _problem(config, features.fit, center, basis, config.weights[0]))
    for row in solvers:
        context.log({f"{row['solver']}: gap": row["gap"]})

    ways = _ways(config, features.fit, center, basis)
    eye = np.eye(len(center))
    asked = {"as indexed": (0, eye), "centered": (0, eye), **ways}
    rows: list[dict[str, Any]] = []
    for name, (removed, matrix) in asked.items():
        middle = np.zeros_like(center) if name == "as indexed" else center
        measured = search_measures(features.held, middle, matrix, within_whitener(features.fit, matrix))
        rows.append({"projection": name, "removed": removed, **measured})
    indexed = {key: float(value) for key, value in rows[0].items() if key not in ("projection", "removed")}
    chosen = _choose(config, features.fit)
    found = {kind: next(row for row in rows if row["projection"] == name) for kind, name in chosen.items()}
    metrics = {
        "people": float(len(features.held)),
        "directions removed": float(found["sliding"]["removed"]),
        **{f"{kind} {key}": float(row[key]) for kind, row in found.items() for key in indexed},
        **{f"indexed {key}": value for key, value in indexed.items()},
        **{f"gap, {name}": gap for name, gap in gaps.items()},
    }
    checks = [
        Check("gap of sliding over the first gap", 0.02, gaps["sliding"] / gaps["start"], 0.0, "at_most"),
        Check(
            "with the sum's prox from alternating maps FISTA wins: its gap over that of sliding",
            1.0,
            gaps["FISTA"] / gaps["sliding"],
            0.0,
            "at_most",
        ),
    ]
    if config.folder is None:
        checks.append(
            Check(
                "planted directions: search for people after over before",
                0.7,
                found["sliding"]["identity top-10"] / indexed["identity top-10"],
                0.0,
                "at_most",
            )
        )
    artifacts = _publish(config, context, ways[chosen["sliding"]][1], center, indexed, found["sliding"])
    tables: dict[str, Sequence[Mapping[str, Any]]] = {
        f"Solvers at {config.steps} gradients of the leak": solvers,
        "Search by people held out": rows,
        "in the service": _in_the_service(config, indexed, found, gaps, len(features.held)),
    }
    return Report(metrics, checks, artifacts=artifacts, tables=tables)


def _features(config: FitFeatureProjectionConfig) -> Features:
    if config.folder is None:
        return planted_features(config.max_people, seed=config.seed)
    if config.boxes is None:
        raise ConfigError("a folder needs boxes: a CSV with columns file, x1, y1, x2, y2")
    return embed_folder(config.folder, config.boxes, config.labels, max_people=config.max_people, seed=config.seed)


def _problem(
    config: FitFeatureProjectionConfig, fit: Matrix, center: Matrix, basis: Matrix, weight: float
) -> IdentityLeak:
    scores = (fit - center) @ basis
    codes = torch.from_numpy(scores / np.sqrt((scores**2).sum(-1).mean()))
    return IdentityLeak(codes[:, 1], codes[:, 0], config.temperature, weight, config.ridge)


def _slide(config: FitFeatureProjectionConfig, problem: IdentityLeak) -> tuple[torch.Tensor, Solved]:
    method = rf_sgs(
        problem.smooth,
        problem.cheap.sampled(),
        smoothness=problem.smoothness(),
        strong_convexity=config.ridge,
        tau=config.tau,
        prox=problem.clip,
    )
    begin = time.process_time()
    start = torch.zeros(problem.dim**2, dtype=torch.float64)
    state, _ = next(itertools.islice(iterate(method, start, seed=config.seed), config.steps - 1, None))
    spent = time.process_time() - begin
    return state.x, Solved(state.smooth_gradients, state.cheap_gradients, spent, problem.value(state.x))


def _proximal(
    problem: IdentityLeak, smoothness: float, steps: int, rounds: int, *, accelerated: bool
) -> tuple[torch.Tensor, Solved]:
    """Take proximal gradient steps, with or without momentum; a round of the warm inner prox is a cheap call."""
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


def _race(config: FitFeatureProjectionConfig, problem: IdentityLeak) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Rows of the solvers, and the gap of each kind at equal gradients; every solver's last point is the yardstick."""
    smoothness = problem.smoothness()
    found = {"sliding": _slide(config, problem)[1]}
    for rounds in config.rounds:
        for name, accelerated in (("FISTA", True), ("proximal gradient", False)):
            key = f"{name}, {rounds} rounds"
            found[key] = _proximal(problem, smoothness, config.steps, rounds, accelerated=accelerated)[1]
    best = _proximal(problem, smoothness, 6 * config.steps, 2 * max(config.rounds), accelerated=True)[1].value
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


def _ways(
    config: FitFeatureProjectionConfig, fit: Matrix, center: Matrix, basis: Matrix
) -> dict[str, tuple[int, Matrix]]:
    """Every projection by name: directions it removes altogether, and the map (d, d)."""
    eye = np.eye(len(center))
    ways: dict[str, tuple[int, Matrix]] = {}
    for weight in config.weights:
        problem = _problem(config, fit, center, basis, weight)
        removed = problem.matrix(_slide(config, problem)[0])
        dropped = basis @ removed_directions(removed).numpy()
        soft = contraction(removed).numpy() - np.eye(problem.dim)
        ways[f"sliding, weight {weight:g}"] = (dropped.shape[1], eye - dropped @ dropped.T)
        ways[f"not dropped but damped, weight {weight:g}"] = (0, eye + basis @ soft @ basis.T)
    for count in config.dropped:
        lda = discriminant_directions(fit, center, min(count, len(fit) - 1))
        pca = basis[:, :count]
        ways[f"LDA, {count}"] = (lda.shape[1], eye - lda @ lda.T)
        ways[f"PCA, {count}"] = (pca.shape[1], eye - pca @ pca.T)
    return ways


def _choose(config: FitFeatureProjectionConfig, fit: Matrix) -> dict[str, str]:
    """The setting of each kind that protects best those of the fitted half who are left out of a fit for this."""
    cut = len(fit) * 2 // 3
    center = fit[:cut].reshape(-1, fit.shape[-1]).mean(0)
    ways = _ways(config, fit[:cut], center, principal_basis(fit[:cut] - center, config.directions))
    truth = np.arange(len(fit) - cut)
    hits: dict[str, float] = {}
    for name, (_, matrix) in ways.items():
        views = unit_rows((fit[cut:] - center) @ matrix)
        hits[name] = float(rank_k(views[:, 1], views[:, 0], truth, k=NEAREST).mean())
    return {
        kind: min((name for name in ways if name.startswith(kind)), key=hits.__getitem__)
        for kind in ("sliding", "LDA", "PCA")
    }


def _publish(
    config: FitFeatureProjectionConfig,
    context: RunContext,
    matrix: Matrix,
    center: Matrix,
    indexed: Mapping[str, float],
    after: Mapping[str, Any],
) -> tuple[str, ...]:
    """Publish on request, and only what lowers the search for people without costing the search for pictures."""
    helps = all(after[key] < indexed[key] for key in ("identity top-10", "identity rank-1"))
    if not (config.publish and helps and after["crop recall@10"] >= indexed["crop recall@10"]):
        return ()
    tensors = {"projection": matrix.astype(np.float32), "center": center.astype(np.float32)}
    reference = context.publish(
        "feature-projection",
        "projection",
        {"projection.safetensors": save(tensors)},
        metrics={key: float(after[key]) for key in indexed},
        license="Apache-2.0",
        provenance={"holds": "a linear map and a mean, no features"},
    )
    return (reference,)


def _in_the_service(
    config: FitFeatureProjectionConfig,
    indexed: Mapping[str, float],
    found: Mapping[str, Mapping[str, Any]],
    gaps: Mapping[str, float],
    people: int,
) -> list[dict[str, Any]]:
    data = "planted directions" if config.folder is None else "photos"
    plain: dict[str, Mapping[str, Any]] = {"as indexed": indexed, "LDA": found["LDA"], "PCA": found["PCA"]}
    rows = [
        {
            "method": _METHOD,
            "job": f"take identity out of the index's picture features, {data}; plain: {name}",
            "measure": f"{measure}, share",
            "without": row[measure],
            "with": found["sliding"][measure],
            "n": people,
        }
        for name, row in plain.items()
        for measure in ("identity rank-1", "identity top-10", "identity top-10, whitened", "crop recall@10")
    ]
    rows += [
        {
            "method": _METHOD,
            "job": f"the same fit, {config.steps} gradients of all pairs; plain: {peer}, best inner effort",
            "measure": "gap to the smallest value",
            "without": gaps[peer],
            "with": gaps["sliding"],
            "n": 1,
        }
        for peer in ("FISTA", "proximal gradient")
    ]
    return rows


JOB = Job(
    name="fit-feature-projection",
    summary="fits a map that takes identity out of the features of the search index, and measures it",
    source=Source(
        "Restart-Free (Accelerated) Gradient Sliding Methods for Strongly Convex Composite Optimization",
        "https://arxiv.org/abs/2602.04161",
        2026,
    ),
    config=FitFeatureProjectionConfig,
    run=run,
    wants_large_malloc_thresholds=True,
    presets={
        "smoke": {
            "max_people": 80,
            "directions": 24,
            "weights": (0.05,),
            "rounds": (1, 3),
            "dropped": (4, 8),
        }
    },
)
