"""Job: which identity labels of a folder to doubt, by weights that are learned on a small verified part of it."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from models.faces.detection import MtcnnDetector
from models.oracles.ensemble import SERVING_ORACLES, load_oracle
from models.oracles.thresholds import CalibrationError, load_thresholds
from training.algorithm import iterate
from training.jobs.calibrate_oracles import (
    Half,
    crop_main_face,
    embed_crops,
    identity_in_half,
    read_labels,
    read_landmarks,
)
from training.jobs.label_noise import (
    LabeledFaces,
    Scale,
    draw_faces,
    flip_labels,
    label_margin,
    labeled_pairs,
    measure_scale,
    own_similarity,
    thresholds_of,
)
from training.optimizers.bilevel.bo_rep import bo_rep
from training.problems.pair_cleaning import pair_cleaning
from training.runs.config import JobConfig
from training.runs.context import RunContext
from training.runs.job import Job, Source
from training.runs.report import Check, Report


class CleanIdentitiesConfig(JobConfig):
    """Settings of the run."""

    folder: Path | None = Field(None, description="folder of photos, one main face in each; None draws embeddings")
    labels: Path | None = Field(None, description="CSV with columns file,identity; else the name without _NNNN")
    landmarks: Path | None = Field(None, description="CSV of five landmarks per file; else faces are detected")
    verified: Path | None = Field(None, description="CSV with a column file: labels known to be right; else drawn")
    half: Half = Field("calibration", description="people whose labels are cleaned")
    oracles: tuple[str, ...] = Field(SERVING_ORACLES, min_length=1)
    max_people: int = Field(360, ge=20, description="people with two photos or more")
    max_photos: int = Field(4, ge=2, description="photos of each")
    verified_people: int = Field(60, ge=4, description="people whose labels are trusted, where no list is given")
    flip_rates: tuple[float, ...] = Field((0.1, 0.2), description="shares of labels flipped to measure the cleaning")
    flip_seeds: tuple[int, ...] = Field((0, 1, 2), description="draws of verified people and flips")
    neighbors: int = Field(5, ge=1, description="nearest images of other labels that every image is paired with")
    suspect_below: float = Field(0.1, gt=0, lt=0.5, description="weight below which a label is suspected; start: 0.5")
    steps: int = Field(300, ge=1)
    step_size: float = Field(0.3, gt=0, description="length of the first step of all log-odds; falls to zero linearly")
    pairs_per_call: int = Field(1024, ge=2)
    min_flip_auc: float = Field(0.95, ge=0.5, le=1, description="aim for the area under the curve of flips")
    batch: int = Field(32, ge=1)


@dataclass(frozen=True, slots=True)
class Trial:
    """Scores of one draw of flips, means over the oracles: AUC, and errors of threshold and true-accept rate."""

    images: int
    flips: int
    suspects: int
    auc: Mapping[str, float]
    threshold_error: Mapping[str, float]
    accept_error: Mapping[str, float]


def run(config: CleanIdentitiesConfig, context: RunContext) -> Report:
    """Measure on flips of known labels, then weigh the labels as they are and write `weights.csv`.

    Args:
        config: Settings.
        context: Run directory and store.

    Returns:
        The report; the file lists every photo with weight and suspicion, for `calibrate-oracles --set weights=`.

    Raises:
        CalibrationError: There are too few people with two photos, or a verified file is unknown.
    """
    faces = draw_faces(config.max_people, 3, seed=config.seed) if config.folder is None else _embed(config, context)
    trials: dict[float, list[Trial]] = {}
    for rate, seed in itertools.product(config.flip_rates, config.flip_seeds):
        trial = _try(faces, rate, seed, config)
        trials.setdefault(rate, []).append(trial)
        context.log({"rate": rate, "seed": seed, "auc": trial.auc["bo_rep"], "suspects": trial.suspects})
    weights = _weigh_all(faces, config)
    suspects = weights < config.suspect_below
    _write(context.directory / "weights.csv", faces, weights, suspects)
    aucs = [trial.auc["bo_rep"] for found in trials.values() for trial in found]
    metrics = {"images": float(len(faces.files)), "suspects": float(suspects.sum())}
    checks = []
    if aucs:
        metrics["flip_auc"] = min(aucs)
        checks.append(
            Check("flips found: area under the curve, smallest", config.min_flip_auc, min(aucs), 0, "at_least")
        )
    for rate, found in trials.items():
        error = {name: _mean(found, "threshold_error", name) for name in found[0].threshold_error}
        checks.append(
            Check(f"error of the threshold, {rate:.0%} flipped", error["nothing"], error["bo_rep"], 0.0, "at_most")
        )
    tables = {
        "flipped labels, means over draws": [row for rate, found in trials.items() for row in _rows(rate, found)],
        "in the service": [row for rate, found in trials.items() for row in _in_the_service(rate, found)],
    }
    return Report(metrics, checks, tables=tables)


def learn_weights(
    faces: LabeledFaces,
    people: NDArray[np.str_],
    verified: LabeledFaces,
    scale: Scale,
    config: CleanIdentitiesConfig,
    *,
    seed: int,
) -> NDArray[np.float64]:
    """Learn how far to trust the labels, by BO-REP on a verification head.

    Args:
        faces: Faces with labels in doubt.
        people: The labels (n,).
        verified: Faces of other people, with right labels.
        scale: Of the oracles.
        config: Settings of the method.
        seed: Of its samples.

    Returns:
        Weights (n,) in (0, 1); 0.5 says nothing was learned.
    """
    problem = pair_cleaning(
        labeled_pairs(people, faces.similarities(), scale, config.neighbors),
        labeled_pairs(verified.people, verified.similarities(), scale, config.neighbors),
        num_images=len(people),
        batch=config.pairs_per_call,
    )
    method = bo_rep(
        problem,
        step_size=lambda step: config.step_size * (1 - step / config.steps),
        system_step_size=1.0,
        lower_step_size=1.0,
        period=2,
        lower_steps=3,
        refinement_steps=30,
    )
    start = torch.zeros(len(people) + len(faces.embeddings) + 1, dtype=torch.float64)
    state, _ = next(itertools.islice(iterate(method, start, seed=seed), config.steps - 1, None))
    return torch.sigmoid(state.x[: len(people)]).numpy()


def _try(faces: LabeledFaces, rate: float, seed: int, config: CleanIdentitiesConfig) -> Trial:
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(seed)
    trusted, doubted = _split(faces, config, rng)
    people = flip_labels(doubted.people, rate, rng)
    flipped = people != doubted.people
    scale = measure_scale(trusted)
    weights = learn_weights(doubted, people, trusted, scale, config, seed=seed)
    similarity = scale.apply(doubted.similarities()).mean(axis=0)
    scores = {
        "bo_rep": weights,
        "own similarity": own_similarity(people, similarity),
        "label margin": label_margin(people, similarity),
    }
    keep = {"bo_rep": weights >= config.suspect_below}
    keep |= {f"{name}, told the rate": score > np.quantile(score, flipped.mean()) for name, score in scores.items()}
    keep["nothing"] = np.ones(len(people), dtype=np.bool_)
    order = rng.permutation(len(people))
    truth = thresholds_of(doubted, doubted.people, keep["nothing"], order)
    found = {name: thresholds_of(doubted, people, kept, order) for name, kept in keep.items()}
    errors = [{name: float(np.abs(pair[k] - truth[k]).mean()) for name, pair in found.items()} for k in (0, 1)]
    auc = {name: float(roc_auc_score(flipped, -score)) for name, score in scores.items()} if flipped.any() else {}
    return Trial(len(people), int(flipped.sum()), int((~keep["bo_rep"]).sum()), auc, *errors)


def _split(
    faces: LabeledFaces, config: CleanIdentitiesConfig, rng: np.random.Generator
) -> tuple[LabeledFaces, LabeledFaces]:
    """Verified faces and those in doubt."""
    if config.verified is not None:
        with config.verified.open(newline="", encoding="utf-8") as stream:
            files = {row["file"] for row in csv.DictReader(stream)}
        inside = np.isin(faces.files, sorted(files))
        if not inside.any():
            raise CalibrationError("no photo of the folder is on the list of verified ones")
    else:
        names = np.unique(faces.people)
        inside = np.isin(faces.people, rng.choice(names, min(config.verified_people, len(names) // 2), replace=False))
    return faces.take(np.flatnonzero(inside)), faces.take(np.flatnonzero(~inside))


def _weigh_all(faces: LabeledFaces, config: CleanIdentitiesConfig) -> NDArray[np.float64]:
    trusted, doubted = _split(faces, config, np.random.default_rng(config.seed))
    learned = learn_weights(doubted, doubted.people, trusted, measure_scale(trusted), config, seed=config.seed)
    by_file = dict(zip(doubted.files.tolist(), learned.tolist(), strict=True))
    return np.array([by_file.get(file, 1.0) for file in faces.files.tolist()])


def _write(path: Path, faces: LabeledFaces, weights: NDArray[np.float64], suspects: NDArray[np.bool_]) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(("file", "weight", "suspect"))
        for file, weight, suspect in zip(faces.files.tolist(), weights.tolist(), suspects.tolist(), strict=True):
            writer.writerow((file, f"{weight:.4f}", int(suspect)))


def _embed(config: CleanIdentitiesConfig, context: RunContext) -> LabeledFaces:
    assert config.folder is not None
    rng = np.random.default_rng(config.seed)
    by_person: dict[str, list[str]] = {}
    for file, person in read_labels(config.folder, config.labels).items():
        if identity_in_half(person, config.half):
            by_person.setdefault(person, []).append(file)
    names = sorted(name for name, files in by_person.items() if len(files) > 1)
    if len(names) > config.max_people:
        names = sorted(rng.choice(names, config.max_people, replace=False).tolist())
    known = read_landmarks(config.landmarks) if config.landmarks else None
    detector = MtcnnDetector() if known is None else None
    files, people, crops = [], [], []
    for name in names:
        chosen = [by_person[name][index] for index in rng.permutation(len(by_person[name]))[: config.max_photos]]
        for file in chosen:
            crop = crop_main_face(config.folder / file, known, detector)
            if crop is not None:
                files.append(file)
                people.append(name)
                crops.append(crop)
    if len(set(people)) < 8:
        raise CalibrationError(f"need at least eight people with two photos, got {len(set(people))}")
    centers, embeddings = load_thresholds(context.store).centers, {}
    for oracle in config.oracles:
        network = load_oracle(context.store, oracle, center=centers.get(oracle)).to(context.device)
        embeddings[oracle] = embed_crops(network, np.stack(crops), config.batch)
    return LabeledFaces(np.array(files), np.array(people), embeddings)


def _mean(found: list[Trial], field: str, name: str) -> float:
    return float(np.mean([getattr(trial, field)[name] for trial in found]))


def _rows(rate: float, found: list[Trial]) -> list[dict[str, Any]]:
    suspects = f"{np.mean([trial.suspects for trial in found]):.0f} of {np.mean([t.flips for t in found]):.0f} flips"
    return [
        {
            "flipped": rate,
            "cleaning": name,
            "suspects": suspects if name == "bo_rep" else "",
            "flip AUC": round(_mean(found, "auc", score), 4) if score in found[0].auc else "",
            "error of the threshold": round(_mean(found, "threshold_error", name), 4),
            "error of the true-accept rate": round(_mean(found, "accept_error", name), 4),
        }
        for name in found[0].threshold_error
        for score in [name.partition(",")[0]]
    ]


def _in_the_service(rate: float, found: list[Trial]) -> list[dict[str, Any]]:
    """Rows of the table of service uses; a plain way that drops a share of the images has to be told how many."""
    told, nothing, cut = "bo_rep, told the rate", "nothing", "bo_rep"
    own, margin = "own similarity, told the rate", "label margin, told the rate"
    rows = [
        ("auc", "flip AUC", "plain: mean similarity to the label's images", "own similarity", cut),
        ("auc", "flip AUC", "plain: that minus the nearest other label", "label margin", cut),
        ("threshold_error", "error of the threshold, cosine", "plain: no cleaning", nothing, cut),
        ("threshold_error", "error of the threshold, cosine", "plain: lowest similarities, rate known", own, cut),
        ("threshold_error", "error of the threshold, cosine", "both know the rate; lowest similarities", own, told),
        ("threshold_error", "error of the threshold, cosine", "both know the rate; lowest margins", margin, told),
        ("accept_error", "error of the true-accept rate", "plain: no cleaning", nothing, cut),
        ("accept_error", "error of the true-accept rate", "plain: lowest similarities, rate known", own, cut),
        ("accept_error", "error of the true-accept rate", "both know the rate; lowest similarities", own, told),
    ]
    return [
        {
            "method": "bo_rep",
            "job": f"clean identity labels, {rate:.0%} flipped; {plain}",
            "measure": measure,
            "without": _mean(found, field, peer),
            "with": _mean(found, field, ours),
            "n": sum(trial.images for trial in found),
        }
        for field, measure, plain, peer, ours in rows
        if peer in getattr(found[0], field)
    ]


JOB = Job(
    name="clean-identities",
    summary="weights and suspects among identity labels, learned on a small verified part",
    source=Source(
        "Bilevel Optimization under Unbounded Smoothness: A New Algorithm and Convergence Analysis",
        "https://arxiv.org/abs/2401.09587",
        2024,
    ),
    config=CleanIdentitiesConfig,
    run=run,
    wants_large_malloc_thresholds=True,
    presets={"smoke": {"max_people": 120, "verified_people": 24, "flip_seeds": (0,)}},
)
