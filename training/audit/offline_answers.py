"""Answers of networks at hand to the questions of `training.audit.questions` (U10), with no photo sent anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.encoder.light_code import harmonic_basis
from models.faces.detection import FaceDetector
from training.audit.expression import read_expressions
from training.audit.light import shading
from training.audit.questions import QUESTIONS, Answers
from training.audit.subgroups import AGE_EDGES
from training.audit.utility import Instruments

Pixels = NDArray[np.uint8]

TURNED: Final = np.deg2rad(15.0)
"""Yaw from which a head counts as turned."""
SIDE_LIGHT: Final = 0.1
"""Difference of the mean shading of both halves of a face, over the mean, from which it is lit from one side."""


def answer_photos(photos: Sequence[Pixels], crops: Pixels, instruments: Instruments) -> dict[str, Answers]:
    """Answer every question about photos.

    Args:
        photos: Photos, n of (h, w, 3).
        crops: Aligned crops of their main faces, (n, 128, 128, 3).
        instruments: What they are read with.

    Returns:
        Question of `QUESTIONS` to the chosen answers, (n,).

    Raises:
        ValueError: The numbers of photos and crops differ, or there is none.
    """
    if not len(photos) or len(photos) != len(crops):
        raise ValueError(f"expected as many crops as photos, at least one, got {len(crops)} and {len(photos)}")
    labels = instruments.sex_and_age(crops)
    expression = read_expressions(instruments.landmark_net, crops)
    shapes = expression.classes().astype(np.int64)
    found = {
        "apparent sex": (labels[:, 0] >= 0).astype(np.int64),
        "age group": np.digitize(10 * labels[:, 1], AGE_EDGES).astype(np.int64),
        "mouth open": shapes[:, 0],
        "eyes open": shapes[:, 1],
        "mouth stretched": shapes[:, 2],
        "head turned": head_turned(expression.rotations),
        "light from": light_from(crops),
        "faces": count_faces(photos, instruments.detector),
    }
    return {question.name: found[question.name] for question in QUESTIONS}


def head_turned(rotations: NDArray[np.float64]) -> Answers:
    """Which way noses point in the picture, of rotations (n, 3, 3): 0 left, 1 ahead, 2 right; (n,)."""
    # the nose points against the third axis of the head, which leads away from the camera
    yaw = np.arctan2(-rotations[:, 0, 2], rotations[:, 2, 2])
    return _three(yaw, float(TURNED))


def light_from(crops: Pixels) -> Answers:
    """From which side aligned crops (n, 128, 128, 3) are lit: 0 left, 1 neither, 2 right; (n,)."""
    columns = np.nonzero(harmonic_basis()[0])[1]
    middle = (columns.min() + columns.max()) / 2
    shades = shading(crops)
    return _three(shades[:, columns > middle].mean(1) - shades[:, columns < middle].mean(1), SIDE_LIGHT)


def count_faces(photos: Sequence[Pixels], detector: FaceDetector) -> Answers:
    """Number of faces that a detector finds in each photo, up to 3; (n,)."""
    return np.array([min(3, len(detector.detect(photo))) for photo in photos], dtype=np.int64)


def choose_nearest(shown: NDArray[np.float32], gallery: NDArray[np.float32], line_ups: NDArray[np.int64]) -> Answers:
    """Choose the nearest of each line-up.

    Args:
        shown: Unit embeddings of faces or pictures, (n, d).
        gallery: Unit embeddings of those to choose from, (m, d).
        line_ups: Rows of the gallery in each line-up, (n, c).

    Returns:
        Place of the most similar entry of each line-up, (n,).
    """
    return np.asarray(np.einsum("nd,ncd->nc", shown, gallery[line_ups]).argmax(axis=1), dtype=np.int64)


def _three(values: NDArray[np.float64], edge: float) -> Answers:
    return np.where(values > edge, 2, np.where(values < -edge, 0, 1)).astype(np.int64)
