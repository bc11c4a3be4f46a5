"""Job: logistic calibrators of the oracles, from cosine similarity to the probability of a match."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from models.faces.detection import MtcnnDetector
from models.oracles.calibrators import ARTIFACT, MatchCalibrator, MatchCalibrators, calibrators_files
from models.oracles.ensemble import ORACLES, SERVING_ORACLES, load_oracle
from models.oracles.thresholds import ARTIFACT as THRESHOLDS_ARTIFACT
from models.oracles.thresholds import CalibrationError, load_thresholds
from models.registry.manifest import Gate
from models.registry.promotion import promote
from training.jobs.calibrate_oracles import (
    Half,
    LabeledPhotos,
    crop_main_face,
    embed_crops,
    pick_photos,
    read_landmarks,
)
from training.jobs.match_curves import (
    Fit,
    Pairs,
    calibration_error,
    fit_lbfgs,
    fit_newton,
    fit_undamped,
    log_loss,
    match_probability,
    measure_pairs,
)
from training.runs.config import JobConfig
from training.runs.context import RunContext
from training.runs.figures import Figure, Series, plot_series
from training.runs.job import Job, Source
from training.runs.report import Check, Report

_FAR = 1e-3


class FitMatchCalibratorsConfig(JobConfig):
    """Settings of the run."""

    folder: Path = Field(description="folder of photos, one main face in each")
    labels: Path | None = Field(None, description="CSV with columns file,identity; else the name without _NNNN")
    landmarks: Path | None = Field(None, description="CSV of five landmarks per file; else faces are detected")
    domain: str = Field("photo", min_length=1, description="what sort of pictures the calibrators are for")
    fit_half: Half = Field("calibration", description="people that the curves are fitted on")
    held_out_half: Half = Field("test", description="people that they are tested on")
    oracles: tuple[str, ...] = Field(SERVING_ORACLES, min_length=1)
    max_people: int = Field(300, ge=4, description="people with two photos, in each half")
    ridge: float = Field(1e-4, gt=0, description="penalty on both coefficients of the standardized similarity")
    max_gradient: float = Field(1e-6, gt=0, description="largest gradient norm of a fit that is published")
    max_log_loss: float = Field(0.35, gt=0, description="gate on the held-out balanced log loss in nats")
    batch: int = Field(32, ge=1)
    promote: bool = True


def run(config: FitMatchCalibratorsConfig, context: RunContext) -> Report:
    """Fit, compare with scikit-learn on held-out people, publish, and promote when the gates hold.

    Args:
        config: Settings.
        context: Run directory, store and metrics.

    Returns:
        The report with one row per oracle.

    Raises:
        CalibrationError: There are too few pairs, or a fit did not converge.
    """
    store = context.store
    thresholds = load_thresholds(store)
    rng = np.random.default_rng(config.seed)
    crops = {
        half: paired_crops(config.folder, config.labels, config.landmarks, half, config.max_people, rng)
        for half in (config.fit_half, config.held_out_half)
    }
    calibrators, rows, gates, checks, figures = [], [], [], [], []
    metrics: dict[str, float] = {}
    compared: list[dict[str, float]] = []
    for name in config.oracles:
        oracle = load_oracle(store, name, center=thresholds.centers.get(name)).to(context.device)
        first, held = (
            measure_pairs(*(embed_crops(oracle, side, config.batch) for side in crops[half]))
            for half in (config.fit_half, config.held_out_half)
        )
        ours, ours_ms = _timed(lambda: fit_newton(first, config.ridge))  # noqa: B023  # called at once
        peer, peer_ms = _timed(lambda: fit_lbfgs(first, config.ridge))  # noqa: B023
        bare = fit_undamped(first, config.ridge)
        if not ours.gradient_norm <= config.max_gradient:
            raise CalibrationError(f"the fit of {name} stopped at gradient norm {ours.gradient_norm:.2g}")
        losses = {"newton": log_loss(ours, held), "lbfgs": log_loss(peer, held)}
        compared.append(
            {
                "log loss": losses["newton"],
                "log loss, plain": losses["lbfgs"],
                "error": calibration_error(ours, held),
                "error, plain": calibration_error(peer, held),
                "steps": float(ours.evaluations),
                "steps, plain": float(peer.evaluations),
                "ms": ours_ms,
                "ms, plain": peer_ms,
                "evaluations": float(ours.evaluations),
                "evaluations, plain": float(bare.evaluations) if bare.gradient_norm <= 1e-9 else math.inf,
                "pairs": float(len(held.labels)),
            }
        )
        curve = MatchCalibrator(
            name, ours.slope, ours.intercept, len(first.genuine), len(first.impostor), losses["newton"]
        )
        calibrators.append(curve)
        gates.append(Gate(f"log_loss.{name}", threshold=config.max_log_loss, value=losses["newton"]))
        metrics |= {
            f"{name}_log_loss": losses["newton"],
            f"{name}_log_loss_lbfgs": losses["lbfgs"],
            f"{name}_calibration_error": compared[-1]["error"],
            f"{name}_evaluations": float(ours.evaluations),
            f"{name}_iterations_lbfgs": float(peer.evaluations),
        }
        checks += [
            Check(f"{name}: held-out balanced log loss", config.max_log_loss, losses["newton"], 0.0, "at_most"),
            Check(f"{name}: objective minus that of L-BFGS", 0.0, ours.objective - peer.objective, 1e-9, "at_most"),
            Check(
                f"{name}: evaluations against iterations of L-BFGS",
                float(peer.evaluations),
                float(ours.evaluations),
                0.0,
                "at_most",
            ),
        ]
        privacy = thresholds.get(name, _FAR).privacy_threshold
        rows.append(
            {
                "oracle": name,
                "genuine": len(first.genuine),
                "impostor": len(first.impostor),
                "slope": round(ours.slope, 3),
                "intercept": round(ours.intercept, 3),
                "log loss": round(losses["newton"], 5),
                "log loss, L-BFGS": round(losses["lbfgs"], 5),
                "calibration error": round(compared[-1]["error"], 4),
                "evaluations": ours.evaluations,
                "iterations, L-BFGS": peer.evaluations,
                "unguarded Newton": bare.evaluations if bare.gradient_norm <= 1e-9 else "does not end",
                "similarity at even odds": round(-ours.intercept / ours.slope, 4),
                f"probability at the privacy threshold, FAR {_FAR:g}": round(match_probability(ours, privacy), 4),
            }
        )
        figures.append(_reliability(context, name, ours, held))
        context.log({key: value for key, value in metrics.items() if key.startswith(f"{name}_")})
    fitted = MatchCalibrators(
        domain=config.domain,
        calibrators=tuple(calibrators),
        oracle_versions={name: str(store.promoted(ORACLES[name].artifact)) for name in config.oracles},
        thresholds_version=str(store.promoted(THRESHOLDS_ARTIFACT)),
    )
    people = {half: len(sides[0]) for half, sides in crops.items()}
    reference = context.publish(
        ARTIFACT,
        "calibrators",
        dict(calibrators_files(fitted)),
        config={"domain": config.domain, "fit_half": config.fit_half, "ridge": config.ridge},
        inputs={"similarity": "cosine in [-1, 1] of centered embeddings"},
        outputs={"probability": "of the same person, in [0, 1], at equal priors"},
        parents={
            THRESHOLDS_ARTIFACT: fitted.thresholds_version,
            **{ORACLES[name].artifact: version for name, version in fitted.oracle_versions.items()},
        },
        metrics=metrics,
        gates=tuple(gates),
        license="Apache-2.0",
        provenance={
            "data": f"{people[config.fit_half]} people of the {config.fit_half} half, "
            f"{people[config.held_out_half]} of the {config.held_out_half} half",
            "holds": "numbers only",
        },
    )
    if config.promote:
        promote(store, ARTIFACT, reference.partition("@")[2])
    tables: dict[str, Sequence[Mapping[str, Any]]] = {"calibrators": rows, "in the service": _in_the_service(compared)}
    return Report(metrics, checks, artifacts=(reference,), figures=figures, tables=tables)


def _timed(fit: Callable[[], Fit]) -> tuple[Fit, float]:
    """The fit, and the shortest of five processor times it took, in milliseconds."""
    times = []
    for _ in range(5):
        begin = time.process_time()
        found = fit()
        times.append(time.process_time() - begin)
    return found, 1e3 * min(times)


def _in_the_service(compared: list[dict[str, float]]) -> list[Mapping[str, object]]:
    """Rows of the table of service uses: means over the oracles, beside scikit-learn and unguarded Newton."""

    def mean(key: str) -> float:
        return float(np.mean([row[key] for row in compared]))

    lbfgs = "calibrate the oracles; plain: scikit-learn's L-BFGS"
    measures = (
        (lbfgs, "held-out balanced log loss, nats", "log loss"),
        (lbfgs, "held-out expected calibration error", "error"),
        (lbfgs, "evaluations (plain: iterations) of a fit", "steps"),
        (lbfgs, "shortest processor time of a fit, ms", "ms"),
        ("calibrate the oracles; plain: full Newton steps, unguarded", "evaluations of a fit", "evaluations"),
    )
    return [
        {
            "method": "gradient_normalized_smoothness",
            "job": job,
            "measure": measure,
            "without": mean(f"{key}, plain"),
            "with": mean(key),
            "n": int(compared[0]["pairs"]),
        }
        for job, measure, key in measures
    ]


def paired_crops(
    folder: Path, labels: Path | None, landmarks: Path | None, half: Half, max_people: int, rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Align two photos of everybody who has them.

    Args:
        folder: Folder of photos.
        labels: CSV with columns file,identity; None takes the file name without a trailing _NNNN.
        landmarks: CSV of landmarks; None detects faces.
        half: Which people.
        max_people: Use only so many people.
        rng: Draws photos and people.

    Returns:
        Crops (n, 128, 128, 3) of the first photos, and of the second ones.

    Raises:
        CalibrationError: Fewer than four people have two photos with a face.
    """
    photos = _with_two_photos(pick_photos(folder, labels, half, None, rng), max_people, rng)
    known = read_landmarks(landmarks) if landmarks else None
    detector = MtcnnDetector() if known is None else None
    sides = [
        (crop_main_face(first, known, detector), crop_main_face(second, known, detector))
        for first, second in zip(photos.first, photos.second, strict=True)
        if second is not None
    ]
    both = [(left, right) for left, right in sides if left is not None and right is not None]
    if len(both) < 4:
        raise CalibrationError(f"need two photos of at least four people of the {half} half, got {len(both)}")
    return np.stack([left for left, _ in both]), np.stack([right for _, right in both])


