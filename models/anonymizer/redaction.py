"""Covers faces by a solid ellipse, and checks in decoded pixels that the cover is solid.

Never a blur or a mosaic: both can be matched, and partly undone, by a network trained on them.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from models.faces.alignment import face_mask, invert_matrix
from models.faces.boxes import Box
from models.faces.compositing import Pasted, redact_ellipse, union_touched

_MAX_DEVIATION = 16.0  # gray levels of codec error inside a flat region next to a sharp edge
_MEAN_DEVIATION = 3.0
_STRAY_SHARE = 0.01
_COVER_REACH = 1.5  # half axes of the ellipse over those of its box, as models.faces.compositing draws it
_CORE_RIM = 8  # crop px that the core of the mask keeps from its rim
_RINGING = 12.0  # px from a sharp edge within which JPEG blocks and subsampled color err


def redact_faces(pixels: NDArray[np.uint8], faces: Sequence[tuple[Box, NDArray[np.float64] | None]]) -> Pasted:
    """Cover several faces.

    Args:
        pixels: picture (h, w, 3).
        faces: box, and the matrix image -> crop where the landmarks are known.

    Returns:
        The picture with solid ellipses, and the pixels they cover.
    """
    parts = []
    for box, matrix in faces:
        parts.append(redact_ellipse(pixels, _enlarged(box), matrix))
        pixels = parts[-1].pixels
    height, width = pixels.shape[:2]
    return Pasted(pixels, union_touched(parts, (height, width)))


def is_solid(
    pixels: NDArray[np.uint8], box: Box, later: Sequence[Box] = (), matrix: NDArray[np.float64] | None = None
) -> bool:
    """Tell whether a face is covered by one color, up to the error of the encoder.

    Args:
        pixels: decoded picture (h, w, 3).
        box: face box; its inscribed ellipse must be solid. A box outside the picture hides nothing and is solid.
        later: boxes covered after this one, whose own covers may lie over it; those covers are checked by themselves.
        matrix: image -> crop where the landmarks are known; the core of the face's mask must be solid too, so a box
            that lies beside its face does not pass.

    Returns:
        False as soon as more than encoder noise is left.
    """
    height, width = pixels.shape[:2]
    region = _ellipse(box, 1.0, height, width)
    if matrix is not None:
        region |= _mask_core(matrix, height, width)
    for other in later:
        # what a later cover touches, and where its rim rings, is judged with that cover
        region &= ~_ellipse(cover_box(other), 1.1, height, width)
    covered = pixels[region].astype(np.float64)  # (n, 3)
    if covered.shape[0] == 0:
        return True
    deviation = np.abs(covered - np.median(covered, axis=0)).max(axis=1)
    return bool(deviation.mean() <= _MEAN_DEVIATION and (deviation > _MAX_DEVIATION).mean() <= _STRAY_SHARE)


def cover_box(box: Box) -> Box:
    """Give the bounding box of the ellipse that covers `box`: what a detector may find there is the cover itself."""
    x0, y0, x1, y1 = _enlarged(box)
    grow_x, grow_y = (_COVER_REACH - 1.0) * (x1 - x0) / 2.0, (_COVER_REACH - 1.0) * (y1 - y0) / 2.0
    return x0 - grow_x, y0 - grow_y, x1 + grow_x, y1 + grow_y


def _enlarged(box: Box) -> Box:
    """Enlarge a small box until the rim of its cover, where the encoder rings, is far outside the box."""
    center_x, center_y = (box[0] + box[2]) / 2.0, (box[1] + box[3]) / 2.0
    half_x, half_y = (
        max(half, (half + _RINGING) / _COVER_REACH) for half in ((box[2] - box[0]) / 2.0, (box[3] - box[1]) / 2.0)
    )
    return center_x - half_x, center_y - half_y, center_x + half_x, center_y + half_y


def _mask_core(matrix: NDArray[np.float64], height: int, width: int) -> NDArray[np.bool_]:
    """Give the pixels (h, w) well inside the mask of an aligned face."""
    core = cv2.erode((face_mask() >= 1.0).astype(np.uint8), np.ones((2 * _CORE_RIM + 1,) * 2, np.uint8))
    return np.asarray(cv2.warpAffine(core, invert_matrix(matrix), (width, height), flags=cv2.INTER_NEAREST) > 0)


def _ellipse(box: Box, factor: float, height: int, width: int) -> NDArray[np.bool_]:
    rows, columns = np.ogrid[0:height, 0:width]
    half_x, half_y = factor * (box[2] - box[0]) / 2.0, factor * (box[3] - box[1]) / 2.0
    across = (columns - (box[0] + box[2]) / 2.0) / half_x
    down = (rows - (box[1] + box[3]) / 2.0) / half_y
    return np.asarray(np.hypot(across, down) <= 1.0)
