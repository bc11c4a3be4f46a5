"""Job: can a linear map take identity out of the picture features of the search index? Sliding against plain ways."""

from __future__ import annotations

import csv
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from safetensors.numpy import save

from models.embedding import PictureEmbedder
from models.image_encoder import Box
from models.pictures import decode_picture
from training.algorithm import iterate
from training.audit.statistics import rank_k
from training.jobs.calibrate_oracles import identity_in_half, read_labels
from training.optimizers.composite.gradient_sliding import rf_sgs
from training.problems.identity_leak import IdentityLeak, alternating_prox, contraction, removed_directions
from training.runs.config import ConfigError, JobConfig
from training.runs.context import RunContext
from training.runs.job import Job, Source
from training.runs.report import Check, Report

Matrix = NDArray[np.float64]

_INSET = 12  # pixels cut off each side of a picture to make its crop
_NEAREST = 10
_METHOD = "gradient_sliding"


class FitFeatureProjectionConfig(JobConfig):
    """Settings of the run."""

    folder: Path | None = Field(None, description="folder of photos, one main face in each; None plants directions")
    boxes: Path | None = Field(None, description="CSV of the face of each file: file, x1, y1, x2, y2")
    labels: Path | None = Field(None, description="CSV with columns file,identity; else the name without _NNNN")
    max_people: int = Field(280, ge=20, description="people with two photos, of either half")
    directions: int = Field(64, ge=4, description="principal directions of the features that may be removed")
    temperature: float = Field(0.1, gt=0)
    weights: tuple[float, ...] = Field((0.03, 0.1, 0.3), min_length=1, description="weights of the group penalty tried")
    ridge: float = Field(0.05, gt=0, description="pull toward the identity map")
    steps: int = Field(60, ge=10, description="gradients of the leak, equal for every solver")
    tau: float = Field(4.0, gt=0, description="inner effort of sliding")
    rounds: tuple[int, ...] = Field((1, 3, 10), min_length=1, description="rounds of the inner prox tried for FISTA")
    dropped: tuple[int, ...] = Field((4, 8, 16, 32), min_length=1, description="directions that plain ways drop")
    publish: bool = Field(False, description="publish the projection where it lowers the search for people")


