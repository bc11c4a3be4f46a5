"""What a release keeps is read against the clean photo, and a face that is not there is no zero."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from models.faces.alignment import align_face, crop_template
from models.faces.boxes import Face
from models.pictures import encode_picture
from training.audit.faces import FoundFace
from training.audit.photos import AuditedPhoto
from training.audit.utility import MEASURES, Instruments, estimate, read_clean, read_utility

BOX = (20.0, 20.0, 108.0, 120.0)
LANDMARKS = crop_template()
EYE_DISTANCE = float(np.linalg.norm(LANDMARKS[1] - LANDMARKS[0]))


def face(shift: float = 0.0) -> Face:
    return Face(BOX, 0.9, LANDMARKS + np.array([shift, 0.0]), "drawn")


def photo(seed: int) -> AuditedPhoto:
    pixels = np.random.default_rng(seed).integers(60, 200, (128, 128, 3)).astype(np.uint8)
    source = FoundFace(face(), align_face(pixels, LANDMARKS).crop)
    return AuditedPhoto(pixels, source, pixels, source)


def release(pixels: np.ndarray, status: str = "anonymized") -> Any:
    verdict = SimpleNamespace(
        status=SimpleNamespace(value=status), faces=(SimpleNamespace(box=BOX, status=SimpleNamespace(value=status)),)
    )
    return SimpleNamespace(verdict=verdict, image_bytes=lambda: encode_picture(pixels, "png"))


def generic_points() -> torch.Tensor:
    """Sixty-eight landmarks of an open-eyed face."""
    points = torch.full((68, 2), 64.0)
    for first, x in ((36, 48.0), (42, 80.0)):
        points[first : first + 6] = torch.tensor(
            [[x - 7, 56], [x - 3, 52], [x + 3, 52], [x + 7, 56], [x + 3, 60], [x - 3, 60]]
        )
    points[30] = torch.tensor([64.0, 72.0])
    points[48], points[54] = torch.tensor([50.0, 94.0]), torch.tensor([78.0, 94.0])
    points[[61, 62, 63]] = torch.tensor([[60.0, 93.0], [64.0, 93.0], [68.0, 93.0]])
    points[[67, 66, 65]] = torch.tensor([[60.0, 94.0], [64.0, 94.0], [68.0, 94.0]])
    return points


class Detector:
    """Finds the one face, shifted where the top left pixel says so, and nothing in a black picture."""

    name = "drawn"

    def detect(self, pixels: np.ndarray) -> list[Face]:
        return [face(float(pixels[0, 0, 0] == 255) * 3.2)] if pixels.any() else []


def network(crops: torch.Tensor) -> torch.Tensor:
    """The generic landmarks; the mouth of a bright crop is open."""
    found = generic_points().repeat(len(crops), 1, 1)
    found[crops.mean((1, 2, 3)) > 0.5, 65:68, 1] += 10.0
    return found


def ages(crops: np.ndarray) -> np.ndarray:
    """Bright people are old."""
    years = np.where(crops.mean((1, 2, 3)) > 180, 70.0, 40.0)
    return np.stack([np.ones(len(crops)), years / 10], axis=1)


INSTRUMENTS = Instruments(Detector(), network, ages)  # type: ignore[arg-type]


def read(*outcomes: Any) -> dict[str, np.ndarray]:
    photos = [photo(number) for number in range(len(outcomes))]
    copies = [item.again() for item in photos]
    for copy, outcome in zip(copies, outcomes, strict=True):
        copy.release = outcome(copy.original)
    return read_utility(read_clean(photos, INSTRUMENTS), copies, INSTRUMENTS)


def test_a_photo_given_back_as_it_was_keeps_everything() -> None:
    values = read(release)
    assert set(values) == set(MEASURES)
    perfect = {name: 0.0 if direction < 0 else 1.0 for name, direction in MEASURES.items()}
    assert {name: float(value[0]) for name, value in values.items()} == pytest.approx(perfect, abs=1e-6)


def test_a_face_that_moves_brightens_and_opens_its_mouth_is_seen_to_do_so() -> None:
    def changed(pixels: np.ndarray) -> Any:
        other = np.maximum(pixels, 225)
        other[0, 0] = 255
        return release(other)

    values = {name: float(value[0]) for name, value in read(changed).items()}
    assert values["U2 landmark error"] == pytest.approx(3.2 / EYE_DISTANCE)
    assert (values["U5 mouth open agrees"], values["U5 eyes open agrees"]) == (0.0, 1.0)
    assert values["U5 expression agrees in all three"] == 0.0
    assert values["U6 age group agrees"] == 0.0
    assert values["sharpness over the clean face's"] < 0.2


def test_what_was_covered_withheld_or_lost_is_left_out_and_not_counted_as_kept() -> None:
    values = read(
        release,
        lambda pixels: release(pixels, "redacted"),
        lambda pixels: release(pixels, "withheld"),
        lambda pixels: release(np.zeros_like(pixels)),
    )
    assert values["main face replaced"].tolist() == [1.0, 0.0, 0.0, 1.0]
    assert values["U1 found again"][[0, 3]].tolist() == [1.0, 0.0]
    for name in MEASURES:
        if name != "main face replaced":
            assert np.isnan(values[name][1:3]).all()
    assert np.isnan(values["U2 landmark error"][3])
    assert np.isfinite(values["U5 mouth open agrees"][3])


def test_shares_have_intervals_even_where_every_photo_agrees() -> None:
    values, rng = np.array([1.0] * 20 + [np.nan]), np.random.default_rng(0)
    share = estimate("U1 found again", values, rng)
    assert (share.value, share.upper, share.count) == (1.0, 1.0, 20)
    assert share.lower == pytest.approx(1 / (1 + 3.8415 / 20), abs=1e-3)
    assert estimate("U3 pose error, rad", values, rng).lower == 1.0


def test_readings_of_no_photo_or_of_other_photos_are_refused() -> None:
    with pytest.raises(ValueError, match="no photo"):
        read_clean([], INSTRUMENTS)
    with pytest.raises(ValueError, match="expected 1 released photos, got 0"):
        read_utility(read_clean([photo(0)], INSTRUMENTS), [], INSTRUMENTS)
