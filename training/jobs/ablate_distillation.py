"""Job: what each term of the distillation buys at equal data, and the students beside their teacher.

Each arm distills a student for a few steps from the same start (the teacher's weights) on the same rows with the same
noise, one term left out, and draws the same held-out faces with swapped identities. A term whose absence changes
nothing beyond the interval of the paired difference is said to buy nothing here. The same faces are then drawn by the
teacher and by the published student.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from models.anonymizer.assembly import load_network
from models.diffusion.denoiser import FaceDenoiser
from models.diffusion.generator import FaceGenerator
from models.encoder.attribute_levels import load_attribute_levels
from models.encoder.variational import IdentityEncoder
from models.registry.store import ArtifactStore
from training.audit.tables import Table
from training.data.face_crops import contact_sheet
from training.jobs.distill_generator import DistillGeneratorConfig
from training.jobs.distillation_arms import (
    ARMS,
    FULL,
    MIN_SAMPLE,
    RESEEDED,
    against_teacher,
    differences_table,
    estimates_table,
    sentence,
)
from training.jobs.distillation_task import DistillationTask, load_distillation_task
from training.jobs.distillation_ways import distill_ways
from training.jobs.drawn_distillation import drawn_task
from training.jobs.publishing import write_sheet
from training.jobs.swap_readings import ACCEPTED_BY_ALL, Instruments, Readings, SwappedFaces, load_instruments
from training.runs.config import JobConfig, validate_config
from training.runs.context import RunContext
from training.runs.figures import Figure
from training.runs.job import Job
from training.runs.report import Check, Report

TEACHER: Final = "teacher, 20 steps"
_TEACHER_STEPS: Final = (20, 4)
_STEPS: Final = 4  # of the arms' students, as served
_SHOWN: Final = 12  # faces on a sheet
_FAR: Final = 1e-3
_GENERATOR: Final = "face-generator"


class AblateDistillationConfig(JobConfig):
    """Settings of the run."""

    faces: Path | None = Field(
        Path("data/faces"), description="crop set with held-out people; null: tiny networks on drawn pictures"
    )
    teacher: str | None = Field(
        None, description="version of an undistilled face-generator; null: the one the promoted student comes from"
    )
    student: str | None = Field(None, description="version of a distilled face-generator to compare; null: promoted")
    arms: tuple[str, ...] = Field(tuple(ARMS), min_length=1, description="the first is what others are compared with")
    steps: int = Field(70, ge=1, description="of each distillation")
    batch_size: int = Field(12, ge=2)
    drawn_rows: int = Field(6, ge=2, description="faces of a batch that are drawn and judged")
    learning_rate: float = Field(2e-4, gt=0)
    ema_decay: float = Field(0.95, ge=0, lt=1)
    grid: int = Field(20, ge=2, description="teacher steps from noise to data")
    views: int = Field(0, ge=0, description="augmented views per crop; 0 encodes each crop once as it is")
    held_out: int = Field(140, ge=2, description="held-out people, one face of each")
    steps_compared: tuple[int, ...] = Field(
        (4, 2, 1), description="steps of the published student beside the teacher at 20 and 4; empty: no comparison"
    )


def run(config: AblateDistillationConfig, context: RunContext) -> Report:
    """Distill every arm, read the students on held-out faces, compare with the first arm and with the teacher.

    Args:
        config: Settings.
        context: Run directory, store and metrics.

    Returns:
        The report; its checks are that every arm drew the same rows and noise and, of a large enough sample, that the
        privacy hinge does not cost acceptance.

    Raises:
        ValueError: An arm is unknown.
    """
    if unknown := sorted(set(config.arms) - set(ARMS)):
        raise ValueError(f"unknown arms {unknown}; there are {sorted(ARMS)}")
    rng = np.random.default_rng(config.seed)
    task, instruments = _load(config, context.store)
    faces = SwappedFaces(*task.one_per_person(config.held_out), instruments)
    start = FaceGenerator(task.teacher.autoencoder, copy.deepcopy(task.student)).eval()
    pictures = {"before": faces.draw(start, _STEPS)}
    readings: dict[str, Readings] = {}
    draws: dict[str, float] = {}
    settings = {name: _settings(config, name) for name in config.arms}
    for name, distilled in distill_ways(settings, context, task):
        pictures[name] = faces.draw(distilled.student, _STEPS)
        readings[name] = faces.read(pictures[name])
        context.log({"way": float(len(draws)), **{key: float(v.mean()) for key, v in readings[name].items()}})
        draws[name] = distilled.next_draw

    first = config.arms[0]
    differences, compared = differences_table(readings, first, rng)
    chance = compared.get(RESEEDED)
    readings = {"before": faces.read(pictures["before"]), **readings}
    tables: dict[str, Table] = {
        "what each term buys": [
            {"arm": name, "in words": sentence(ARMS[name].term, found, None if name == RESEEDED else chance)}
            for name, found in compared.items()
        ],
        "arms": estimates_table(readings, rng),
        "paired differences": differences,
    }
    figures = [_sheet(context, "arms", faces.crops, pictures)]
    if config.steps_compared:
        found, drawn = _students(config, context, task, faces)
        tables["students against the teacher"] = estimates_table(found, rng)
        tables["students against the teacher, paired"] = [
            row
            for name, by_measure in differences_table(found, TEACHER, rng)[1].items()
            for row in against_teacher(name, by_measure)
        ]
        figures.append(_sheet(context, "students", faces.crops, drawn))
        readings |= found
    _write_readings(context.directory / "readings.json", readings)
    others = sum(draw != draws[first] for name, draw in draws.items() if name != RESEEDED)
    checks = [Check("arms that drew other rows or noise than the first", 0.0, float(others))]
    if first == FULL and "no privacy hinge" in compared and len(faces.crops) >= MIN_SAMPLE:
        lost = -compared["no privacy hinge"][ACCEPTED_BY_ALL].difference.value
        checks.append(Check("share of faces accepted more with the hinge than without", 0.0, lost, relation="at_least"))
    return Report({"faces": float(len(faces.crops))}, checks, tables=tables, figures=figures)


def _load(config: AblateDistillationConfig, store: ArtifactStore) -> tuple[DistillationTask, Instruments]:
    if config.faces is None:
        return drawn_task(config.seed, held_out=config.held_out)
    settings = _settings(config, FULL)
    task = load_distillation_task(
        store,
        config.faces,
        torch.Generator().manual_seed(config.seed),
        teacher=config.teacher or _teacher_of(store, config.student),
        start_from=None,
        views=settings.views,
        hinge_margin=settings.hinge_margin,
        autocast=settings.autocast,
    )
    identity = load_network(store, "face-encoder", IdentityEncoder, "identity")
    instruments = load_instruments(
        store, task.judge.attributes, load_attribute_levels(store), identity, task.detector_landmarks, far=_FAR
    )
    return task, instruments


def _teacher_of(store: ArtifactStore, student: str | None) -> str | None:
    """Version from which a student was distilled; None where its manifest does not tell."""
    teacher = store.resolve(_GENERATOR, student).manifest.config.get("settings", {}).get("teacher")
    return None if teacher is None else str(teacher)


def _settings(config: AblateDistillationConfig, arm: str) -> DistillGeneratorConfig:
    return validate_config(
        DistillGeneratorConfig,
        {
            "seed": config.seed,
            "steps": config.steps,
            "batch_size": config.batch_size,
            "drawn_rows": config.drawn_rows,
            "learning_rate": config.learning_rate,
            "ema_decay": config.ema_decay,
            "grid": config.grid,
            "views": config.views,
            "autocast": config.faces is not None,
            "evaluate_every": config.steps,
            "publish": False,
            **ARMS[arm].without,
        },
    )


def _students(
    config: AblateDistillationConfig, context: RunContext, task: DistillationTask, faces: SwappedFaces
) -> tuple[dict[str, Readings], dict[str, Tensor]]:
    """The teacher and the published student on the same faces, by name and steps."""
    if config.faces is None:
        denoiser = copy.deepcopy(task.student)
    else:
        denoiser = load_network(context.store, _GENERATOR, FaceDenoiser, version=config.student)
    student = FaceGenerator(task.teacher.autoencoder, denoiser).eval()
    drawn = {f"teacher, {_count(steps)}": faces.draw(task.teacher, steps) for steps in _TEACHER_STEPS}
    drawn |= {f"student, {_count(steps)}": faces.draw(student, steps) for steps in config.steps_compared}
    return {name: faces.read(pictures) for name, pictures in drawn.items()}, drawn


def _write_readings(path: Path, readings: Mapping[str, Readings]) -> None:
    """Every value of every face, so that other tables need no other run."""
    values = {way: {key: column.tolist() for key, column in found.items()} for way, found in readings.items()}
    path.write_text(json.dumps(values), encoding="utf-8")


def _count(steps: int) -> str:
    return "1 step" if steps == 1 else f"{steps} steps"


def _sheet(context: RunContext, name: str, crops: Tensor, pictures: Mapping[str, Tensor]) -> Figure:
    rows = [crops, *pictures.values()]
    caption = f"From above: the faces to be replaced, {', '.join(pictures)}"
    return write_sheet(context, name, contact_sheet([row[:_SHOWN] for row in rows]), caption)


JOB = Job(
    name="ablate-distillation",
    summary="what each term of the distillation buys at equal data, and students beside their teacher",
    config=AblateDistillationConfig,
    run=run,
    wants_large_malloc_thresholds=True,
    presets={
        "smoke": {
            "faces": None,
            "arms": (FULL, "no privacy hinge", RESEEDED),
            "steps": 1,
            "batch_size": 2,
            "drawn_rows": 2,
        }
        | {"grid": 4, "held_out": 5, "steps_compared": (1,)}
    },
)
