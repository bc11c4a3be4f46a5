"""Identity labels in doubt: labeled faces, seeded flips, pairs for a verification head to learn from, plain scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from models.oracles.thresholds import CalibrationError, calibrate
from training.problems.pair_cleaning import LabeledPairs

_FAR = 1e-3


@dataclass(frozen=True, slots=True)
class LabeledFaces:
    """Faces of photos: file names (n,), identities (n,) as labeled, and unit embeddings (n, dim) of every oracle."""

    files: NDArray[np.str_]
    people: NDArray[np.str_]
    embeddings: Mapping[str, NDArray[np.float32]]

    def take(self, rows: NDArray[np.int64]) -> LabeledFaces:
        """The faces of some rows."""
        embeddings = {name: array[rows] for name, array in self.embeddings.items()}
        return LabeledFaces(self.files[rows], self.people[rows], embeddings)

    def similarities(self) -> NDArray[np.float64]:
        """Cosines of all pairs, (oracles, n, n)."""
        arrays = [array.astype(np.float64) for array in self.embeddings.values()]
        return np.stack([array @ array.T for array in arrays])


@dataclass(frozen=True, slots=True)
class Scale:
    """What makes the oracles comparable: offset and spread (oracles,) of their similarities over verified pairs."""

    offset: NDArray[np.float64]
    spread: NDArray[np.float64]

    def apply(self, similarities: NDArray[np.float64]) -> NDArray[np.float64]:
        """Standardize similarities (oracles, ...)."""
        shape = (-1, *(1,) * (similarities.ndim - 1))
        return (similarities - self.offset.reshape(shape)) / self.spread.reshape(shape)


def draw_faces(people: int, photos: int, *, seed: int) -> LabeledFaces:
    """Draw embeddings of three made-up oracles: a direction per person, and noise per photo that they do not share.

    Args:
        people: Number of people.
        photos: Photos of each.
        seed: Of everything.

    Returns:
        The faces; cosines of one person are about 0.5, of two people 0 with a spread of about 0.12.
    """
    rng = np.random.default_rng(seed)
    embeddings = {}
    for name in ("first", "second", "third"):
        centers = np.repeat(rng.normal(size=(people, 64)), photos, axis=0)
        noisy = centers + rng.normal(size=centers.shape)
        embeddings[name] = (noisy / np.linalg.norm(noisy, axis=1, keepdims=True)).astype(np.float32)
    rows = [(f"{person:04d}", photo) for person in range(people) for photo in range(photos)]
    files = np.array([f"{person}_{photo:04d}.png" for person, photo in rows])
    return LabeledFaces(files, np.array([person for person, _ in rows]), embeddings)


def flip_labels(people: NDArray[np.str_], rate: float, rng: np.random.Generator) -> NDArray[np.str_]:
    """Give a share of the images the identity of somebody else among them.

    Args:
        people: Identities (n,).
        rate: Probability of a flip, in [0, 1).
        rng: Source of the flips.

    Returns:
        Identities (n,), those that were flipped different from before.
    """
    names = np.unique(people)
    position = np.searchsorted(names, people)
    shift = rng.integers(1, len(names), len(people))
    flipped = rng.random(len(people)) < rate
    return np.where(flipped, names[(position + shift) % len(names)], people)


def pair_up(people: NDArray[np.str_], similarity: NDArray[np.float64], neighbors: int) -> NDArray[np.int64]:
    """List all pairs of one label, and of every image the nearest ones of other labels: they tell, others are far.

    Args:
        people: Identities as labeled (n,).
        similarity: Of all pairs (n, n).
        neighbors: Nearest images of other labels per image.

    Returns:
        Pairs of images (p, 2), the smaller first, every pair once.
    """
    same = people[:, None] == people[None]
    genuine = np.argwhere(np.triu(same, 1))
    others = np.where(same, -np.inf, similarity)
    count = min(neighbors, len(people) - 1)
    nearest = np.argsort(-others, axis=1, kind="stable")[:, :count]
    near = np.stack([np.repeat(np.arange(len(people)), count), nearest.ravel()], axis=1)
    near = np.unique(np.sort(near[np.isfinite(others[near[:, 0], near[:, 1]])], axis=1), axis=0)
    return np.concatenate([genuine, near])


def labeled_pairs(
    people: NDArray[np.str_], similarities: NDArray[np.float64], scale: Scale, neighbors: int
) -> LabeledPairs:
    """Describe the pairs of `pair_up` by the standardized similarities of all oracles and a constant.

    Args:
        people: Identities as labeled (n,).
        similarities: (oracles, n, n).
        scale: Of the oracles.
        neighbors: Nearest images of other labels per image.

    Returns:
        The pairs.

    Raises:
        CalibrationError: No two images share a label, or all do.
    """
    standard = scale.apply(similarities)
    pairs = pair_up(people, standard.mean(axis=0), neighbors)
    same = people[pairs[:, 0]] == people[pairs[:, 1]]
    if same.all() or not same.any():
        raise CalibrationError("need images that share an identity, and images that do not")
    rows = standard[:, pairs[:, 0], pairs[:, 1]].T
    features = np.concatenate([rows, np.ones((len(rows), 1))], axis=1)
    labels = np.where(same, 1.0, -1.0)
    return LabeledPairs(torch.from_numpy(features), torch.from_numpy(labels), torch.from_numpy(pairs))


def measure_scale(faces: LabeledFaces) -> Scale:
    """Measure offset and spread of the oracles over verified faces, equal weight on pairs of one and of two people."""
    similarities = faces.similarities()
    same = faces.people[:, None] == faces.people[None]
    upper = np.triu(np.ones_like(same), 1)
    kinds = [similarities[:, mask & upper] for mask in (same, ~same)]
    if any(kind.shape[1] == 0 for kind in kinds):
        raise CalibrationError("verified faces need people with two photos, and two people")
    offset = np.mean([kind.mean(axis=1) for kind in kinds], axis=0)
    spread = np.sqrt(np.mean([((kind - offset[:, None]) ** 2).mean(axis=1) for kind in kinds], axis=0))
    return Scale(offset, spread)


def own_similarity(people: NDArray[np.str_], similarity: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean similarity (n,) to the other images of the label, a plain score; the mean of these where there is none."""
    same = people[:, None] == people[None]
    np.fill_diagonal(same, False)
    count = same.sum(axis=1)
    total = np.where(same, similarity, 0.0).sum(axis=1)
    score = total / np.maximum(count, 1)
    return np.where(count > 0, score, score[count > 0].mean())


