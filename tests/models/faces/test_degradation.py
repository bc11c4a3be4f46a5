"""What is read of the damage under a crop."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from models.faces.alignment import sample_crop
from models.faces.degradation import LUMA, Degradation, estimate_degradation, noise_gain


def picture(side: int = 240) -> NDArray[np.uint8]:
    """Smooth shading with a few sharp edges, gray levels 40 to 210."""
    y, x = np.mgrid[:side, :side] / side
    shade = 125 + 60 * np.sin(5 * x + 2 * y) * np.cos(4 * y)
    shade[np.hypot(x - 0.5, y - 0.45) < 0.2] += 25
    return np.stack([shade, 0.9 * shade, 0.8 * shade], axis=2).clip(0, 255).astype(np.uint8)


def window(shrink: float, turn: float = 0.1, side: int = 240) -> NDArray[np.float64]:
    linear = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) / shrink
    return np.hstack([linear, (63.5 - linear @ np.full(2, side / 2))[:, None]])


def noisy(pixels: NDArray[np.uint8], deviation: float) -> NDArray[np.uint8]:
    rng = np.random.default_rng(0)
    return (pixels + rng.normal(0, deviation, pixels.shape)).clip(0, 255).round().astype(np.uint8)


def compressed(pixels: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    _, data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), dtype=np.uint8)


@pytest.mark.parametrize("shrink", [0.8, 1.0, 1.3, 1.6])
@pytest.mark.parametrize("deviation", [8.0, 20.0])
def test_the_noise_is_that_of_the_crop(shrink: float, deviation: float) -> None:
    clean = picture()
    damaged = noisy(clean, deviation)
    matrix = window(shrink)
    difference = (sample_crop(damaged, matrix).astype(float) - sample_crop(clean, matrix)) @ LUMA
    estimated = estimate_degradation(damaged, matrix).noise
    # the smoothest fifth of the blocks reads a little low
    assert 0.8 * difference.std() <= estimated <= 1.1 * difference.std()


@pytest.mark.parametrize("shrink", [1.0, 1.4, 3.0])
def test_white_noise_shrinks_by_the_gain(shrink: float) -> None:
    rng = np.random.default_rng(1)
    gray = rng.normal(128, 25, (500, 500, 1)).clip(0, 255).round().astype(np.uint8)
    crop = sample_crop(np.repeat(gray, 3, axis=2), window(shrink, side=500))
    assert crop[..., 0].std() / gray.std() == pytest.approx(noise_gain(shrink), rel=0.06)


def test_blocks_stand_out_more_the_stronger_the_compression_and_noise_does_not_look_like_them() -> None:
    matrix = window(1.3)
    by_quality = [estimate_degradation(compressed(picture(), quality), matrix).blockiness for quality in (90, 30, 10)]
    assert by_quality[0] < 0.5 < 2 * by_quality[1] < 4 * by_quality[2]
    assert by_quality == sorted(by_quality)
    assert estimate_degradation(noisy(picture(), 20), matrix).blockiness < 0.5 < by_quality[1]


def test_the_grid_is_found_when_the_picture_was_cut_after_compression() -> None:
    cut = compressed(picture(256), 10)[5:245, 3:243]
    assert estimate_degradation(cut, window(1.3)).blockiness > 1.0


def test_a_clean_picture_shows_nearly_nothing() -> None:
    found = estimate_degradation(picture(), window(1.3))
    assert found.noise < 0.5
    assert found.blockiness < 0.3


def test_where_little_of_the_picture_lies_under_the_crop_nothing_is_told() -> None:
    matrix = window(1.0) - np.array([[0, 0, 170.0], [0, 0, 0]])
    assert estimate_degradation(noisy(picture(), 30), matrix) == Degradation(0.0, 0.0)
    assert estimate_degradation(picture(10), window(1.0, side=10)) == Degradation(0.0, 0.0)


@pytest.mark.parametrize("pixels", [np.zeros((9, 9, 3)), np.zeros((9, 9), np.uint8), np.zeros((9, 9, 4), np.uint8)])
def test_other_arrays_are_refused(pixels: NDArray[np.uint8]) -> None:
    with pytest.raises(ValueError, match="expected a picture"):
        estimate_degradation(pixels, window(1.0))
