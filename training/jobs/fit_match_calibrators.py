"""Job: logistic calibrators of the oracles, from cosine similarity to the probability of a match."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from models.registry.store import ArtifactStore
from training.data.drawn_faces import drawn_crop_set
from training.jobs.calibrate_oracles import (
    Half,
    LabeledPhotos,
    crop_main_face,
    embed_crops,
    pick_photos,
    read_landmarks,
)
from training.jobs.calibration_halves import CalibrationHalvesConfig
from training.jobs.match_curves import measure_pairs
from training.jobs.oracle_curves import FAR, OracleCurve, fit_curve, reliability_figure, service_rows
from training.runs.context import RunContext
from training.runs.job import Job, Source
from training.runs.report import Report

Sides = tuple[NDArray[np.uint8], NDArray[np.uint8]]


class FitMatchCalibratorsConfig(CalibrationHalvesConfig):
    """Settings of the run."""

    folder: Path | None = Field(
        None, description="folder of photos, one main face in each; without it heads are rendered, nothing is published"
    )
    max_people: int = Field(300, ge=4, description="people with two photos, in each half")
    ridge: float = Field(1e-4, gt=0, description="penalty on both coefficients of the standardized similarity")
    max_gradient: float = Field(1e-6, gt=0, description="largest gradient norm of a fit that is published")
    max_log_loss: float = Field(0.35, gt=0, description="gate on the held-out balanced log loss in nats")
    artifacts: Path | None = Field(None, description="store of oracles and thresholds; the run's own by default")
    promote: bool = True


def run(config: FitMatchCalibratorsConfig, context: RunContext) -> Report:
    """Fit, compare with scikit-learn on held-out people, publish, and promote when the gates hold.

    Curves of rendered heads say nothing of photos, so that without a folder nothing is published.

    Args:
        config: Settings.
        context: Run directory, store and metrics.

    Returns:
        The report with one row per oracle.

    Raises:
        CalibrationError: There are too few pairs, or a fit did not converge.
    """
    store = context.store if config.artifacts is None else ArtifactStore(config.artifacts)
    thresholds = load_thresholds(store)
    crops = _crops(config)
    curves, rows, checks, figures = [], [], [], []
    metrics: dict[str, float] = {}
    for name in config.oracles:
        oracle = load_oracle(store, name, center=thresholds.centers.get(name)).to(context.device)
        first, held = (
            measure_pairs(*(embed_crops(oracle, side, config.batch) for side in crops[half]))
            for half in (config.fit_half, config.held_out_half)
        )
        curve = fit_curve(name, first, held, config.ridge)
        if not curve.ours.gradient_norm <= config.max_gradient:
            raise CalibrationError(f"the fit of {name} stopped at gradient norm {curve.ours.gradient_norm:.2g}")
        curves.append(curve)
        rows.append(curve.row(thresholds.get(name, FAR).privacy_threshold))
        checks += curve.checks(config.max_log_loss)
        figures.append(reliability_figure(context.directory, curve))
        metrics |= curve.metrics()
        context.log(curve.metrics())
    references: tuple[str, ...] = ()
    if config.folder is not None:
        people = {half: len(sides[0]) for half, sides in crops.items()}
        references = (_publish(config, context, store, curves, metrics, people),)
    tables: dict[str, Sequence[Mapping[str, Any]]] = {"calibrators": rows, "in the service": service_rows(curves)}
    return Report(metrics, checks, artifacts=references, figures=figures, tables=tables)


def _crops(config: FitMatchCalibratorsConfig) -> Mapping[Half, Sides]:
    if config.folder is None:
        return drawn_crops(config)
    rng = np.random.default_rng(config.seed)
    return {
        half: paired_crops(config.folder, config.labels, config.landmarks, half, config.max_people, rng)
        for half in (config.fit_half, config.held_out_half)
    }


def drawn_crops(config: FitMatchCalibratorsConfig) -> dict[Half, Sides]:
    """Render two pictures of each of `max_people` people who do not exist; another half is other people.

    Args:
        config: Settings.

    Returns:
        Crops (n, 128, 128, 3) of the first pictures and of the second ones, for either half.
    """
    halves: dict[Half, Sides] = {}
    for number, half in enumerate(dict.fromkeys((config.fit_half, config.held_out_half))):
        crops = drawn_crop_set(config.max_people, 2, 2 * config.seed + number).crops
        halves[half] = (crops[::2], crops[1::2])
    return halves


def _publish(
    config: FitMatchCalibratorsConfig,
    context: RunContext,
    store: ArtifactStore,
    curves: Sequence[OracleCurve],
    metrics: Mapping[str, float],
    people: Mapping[Half, int],
) -> str:
    """Publish the curves, and promote them when asked and when every held-out loss is small enough."""
    fitted = MatchCalibrators(
        domain=config.domain,
        calibrators=tuple(
            MatchCalibrator(
                curve.name,
                curve.ours.slope,
                curve.ours.intercept,
                len(curve.fitted.genuine),
                len(curve.fitted.impostor),
                curve.loss,
            )
            for curve in curves
        ),
        oracle_versions={name: str(store.promoted(ORACLES[name].artifact)) for name in config.oracles},
        thresholds_version=str(store.promoted(THRESHOLDS_ARTIFACT)),
    )
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
        metrics=dict(metrics),
        gates=tuple(
            Gate(f"log_loss.{curve.name}", threshold=config.max_log_loss, value=curve.loss) for curve in curves
        ),
        license="Apache-2.0",
        provenance={
            "data": f"{people[config.fit_half]} people of the {config.fit_half} half, "
            f"{people[config.held_out_half]} of the {config.held_out_half} half",
            "holds": "numbers only",
        },
    )
    if config.promote:
        promote(context.store, ARTIFACT, reference.partition("@")[2])
    return reference


def paired_crops(
    folder: Path, labels: Path | None, landmarks: Path | None, half: Half, max_people: int, rng: np.random.Generator
) -> Sides:
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
    presets={"smoke": {"artifacts": "artifacts", "max_people": 20}},
    needs=tuple(
        f"artifacts/{name}" for name in (THRESHOLDS_ARTIFACT, *(ORACLES[name].artifact for name in SERVING_ORACLES))
    ),
)