def label_margin(people: NDArray[np.str_], similarity: NDArray[np.float64]) -> NDArray[np.float64]:
    """The better plain score: `own_similarity` minus that to the nearest image of another label, (n,)."""
    same = people[:, None] == people[None]
    return own_similarity(people, similarity) - np.where(same, -np.inf, similarity).max(axis=1)


def thresholds_of(
    faces: LabeledFaces, people: NDArray[np.str_], keep: NDArray[np.bool_], order: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Calibrate on the first photo, in a given order, of everybody, as `calibrate-oracles` does.

    Args:
        faces: The faces.
        people: Identities to believe (n,).
        keep: Images that may be used (n,).
        order: Permutation of the images (n,): which photo of a person comes first.

    Returns:
        Thresholds (oracles,) at a false-accept rate of 1e-3, and true-accept rates (oracles,) there.
    """
    photos: dict[str, list[int]] = {}
    for row in order[keep[order]]:
        photos.setdefault(str(people[row]), []).append(int(row))
    chosen = [photos[name] for name in sorted(photos)]
    first = [rows[0] for rows in chosen]
    left, right = ([rows[side] for rows in chosen if len(rows) > 1] for side in (0, 1))
    found = calibrate(
        {name: array[first] for name, array in faces.embeddings.items()},
        domain="labels in doubt",
        rng=np.random.default_rng(0),
        genuine={name: (array[left], array[right]) for name, array in faces.embeddings.items()},
        fars=(_FAR,),
    )
    names = list(faces.embeddings)
    thresholds = [found.get(name, _FAR).point_estimate for name in names]
    return np.array(thresholds), np.array([found.true_accept_rates[f"{name}@{_FAR:g}"] for name in names])
