"""Light is what changes over a head of one color, not its brightness and not its details."""

from __future__ import annotations

import numpy as np
import pytest

from training.audit.light import light_error, shading


def lit(right: float, brightness: float = 120.0, detail: float = 0.0) -> np.ndarray:
    """A ball in the place of the face: ambient light and a lamp from the side; details are a fine checkerboard."""
    rows, columns = np.indices((128, 128))
    x, y = (columns - 63.5) / 43.0, (rows - 76.0) / 50.0
    checks = detail * (1 - 2.0 * ((rows + columns) % 2))
    luma = brightness * (1 + right * np.clip(x, -1, 1) - 0.1 * np.clip(y, -1, 1)) + checks
    return np.repeat(luma.clip(0, 255).round().astype(np.uint8)[..., None], 3, axis=2)[None]


def test_a_lamp_that_moves_to_the_other_side_is_an_error_in_proportion() -> None:
    half, whole = light_error(lit(0.2), lit(0.0))[0], light_error(lit(0.2), lit(-0.2))[0]
    assert whole == pytest.approx(2 * half, rel=0.03)
    # the root mean square of the horizontal over the ellipse of radius 0.92 is 0.46
    assert half == pytest.approx(0.2 * 0.46, rel=0.05)


def test_neither_brightness_nor_detail_is_light() -> None:
    assert light_error(lit(0.2), lit(0.2, brightness=80.0))[0] < 0.005
    assert light_error(lit(0.2), lit(0.2, detail=20.0))[0] < 0.005


def test_the_shading_of_a_smooth_ball_is_the_ball() -> None:
    values = shading(lit(0.3))[0]
    assert values.mean() == pytest.approx(1.0, abs=0.01)
    assert np.ptp(values) == pytest.approx(2 * 0.92 * 0.3, rel=0.15)


def test_only_crops_of_one_shape_can_be_compared() -> None:
    with pytest.raises(ValueError, match="one shape"):
        light_error(lit(0.0), np.concatenate([lit(0.0)] * 2))
    with pytest.raises(ValueError, match="one shape"):
        light_error(lit(0.0)[:, :64], lit(0.0)[:, :64])
