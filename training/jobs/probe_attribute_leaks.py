"""Job: which channels of the attribute code tell who it is, and whose pictures a few labels find."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from training.jobs.coded_faces import PLANTED, draw_faces, load_faces
from training.jobs.leak_probes import Fitted, Matrix, audit_list, held_out_r2, lasso, ridge_score, sparse_probe
from training.jobs.logistic_leaks import (
    LogisticLeak,
    enrolled_probe,
    leak_rows,
    service_rows,
    side_accuracy,
    side_probes,
)
from training.jobs.subject_clusters import cluster_rows, spread_labels
from training.runs.config import JobConfig
from training.runs.context import RunContext
from training.runs.job import Job, Source
from training.runs.report import Check, Report

_METHOD = "block_coordinate_descent"
_LARGEST_GRADIENT = 1e-6  # of a logistic probe that counts


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
    if config.faces is None:
        faces = draw_faces(config.people, config.pictures, seed=config.seed)
    else:
        faces = load_faces(config.faces, config.people, config.pictures, context.store)
    held = faces.people % 2 == 1
    codes = faces.codes.reshape(len(faces.codes), -1)
    codes = (codes - codes[~held].mean(0)) / codes[~held].std(0).clip(1e-6)
    targets = faces.components(held, config.components)
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
    guessed = codes[held] @ np.stack([fit.weights for fit in ours]).T
    sparse = held_out_r2(targets[held], guessed)

    sides = side_probes(codes, targets, faces.people, held, guessed)
    kept = codes[:, ~np.isin(np.arange(codes.shape[1]) // cells, first)]
    without_first = side_accuracy(kept, targets, held, sides.ridge)
    enrolled = enrolled_probe(codes, faces.people)
    context.log({"sides": sides.accuracy["products"], "enrolled": enrolled.accuracy["products"]})

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
    metrics |= {"sides": sides.accuracy["products"], "sides without first": without_first}
    metrics |= {"enrolled": enrolled.accuracy["products"]}
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
    for leak in (sides, enrolled):
        checks += _logistic_checks(leak)
    if config.faces is None:
        checks += [
            Check("planted channels that lead the audit list", 2.0, float(len({*first} & {*PLANTED}))),
            Check(
                "share of sides that only the planted channels tell",
                0.1,
                metrics["sides"] - without_first,
                0.0,
                "at_least",
            ),
            Check(
                "enrolled people told apart, times chance", 4.0, metrics["enrolled"] * config.people, 0.0, "at_least"
            ),
        ]
    tables: dict[str, Sequence[Mapping[str, Any]]] = {
        "Audit list": audit,
        "Probes": rows,
        "Logistic probes": [*leak_rows(sides), *leak_rows(enrolled)],
        "Whose pictures, from one label a person": spread,
        "in the service": [
            *_in_the_service(mean, sparse, ridge, first, spread, held, labeled),
            *service_rows(sides, "signs of the sparse probes"),
            *service_rows(enrolled, "nearest mean code"),
        ],
    }
    return Report(metrics, checks, tables=tables)


def _logistic_checks(leak: LogisticLeak) -> list[Check]:
    gap, norm = (leak.largest("products", field) for field in ("gap", "gradient_norm"))
    return [
        Check(
            f"{leak.question}: largest relative gap of a probe to the best of all solvers", 0.0, gap, 1e-6, "at_most"
        ),
        Check(f"{leak.question}: largest gradient norm", _LARGEST_GRADIENT, norm, 0.0, "at_most"),
    ]


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
