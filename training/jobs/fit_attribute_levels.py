"""Job: the maps by which a policy's level limits the attribute code (`models.encoder.attribute_levels`).

The map of the light is ridge regression from 27 numbers to the learned part, on faces of people who do not exist. The
map of the landmarks comes from rendered heads, whose pose, expression and identity are known: regression on pose and
expression gives what must stay, the means of people over the rest give what must go.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from models.anonymizer.assembly import load_attributes
from models.encoder.attribute_levels import ARTIFACT_NAME, AttributeLevels
from models.encoder.attributes import FaceAttributes
from models.encoder.landmark_code import LANDMARK_CHANNELS, LANDMARK_SCALE, from_sheets
from models.encoder.light_code import light_numbers
from training.data.face_crops import load_crop_set, to_tensor
from training.jobs.publishing import PROVENANCE, WEIGHTS_LICENSE
from training.runs.config import JobConfig
from training.runs.context import RunContext
from training.runs.job import Job
from training.runs.report import Check, Report

Array = NDArray[np.float64]

_RIDGE = 1e-3
"""Ridge penalty of every regression, relative to the rows, on standardized columns."""
_BATCH = 64


class FitAttributeLevelsConfig(JobConfig):
    """Settings of the run."""

    faces: Path = Field(Path("data/faces"), description="crop set written by prepare-faces")
    rendered: Path = Field(Path("data/rendered"), description="crop set with labels, written by render-faces")
    identity_weight: float = Field(10.0, gt=0, description="k: how much more identity weighs than pose and expression")
    publish: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class LandmarkSplit:
    """Covariances of landmarks, each (d, d).

    Attributes:
        state: of what pose and expression do, and of what differs between pictures of one person.
        identity: of what sets people apart.
    """

    state: Array
    identity: Array

    def wiener(self, weight: float) -> Array:
        """Map of row vectors that keeps state and drops identity: S (S + weight I)^-1 transposed."""
        floor = 1e-4 * np.trace(self.state) / len(self.state) * np.eye(len(self.state))
        return np.linalg.solve(self.state + weight * self.identity + floor, self.state)


def run(config: FitAttributeLevelsConfig, context: RunContext) -> Report:
    """Fit both maps, measure what they let through, publish `attribute-levels`.

    Args:
        config: Settings.
        context: Run directory, store and metrics.

    Returns:
        The report; its checks say that light is told and that identity of landmarks is not.
    """
    attributes = load_attributes(context.store)
    people, heads = load_crop_set(config.faces), load_crop_set(config.rendered)
    light, learned, offsets = _encode(attributes, people.crops)
    held = people.held_out()
    weights, bias = ridge(light[~held], learned[~held])
    drawn = _encode(attributes, heads.crops)[2]
    state = _state_columns(config.rendered / "labels.jsonl", len(heads))
    tested = heads.held_out(0.2)
    split = split_landmarks(drawn[~tested], state[~tested], heads.groups[~tested])
    to_state = split.wiener(config.identity_weight)
    seen = split_landmarks(drawn[tested], state[tested], heads.groups[tested])
    moved = (offsets - offsets.mean(0)) @ (to_state - np.eye(len(to_state)))
    metrics = {
        "light_explains": _explained(light[held] @ weights + bias, learned[held]),
        "identity_kept": float(np.trace(to_state.T @ seen.identity @ to_state) / np.trace(seen.identity)),
        "state_kept": float(np.trace(to_state.T @ seen.state @ to_state) / np.trace(seen.state)),
        "landmarks_moved_px": float(np.linalg.norm(moved.reshape(len(moved), -1, 2), axis=2).mean() * LANDMARK_SCALE),
    }
    checks = (
        Check(
            "share of the learned part that the light explains, new people",
            0.3,
            metrics["light_explains"],
            relation="at_least",
        ),
        Check(
            "identity that strict landmarks keep over pose and expression kept, new people",
            0.5,
            metrics["identity_kept"] / metrics["state_kept"],
            relation="at_most",
        ),
    )
    levels = AttributeLevels(
        torch.from_numpy(weights).float(),
        torch.from_numpy(bias).float(),
        torch.from_numpy(offsets.mean(0)).float(),
        torch.from_numpy(to_state).float(),
    )
    artifacts: list[str] = []
    if config.publish:
        reference = context.publish(
            ARTIFACT_NAME,
            "affine",
            levels.to_files(),
            metrics=metrics,
            parents={"face-encoder": str(context.store.promoted("face-encoder"))},
            license=WEIGHTS_LICENSE,
            provenance={"data": PROVENANCE},
        )
        context.store.set_promoted(ARTIFACT_NAME, reference.partition("@")[2])
        artifacts.append(reference)
    return Report(metrics=metrics, checks=checks, artifacts=artifacts)


def split_landmarks(offsets: Array, state: Array, people: NDArray[np.str_]) -> LandmarkSplit:
    """Divide the covariance of landmarks.

    Args:
        offsets: Landmarks, (n, d).
        state: Pose and expression, columns of a linear model, (n, q).
        people: Who each row shows, (n,); some people have to have several rows.

    Returns:
        Covariances of state and identity. What the model leaves is divided by the one-way analysis of variance:
        the covariance within people counts as state, since one person does it.
    """
    weights, bias = ridge(state, offsets)
    fitted = state @ weights + bias
    rest = offsets - fitted
    index = np.unique(people, return_inverse=True)[1]
    counts = np.bincount(index)
    means = np.stack([np.bincount(index, column) / counts for column in rest.T], axis=1)
    inner = rest - means[index]
    within = inner.T @ inner / (len(rest) - len(counts))
    between = np.cov(means.T) - within * (1 / counts).mean()
    values, vectors = np.linalg.eigh(between)
    return LandmarkSplit(np.cov(fitted.T) + within, (vectors * values.clip(0)) @ vectors.T)


def ridge(columns: Array, targets: Array) -> tuple[Array, Array]:
    """Fit `columns @ weights + bias` to targets (n, t) by ridge regression on standardized columns (n, q)."""
    center, scale = columns.mean(0), columns.std(0) + 1e-6
    x = (columns - center) / scale
    gram = x.T @ x + _RIDGE * len(x) * np.eye(x.shape[1])
    weights = np.linalg.solve(gram, x.T @ (targets - targets.mean(0))) / scale[:, None]
    return weights, targets.mean(0) - center @ weights


@torch.inference_mode()
def _encode(attributes: FaceAttributes, crops: NDArray[np.uint8]) -> tuple[Array, Array, Array]:
    """Light (n, 27), learned part (n, c * 64) and landmark offsets (n, 102) of crops."""
    parts: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
    for start in range(0, len(crops), _BATCH):
        rows = to_tensor(crops[start : start + _BATCH])
        mean = attributes(rows)[0]
        learned, sheets = mean.split([mean.shape[1] - LANDMARK_CHANNELS, LANDMARK_CHANNELS], dim=1)
        parts.append((light_numbers(rows), learned.flatten(1), from_sheets(sheets).flatten(1)))
    joined = [torch.cat(part).double().numpy() for part in zip(*parts, strict=True)]
    return joined[0], joined[1], joined[2]


def _state_columns(labels: Path, count: int) -> Array:
    """Pose to the third power and expression units of every rendered head.

    Args:
        labels: File written by `render-faces`.
        count: Heads.

    Returns:
        (n, q).

    Raises:
        FileNotFoundError: There are no labels.
        ValueError: They are not as many as the heads.
    """
    if not labels.is_file():
        raise FileNotFoundError(f"no labels at {labels}: run `doppel-train run render-faces` first")
    rows: list[dict[str, Any]] = [json.loads(line) for line in labels.read_text(encoding="utf-8").splitlines()]
    if len(rows) != count:
        raise ValueError(f"{labels} has {len(rows)} rows for {count} crops")
    yaw, pitch, roll = np.deg2rad([[row[f"pose.{name}"] for name in ("yaw", "pitch", "roll")] for row in rows]).T
    pose = [yaw, pitch, roll, yaw**2, pitch**2, yaw * pitch, yaw**3, np.abs(yaw), pitch * yaw**2]
    units = sorted({unit for row in rows for unit, _ in row["expression.actions"]})
    strength = np.array([[dict(row["expression.actions"]).get(unit, 0.0) for unit in units] for row in rows])
    return np.concatenate([np.stack(pose, axis=1), strength.reshape(len(rows), len(units))], axis=1)


def _explained(predicted: Array, targets: Array) -> float:
    return 1 - float(np.square(targets - predicted).sum() / np.square(targets - targets.mean(0)).sum())


JOB = Job(
    name="fit-attribute-levels",
    summary="what the policy levels let the attribute code tell: light, pose and expression",
    config=FitAttributeLevelsConfig,
    run=run,
    presets={},
)
