"""Plots of an audit: similarity to the source, and ranks in a gallery. Numbers over people, no faces."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from training.audit.probes import Probes
from training.audit.statistics import places_of
from training.audit.views import Codebook
from training.runs.figures import Panel, Series

BINS = 50
"""Bins of the histograms over similarities from -1 to 1."""
MOST_RANKS = 100
"""Largest k shown."""


def similarity_panels(
    codebooks: Mapping[str, Codebook],
    similarities: Mapping[str, NDArray[np.float64]],
    probes: Probes,
    threshold: Callable[[str], float],
) -> list[Panel]:
    """Histograms of the similarity to the source (P5) for every recognizer, with its threshold.

    Args:
        codebooks: Embeddings of everything shown, by recognizer.
        similarities: Of each released face to its source, by recognizer, (n,).
        probes: The probes.
        threshold: Similarity from which two faces count as one person, by recognizer.

    Returns:
        A panel for each recognizer: released faces, covered faces, other clean photos of the people; none without
        probes.
    """
    if not len(probes):
        return []
    panels: list[Panel] = []
    for name, codes in codebooks.items():
        source = codes["source"][probes.places]
        shown = {
            "released (P5)": similarities[name],
            "face covered (A6)": (codes["mask"] * source).sum(1),
            "another clean photo": (codes["mate"][probes.places] * source).sum(1),
        }
        curves = [_histogram(label, np.asarray(values, dtype=np.float64)) for label, values in shown.items()]
        at = threshold(name)
        highest = max(max(curve.y) for curve in curves)
        curves.append(Series("threshold", [at, at], [0.0, highest], "dashed"))
        panels.append(Panel(curves, f"similarity to the source by {name}", "share of faces in the bin"))
    return panels


def rank_panels(codebooks: Mapping[str, Codebook], probes: Probes) -> list[Panel]:
    """Share of faces whose person is among the k best of the gallery, over k, for every recognizer.

    Args:
        codebooks: Embeddings of everything shown, by recognizer.
        probes: The probes.

    Returns:
        A panel for each recognizer: released, covered and clean faces against other photos of the people, released and
        covered ones against the sources, and chance; none without probes.
    """
    if not len(probes):
        return []
    ks = np.arange(1, min(MOST_RANKS, probes.gallery) + 1)
    panels: list[Panel] = []
    for name, codes in codebooks.items():
        clean = codes["source"][probes.places]
        ways = (
            ("released, another photo", codes["own"], "mate"),
            ("covered, another photo", codes["mask"], "mate"),
            ("clean, another photo", clean, "mate"),
            ("released, the very source", codes["own"], "source"),
            ("covered, the very source", codes["mask"], "source"),
        )
        curves = [Series(label, ks.tolist(), _found(shown, codes[key], probes, ks)) for label, shown, key in ways]
        curves.append(Series("chance", ks.tolist(), (ks / probes.gallery).tolist(), "dashed"))
        panels.append(
            Panel(curves, f"k, gallery of {probes.gallery}, {name}", "share found among the k best", log_x=True)
        )
    return panels


def _found(
    shown: NDArray[np.float32], gallery: NDArray[np.float32], probes: Probes, ks: NDArray[np.int64]
) -> list[float]:
    places = places_of(probes.scores(shown, gallery), probes.people)
    return [float(share) for share in (places[:, None] < ks).mean(axis=0)]


def _histogram(label: str, values: NDArray[np.float64]) -> Series:
    """Outline of a histogram: both ends of every bin with its share."""
    counts, edges = np.histogram(np.clip(values, -1.0, 1.0), BINS, (-1.0, 1.0))
    corners = np.repeat(edges, 2)[1:-1]
    return Series(label, corners.tolist(), np.repeat(counts / len(values), 2).tolist())
