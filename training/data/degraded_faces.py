"""Crops as they look when their picture was noisy or strongly compressed, made from clean ones.

The damage is done to a picture that shows the crop larger, turned and shifted, and the crop is then cut out of it as
the service cuts it, so noise comes out colored and JPEG blocks tilted as they do there.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from models.faces.alignment import CROP_SIZE, sample_crop
from models.faces.degradation import LUMA, Degradation, estimate_degradation, noise_gain

_MARGIN = 12  # px around the face in the picture
_LARGEST_SHRINK = 1.6
_LARGEST_TURN = 0.15  # radians
_WHITE_TO_LUMA = float(np.linalg.norm(LUMA))

Damage = Callable[[NDArray[np.uint8], float], NDArray[np.uint8]]
"""Picture and how many of its pixels fall on one of the crop, to the damaged picture."""


@dataclass(frozen=True, slots=True)
class DegradedFace:
    """One crop twice, (128, 128, 3) uint8 each: from the clean and from the damaged picture, with the estimates."""

    clean: NDArray[np.uint8]
    damaged: NDArray[np.uint8]
    before: Degradation
    after: Degradation


def degrade_face(crop: NDArray[np.uint8], damage: Damage, rng: np.random.Generator) -> DegradedFace:
    """Show a crop in a picture, damage the picture, and cut both out again.

    Args:
        crop: Clean crop, (128, 128, 3) uint8.
        damage: What is done to the picture.
        rng: Draws scale (1 to 1.6), turn (0.15 radians at most) and position.

    Returns:
        Both crops and what was estimated of either picture.
    """
    shrink, turn = rng.uniform(1, _LARGEST_SHRINK), rng.uniform(-_LARGEST_TURN, _LARGEST_TURN)
    side = math.ceil(CROP_SIZE * shrink) + 2 * _MARGIN
    linear = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]]) / shrink
    middle = side / 2 + rng.uniform(-_MARGIN / 2, _MARGIN / 2, size=2)
    matrix = np.hstack([linear, ((CROP_SIZE - 1) / 2 - linear @ middle)[:, None]])  # picture -> crop
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    picture = np.asarray(
        cv2.warpAffine(crop, matrix, (side, side), flags=flags, borderMode=cv2.BORDER_REFLECT),
        dtype=np.uint8,
    )
    damaged = damage(picture, shrink)
    return DegradedFace(
        sample_crop(picture, matrix),
        sample_crop(damaged, matrix),
        estimate_degradation(picture, matrix),
        estimate_degradation(damaged, matrix),
    )


def noise_of_level(level: float, rng: np.random.Generator) -> Damage:
    """Damage by white noise that reaches the luma of the crop with a given standard deviation, gray levels."""
    return lambda picture, shrink: add_noise(picture, level / (_WHITE_TO_LUMA * noise_gain(shrink)), rng)


def compression(quality: int) -> Damage:
    """Damage by JPEG of a quality from 1 to 100."""
    return lambda picture, _: compress(picture, quality)


def add_noise(picture: NDArray[np.uint8], deviation: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Add white Gaussian noise, independent in the three colors.

    Args:
        picture: (h, w, 3) uint8.
        deviation: Standard deviation in gray levels.
        rng: Draws the noise.

    Returns:
        The noisy picture, clipped and rounded.
    """
    return (picture + rng.normal(0, deviation, picture.shape)).clip(0, 255).round().astype(np.uint8)


def compress(picture: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    """Encode a picture (h, w, 3) uint8 RGB as JPEG and decode it."""
    _, data = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.ascontiguousarray(np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), dtype=np.uint8)[..., ::-1])


def psnr(crop: NDArray[np.uint8], clean: NDArray[np.uint8]) -> float:
    """Peak signal-to-noise ratio of a crop in dB; infinite where both are equal."""
    error = float(np.square(crop.astype(np.float64) - clean).mean())
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)
