"""Readings of releases stand beside what the autoencoder alone does to the same readings."""

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
from training.audit.fidelity import kernel_distances, read_fidelity
from training.audit.photos import AuditedPhoto, both_photos
from training.audit.probes import Probes
from training.audit.utility import Instruments

BOX = (20.0, 20.0, 108.0, 120.0)
LANDMARKS = crop_template()


class Detector:
    """Finds the one face."""

    name = "drawn"

    def detect(self, pixels: np.ndarray) -> list[Face]:
        return [Face(BOX, 0.9, LANDMARKS, "drawn")]


def photo(seed: int) -> AuditedPhoto:
    pixels = np.random.default_rng(seed).integers(60, 200, (128, 128, 3)).astype(np.uint8)
    source = FoundFace(Detector().detect(pixels)[0], align_face(pixels, LANDMARKS).crop)
    return AuditedPhoto(pixels, source, pixels, source)


def release(pixels: np.ndarray) -> Any:
    status = SimpleNamespace(value="anonymized")
    verdict = SimpleNamespace(status=status, faces=(SimpleNamespace(box=BOX, status=status, attempts=3),))
    return SimpleNamespace(verdict=verdict, image_bytes=lambda: encode_picture(pixels, "png"))


def ages(crops: np.ndarray) -> np.ndarray:
    return np.tile([1.0, 4.0], (len(crops), 1))


def network(crops: torch.Tensor) -> torch.Tensor:
    """Landmarks of a face with open eyes and a shut mouth."""
    points = torch.full((68, 2), 64.0)
    for first, x in ((36, 48.0), (42, 80.0)):
        points[first : first + 6] = torch.tensor(
            [[x - 7, 56], [x - 3, 52], [x + 3, 52], [x + 7, 56], [x + 3, 60], [x - 3, 60]]
        )
    points[30] = torch.tensor([64.0, 72.0])
    points[48], points[54] = torch.tensor([50.0, 94.0]), torch.tensor([78.0, 94.0])
    points[61:64] = torch.tensor([[60.0, 93.0], [64.0, 93.0], [68.0, 93.0]])
    points[[67, 66, 65]] = torch.tensor([[60.0, 94.0], [64.0, 94.0], [68.0, 94.0]])
    return points.repeat(len(crops), 1, 1)


class Autoencoder:
    """Passes crops on, darker."""

    def __init__(self, gain: float = 1.0) -> None:
        self.gain = gain

    def encode(self, crops: torch.Tensor) -> torch.Tensor:
        return crops

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return (latents + 1) * self.gain - 1


def lopsided(crops: torch.Tensor) -> torch.Tensor:
    """The mouth of a crop with a brighter left side is open."""
    found = network(crops)
    found[crops[..., :64].mean((1, 2, 3)) > crops[..., 64:].mean((1, 2, 3)), 65:68, 1] += 10.0
    return found


def released(count: int) -> list[AuditedPhoto]:
    photos = [photo(number) for number in range(count)]
    for item in photos:
        item.release = release(item.original)
    return photos


def read(photos: list[AuditedPhoto], landmarks: Any = network, gain: float = 1.0) -> Any:
    return read_fidelity(photos, Instruments(Detector(), landmarks, ages), Autoencoder(gain))  # type: ignore[arg-type]


def test_a_photo_given_back_meets_the_floor_of_an_autoencoder_that_changes_nothing(rng: np.random.Generator) -> None:
    photos = released(3)
    found = read(photos).estimates(Probes(np.arange(3), 3), rng)
    for name in ("U2 landmark error", "U3 pose error, rad", "U6 light error"):
        assert found[name].value == pytest.approx(0.0, abs=1e-6)
        assert found[f"{name}, autoencoder only"].value == pytest.approx(0.0, abs=0.02)
    for name in ("U5 expression agrees in all three", "U6 age group agrees", "U9 gradient at the seam, ratio"):
        assert found[name].value == pytest.approx(1.0)
    assert found["U9 gradient at the seam, ratio, autoencoder only"].value == pytest.approx(1.0, abs=0.1)
    assert found["identities tried"].value == 3.0
    assert all(item.measures["outside_equal"] == 1.0 for item in photos)


def test_the_floor_is_read_with_the_autoencoder_and_not_with_the_release(rng: np.random.Generator) -> None:
    found = read(released(3), gain=0.3).estimates(Probes(np.arange(3), 3), rng)
    assert found["sharpness over the source's"].value == pytest.approx(1.0)
    assert found["sharpness over the source's, autoencoder only"].value < 0.7


def test_a_reading_that_a_mirror_changes_is_the_instruments(rng: np.random.Generator) -> None:
    found = read(released(3), lopsided).estimates(Probes(np.arange(3), 3), rng)
    assert found["U5 mouth open agrees"].value == 1.0
    assert found["U5 mouth open agrees, mirrored"].value == 0.0
    assert found["U5 eyes open agrees, mirrored"].value == 1.0


def test_a_pixel_changed_far_from_every_face_is_seen() -> None:
    photos = [photo(0)]
    # a large photo whose face keeps the upper left corner
    wide = np.zeros((400, 400, 3), np.uint8)
    wide[:128, :128] = photos[0].original
    photos[0].original = wide
    spotted = wide.copy()
    spotted[-1, -1] = 255
    photos[0].release = release(spotted)
    read(photos)
    assert photos[0].measures["outside_equal"] == 0.0


def test_the_kernel_distance_of_unchanged_photos_is_that_of_the_photos(rng: np.random.Generator) -> None:
    photos = released(6)

    def embed(crop: np.ndarray) -> np.ndarray:
        row = crop[::16, ::16].reshape(-1).astype(np.float32)
        return row / np.linalg.norm(row)

    found = kernel_distances(photos, read(photos), embed, 5, rng)
    assert set(found) == {f"U7 kernel distance, {name}" for name in ("released", "autoencoder only", "as sent in")}
    assert found["U7 kernel distance, released"].value == found["U7 kernel distance, as sent in"].value
    assert found["U7 kernel distance, released"].count == 5


def test_both_photos_of_everybody_stand_in_halves() -> None:
    photos = [photo(0), photo(1)]
    twice = both_photos(photos, 2)
    assert both_photos(photos, 1) is photos
    assert [item.original is other.mate_photo for item, other in zip(twice[2:], photos, strict=True)] == [True, True]
    assert [item.mate_photo is other.original for item, other in zip(twice[2:], photos, strict=True)] == [True, True]
