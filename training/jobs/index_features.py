"""Features of the search index for the projection job, and how well they find people."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.embedding import PictureEmbedder
from models.image_encoder import Box
from models.pictures import decode_picture
from training.audit.statistics import rank_k
from training.jobs.calibrate_oracles import identity_in_half, read_labels
from training.runs.config import ConfigError

Matrix = NDArray[np.float64]

NEAREST = 10
"""Rank up to which a search counts as a hit, beside rank 1."""

BLANKED = "faces blanked"
"""Features as the index holds them."""

KEPT = "faces kept"
"""Features of the same pictures with nothing blanked, as a careless index would hold them."""

_INSET = 12  # pixels cut off each side of a picture to make its crop


@dataclass(frozen=True, slots=True)
class Features:
    """Unit features (n, v, d) of n people: a photo, another photo, and for the test the first one cut at its sides."""

    fit: Matrix
    held: Matrix


def principal_basis(centered: Matrix, count: int) -> Matrix:
    """The leading principal directions (d, k) of centered features (n, v, d), k at most the count."""
    flat = centered.reshape(-1, centered.shape[-1])
    return np.asarray(np.linalg.svd(flat, full_matrices=False)[2][:count].T)


def within_whitener(fit: Matrix, projection: Matrix | None = None) -> Matrix:
    """Whiten by the differences between photos of one person, as an attacker can who knows both of some people.

    Args:
        fit: Features (n, 2, d) of such people.
        projection: What was applied to the features (d, d); None for nothing.

    Returns:
        The map (d, d), the inverse root of the differences' covariance and as much of its mean eigenvalue.
    """
    differences = (fit[:, 0] - fit[:, 1]) / 2**0.5
    if projection is not None:
        differences = differences @ projection
    _, scale, axes = np.linalg.svd(differences, full_matrices=False)
    values = scale**2 / len(fit)
    floor = values.sum() / fit.shape[-1]
    gains = 1 / np.sqrt(values + floor) - 1 / np.sqrt(floor)
    return np.asarray(np.eye(fit.shape[-1]) / np.sqrt(floor) + (axes.T * gains) @ axes)


def found_people(
    held: Matrix, center: Matrix, projection: Matrix, whitener: Matrix, known_mean: Matrix
) -> dict[str, NDArray[np.bool_]]:
    """Search by the index's cosine: other photos of a person, and the picture that a crop was cut from.

    Args:
        held: Features (n, 3, d): photo, another photo, crop of the first.
        center: Subtracted before (d,).
        projection: The map (d, d).
        whitener: What an attacker applies after it (d, d).
        known_mean: What that attacker subtracts (d,), whether the index does so or not.

    Returns:
        Whether each of the n people or pictures is found.
    """
    views = unit_rows((held - center) @ projection)
    attacked = unit_rows((held - known_mean) @ projection @ whitener)
    truth = np.arange(len(held))
    return {
        "identity rank-1": rank_k(views[:, 1], views[:, 0], truth),
        "identity top-10": rank_k(views[:, 1], views[:, 0], truth, k=NEAREST),
        "identity top-10, whitened": rank_k(attacked[:, 1], attacked[:, 0], truth, k=NEAREST),
        "crop recall@10": rank_k(views[:, 2], views[:, 0], truth, k=NEAREST),
    }


def discriminant_directions(fit: Matrix, center: Matrix, count: int) -> Matrix:
    """Orthonormal (d, count): where people differ most, measured by how much their own photos differ (LDA)."""
    whitener = within_whitener(fit)
    leading = np.linalg.svd(whitener @ (fit.mean(1) - center).T, full_matrices=False)[0][:, :count]
    return np.asarray(np.linalg.qr(whitener @ leading)[0])


def unit_rows(mapped: Matrix) -> NDArray[np.float32]:
    """Features (..., d) divided by their lengths; zeros stay zeros."""
    return (mapped / np.linalg.norm(mapped, axis=-1, keepdims=True).clip(1e-12)).astype(np.float32)


def embed_folder(
    folder: Path, boxes_file: Path, labels: Path | None, embedder: PictureEmbedder, *, max_people: int, seed: int
) -> dict[str, Features]:
    """Embed two photos of each person, and a crop for the test half, with the face blanked and once more with it.

    Args:
        folder: Photos.
        boxes_file: CSV of the face of each file: file, x1, y1, x2, y2; files without a face are passed over.
        labels: CSV with columns file,identity; None takes the file name without a trailing _NNNN.
        embedder: Embeds pictures.
        max_people: People of either half.
        seed: Draws people and photos.

    Returns:
        The features by what was done to faces.

    Raises:
        ConfigError: A column is missing, or there are too few people with two photos.
    """
    boxes = _read_boxes(boxes_file)
    by_person: dict[str, list[str]] = {}
    for file, person in read_labels(folder, labels).items():
        if file in boxes:
            by_person.setdefault(person, []).append(file)
    rng = np.random.default_rng(seed)
    halves: dict[str, list[Matrix]] = {BLANKED: [], KEPT: []}
    for half in ("calibration", "test"):
        names = sorted(p for p, files in by_person.items() if len(files) > 1 and identity_in_half(p, half))
        if len(names) < 20:
            raise ConfigError(f"need at least 20 people of the {half} half with two photos, got {len(names)}")
        chosen = rng.permutation(names)[:max_people].tolist()
        views: dict[str, list[Matrix]] = {BLANKED: [], KEPT: []}
        for name in chosen:
            two = [by_person[name][index] for index in rng.permutation(len(by_person[name]))[:2]]
            pictures = [(decode_picture((folder / file).read_bytes()), [boxes[file]]) for file in two]
            if half == "test":
                pictures.append(_crop(pictures[0][0], boxes[two[0]]))
            bare: list[tuple[NDArray[np.uint8], list[Box]]] = [(pixels, []) for pixels, _ in pictures]
            views[BLANKED].append(embedder.embed_pictures(pictures).astype(np.float64))
            views[KEPT].append(embedder.embed_pictures(bare).astype(np.float64))
        for faces, embedded in views.items():
            halves[faces].append(np.stack(embedded))
    return {faces: Features(*parts) for faces, parts in halves.items()}


def _read_boxes(path: Path) -> dict[str, Box]:
    boxes: dict[str, Box] = {}
    with path.open(newline="", encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            try:
                x0, y0, x1, y1 = (float(row[column]) for column in ("x1", "y1", "x2", "y2"))
            except ValueError:  # no face was found
                continue
            except KeyError as error:
                raise ConfigError(f"{path.name} has no column {error}") from None
            if x1 > x0 and y1 > y0:
                boxes[row["file"]] = (x0, y0, x1, y1)
    return boxes


def _crop(pixels: NDArray[np.uint8], box: Box) -> tuple[NDArray[np.uint8], list[Box]]:
    """Cut the sides off; the part of the face that is left stays boxed."""
    height, width = pixels.shape[0] - 2 * _INSET, pixels.shape[1] - 2 * _INSET
    x0, y0, x1, y1 = (value - _INSET for value in box)
    inside = (max(x0, 0.0), max(y0, 0.0), min(x1, width), min(y1, height))
    kept = [inside] if inside[0] < inside[2] and inside[1] < inside[3] else []
    return pixels[_INSET : _INSET + height, _INSET : _INSET + width].copy(), kept
