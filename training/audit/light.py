"""Light of aligned crops: the shading that spherical harmonics of second order explain on a generic head (U6).

Nine functions of the normal hold almost all of what a matte body reflects of any distant light.

Source: R. Ramamoorthi and P. Hanrahan, "An efficient representation for irradiance environment maps", 2001,
doi:10.1145/383259.383317. Differs: the head is the ellipsoid over the mask of the face and its color is one, so beard
and brows count as shadow; both faces of a comparison are read alike.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from models.faces.alignment import CROP_SIZE, mask_radius

_RADIUS = 0.92  # of the mask, up to which a face is replaced
_LUMA = np.array([0.299, 0.587, 0.114])


def light_error(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Compare the light of faces.

    Args:
        first: Aligned crops, (n, 128, 128, 3).
        second: Crops of the same shape.

    Returns:
        Root mean square difference of both shadings, each divided by its own mean brightness, (n,).

    Raises:
        ValueError: The shapes differ, or are not those of crops.
    """
    if first.shape != second.shape or first.shape[1:] != (CROP_SIZE, CROP_SIZE, 3):
        raise ValueError(f"expected crops of one shape (n, {CROP_SIZE}, {CROP_SIZE}, 3), got {first.shape}")
    return np.asarray(np.sqrt(np.square(shading(first) - shading(second)).mean(axis=1)))


def shading(crops: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Fit the shading of aligned crops (n, 128, 128, 3).

    Args:
        crops: Aligned crops, (n, 128, 128, 3).

    Returns:
        Shading over its own mean, (n, p), at the p pixels inside the mask.
    """
    inside, basis = _harmonics()
    luma = (crops[:, inside] @ _LUMA).reshape(len(crops), -1)  # (n, p)
    fitted = (luma @ basis) @ basis.T
    return np.asarray(fitted / np.maximum(luma.mean(axis=1, keepdims=True), 1.0))


@cache
def _harmonics() -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Pixels inside the mask (128, 128), and an orthonormal basis (p, 9) of the harmonics there."""
    rows, columns = np.indices((CROP_SIZE, CROP_SIZE), dtype=np.float64)
    inside = mask_radius(np.stack([columns, rows], axis=-1)) < _RADIUS
    x, y = (2 * (axis - axis.min()) / np.ptp(axis) - 1 for axis in (columns[inside], rows[inside]))
    x, y = _RADIUS * x, _RADIUS * y
    z = np.sqrt(np.maximum(0.0, 1 - x**2 - y**2))
    functions = np.stack([np.ones_like(x), x, y, z, x * y, x * z, y * z, x**2 - y**2, 3 * z**2 - 1], axis=1)
    return inside, np.linalg.qr(functions)[0]