@dataclass(frozen=True, slots=True)
class Features:
    """Unit features (n, v, d) of n people: a photo, another photo, and for the test the first one cut at its sides."""

    fit: Matrix
    held: Matrix


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
    features = planted_features(config.max_people, seed=config.seed) if config.folder is None else _embed(config)
    center = features.fit.reshape(-1, features.fit.shape[-1]).mean(0)
    basis = principal_basis(features.fit - center, config.directions)
    context.log({"fitted_people": len(features.fit), "held_out_people": len(features.held)})
    solvers, gaps = _race(config, _problem(config, features.fit, center, basis, config.weights[0]))
    for row in solvers:
        context.log({f"{row['solver']}: gap": row["gap"]})

    whiten = within_whitener(features.fit)
    ways = _ways(config, features.fit, center, basis)
    plain = search_measures(features.held, np.eye(len(center)), center, whiten)
    indexed = search_measures(features.held, np.eye(len(center)), np.zeros_like(center), whiten)
    rows = [{"projection": "as indexed", "removed": 0, **indexed}, {"projection": "centered", "removed": 0, **plain}]
    rows += [
        {"projection": name, "removed": removed, **search_measures(features.held, matrix, center, whiten)}
        for name, (removed, matrix) in ways.items()
    ]
    chosen = {kind: _choose(config, features.fit, kind) for kind in ("sliding", "LDA", "PCA")}
    found = {kind: next(row for row in rows if row["projection"] == name) for kind, name in chosen.items()}
    metrics = {
        "people": float(len(features.held)),
        "directions removed": float(found["sliding"]["removed"]),
        **{f"{kind} {key}": float(row[key]) for kind, row in found.items() for key in plain},
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


def planted_features(people: int, *, seed: int, dim: int = 96, planted: int = 6) -> Features:
    """Draw features in which a few directions say who it is and the others what else is in the picture.

    Args:
        people: n of either half.
        seed: Of the draws.
        dim: d.
        planted: Directions of identity.

    Returns:
        Features whose crops differ from the photo by little noise.
    """
    rng = np.random.default_rng(seed)
    axes = np.linalg.qr(rng.normal(size=(dim, dim)))[0]
    spread = 1.6 * 0.93 ** np.arange(dim - planted)

    def draw() -> Matrix:
        person = 0.9 * rng.normal(size=(people, 1, planted)) + 0.45 * rng.normal(size=(people, 2, planted))
        scene = spread * rng.normal(size=(people, 2, dim - planted))
        two = np.concatenate([person, scene], axis=-1) @ axes.T
        crop = two[:, :1] + 0.35 * rng.normal(size=(people, 1, dim))
        views = np.concatenate([two, crop], axis=1) + 1.0
        return np.asarray(views / np.linalg.norm(views, axis=-1, keepdims=True))

    return Features(draw()[:, :2], draw())


def principal_basis(centered: Matrix, count: int) -> Matrix:
    """The leading principal directions (d, k) of centered features (n, v, d), k at most the count."""
    flat = centered.reshape(-1, centered.shape[-1])
    return np.asarray(np.linalg.svd(flat, full_matrices=False)[2][:count].T)


def within_whitener(fit: Matrix) -> Callable[[Matrix], Matrix]:
    """Give an attacker the differences between photos of one person: maps to features whitened by them.

    Args:
        fit: Features (n, 2, d) of people whose two photos the attacker knows.

    Returns:
        From a projection (d, d) to a map (d, d) to apply after it; directions without variation are left alone.
    """
    differences = (fit[:, 0] - fit[:, 1]) / 2**0.5

    def whiten(projection: Matrix) -> Matrix:
        spread = differences @ projection
        covariance = spread.T @ spread / len(spread)
        covariance += np.trace(covariance) / len(covariance) * np.eye(len(covariance))
        values, vectors = np.linalg.eigh(covariance)
        return np.asarray((vectors / np.sqrt(values)) @ vectors.T)

    return whiten


def search_measures(
    held: Matrix, projection: Matrix, center: Matrix, whiten: Callable[[Matrix], Matrix]
) -> dict[str, float]:
    """Search by the index's cosine: other photos of a person, and the picture that a crop was cut from.

    Args:
        held: Features (n, 3, d): photo, another photo, crop of the first.
        projection: The map (d, d).
        center: Subtracted before (d,).
        whiten: The attacker's map for a projection.

    Returns:
        Shares of the n people or pictures.
    """
    truth = np.arange(len(held))

    def normalized(mapped: Matrix) -> NDArray[np.float32]:
        return (mapped / np.linalg.norm(mapped, axis=-1, keepdims=True).clip(1e-12)).astype(np.float32)

    views = normalized((held - center) @ projection)
    attacked = normalized((held - center) @ projection @ whiten(projection))
    return {
        "identity rank-1": float(rank_k(views[:, 1], views[:, 0], truth).mean()),
        "identity top-10": float(rank_k(views[:, 1], views[:, 0], truth, k=_NEAREST).mean()),
        "identity top-10, whitened": float(rank_k(attacked[:, 1], attacked[:, 0], truth, k=_NEAREST).mean()),
        "crop recall@10": float(rank_k(views[:, 2], views[:, 0], truth, k=_NEAREST).mean()),
    }


def discriminant_directions(fit: Matrix, center: Matrix, count: int) -> Matrix:
    """Orthonormal (d, count): where people differ most, measured by how much their own photos differ (LDA)."""
    person = fit.mean(1) - center
    within = (fit[:, 0] - fit[:, 1]) / 2**0.5
    covariance = within.T @ within / len(fit)
    covariance += np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    lower = np.linalg.cholesky(covariance)
    whitened = np.linalg.solve(lower, person.T)
    leading = np.linalg.svd(whitened, full_matrices=False)[0][:, :count]
    return np.asarray(np.linalg.qr(np.linalg.solve(lower.T, leading))[0])


def _problem(
    config: FitFeatureProjectionConfig, fit: Matrix, center: Matrix, basis: Matrix, weight: float
) -> IdentityLeak:
    codes = (fit - center) @ basis
    codes = torch.from_numpy(codes / np.sqrt((codes**2).sum(-1).mean()))
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
    """Proximal gradient steps, with or without momentum; a round of the inner prox, warm from the last, is a cheap call."""
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
    rows = [
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


def _choose(config: FitFeatureProjectionConfig, fit: Matrix, kind: str) -> str:
    """The setting of a kind that protects best people of the fitted half who were left out of the fit for this."""
    cut = len(fit) * 2 // 3
    center = fit[:cut].reshape(-1, fit.shape[-1]).mean(0)
    ways = _ways(config, fit[:cut], center, principal_basis(fit[:cut] - center, config.directions))
    whiten = within_whitener(fit[:cut])
    rest = np.concatenate([fit[cut:], fit[cut:, :1]], axis=1)
    scores = {
        name: search_measures(rest, matrix, center, whiten)["identity top-10"]
        for name, (_, matrix) in ways.items()
        if name.startswith(kind)
    }
    return min(scores, key=scores.__getitem__)


def _embed(config: FitFeatureProjectionConfig) -> Features:
    assert config.folder is not None
    if config.boxes is None:
        raise ConfigError("a folder needs boxes: a CSV with columns file, x1, y1, x2, y2")
    boxes = _read_boxes(config.boxes)
    by_person: dict[str, list[str]] = {}
    for file, person in read_labels(config.folder, config.labels).items():
        if file in boxes:
            by_person.setdefault(person, []).append(file)
    rng = np.random.default_rng(config.seed)
    embedder = PictureEmbedder.load()
    halves: list[Matrix] = []
    for half in ("calibration", "test"):
        names = sorted(p for p, files in by_person.items() if len(files) > 1 and identity_in_half(p, half))
        if len(names) < 20:
            raise ConfigError(f"need at least 20 people of the {half} half with two photos, got {len(names)}")
        chosen = rng.permutation(names)[: config.max_people].tolist()
        views = []
        for name in chosen:
            two = [by_person[name][index] for index in rng.permutation(len(by_person[name]))[:2]]
            pictures = [(decode_picture((config.folder / file).read_bytes()), [boxes[file]]) for file in two]
            if half == "test":
                pictures.append(_crop(pictures[0][0], boxes[two[0]]))
            views.append(embedder.embed_pictures(pictures).astype(np.float64))
        halves.append(np.stack(views))
    return Features(*halves)


def _read_boxes(path: Path) -> dict[str, Box]:
    boxes: dict[str, Box] = {}
    with path.open(newline="", encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            try:
                x0, y0, x1, y1 = (float(row[column]) for column in ("x1", "y1", "x2", "y2"))
            except ValueError:  # no face was found
                continue
            except KeyError as error:
                raise ConfigError(f"{path.name} has no column {error}") from None
            if x1 > x0 and y1 > y0:
                boxes[row["file"]] = (x0, y0, x1, y1)
    return boxes


def _crop(pixels: NDArray[np.uint8], box: Box) -> tuple[NDArray[np.uint8], list[Box]]:
    """Cut the sides off; the part of the face that is left stays boxed."""
    height, width = pixels.shape[0] - 2 * _INSET, pixels.shape[1] - 2 * _INSET
    x0, y0, x1, y1 = (value - _INSET for value in box)
    inside = (max(x0, 0.0), max(y0, 0.0), min(x1, width), min(y1, height))
    kept = [inside] if inside[0] < inside[2] and inside[1] < inside[3] else []
    return pixels[_INSET : _INSET + height, _INSET : _INSET + width].copy(), kept


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
            "weights": (0.1,),
            "steps": 40,
            "rounds": (1, 3),
            "dropped": (4, 8),
        }
    },
)
