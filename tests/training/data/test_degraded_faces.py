"""Degraded crops made from clean ones."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from training.data.degraded_faces import add_noise, compress, compression, degrade_face, noise_of_level, psnr


def crop() -> NDArray[np.uint8]:
    y, x = np.mgrid[:128, :128] / 128
    shade = 120 + 60 * np.sin(5 * x + y) * np.cos(4 * y)
    return np.stack([shade, 0.9 * shade, 0.8 * shade], axis=2).astype(np.uint8)


def test_without_damage_both_crops_are_equal_and_show_the_turned_original() -> None:
    face = degrade_face(crop(), lambda picture, _: picture, np.random.default_rng(0))
    assert np.array_equal(face.clean, face.damaged)
    assert face.before == face.after
    # a turn of 0.15 radians at most moves the middle by nothing
    assert np.abs(face.clean[60:68, 60:68].astype(float) - crop()[60:68, 60:68]).mean() < 8


@pytest.mark.parametrize("level", [3.5, 7.0, 14.0])
def test_noise_reaches_the_crop_with_the_level_that_was_asked_at_any_scale(level: float) -> None:
    rng = np.random.default_rng(1)
    luma = np.array([0.299, 0.587, 0.114])
    for _ in range(6):
        face = degrade_face(crop(), noise_of_level(level, rng), rng)
        deviation = ((face.damaged.astype(float) - face.clean) @ luma).std()
        assert deviation == pytest.approx(level, rel=0.08)
        assert face.after.noise == pytest.approx(level, rel=0.2)


def test_stronger_compression_is_farther_from_the_clean_crop_and_more_blocky() -> None:
    faces = [degrade_face(crop(), compression(quality), np.random.default_rng(2)) for quality in (80, 30, 10)]
    distances = [psnr(face.damaged, face.clean) for face in faces]
    assert distances == sorted(distances, reverse=True)
    assert [f.after.blockiness for f in faces] == sorted(f.after.blockiness for f in faces)
    assert faces[2].after.blockiness > 1.2 > faces[2].before.blockiness


def test_the_ratio_is_that_of_the_mean_squared_error() -> None:
    assert psnr(np.full((2, 2, 3), 10, np.uint8), np.full((2, 2, 3), 20, np.uint8)) == pytest.approx(
        20 * math.log10(25.5)
    )
    assert psnr(crop(), crop()) == math.inf


def test_damage_keeps_shape_type_and_colors() -> None:
    red = np.zeros((32, 32, 3), np.uint8) + np.array([200, 40, 40], np.uint8)
    for damaged in (compress(red, 50), add_noise(red, 5, np.random.default_rng(0))):
        assert damaged.shape == red.shape
        assert damaged.dtype == np.uint8
        assert damaged[..., 0].mean() > damaged[..., 2].mean() + 100
