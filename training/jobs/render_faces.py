"""Job: render heads of people who do not exist into a crop set with exact labels."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, is_dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from models.faces.alignment import CROP_SIZE, crop_template, similarity_transform, transform_points
from training.data.face_crops import CropSet, CropSize, contact_sheet, save_crop_set, to_tensor
from training.data.rendered_heads.factorial import Design, sample_factorial
from training.data.rendered_heads.sampling import SamplingOptions, sample_faces
from training.data.rendered_heads.scene import RenderedFace
from training.jobs.publishing import write_sheet
from training.runs.config import JobConfig
from training.runs.context import RunContext
from training.runs.job import Job
from training.runs.report import Check, Report
from training.runs.stopping import RunInterruptedError


class RenderFacesConfig(JobConfig):
    """Settings of the run."""

    output: Path = Field(Path("data/rendered"), description="crop set to write, with labels.jsonl and landmarks.npy")
    identities: int = Field(1000, ge=1)
    per_identity: int = Field(6, ge=1)
    factorial: tuple[int, int, int, int] | None = Field(
        None,
        description="levels of identity, expression, pose and light: all combinations, all else fixed, and in place of "
        "the settings above and below",
    )
    size: CropSize = Field(CROP_SIZE, description="side of the crops, pixels")
    supersampling: int = Field(2, ge=1, le=4)
    yaw_spread: float = Field(20.0, ge=0, description="standard deviation of the yaw in degrees")
    yaw_limit: float = Field(45.0, ge=0, le=90)
    extra_laughs: float = Field(0.12, ge=0, le=1)
    glasses: float = Field(0.15, ge=0, le=1)


def run(config: RenderFacesConfig, context: RunContext) -> Report:
    """Render, and write crops, groups, landmarks and labels.

    Args:
        config: Settings.
        context: Run directory and metrics.

    Returns:
        The report; its check measures how far the true landmarks lie from the template up to a similarity.

    Raises:
        RunInterruptedError: If the run was told to stop; rendering starts anew.
    """
    design = Design(*config.factorial) if config.factorial is not None else None
    options = SamplingOptions(
        yaw_spread=config.yaw_spread,
        yaw_limit=config.yaw_limit,
        extra_laughs=config.extra_laughs,
        glasses=config.glasses,
        size=config.size,
        supersampling=config.supersampling,
    )
    crops, groups, landmarks, labels = [], [], [], []
    for identity, face, levels in _samples(config, design, options):
        if context.should_stop():
            raise RunInterruptedError("rendering was stopped")
        crops.append(face.pixels)
        groups.append(f"rendered/{config.seed}-{identity:05d}")
        landmarks.append(face.landmarks5)
        labels.append(json.dumps({**face.labels, **levels}, default=_plain))
        if len(crops) % 500 == 0:
            context.log({"rendered": len(crops)})
    faces = CropSet(np.stack(crops), np.array(groups, dtype=np.str_))
    points = np.stack(landmarks)  # (n, 5, 2)
    save_crop_set(config.output, faces)
    np.save(config.output / "landmarks.npy", points.astype(np.float32), allow_pickle=False)
    (config.output / "labels.jsonl").write_text("\n".join(labels) + "\n", encoding="utf-8")
    shown = faces.where(np.arange(len(faces)) < 120)
    write_sheet(context, "crops", contact_sheet([to_tensor(shown.crops)], columns=20))
    return Report(
        metrics={"crops": float(len(faces)), "identities": float(len(np.unique(faces.groups)))},
        checks=(
            Check(
                "no similarity brings a crop's landmarks closer to the template (px)",
                0.0,
                _slack(points, config.size),
                1e-6,
            ),
        ),
    )


def _samples(
    config: RenderFacesConfig, design: Design | None, options: SamplingOptions
) -> Iterator[tuple[int, RenderedFace, dict[str, int]]]:
    """Number of the identity, face, and levels of the factors as labels."""
    if design is None:
        for sample in sample_faces(config.identities, config.per_identity, config.seed, options):
            yield sample.identity, sample.face, {}
    else:
        for combined in sample_factorial(design, config.seed, options):
            levels = {f"factor.{name}": level for name, level in combined.levels.items()}
            yield combined.levels["identity"], combined.face, levels


def _slack(points: NDArray[np.float64], size: int) -> float:
    """Largest remaining motion of the best similarity from landmarks to the template, in pixels."""
    template = crop_template(size)
    return max(float(np.abs(transform_points(similarity_transform(p, template), p) - p).max()) for p in points)


def _plain(value: object) -> object:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    raise TypeError(f"label of type {type(value).__name__} cannot be written")


JOB = Job(
    name="render-faces",
    summary="crop set of rendered people who do not exist, with exact labels",
    config=RenderFacesConfig,
    run=run,
    presets={"smoke": {"identities": 3, "per_identity": 2, "output": "runs/smoke-rendered"}},
)
