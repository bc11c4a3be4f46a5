"""Job: which channels of the attribute code tell who it is, and whose pictures a few labels find."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from models.anonymizer.assembly import load_attributes
from training.data.face_crops import load_crop_set, to_tensor
from training.data.face_embeddings import embed_crops
from training.jobs.leak_probes import Fitted, Matrix, audit_list, held_out_r2, lasso, ridge_score, sparse_probe
from training.jobs.subject_clusters import cluster_rows, spread_labels
from training.runs.config import ConfigError, JobConfig
from training.runs.context import RunContext
from training.runs.job import Job, Source
from training.runs.report import Check, Report

_METHOD = "block_coordinate_descent"
_PLANTED = (2, 9)  # channels of the drawn codes that tell who it is


class ProbeAttributeLeaksConfig(JobConfig):
    """Settings of the run."""

    faces: Path | None = Field(None, description="crop set of people with several pictures; None draws codes")
    people: int = Field(200, ge=8, description="of whom every second is held out")
    pictures: int = Field(5, ge=2, description="of each person at most")
    components: int = Field(8, ge=1, description="principal components of the embeddings that are predicted")
    penalty: float = Field(0.15, gt=0, lt=1, description="of the smallest l1 weight that chooses nothing")
    block: int = Field(40, ge=1, description="coordinates a step")
    max_steps: int = Field(400, ge=1)
    tolerance: float = Field(1e-6, gt=0, description="stationarity over the l1 weight at which a probe is done")
    neighbors: int = Field(5, ge=1, description="of every picture in the graph")
    solves: int = Field(12, ge=1, description="tree solves or products for each person")


@dataclass(frozen=True, slots=True)
class CodedFaces:
    """Codes (n, c, h, w), unit embeddings (n, e) and person (n,) of pictures."""

    codes: Matrix
    embeddings: Matrix
    people: NDArray[np.int64]


def run(config: ProbeAttributeLeaksConfig, context: RunContext) -> Report:
    """Fit the probes on every second person, list the channels, test on the others; then spread labels.

    Args:
        config: Settings.
        context: Run directory, store and metrics.

    Returns:
        The report; its audit list holds channels and shares, no code and no embedding.

    Raises:
        ConfigError: The crop set has too few people with two pictures.
    """
    faces = (
        draw_faces(config.people, config.pictures, seed=config.seed) if config.faces is None else _load(config, context)
    )
    held = faces.people % 2 == 1
    codes = faces.codes.reshape(len(faces.codes), -1)
    codes = (codes - codes[~held].mean(0)) / codes[~held].std(0).clip(1e-6)
    targets = _components(faces.embeddings, held, config.components)
    ours, peers, rows = [], [], []
    for number, target in enumerate(targets.T):
        weight = config.penalty * float(np.abs(codes[~held].T @ target[~held]).max())
        ours.append(
            sparse_probe(
                codes[~held],
                target[~held],
                weight,
                block=config.block,
                max_steps=config.max_steps,
                tolerance=config.tolerance,
            )
        )
        peers.append(lasso(codes[~held], target[~held], weight))
        rows.append(_probe_row(number, codes, target, held, ours[-1], peers[-1]))
        context.log({"component": number, **{k: float(v) for k, v in rows[-1].items() if k != "component"}})
    audit = audit_list(np.stack([fit.weights for fit in ours]), faces.codes.shape[1])
    cells = faces.codes[0, 0].size
    first, last = ([int(row["channel"]) for row in rows_at] for rows_at in (audit[:2], audit[-2:]))
    ridge = {
        name: ridge_score(codes[:, ~np.isin(np.arange(codes.shape[1]) // cells, dropped)], targets, held)
        for name, dropped in (("all", []), ("without first", first), ("without last", last))
    }
    sparse = held_out_r2(targets[held], codes[held] @ np.stack([fit.weights for fit in ours]).T)

    labeled = np.isin(np.arange(len(faces.people)), np.unique(faces.people, return_index=True)[1]) & held
    spread = cluster_rows(
        spread_labels(
            faces.embeddings[held], faces.people[held], labeled[held], neighbors=config.neighbors, steps=config.solves
        ),
        faces.people[held],
        labeled[held],
    )
    mean = {key: float(np.mean([row[key] for row in rows])) for key in rows[0] if key != "component"}
    metrics = {"pictures": float(len(codes)), "sparse R2": sparse, "ridge R2": ridge["all"], **mean}
    worst = max(float(row["gap"]) for row in rows)
    checks = [
        Check("largest relative gap of a probe to the better of both solvers", 0.0, worst, 1e-6, "at_most"),
        Check(
            "smallest agreement of the supports", 0.95, min(float(row["agreement"]) for row in rows), 0.0, "at_least"
        ),
        Check(
            "residual of conjugate gradients over that of trees, equal steps",
            1.0,
            spread[1]["residual"] / spread[0]["residual"],
            0.0,
            "at_most",
        ),
    ]
    if config.faces is None:
        checks.append(Check("planted channels that lead the audit list", 2.0, float(len({*first} & {*_PLANTED}))))
    tables: dict[str, Sequence[Mapping[str, Any]]] = {
        "Audit list": audit,
        "Probes": rows,
        "Whose pictures, from one label a person": spread,
        "in the service": _in_the_service(mean, sparse, ridge, first, spread, held, labeled),
    }
    return Report(metrics, checks, tables=tables)


def draw_faces(people: int, pictures: int, *, seed: int, channels: int = 10, side: int = 4) -> CodedFaces:
    """Draw people whose embeddings show in two channels of their codes and nowhere else.

    Args:
        people: Number of people.
        pictures: Of each.
        seed: Of the draws.
        channels: c.
        side: h and w.

    Returns:
        The faces.
    """
    rng = np.random.default_rng(seed)
    identity = np.repeat(rng.normal(size=(people, 6)), pictures, axis=0)
    n = len(identity)
    codes = rng.normal(size=(n, channels, side, side))
    for channel in _PLANTED:
        codes[:, channel, :2] += (identity @ rng.normal(size=(6, 2 * side))).reshape(n, 2, side)
    embeddings = identity @ rng.normal(size=(6, 32)) + 0.8 * rng.normal(size=(n, 32))
    return CodedFaces(codes, _unit(embeddings), np.repeat(np.arange(people), pictures))


def _components(embeddings: Matrix, held: NDArray[np.bool_], count: int) -> Matrix:
    """Leading principal components of the training people, of unit variance on them, (n, p)."""
    centered = embeddings - embeddings[~held].mean(0)
    axes = np.linalg.svd(centered[~held], full_matrices=False)[2][:count]
    scores = centered @ axes.T
    return np.asarray(scores / scores[~held].std(0))


def _unit(rows: Matrix) -> Matrix:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def _probe_row(
    number: int, codes: Matrix, target: Matrix, held: NDArray[np.bool_], ours: Fitted, peer: Fitted
) -> dict[str, float]:
    best = min(ours.value, peer.value)
    chosen, other = np.abs(ours.weights) > 1e-9, np.abs(peer.weights) > 1e-9
    return {
        "component": number,
        "chosen": float(chosen.sum()),
        "held-out R2": held_out_r2(target[held], codes[held] @ ours.weights),
        "agreement": float((chosen & other).sum() / max((chosen | other).sum(), 1)),
        "gap": (ours.value - best) / best,
        "gap, scikit-learn": (peer.value - best) / best,
        "passes": ours.passes,
        "passes, scikit-learn": peer.passes,
        "seconds": ours.seconds,
        "seconds, scikit-learn": peer.seconds,
    }


def _load(config: ProbeAttributeLeaksConfig, context: RunContext) -> CodedFaces:
    assert config.faces is not None
    crop_set = load_crop_set(config.faces)
    names, place, count = np.unique(crop_set.groups, return_inverse=True, return_counts=True)
    chosen = np.flatnonzero(count > 1)[: config.people]
    if len(chosen) < 8:
        raise ConfigError(f"need at least eight people with two pictures, got {len(chosen)} of {len(names)}")
    rows = np.concatenate([np.flatnonzero(place == person)[: config.pictures] for person in chosen])
    part = crop_set.where(np.isin(np.arange(len(crop_set)), rows))
    attributes = load_attributes(context.store).eval()
    with torch.inference_mode():
        starts = range(0, len(part), 32)
        codes = torch.cat([attributes(to_tensor(part.crops[start : start + 32]))[0] for start in starts])
    embeddings = embed_crops(part, context.store)
    together = np.concatenate([found.double().numpy() for found in embeddings.values()], axis=1)
    return CodedFaces(codes.double().numpy(), _unit(together), np.unique(part.groups, return_inverse=True)[1])


def _in_the_service(
    mean: Mapping[str, float],
    sparse: float,
    ridge: Mapping[str, float],
    first: Sequence[int],
    spread: Sequence[Mapping[str, Any]],
    held: NDArray[np.bool_],
    labeled: NDArray[np.bool_],
) -> list[dict[str, Any]]:
    train, test, asked = int((~held).sum()), int(held.sum()), int((held & ~labeled).sum())
    trees, conjugate, nearest = spread
    probe = "list the channels of the attribute code that tell who it is; plain:"
    lasso_job = f"{probe} scikit-learn's Lasso"
    found = "find a person's pictures from one labeled picture; plain:"
    rows: list[tuple[str, str, float, float, int]] = [
        (f"{probe} ridge on all coefficients", "held-out R2 of identity components", ridge["all"], sparse, test),
        (
            f"{probe} all channels; with: ridge without {first[0]} and {first[1]}, first on the list",
            "held-out R2 of identity components",
            ridge["all"],
            ridge["without first"],
            test,
        ),
        (
            f"{probe} ridge without the last two on the list; with: without the first two",
            "held-out R2 of identity components",
            ridge["without last"],
            ridge["without first"],
            test,
        ),
        (lasso_job, "relative gap", mean["gap, scikit-learn"], mean["gap"], train),
        (lasso_job, "passes to relative gap 1e-8", mean["passes, scikit-learn"], mean["passes"], train),
        (lasso_job, "processor time, s", mean["seconds, scikit-learn"], mean["seconds"], train),
    ]
    for name, other in (("nearest labeled picture", nearest), ("conjugate gradients, equal steps", conjugate)):
        rows += [
            (f"{found} {name}", f"{key}, share", other[key], trees[key], asked)
            for key in ("pair precision", "pair recall")
        ]
    rows += [
        (f"{found} conjugate gradients, equal steps", key, conjugate[source], trees[source], asked)
        for source, key in (("residual", "relative residual"), ("seconds", "processor time, s"))
    ]
    return [
        {"method": _METHOD, "job": job, "measure": measure, "without": without, "with": ours, "n": n}
        for job, measure, without, ours, n in rows
    ]


JOB = Job(
    name="probe-attribute-leaks",
    summary="lists the channels of the attribute code that tell who it is, by sparse probes",
    source=Source("Let's Make Block Coordinate Descent Converge Faster", "https://arxiv.org/abs/1712.08859", 2022),
    config=ProbeAttributeLeaksConfig,
    run=run,
    presets={"smoke": {"people": 40, "components": 3, "solves": 6}},
)
