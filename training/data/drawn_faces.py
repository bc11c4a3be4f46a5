"""Crop sets and photos drawn on the spot, for runs that have no data: smoke presets and tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from models.faces.alignment import CROP_SIZE
from models.pictures import encode_picture
from training.data.face_crops import CropSet
from training.data.rendered_heads.sampling import SamplingOptions, sample_faces


def drawn_crop_set(identities: int, per_identity: int, seed: int, size: int = CROP_SIZE) -> CropSet:
    """Render a few people who do not exist.

    Args:
        identities: Number of people.
        per_identity: Photos of each.
        seed: Decides everything.
        size: Side of the crops, pixels.

    Returns:
        Aligned crops, grouped by person.
    """
    samples = list(sample_faces(identities, per_identity, seed, SamplingOptions(size=size, supersampling=1)))
    crops = np.stack([sample.face.pixels for sample in samples])
    return CropSet(crops, np.array([f"drawn/{seed}-{sample.identity}" for sample in samples], dtype=np.str_))


def draw_photos(folder: Path, identities: int, per_identity: int, seed: int) -> list[Path]:
    """Render photos of a few people who do not exist, 224 pixels a side, into a folder.

    Args:
        folder: Made where it is missing.
        identities: Number of people.
        per_identity: Photos of each.
        seed: Decides everything.

    Returns:
        The PNG files, person by person.
    """
    folder.mkdir(exist_ok=True)
    paths: list[Path] = []
    for sample in sample_faces(identities, per_identity, seed, SamplingOptions(size=224, supersampling=1)):
        paths.append(folder / f"{len(paths):05d}.png")
        paths[-1].write_bytes(encode_picture(sample.face.pixels, "png"))
    return paths
