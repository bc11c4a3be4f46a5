"""How much noise and how visible JPEG blocks a face carries, read where they are simplest: in the picture's own pixels.

An aligned crop is resampled, which colors noise and tilts the 8x8 grid of JPEG. In the picture noise is still white and
the grid still straight, so both are measured there, under the crop, and then carried over to the crop by the factor
with which resampling shrinks white noise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from models.faces.alignment import CROP_SIZE, invert_matrix, matrix_scale, prefilter_sigma, transform_points

LUMA: Final[NDArray[np.float32]] = np.array([0.299, 0.587, 0.114], dtype=np.float32)

_GRID: Final = 8  # px, side of the blocks of JPEG
_SMALLEST: Final = 3 * _GRID  # px, side of a window that tells anything
_LARGEST: Final = 384  # px, side of the middle part that is looked at
_SMOOTH_SHARE: Final = 0.2  # quantile over blocks: the smooth part of a face shows the noise, hair and lashes do not
_TO_DEVIATION: Final = math.sqrt(math.pi / 2)  # mean absolute value of a Gaussian to its standard deviation


@dataclass(frozen=True, slots=True)
class Degradation:
    """Damage of an aligned crop, in gray levels of 0 to 255 at the scale of the crop.

    Attributes:
        noise: Standard deviation of the luma's noise.
        blockiness: Jump of the luma across the borders of JPEG blocks, beyond the jumps beside them.
    """

    noise: float
    blockiness: float


def estimate_degradation(pixels: NDArray[np.uint8], matrix: NDArray[np.float64], size: int = CROP_SIZE) -> Degradation:
    """Measure noise and block borders under an aligned crop.

    The noise is the mean diagonal difference of the smoothest fifth of 8x8 blocks (Donoho and Johnstone's finest
    wavelet scale). The blockiness is the mean extra jump at the best of the eight positions of the grid, less that at
    the second best: a picture without blocks has no position that stands out.

    Args:
        pixels: The picture (h, w, 3) uint8.
        matrix: Similarity (2, 3), image -> crop.
        size: Side of the crop.

    Returns:
        Both estimates; zero where fewer than 24 px of the picture lie under the crop.

    Raises:
        ValueError: The picture is not (h, w, 3) uint8.
    """
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
        raise ValueError(f"expected a picture (h, w, 3) uint8, got {pixels.shape} {pixels.dtype}")
    luma = _window(pixels, matrix, size).astype(np.float32) @ LUMA
    if min(luma.shape) < _SMALLEST:
        return Degradation(0.0, 0.0)
    gain = noise_gain(1.0 / matrix_scale(matrix))
    return Degradation(gain * _noise(luma), gain * 0.5 * (_blockiness(luma) + _blockiness(luma.T)))


def noise_gain(shrink: float) -> float:
    """Return by which factor `models.faces.alignment.sample_crop` shrinks the deviation of white noise.

    Args:
        shrink: How many source pixels fall on one pixel of the crop, along one axis.

    Returns:
        The factor in (0, 1), averaged over the positions between pixels.
    """
    sigma = prefilter_sigma(shrink)
    taps = cv2.getGaussianKernel(2 * math.ceil(4 * sigma) + 1, sigma)[:, 0] if sigma > 0 else np.ones(1)
    # bilinear weights t and 1 - t: both squares together average 2/3, twice their product 1/3
    along = 2 / 3 * float(taps @ taps) + 1 / 3 * float(taps[1:] @ taps[:-1])
    return along  # the root of the two axes' product


def _window(pixels: NDArray[np.uint8], matrix: NDArray[np.float64], size: int) -> NDArray[np.uint8]:
    """The middle of the picture's part under the crop, at most 384 px a side; may be empty."""
    corners = np.array([[0, 0], [size - 1, 0], [0, size - 1], [size - 1, size - 1]], dtype=np.float64)
    reach = transform_points(invert_matrix(matrix), corners)
    parts = []
    for axis, length in ((1, pixels.shape[0]), (0, pixels.shape[1])):
        first = int(np.clip(math.floor(reach[:, axis].min()), 0, length))
        last = int(np.clip(math.ceil(reach[:, axis].max()) + 1, first, length))
        surplus = max(0, last - first - _LARGEST) // 2
        parts.append(slice(first + surplus, last - surplus))
    return pixels[parts[0], parts[1]]


def _noise(luma: NDArray[np.float32]) -> float:
    diagonal = np.abs(luma[:-1, :-1] - luma[1:, :-1] - luma[:-1, 1:] + luma[1:, 1:]) / 2
    rows, columns = (length // _GRID for length in diagonal.shape)
    blocks = diagonal[: rows * _GRID, : columns * _GRID].reshape(rows, _GRID, columns, _GRID).mean(axis=(1, 3))
    return float(np.quantile(blocks, _SMOOTH_SHARE)) * _TO_DEVIATION


def _blockiness(luma: NDArray[np.float32]) -> float:
    jumps = np.abs(np.diff(luma, axis=1)).mean(axis=0)  # (w - 1,)
    excess = jumps[1:-1] - 0.5 * (jumps[:-2] + jumps[2:])
    positions = np.sort([float(excess[start::_GRID].mean()) for start in range(_GRID)])
    return float(positions[-1] - positions[-2])
