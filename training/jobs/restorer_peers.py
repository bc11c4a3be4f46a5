"""Plain ways to restore a crop, tuned on the same damaged crops: total variation and non-local means.

`WayRestorer` puts any of them into the service behind the gate of a learned restorer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from models.faces.alignment import AlignedFace
from models.faces.degradation import estimate_degradation
from models.faces.restoration import CropRestorer, Field, Grade, Kind, restore_crop
from training.data.degraded_faces import DegradedFace, compression, degrade_face, noise_of_level

Restore = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]
Way = Callable[[NDArray[np.uint8], Grade], NDArray[np.uint8]]
"""A damaged crop and the grade that the gate chose for it, to the restored crop."""

# Ratios of 1.5: halfway between two of them lies within .1 dB of the best.
_TV_WEIGHTS = tuple(0.008 * 1.5**step for step in range(8))
_NLM_STRENGTHS = tuple(1.5**step for step in range(8))


def tuned_variation(faces: Sequence[DegradedFace], kind: Kind, level: float) -> Grade:
    """Tune total variation: first one weight for all colors, then that of the chroma.

    Args:
        faces: Damaged crops.
        kind: Their damage.
        level: How much of it.

    Returns:
        A grade whose filters are the two differences.
    """

    def grade(luma: float, chroma: float) -> Grade:
        return Grade(kind, level, differences(luma), differences(chroma))

    def loss(candidate: Grade) -> float:
        return log_error(faces, lambda crop: restore_crop(crop, candidate).crop)

    luma = min(_TV_WEIGHTS, key=lambda weight: loss(grade(weight, weight)))
    chroma = min(_TV_WEIGHTS, key=lambda weight: loss(grade(luma, weight)))
    return grade(luma, chroma)


def differences(weight: float) -> Field:
    """The regularizer of total variation: both first differences with one weight."""
    filters = torch.tensor([[[-1.0, 1.0], [0.0, 0.0]], [[-1.0, 0.0], [1.0, 0.0]]])
    return Field(torch.full((2,), weight), filters)


def tuned_means(faces: Sequence[DegradedFace]) -> float:
    """Tune the strength of non-local means on damaged crops; its strengths for luma and chroma are one number."""
    return min(_NLM_STRENGTHS, key=lambda strength: log_error(faces, lambda crop: non_local_means(crop, strength)))


def non_local_means(crop: NDArray[np.uint8], strength: float) -> NDArray[np.uint8]:
    """OpenCV's non-local means of a crop (h, w, 3) uint8 RGB with windows of its defaults, 7 and 21 px."""
    bgr = np.ascontiguousarray(crop[..., ::-1])
    denoised = np.asarray(cv2.fastNlMeansDenoisingColored(bgr, None, strength, strength, 7, 21), dtype=np.uint8)
    return np.ascontiguousarray(denoised[..., ::-1])


def log_error(faces: Sequence[DegradedFace], restore: Restore) -> float:
    """Mean logarithm of the mean squared error, so that every crop counts alike, as it does in a mean of PSNR."""
    errors = [float(np.square(restore(face.damaged).astype(np.float64) - face.clean).mean()) for face in faces]
    return float(np.mean(np.log(np.maximum(errors, 1e-12)))) if errors else math.nan


class WayRestorer(CropRestorer):
    """A restorer that decides as another one does which crops it treats, and treats them in another way."""

    def __init__(self, restorer: CropRestorer, way: Way) -> None:
        """Take the gate and the grades of a restorer, and the way.

        Args:
            restorer: Decides.
            way: Restores.
        """
        super().__init__(restorer.grades, noise_gate=restorer.noise_gate, blockiness_gate=restorer.blockiness_gate)
        self._way = way

    def of_kind(self, kind: Kind) -> WayRestorer:
        """Give a restorer of one kind of damage, which leaves every other crop alone."""
        return WayRestorer(super().of_kind(kind), self._way)

    def restore_face(self, pixels: NDArray[np.uint8], aligned: AlignedFace) -> AlignedFace:
        """Restore an aligned face cut out of a picture (h, w, 3) uint8 if that is degraded; else it stays the same."""
        grade = self.grade_for(estimate_degradation(pixels, aligned.matrix, len(aligned.crop)))
        return aligned if grade is None else AlignedFace(self._way(aligned.crop, grade), aligned.matrix)


def tuned_ways(
    grades: Sequence[Grade], crops: NDArray[np.uint8], qualities: Sequence[int], rng: np.random.Generator
) -> dict[str, Way]:
    """Tune the plain ways for every grade of a learned restorer.

    Args:
        grades: The grades.
        crops: Clean crops (n, 128, 128, 3) that are damaged for it; a few are enough.
        qualities: JPEG qualities of the grades for blocks, the strongest compression where the level is largest.
        rng: Draws the damage.

    Returns:
        Name to way.

    Raises:
        ValueError: There are not as many qualities as grades for blocks.
    """
    blocks = sorted((grade for grade in grades if grade.kind == "blocks"), key=lambda grade: grade.level)
    if len(blocks) != len(qualities):
        raise ValueError(f"expected {len(blocks)} JPEG qualities, one for each grade, got {len(qualities)}")
    quality = dict(zip(map(id, blocks), sorted(qualities, reverse=True), strict=True))
    variations: dict[int, Grade] = {}
    strengths: dict[int, float] = {}
    for grade in grades:
        noise = grade.kind == "noise"
        damage = noise_of_level(grade.level, rng) if noise else compression(quality[id(grade)])
        faces = [degrade_face(crop, damage, rng) for crop in crops]
        variations[id(grade)] = tuned_variation(faces, grade.kind, grade.level)
        strengths[id(grade)] = tuned_means(faces)
    return {
        "total variation": lambda crop, grade: restore_crop(crop, variations[id(grade)]).crop,
        "non-local means": lambda crop, grade: non_local_means(crop, strengths[id(grade)]),
    }
