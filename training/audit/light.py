"""Light of aligned crops compared: the shading that spherical harmonics of second order explain (U6).

Both faces of a comparison are read alike, so what the harmonics take for shadow (beard, brows) counts on both sides.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.encoder.light_code import harmonic_basis
from models.faces.alignment import CROP_SIZE

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
    inside, basis = harmonic_basis()
    luma = (crops[:, inside] @ _LUMA).reshape(len(crops), -1)  # (n, p)
    fitted = (luma @ basis) @ basis.T
    return np.asarray(fitted / np.maximum(luma.mean(axis=1, keepdims=True), 1.0))
