"""Linking released faces with each other: two photos of one person (A1, P9), many releases of one photo (A7)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from training.audit.statistics import top_scored

Codes = NDArray[np.float32]


def equal_error_rate(genuine: NDArray[np.floating], impostor: NDArray[np.floating]) -> float:
    """Error at the threshold where false accepts and false rejects are equally frequent: .5 when nothing tells.

    Args:
        genuine: Similarities of pairs of one person, (n,).
        impostor: Similarities of pairs of two people, (m,).

    Returns:
        The rate, between the two errors where they cross; NaN for an empty sample.
    """
    if len(genuine) == 0 or len(impostor) == 0:
        return float("nan")
    levels = np.unique(np.concatenate([genuine, impostor]))
    rejects = np.searchsorted(np.sort(genuine), levels, side="left") / len(genuine)
    accepts = 1 - np.searchsorted(np.sort(impostor), levels, side="left") / len(impostor)
    nearest = int(np.abs(rejects - accepts).argmin())
    return float((rejects[nearest] + accepts[nearest]) / 2)


def linkage_error(first: Codes, second: Codes) -> float:
    """Equal error rate of linking row i of one set with row i of the other, both (n, d) unit embeddings."""
    similarity = first @ second.T
    same = np.eye(len(similarity), dtype=np.bool_)
    return equal_error_rate(similarity[same], similarity[~same])


def linkage_row(name: str, sides: Mapping[str, tuple[Codes, Codes]]) -> dict[str, object]:
    """One row of the table of linkage.

    Args:
        name: The recognizer.
        sides: What is compared to its embeddings of the first and of the second photo of n people, (n, d) each.

    Returns:
        The row.
    """
    people = {len(first) for first, _ in sides.values()}
    row: dict[str, object] = {"recognizer": name, "people": max(people)}
    return row | {f"EER, {label}": round(linkage_error(*codes), 3) for label, codes in sides.items()}


def differencing(
    releases: Codes, gallery: Codes, rows: NDArray[np.int64], draws: tuple[int, ...]
) -> dict[int, NDArray[np.bool_]]:
    """Rank-1 of an attacker who averages the embeddings of k fresh releases of one photo.

    Args:
        releases: Embeddings of fresh releases, (n, k_max, d).
        gallery: Clean photos, (m, d).
        rows: Gallery row of each person, (n,).
        draws: Values of k, each at most k_max.

    Returns:
        For each k whether each person was found, (n,).
    """
    return {k: top_scored(releases[:, :k].mean(1) @ gallery.T, rows) for k in draws}
