"""Attribute codes of pictures of people beside the embeddings that tell who they are: loaded, or drawn with a leak."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from models.anonymizer.assembly import load_attributes
from models.registry.store import ArtifactStore
from training.data.face_crops import load_crop_set, to_tensor
from training.data.face_embeddings import embed_crops
from training.runs.config import ConfigError

Matrix = NDArray[np.float64]

PLANTED = (2, 9)
"""Channels of the drawn codes that tell who it is."""


@dataclass(frozen=True, slots=True)
class CodedFaces:
    """Codes (n, c, h, w), unit embeddings (n, e) and person (n,) of pictures."""

    codes: Matrix
    embeddings: Matrix
    people: NDArray[np.int64]

    def components(self, held: NDArray[np.bool_], count: int) -> Matrix:
        """Leading principal components of the embeddings of those not held out, of unit variance on them.

        Args:
            held: Which pictures are held out (n,).
            count: p.

        Returns:
            Scores of all pictures (n, p), of mean zero on those not held out.
        """
        centered = self.embeddings - self.embeddings[~held].mean(0)
        axes = np.linalg.svd(centered[~held], full_matrices=False)[2][:count]
        scores = centered @ axes.T
        return np.asarray(scores / scores[~held].std(0))


def draw_faces(people: int, pictures: int, *, seed: int, channels: int = 10, side: int = 4) -> CodedFaces:
    """Draw people whose embeddings show in two channels of their codes and nowhere else.

    Args:
        people: Number of people.
        pictures: Of each.
        seed: Of the draws.
        channels: c.
        side: h and w.

    Returns:
        The faces.
    """
    rng = np.random.default_rng(seed)
    identity = np.repeat(rng.normal(size=(people, 6)), pictures, axis=0)
    n = len(identity)
    codes = rng.normal(size=(n, channels, side, side))
    for channel in PLANTED:
        codes[:, channel, :2] += (identity @ rng.normal(size=(6, 2 * side))).reshape(n, 2, side)
    embeddings = identity @ rng.normal(size=(6, 32)) + 0.8 * rng.normal(size=(n, 32))
    return CodedFaces(codes, _unit(embeddings), np.repeat(np.arange(people), pictures))


def load_faces(folder: Path, people: int, pictures: int, store: ArtifactStore) -> CodedFaces:
    """Mean codes and embeddings of the first people of a crop set who have several pictures.

    Args:
        folder: Crop set.
        people: At most so many.
        pictures: Of each at most.
        store: Store with encoder, oracles and their calibration.

    Returns:
        The faces.

    Raises:
        ConfigError: The crop set has too few people with two pictures.
    """
    crop_set = load_crop_set(folder)
    names, place, count = np.unique(crop_set.groups, return_inverse=True, return_counts=True)
    chosen = np.flatnonzero(count > 1)[:people]
    if len(chosen) < 8:
        raise ConfigError(f"need at least eight people with two pictures, got {len(chosen)} of {len(names)}")
    rows = np.concatenate([np.flatnonzero(place == person)[:pictures] for person in chosen])
    part = crop_set.where(np.isin(np.arange(len(crop_set)), rows))
    attributes = load_attributes(store).eval()
    with torch.inference_mode():
        starts = range(0, len(part), 32)
        codes = torch.cat([attributes(to_tensor(part.crops[start : start + 32]))[0] for start in starts])
    embeddings = embed_crops(part, store)
    together = np.concatenate([found.double().numpy() for found in embeddings.values()], axis=1)
    return CodedFaces(codes.double().numpy(), _unit(together), np.unique(part.groups, return_inverse=True)[1])


def _unit(rows: Matrix) -> Matrix:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))
