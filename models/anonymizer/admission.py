"""Decides for each detected face whether it can be replaced or has to be covered."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.anonymizer.face_work import FaceWork
from models.anonymizer.verdict import Reason
from models.faces.alignment import CROP_SIZE, align_face, face_mask, transform_points
from models.faces.boxes import Box
from models.faces.restoration import CropRestorer

_LANDMARK_REACH = 0.75  # landmarks may lie this far from the center of their box, in box sides
_MIN_EYE_SHARE = 0.05  # eye distance over the longer side of the box; less is a profile that the template cannot hold


def admit(
    face: FaceWork,
    landmarks: NDArray[np.float64] | None,
    pixels: NDArray[np.uint8],
    min_eye_distance: float,
    restorer: CropRestorer | None = None,
) -> None:
    """Align a face, or have it covered.

    Args:
        face: a new face; gets its landmarks and crop, or the reason for a cover.
        landmarks: what the detector found, (5, 2) in pixels or None.
        pixels: the picture (h, w, 3).
        min_eye_distance: in pixels; a face with less is covered.
        restorer: cleans the crop where the picture under it is degraded.
    """
    if landmarks is None:
        face.redact(Reason.NO_LANDMARKS)
        return
    eye_distance = float(np.linalg.norm(landmarks[1] - landmarks[0]))
    x0, y0, x1, y1 = face.box
    sides = np.array([x1 - x0, y1 - y0])
    reach = np.abs(landmarks - np.array([x0 + x1, y0 + y1]) / 2.0) / sides
    if not (reach <= _LANDMARK_REACH).all() or not eye_distance >= _MIN_EYE_SHARE * float(sides.max()):
        face.redact(Reason.NOT_ALIGNABLE)
        return
    face.landmarks = np.asarray(landmarks, dtype=np.float64)
    face.aligned = align_face(pixels, face.landmarks)
    if restorer is not None:
        face.aligned = restorer.restore_face(pixels, face.aligned)
    if face.policy.mode == "redact":
        face.redact(Reason.REQUESTED)
    elif eye_distance < min_eye_distance:
        face.redact(Reason.FACE_TOO_SMALL)


def is_replaced_with(box: Box, other: FaceWork) -> bool:
    """Tell whether a box lies wholly where another face will be replaced or covered, and so needs nothing itself.

    Args:
        box: box of a detection, often a part of a face taken for a face.
        other: an aligned face.

    Returns:
        Whether all of the box lies inside the full part of the mask of `other`.
    """
    if other.aligned is None:
        return False
    x0, y0, x1, y1 = box
    corners = transform_points(other.aligned.matrix, np.array([[x0, y0], [x1, y0], [x0, y1], [x1, y1]]))
    if not ((corners >= 0.0) & (corners <= CROP_SIZE - 1.0)).all():
        return False
    columns, rows = np.rint(corners).astype(np.intp).T
    return bool((face_mask()[rows, columns] >= 1.0).all())
