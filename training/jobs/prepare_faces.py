"""Job: gather aligned, cleaned crops of people who do not exist into a crop set for the trainings."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from models.faces.alignment import CROP_SIZE, align_face, crop_template, similarity_transform
from models.faces.detection import MtcnnDetector
from models.oracles.ensemble import load_oracle
from models.pictures import decode_picture
from models.registry.store import ArtifactStore
from training.data.apparent_attributes import apparent_sex_and_age
from training.data.face_crops import (
    CropSet,
    CropSize,
    border_share,
    contact_sheet,
    join_crop_sets,
    save_crop_set,
    to_tensor,
)
from training.jobs.publishing import write_sheet
from training.runs.config import JobConfig
from training.runs.context import RunContext
from training.runs.job import Job, Source
from training.runs.report import Check, Report


class PrepareFacesConfig(JobConfig):
    """Settings of the run."""

    source: Path = Field(description="folder with sfhq/, sfhq.csv, template_192.csv and portraits/")
    output: Path = Field(Path("data/faces"), description="crop set to write")
    size: CropSize = Field(CROP_SIZE, description="side of the crops, pixels; filters read them at 128")
    portrait_views: int = Field(4, ge=1, description="jittered crops per portrait")
    max_border: float = Field(0.2, gt=0, description="largest share of black pixels in the outer ring")
    min_age: float = Field(19.0, ge=0, description="crops whose estimated age is lower are dropped")
    max_similarity: float = Field(0.9, gt=0, description="mfn cosine above which a crop repeats an earlier one")


def run(config: PrepareFacesConfig, context: RunContext) -> Report:
    """Read, align, clean and store the crops.

    Args:
        config: Settings.
        context: Run directory and metrics.

    Returns:
        The report, with how many crops each filter dropped.
    """
    rng = np.random.default_rng(config.seed)
    store = context.store
    faces = _read_sheets(config.source, config.size)
    counts: dict[str, float] = {"read": float(len(faces))}
    sheets = _sheet_names(config.source)
    filters = {
        "border": border_share(faces.crops) <= config.max_border,
        "age": 10 * apparent_sex_and_age(faces.reduced().crops, store)[:, 1] >= config.min_age,
        "artifacts": np.array(["bad things" not in sheets[group] for group in faces.groups], dtype=np.bool_),
    }
    for name, keep in filters.items():
        counts[f"dropped_{name}"] = float((~keep).sum())
    faces = faces.where(np.logical_and.reduce(list(filters.values())))
    distinct = _distinct(faces.reduced(), store, config.max_similarity)
    counts["dropped_duplicates"] = float((~distinct).sum())
    faces = faces.where(distinct)
    portraits = _read_portraits(config.source / "portraits", config.portrait_views, rng, config.size)
    portraits = portraits.where(10 * apparent_sex_and_age(portraits.reduced().crops, store)[:, 1] >= config.min_age)
    faces = join_crop_sets(faces, portraits)
    counts["portrait_crops"], counts["kept"] = float(len(portraits)), float(len(faces))
    save_crop_set(config.output, faces)
    shown = faces.where(rng.permutation(len(faces)) < 120)
    write_sheet(context, "crops", contact_sheet([to_tensor(shown.crops)], columns=20))
    return Report(
        metrics=counts,
        checks=(Check("crops kept", 1500.0, counts["kept"], relation="at_least"),),
    )


def _read_sheets(source: Path, size: int) -> CropSet:
    template = np.loadtxt(source / "template_192.csv", delimiter=",", comments="#")
    paths = sorted((source / "sfhq").glob("*.jpg"))
    crops = np.stack([align_face(decode_picture(path.read_bytes()), template, size).crop for path in paths])
    return CropSet(crops, np.array([f"sfhq/{path.name}" for path in paths], dtype=np.str_))


def _sheet_names(source: Path) -> dict[str, str]:
    with (source / "sfhq.csv").open(newline="", encoding="utf-8") as stream:
        return {row["file"]: row["source_sheet"] for row in csv.DictReader(stream)}


def _read_portraits(folder: Path, views: int, rng: np.random.Generator, size: int) -> CropSet:
    detector = MtcnnDetector()
    crops, groups = [], []
    for path in sorted(folder.glob("*.jpg")):
        pixels = decode_picture(path.read_bytes())
        faces = [face for face in detector.detect(pixels) if face.landmarks is not None]
        if not faces:
            continue
        best = max(faces, key=lambda face: face.score)
        for view in range(views):
            points = np.asarray(best.landmarks, dtype=np.float64)
            moved = points if view == 0 else _jitter_landmarks(points, rng)
            crops.append(align_face(pixels, moved, size).crop)
            groups.append(f"portraits/{path.name}")
    return CropSet(np.stack(crops), np.array(groups, dtype=np.str_))


def _jitter_landmarks(points: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Move landmarks as if the crop had been cut a little rotated, scaled and shifted."""
    to_crop = similarity_transform(points, crop_template())
    unit = 1 / np.hypot(*to_crop[0, :2])
    angle, scale = rng.normal(0, 0.06), np.exp(rng.normal(0, 0.04))
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    center = points.mean(0)
    return np.asarray((points - center) @ turn.T + center + rng.normal(0, 1.5 * unit, 2), dtype=np.float64)


@torch.inference_mode()
def _distinct(faces: CropSet, store: ArtifactStore, max_similarity: float) -> NDArray[np.bool_]:
    oracle = load_oracle(store, "mfn")
    codes = torch.cat([oracle(to_tensor(faces.crops[i : i + 32])) for i in range(0, len(faces), 32)])
    similarity = codes @ codes.T
    kept: list[int] = []
    for index in range(len(codes)):
        if not kept or float(similarity[index, kept].max()) < max_similarity:
            kept.append(index)
    distinct = np.zeros(len(codes), dtype=np.bool_)
    distinct[kept] = True
    return distinct


JOB = Job(
    name="prepare-faces",
    summary="aligned, cleaned crops of people who do not exist",
    source=Source("SFHQ: Synthetic Faces High Quality dataset", "https://github.com/SelfishGene/SFHQ-dataset", 2022),
    config=PrepareFacesConfig,
    run=run,
    wants_large_malloc_thresholds=True,
    presets={},
)
