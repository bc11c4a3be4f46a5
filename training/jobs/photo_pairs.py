"""Two photos of each of some people: one is anonymized, the other is a photo that somebody else may hold."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np

from training.data.drawn_faces import draw_photos
from training.jobs.calibrate_oracles import Half, pick_photos

Pairs = list[tuple[Path, Path]]


def labeled_pairs(
    folder: Path, labels: Path | None, half: Half, rng: np.random.Generator, *, without: Collection[str] = ()
) -> Pairs:
    """Choose people of whom a folder has two photos.

    Args:
        folder: Folder of photos.
        labels: CSV with columns file,identity; None takes the file name without a trailing _NNNN.
        half: Which people.
        rng: Draws the photos of each person and the order of the people.
        without: Names of files that are passed over.

    Returns:
        Everybody, in random order.
    """
    found = pick_photos(folder, labels, half, None, rng, without=without)
    pairs = [(a, b) for a, b in zip(found.first, found.second, strict=True) if b is not None]
    return [pairs[index] for index in rng.permutation(len(pairs))]


def labeled_or_rendered(
    folder: Path | None, labels: Path | None, half: Half, people: int, seed: int, rng: np.random.Generator, into: Path
) -> Pairs:
    """Choose people of a folder, or draw some into another one where there is none.

    Args:
        folder: Folder of photos.
        labels: See `labeled_pairs`.
        half: Which people.
        people: How many are drawn; of a folder it is everybody.
        seed: Of those who are drawn.
        rng: Draws the photos of each person and the order of the people.
        into: Folder for drawn pictures.

    Returns:
        The pairs.
    """
    return rendered_pairs(into, people, seed) if folder is None else labeled_pairs(folder, labels, half, rng)


def rendered_pairs(folder: Path, people: int, seed: int) -> Pairs:
    """Draw two pictures of each of some people who do not exist into a folder; another seed is other people."""
    paths = draw_photos(folder, people, 2, seed)
    return list(zip(paths[::2], paths[1::2], strict=True))
