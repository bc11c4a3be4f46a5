"""A seam is an edge at the border of the mask that the source does not have."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from models.faces.alignment import face_mask
from training.audit.seam import border_ring, seam_ratio


def smooth(rng: np.random.Generator, count: int = 2) -> np.ndarray:
    noise = rng.integers(60, 196, (count, 128, 128, 3)).astype(np.uint8)
    return np.stack([cv2.GaussianBlur(crop, (0, 0), 4) for crop in noise])


def test_the_ring_is_four_pixels_wide_and_on_the_border() -> None:
    ring, mask = border_ring(), face_mask()
    assert ring[64].sum() == pytest.approx(2 * 4, abs=2)
    assert mask[ring].min() > 0.05
    assert mask[ring].max() < 0.95


def test_a_photo_has_no_seam_against_itself_and_a_pasted_patch_has(rng: np.random.Generator) -> None:
    crops = smooth(rng)
    assert seam_ratio(crops, crops) == pytest.approx(1.0)
    hard = np.where(face_mask()[..., None] >= 0.5, np.minimum(crops, 215) + 40, crops).astype(np.uint8)
    soft = np.clip(crops + 40.0 * face_mask()[..., None], 0, 255).astype(np.uint8)
    assert (seam_ratio(crops, hard) > seam_ratio(crops, soft)).all()
    assert (seam_ratio(crops, soft) > 1.2).all()


def test_changes_away_from_the_border_are_no_seam(rng: np.random.Generator) -> None:
    crops = smooth(rng)
    other = crops.copy()
    other[:, 50:70, 50:70] = 255 - other[:, 50:70, 50:70]
    assert seam_ratio(crops, other) == pytest.approx(1.0)


def test_a_blank_source_has_no_ratio_and_other_shapes_are_refused(rng: np.random.Generator) -> None:
    assert np.isnan(seam_ratio(np.zeros((1, 128, 128, 3), np.uint8), smooth(rng, 1))).all()
    with pytest.raises(ValueError, match="crops of one shape"):
        seam_ratio(smooth(rng, 1), smooth(rng, 2))
