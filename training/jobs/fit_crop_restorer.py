"""Job: learn the filters of the crop restorer by adaptive inexact bilevel descent, and measure it on degraded faces."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field as Setting
from torch import Tensor

from models.faces.restoration import ARTIFACT_NAME, COLORS, SMOOTHING, CropRestorer, Field, Grade, Kind, restore_crop
from training.data.degraded_faces import Damage, DegradedFace, compression, degrade_face, noise_of_level, psnr
from training.data.drawn_faces import drawn_crop_set
from training.data.face_crops import CropSet, load_crop_set
from training.jobs.calibrate_oracles import Half
from training.jobs.maid_peers import descend, quasi_newton
from training.jobs.publishing import PROVENANCE, WEIGHTS_LICENSE
from training.jobs.restored_photos import measure_photos
from training.jobs.restorer_peers import Restore, non_local_means, tuned_means, tuned_variation
from training.problems.denoising import fields_of_experts, pack_filters, unpack_filters
from training.runs.config import JobConfig
from training.runs.context import RunContext
from training.runs.job import Job, Source
from training.runs.methods_table import SERVICE_TABLE
from training.runs.report import Check, Report

_BORDER = 4  # px of a crop that no training window touches


class FitCropRestorerConfig(JobConfig):
    """Settings of the run."""

    faces: Path | None = Setting(None, description="crop set written by prepare-faces; without it heads are rendered")
    photos: Path | None = Setting(None, description="folder of labeled photos to degrade and restore; not trained on")
    landmarks: Path | None = Setting(None, description="CSV of five landmarks per photo; else faces are detected")
    identity_half: Half = "test"
    num_photos: int = Setting(40, ge=1)
    noise_levels: tuple[float, ...] = Setting((3.5, 7.0, 14.0), description="noise of the crop's luma, gray levels")
    qualities: tuple[int, ...] = Setting((20, 10), description="JPEG qualities")
    windows: int = Setting(12, ge=2, description="training crops of each grade, one window each")
    window: int = Setting(32, ge=8, le=120, description="side of a window, pixels")
    tuning: int = Setting(4, ge=1, description="training crops on which the plain ways are tuned")
    held_out: int = Setting(16, ge=1, description="crops of unseen people in the comparison")
    filters: int = Setting(8, ge=3, le=8)
    budget: int = Setting(400, ge=20, description="lower gradients, Hessian and mixed products of each learned field")
    step_size: float = Setting(0.3, gt=0, description="first step; the line search adapts it")
    noise_gate: float = Setting(2.0, gt=0, description="noise from which a crop is restored")
    blockiness_gate: float = Setting(1.2, gt=0, description="blockiness from which a crop is restored")
    expected_gain_db: float = Setting(1.0, description="mean gain over the degraded crops of unseen people")
    expected_over_variation_db: float = Setting(0.0, description="mean gain over tuned total variation on the same")
    publish: bool = True


@dataclass(frozen=True, slots=True)
class Lesson:
    """One grade, the plain ways tuned for it, and what learning it took."""

    grade: Grade
    quasi_newton: Grade
    variation: Grade
    means_strength: float
    steps: int
    raised: int


def run(config: FitCropRestorerConfig, context: RunContext) -> Report:
    """Tune the plain ways, learn from there, compare on unseen people and on photos, publish `crop-restorer`.

    Args:
        config: Settings.
        context: Run directory, store and metrics.

    Returns:
        The report.
    """
    rng = np.random.default_rng(config.seed)
    people = drawn_crop_set(24, 1, config.seed) if config.faces is None else load_crop_set(config.faces)
    learning, held = people.split() if config.faces is not None else people.split(1 / 3)
    damages: list[tuple[Kind, str, Damage]] = [
        *(("noise", f"noise {level:g}", noise_of_level(level, rng)) for level in config.noise_levels),
        *(("blocks", f"JPEG {quality}", compression(quality)) for quality in config.qualities),
    ]
    lessons: list[Lesson] = []
    rows: list[dict[str, Any]] = []
    for kind, name, damage in damages:
        lesson = learn(config, kind, degraded(learning, damage, max(config.windows, config.tuning), rng), rng)
        lessons.append(lesson)
        rows.append({"damage": name, **_compared(lesson, degraded(held, damage, config.held_out, rng))})
        context.log({"grade": len(lessons), "gain": rows[-1]["restorer"] - rows[-1]["degraded"]})
    restorer = CropRestorer(
        [lesson.grade for lesson in lessons], noise_gate=config.noise_gate, blockiness_gate=config.blockiness_gate
    )
    untouched = degraded(held, lambda picture, _: picture, config.held_out, rng)
    metrics = {
        "gain_db": float(np.mean([row["restorer"] - row["degraded"] for row in rows])),
        "gain_over_variation_db": float(np.mean([row["restorer"] - row["total variation"] for row in rows])),
        "gain_over_quasi_newton_db": float(np.mean([row["restorer"] - row["L-BFGS-B"] for row in rows])),
        "gain_over_means_db": float(np.mean([row["restorer"] - row["non-local means"] for row in rows])),
        "clean_left_alone": float(np.mean([restorer.grade_for(face.before) is None for face in untouched])),
        "milliseconds_per_crop": float(np.mean([row["ms"] for row in rows])),
        "certified_error": max(row["certified error"] for row in rows),
    }
    checks = (
        Check(
            "gain on degraded crops of unseen people, dB", config.expected_gain_db, metrics["gain_db"], 0, "at_least"
        ),
        Check(
            "gain over tuned total variation, dB",
            config.expected_over_variation_db,
            metrics["gain_over_variation_db"],
            0,
            "at_least",
        ),
        Check("share of clean crops left alone", 1.0, metrics["clean_left_alone"]),
        Check("largest certified error of a solve, gray levels", 0.25, metrics["certified_error"], 1e-6, "at_most"),
        Check("accepted steps that raise the training error", 0, sum(lesson.raised for lesson in lessons)),
    )
    tables: dict[str, list[dict[str, Any]]] = {"unseen people": rows, SERVICE_TABLE: [_learning_row(rows)]}
    if config.photos is not None:
        plain = {id(lesson.grade): (lesson.variation, lesson.means_strength) for lesson in lessons}
        measured = measure_photos(
            config.photos,
            config.landmarks,
            config.identity_half,
            config.num_photos,
            restorer,
            {
                "total variation": lambda crop, grade: restore_crop(crop, plain[id(grade)][0]).crop,
                "non-local means": lambda crop, grade: non_local_means(crop, plain[id(grade)][1]),
            },
            context.store,
            rng,
        )
        tables |= {SERVICE_TABLE: [*measured.rows, _learning_row(rows)], "degraded photos": measured.details}
        metrics["clean_photos_left_alone"] = measured.left_alone
    artifacts: list[str] = []
    if config.publish:
        reference = context.publish(
            ARTIFACT_NAME,
            "filters",
            restorer.to_files(),
            metrics=metrics,
            license=WEIGHTS_LICENSE,
            provenance={"data": PROVENANCE},
        )
        context.store.set_promoted(ARTIFACT_NAME, reference.partition("@")[2])
        artifacts.append(reference)
    return Report(metrics=metrics, checks=checks, artifacts=artifacts, tables=tables)


def degraded(people: CropSet, damage: Damage, count: int, rng: np.random.Generator) -> list[DegradedFace]:
    """Degrade randomly chosen crops, each at most once."""
    chosen = rng.choice(len(people), min(count, len(people)), replace=False)
    return [degrade_face(people.crops[index], damage, rng) for index in chosen]


def learn(config: FitCropRestorerConfig, kind: Kind, faces: Sequence[DegradedFace], rng: np.random.Generator) -> Lesson:
    """Tune the plain ways for one damage, then learn filters from tuned total variation onward.

    Args:
        config: Settings.
        kind: What the damage is.
        faces: Degraded crops.
        rng: Places the windows.

    Returns:
        The grade, its peers and the audit of the descent.
    """
    noise, blockiness = (
        float(np.median(values)) for values in zip(*((f.after.noise, f.after.blockiness) for f in faces), strict=True)
    )
    level = noise if kind == "noise" else blockiness
    variation = tuned_variation(faces[: config.tuning], kind, level)
    learned: list[Field] = []
    peers: list[Field] = []
    steps = raised = 0
    # the chroma has two channels, so half the crops make as many windows
    for channels, field, count in (
        ((0,), variation.luma, config.windows),
        ((1, 2), variation.chroma, config.windows // 2),
    ):
        clean, noisy = _windows(faces[:count], channels, config.window, rng)
        problem = fields_of_experts(clean, noisy, filters=config.filters, size=3, nu=SMOOTHING)
        start = _start(config.filters, float(field.weights[0]))
        path = descend(problem, start, budget=config.budget, step_size=config.step_size)
        values = [float(problem.upper_value(step.visit.y)) for step in path]
        raised += sum(later > earlier for earlier, later in itertools.pairwise(values))
        steps += len(path)
        learned.append(_field(path[-1].visit.x if path else start, config.filters))
        visits = quasi_newton(problem, start, accuracy=1e-3, budget=config.budget)
        peers.append(_field(visits[-1].x if visits else start, config.filters))
    return Lesson(
        Grade(kind, level, *learned),
        Grade(kind, level, *peers),
        variation,
        tuned_means(faces[: config.tuning]),
        steps,
        raised,
    )


def _field(x: Tensor, filters: int) -> Field:
    weights, kernels = unpack_filters(x, filters=filters, size=3)
    return Field(weights.float(), kernels.float().contiguous())


def _windows(
    faces: Sequence[DegradedFace], channels: Sequence[int], side: int, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """One window of each crop, clean and damaged, as (pairs, side, side) in every asked color channel."""
    colors = COLORS[list(channels)] / 255
    pairs: list[list[NDArray[np.float64]]] = [[], []]
    for face in faces:
        top, left = rng.integers(_BORDER, len(face.clean) - side - _BORDER + 1, size=2)
        for part, crop in zip(pairs, (face.clean, face.damaged), strict=True):
            part.append(np.einsum("ck,hwk->chw", colors, crop[top : top + side, left : left + side]))
    clean, noisy = (torch.from_numpy(np.concatenate(part)) for part in pairs)
    return clean, noisy


def _start(filters: int, weight: float) -> Tensor:
    """Total variation with a weight, and faint diagonal and second differences beside it; side 3."""
    kernels = torch.tensor(
        [
            [[0, 0, 0], [0, -1, 1], [0, 0, 0]],
            [[0, 0, 0], [0, -1, 0], [0, 1, 0]],
            [[0, 0, 0], [0, -1, 0], [0, 0, 1]],
            [[0, 0, 0], [0, -1, 0], [1, 0, 0]],
            [[0, 0, 0], [0.5, -1, 0.5], [0, 0, 0]],
            [[0, 0.5, 0], [0, -1, 0], [0, 0.5, 0]],
            [[0, 0, 0], [0, 0.5, -0.5], [0, -0.5, 0.5]],
            [[0, 0.25, 0], [0.25, -1, 0.25], [0, 0.25, 0]],
        ],
        dtype=torch.float64,
    )[:filters]
    weights = torch.full((filters,), weight / 30, dtype=torch.float64)
    weights[:2] = weight
    return pack_filters(weights, kernels)


def _compared(lesson: Lesson, faces: Sequence[DegradedFace]) -> dict[str, float]:
    """Mean PSNR of every way on crops that nobody was tuned on, dB."""
    begin = time.process_time()
    restored = [restore_crop(face.damaged, lesson.grade) for face in faces]
    seconds = time.process_time() - begin
    ways: dict[str, Restore] = {
        "degraded": lambda crop: crop,
        "total variation": lambda crop: restore_crop(crop, lesson.variation).crop,
        "L-BFGS-B": lambda crop: restore_crop(crop, lesson.quasi_newton).crop,
        "non-local means": partial(non_local_means, strength=lesson.means_strength),
    }
    row = {name: float(np.mean([psnr(way(face.damaged), face.clean) for face in faces])) for name, way in ways.items()}
    return row | {
        "restorer": float(np.mean([psnr(r.crop, f.clean) for r, f in zip(restored, faces, strict=True)])),
        "level": lesson.grade.level,
        "certified error": max(r.error_bound for r in restored),
        "gradients": float(np.mean([r.iterations for r in restored])),
        "ms": 1000 * seconds / len(faces),
        "steps": float(lesson.steps),
        "n": float(len(faces)),
    }


def _learning_row(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    peer, mine = (float(np.mean([row[way] for row in rows])) for way in ("L-BFGS-B", "restorer"))
    return {
        "method": "maid",
        "job": "learns the filters, same oracle calls, against L-BFGS-B at accuracy 1e-3",
        "measure": "PSNR of unseen people's crops, dB",
        "without": peer,
        "with": mine,
        "n": int(sum(row["n"] for row in rows)),
    }


JOB = Job(
    name="fit-crop-restorer",
    summary="learned restorer of noisy and strongly compressed face crops",
    source=Source(
        "An adaptively inexact first-order method for bilevel optimization with application to hyperparameter learning",
        "https://arxiv.org/abs/2308.10098",
        2023,
    ),
    config=FitCropRestorerConfig,
    run=run,
    presets={
        "smoke": {
            "noise_levels": (7.0,),
            "qualities": (10,),
            "windows": 4,
            "window": 24,
            "tuning": 1,
            "held_out": 3,
            "budget": 250,
            "expected_gain_db": 0.5,
            "expected_over_variation_db": -0.5,
            "publish": False,
        },
        "full": {"faces": "data/faces"},
    },
)
