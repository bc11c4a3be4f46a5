"""The offset of the iris comes back from eyes that were drawn with it."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from training.audit.gaze import read_gaze

WIDTH = 14.0  # px of an eye in the crop
CENTERS = np.array([[48.0, 56.0], [80.0, 56.0]])


def outline(tilt: float) -> np.ndarray:
    """Landmarks (68, 2) whose eyes lie in the crop, turned about its middle."""
    eye = np.array([[-7, 0], [-3, -3], [3, -3], [7, 0], [3, 3], [-3, 3]], dtype=np.float64)
    points = np.zeros((68, 2))
    points[36:42], points[42:48] = CENTERS[0] + eye, CENTERS[1] + eye
    turn = np.array([[np.cos(tilt), np.sin(tilt)], [-np.sin(tilt), np.cos(tilt)]])
    return (points - 64) @ turn + 64


def crop(offset: tuple[float, float], tilt: float = 0.0, skin: int = 140) -> np.ndarray:
    """White eyes with a dark iris that sits off the middle by a share of the eye's width."""
    points = outline(tilt)
    turn = np.array([[np.cos(tilt), np.sin(tilt)], [-np.sin(tilt), np.cos(tilt)]])
    picture = np.full((1024, 1024), skin, np.uint8)
    for eye, center in ((slice(36, 42), CENTERS[0]), (slice(42, 48), CENTERS[1])):
        cv2.fillPoly(picture, [(8 * points[eye] + 3.5).round().astype(np.int32)], 220)
        iris = (center + WIDTH * np.array(offset) - 64) @ turn + 64
        cv2.circle(picture, (8 * iris + 3.5).round().astype(int).tolist(), 14, 30, -1)
    small = cv2.resize(picture, (128, 128), interpolation=cv2.INTER_AREA)
    return np.repeat(small[..., None], 3, axis=2)


@pytest.mark.parametrize("offset", [(0.0, 0.0), (0.2, 0.0), (-0.15, 0.0), (0.1, 0.06)])
@pytest.mark.parametrize("tilt", [0.0, 0.25])
def test_the_iris_is_found_where_it_was_drawn_in_straight_and_tilted_faces(
    offset: tuple[float, float], tilt: float
) -> None:
    (read,) = read_gaze(outline(tilt)[None], crop(offset, tilt)[None])
    assert read == pytest.approx(offset, abs=0.03)


def test_the_brightness_of_skin_and_picture_does_not_matter() -> None:
    bright, dark = crop((0.1, 0.0), skin=200), (crop((0.1, 0.0), skin=60) * 0.6).astype(np.uint8)
    first, second = read_gaze(np.stack([outline(0.0)] * 2), np.stack([bright, dark]))
    assert first == pytest.approx(second, abs=0.02)


def test_a_shut_eye_and_one_gray_tell_nothing() -> None:
    shut = outline(0.0)
    shut[36:42, 1] = 56.0
    assert np.isnan(read_gaze(shut[None], crop((0.0, 0.0))[None])).all()
    assert np.isnan(read_gaze(outline(0.0)[None], np.full((1, 128, 128, 3), 90, np.uint8))).all()
    assert np.isnan(read_gaze(np.full((1, 68, 2), 50.0), crop((0.0, 0.0))[None])).all()


def test_every_crop_needs_landmarks() -> None:
    with pytest.raises(ValueError, match="landmarks of every crop"):
        read_gaze(outline(0.0)[None], np.zeros((2, 128, 128, 3), np.uint8))
