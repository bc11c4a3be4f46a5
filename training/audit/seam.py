"""The seam: how sharp the edges are along the border of the mask, against the photo that was sent in (U9)."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from models.faces.alignment import CROP_SIZE, face_mask

WIDTH = 4
"""Width of the ring in crop pixels."""
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
_SMALLEST_GRADIENT = 1e-3  # gray levels a pixel; a ring without any edge has no ratio


def seam_ratio(source: NDArray[np.uint8], released: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Mean gradient magnitude in the ring, released over source; 1 where a seam is no sharper than the photo was.

    The ring has half its width on either side of the line on which the mask weighs both pictures alike.

    Args:
        source: Aligned crops, (n, 128, 128, 3).
        released: Crops of the released photos at the same places, same shape.

    Returns:
        Ratios, (n,); NaN where the source shows no gradient in the ring.

    Raises:
        ValueError: The shapes differ, or are not those of crops.
    """
    if source.shape != released.shape or source.shape[1:] != (CROP_SIZE, CROP_SIZE, 3):
        raise ValueError(f"expected crops of one shape (n, {CROP_SIZE}, {CROP_SIZE}, 3), got {source.shape}")
    ring = border_ring()
    before, after = (np.array([_gradient(crop)[ring].mean() for crop in crops]) for crops in (source, released))
    return np.divide(after, before, out=np.full(len(before), np.nan), where=before > _SMALLEST_GRADIENT)


def border_ring(width: int = WIDTH) -> NDArray[np.bool_]:
    """Pixels within half a width of the mask's border, (128, 128)."""
    inside = (face_mask() >= 0.5).astype(np.uint8)
    reach = width // 2
    disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    return np.asarray((cv2.dilate(inside, disk) > 0) & (cv2.erode(inside, disk) == 0))


def _gradient(crop: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Gradient magnitude of the luma in gray levels a pixel, (h, w)."""
    luma = crop.astype(np.float32) @ _LUMA
    across, down = (cv2.Sobel(luma, cv2.CV_32F, dx, 1 - dx, ksize=3, scale=1 / 8) for dx in (1, 0))
    return np.asarray(np.hypot(across, down), dtype=np.float32)
