"""Job: can a linear map take identity out of the picture features of the search index? Sliding against plain ways."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from safetensors.numpy import save

from models.embedding import PictureEmbedder
from models.faces.detection import load_detector
from models.registry.store import ArtifactStore
from training.jobs.index_features import BLANKED, Features, embed_folder
from training.jobs.planted_index import planted_index
from training.jobs.projection_solvers import Effort, race
from training.jobs.projection_trial import PEOPLE_MEASURES, Settings, Trial, leak_problem, try_ways
from training.jobs.scene_search import Scenes, found_captions, read_scenes
from training.runs.config import ConfigError, JobConfig
from training.runs.context import RunContext
from training.runs.job import Job, Source
from training.runs.report import Check, Report

_METHOD = "gradient_sliding"
_PLAIN = {"as indexed": "as indexed", "centered": "mean subtracted", "LDA": "LDA", "PCA": "PCA"}
_REPORTED = ("identity rank-1", "identity top-10", "identity top-10, whitened", "scene recall@10")


class FitFeatureProjectionConfig(JobConfig):
    """Settings of the run."""

    folder: Path | None = Field(None, description="folder of photos, one main face in each; None plants directions")
    boxes: Path | None = Field(None, description="CSV of the face of each file: file, x1, y1, x2, y2")
    labels: Path | None = Field(None, description="CSV with columns file,identity; else the name without _NNNN")
    scenes: Path | None = Field(None, description="folder of captioned scenes, as the demo-corpus job draws them")
    max_people: int = Field(280, ge=20, description="people with two photos, of either half")
    directions: int = Field(48, ge=4, description="principal directions of the features that may be removed")
    temperature: float = Field(0.1, gt=0)
    weights: tuple[float, ...] = Field(
        (0.003, 0.01, 0.03, 0.1), min_length=1, description="weights of the group penalty tried"
    )
    ridge: float = Field(0.05, gt=0, description="pull toward the identity map")
    steps: int = Field(40, ge=10, description="gradients of the leak, equal for every solver")
    tau: float = Field(4.0, gt=0, description="inner effort of sliding")
    rounds: tuple[int, ...] = Field((1, 3, 10), min_length=1, description="rounds of the inner prox tried for FISTA")
    dropped: tuple[int, ...] = Field((4, 8, 16, 32, 64), min_length=1, description="directions that plain ways drop")
    publish: bool = Field(False, description="publish the projection where it hides people and keeps scenes")


def run(config: FitFeatureProjectionConfig, context: RunContext) -> Report:
    """Fit on people of one half, search for people of the other half and for scenes, before and after.

    Args:
        config: Settings.
        context: Run directory, store and metrics.

    Returns:
        The report; the solvers' gaps, every projection, and what it does to search.

    Raises:
        ConfigError: A folder is given without boxes or scenes, or has too few people with two photos.
    """
    people, scenes, texts = _data(config, context.store)
    effort = Effort(config.steps, config.tau, config.seed)
    settings = Settings(config.directions, config.temperature, config.ridge, config.weights, config.dropped, effort)
    indexed = people[BLANKED]
    context.log({"fitted_people": len(indexed.fit), "held_out_people": len(indexed.held), "scenes": len(scenes.kinds)})
    solvers, gaps = race(leak_problem(indexed.fit, settings, config.weights[0])[0], effort, config.rounds)
    for row in solvers:
        context.log({f"{row['solver']}: gap": row["gap"]})

    trials = {faces: try_ways(of, scenes, scenes.features[faces], settings) for faces, of in people.items()}
    metrics = {
        "people": float(len(indexed.held)),
        "scenes": float(len(scenes.kinds)),
        **{f"gap, {name}": gap for name, gap in gaps.items()},
        **{
            f"{faces}, {name}: {measure}": value
            for faces, trial in trials.items()
            for name in ("as indexed", *trial.chosen)
            for measure, value in trial.means(name).items()
        },
    }
    service = [row for faces, trial in trials.items() for row in _searches(config, faces, trial)]
    if texts is not None:
        value = float(texts.mean())
        metrics["text query, scene recall@10"] = value
        job = "text queries: they search captions, and no map of picture features reaches those"
        service.append(_row(job, "scene recall@10, share", value, value, len(texts)))
    tables: dict[str, Sequence[Mapping[str, Any]]] = {
        f"Solvers at {config.steps} gradients of the leak": solvers,
        "Search by people held out, and for scenes": [
            {"features": faces, **row} for faces, trial in trials.items() for row in trial.rows(config.seed)
        ],
        "Sliding less plain ways, 95 % intervals": [
            {"features": faces, **row} for faces, trial in trials.items() for row in trial.differences(config.seed)
        ],
        "in the service": [*service, *_solver_rows(config.steps, gaps)],
    }
    artifacts = _publish(config, context, trials[BLANKED])
    return Report(metrics, _checks(config, trials[BLANKED], gaps), artifacts=artifacts, tables=tables)


def _data(
    config: FitFeatureProjectionConfig, store: ArtifactStore
) -> tuple[dict[str, Features], Scenes, NDArray[np.float64] | None]:
    """Features of people and of scenes, and what text queries find among the captions."""
    if config.folder is None:
        features, scenes = planted_index(config.max_people, seed=config.seed)
        return {BLANKED: features}, scenes, None
    if config.boxes is None:
        raise ConfigError("a folder needs boxes: a CSV with columns file, x1, y1, x2, y2")
    if config.scenes is None:
        raise ConfigError("a folder needs scenes: another folder, drawn by doppel-train run demo-corpus")
    embedder = PictureEmbedder.load()
    people = embed_folder(
        config.folder, config.boxes, config.labels, embedder, max_people=config.max_people, seed=config.seed
    )
    scenes, kinds, queries = read_scenes(config.scenes, load_detector(store), embedder)
    return people, scenes, found_captions(scenes, kinds, queries)


def _checks(config: FitFeatureProjectionConfig, trial: Trial, gaps: Mapping[str, float]) -> list[Check]:
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
        after, before = trial.means("sliding"), trial.means("as indexed")
        share = {measure: after[measure] / before[measure] for measure in ("identity top-10", "scene recall@10")}
        checks += [
            Check("planted: search for people, after over before", 0.7, share["identity top-10"], 0.0, "at_most"),
            Check("planted: scene recall@10, after over before", 1.0, share["scene recall@10"], 0.0, "at_least"),
        ]
    return checks


def _publish(config: FitFeatureProjectionConfig, context: RunContext, trial: Trial) -> tuple[str, ...]:
    """Publish on request, and only what lowers the search for people without costing the search for scenes."""
    before, after = trial.means("as indexed"), trial.means("sliding")
    helps = all(after[measure] < before[measure] for measure in PEOPLE_MEASURES)
    if not (config.publish and helps and after["scene recall@10"] >= before["scene recall@10"]):
        return ()
    way = trial.ways[trial.chosen["sliding"]]
    tensors = {"projection": way.matrix.astype(np.float32), "center": way.center.astype(np.float32)}
    reference = context.publish(
        "feature-projection",
        "projection",
        {"projection.safetensors": save(tensors)},
        metrics=after,
        license="Apache-2.0",
        provenance={"holds": "a linear map and a mean, no features"},
    )
    return (reference,)


def _searches(config: FitFeatureProjectionConfig, faces: str, trial: Trial) -> list[dict[str, Any]]:
    data = "planted directions" if config.folder is None else f"photos, {faces}"
    job = f"take identity out of picture features, {data}"
    sliding = trial.means("sliding")
    rows = [
        _row(f"{job}; plain: {words}", f"{measure}, share", trial.means(plain)[measure], sliding[measure], count)
        for plain, words in _PLAIN.items()
        for measure in _REPORTED
        for count in [len(trial.found["as indexed"][measure])]
    ]
    measure = "scene recall@10"
    for plain in ("LDA", "PCA"):
        name = trial.at_equal_leak(plain)
        if name is not None:
            words = f"{job}; plain: of {plain} the best for scenes that leaks no more"
            without = trial.means(name)[measure]
            rows.append(_row(words, f"{measure}, share", without, sliding[measure], len(trial.scenes.kinds)))
    return rows


def _solver_rows(steps: int, gaps: Mapping[str, float]) -> list[dict[str, Any]]:
    return [
        _row(
            f"the same fit, {steps} gradients of all pairs; plain: {peer}, best inner effort",
            "gap to the smallest value",
            gaps[peer],
            gaps["sliding"],
            1,
        )
        for peer in ("FISTA", "proximal gradient")
    ]


def _row(job: str, measure: str, without: float, with_it: float, count: int) -> dict[str, Any]:
    return {"method": _METHOD, "job": job, "measure": measure, "without": without, "with": with_it, "n": count}


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