def _with_two_photos(photos: LabeledPhotos, limit: int, rng: np.random.Generator) -> LabeledPhotos:
    indices = [index for index, second in enumerate(photos.second) if second is not None]
    if len(indices) > limit:
        indices = sorted(rng.choice(indices, limit, replace=False).tolist())
    return LabeledPhotos(tuple(photos.first[i] for i in indices), tuple(photos.second[i] for i in indices))


def _reliability(context: RunContext, name: str, fit: Fit, held: Pairs) -> Figure:
    """Share of genuine pairs, at equal priors, among held-out pairs of about the same predicted log-odds."""
    logits = (fit.slope * held.similarities + fit.intercept).numpy()
    genuine = held.labels.numpy() > 0
    weights = held.weights.numpy()
    edges = np.array([-np.inf, -4, -3, -2, -1, 0, 1, 2, 3, 4, np.inf])
    predicted, observed = [], []
    for low, high in itertools.pairwise(edges):
        inside = (logits >= low) & (logits < high)
        if inside.any():
            share = weights[inside] / weights[inside].sum()
            predicted.append(float(share @ (1 / (1 + np.exp(-logits[inside])))))
            observed.append(float(share @ genuine[inside]))
    return plot_series(
        context.directory,
        f"reliability_{name}",
        [Series(name, predicted, observed, "points"), Series("perfect", [0.0, 1.0], [0.0, 1.0], "dashed")],
        x_label="predicted probability of a match",
        y_label="share of genuine pairs",
        caption=f"{name}, held-out people, equal priors: points on the dashed line are calibrated.",
    )


JOB = Job(
    name="fit-match-calibrators",
    summary="logistic curves from oracle similarity to the probability of a match",
    source=Source(
        "Gradient-Normalized Smoothness for Optimization with Approximate Hessians",
        "https://arxiv.org/abs/2506.13710",
        2025,
    ),
    config=FitMatchCalibratorsConfig,
    run=run,
    wants_large_malloc_thresholds=True,
    presets={},
)
