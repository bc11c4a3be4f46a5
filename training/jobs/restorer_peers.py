"""Plain ways to restore a crop, tuned on the same damaged crops: total variation and non-local means."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from models.faces.restoration import Field, Grade, Kind, restore_crop
from training.data.degraded_faces import DegradedFace

Restore = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]

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
