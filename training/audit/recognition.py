"""What recognizers say of released faces: verification at thresholds, identification in a gallery, and tails."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.audit.probes import Probes
from training.audit.statistics import Estimate, rank_k

Codes = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Views:
    """Unit embeddings by one recognizer; galleries have one row for each of the m photos, the probes are some of them.

    Attributes:
        own: Released faces aligned by their own landmarks, (n, d).
        shared: Released faces aligned by the source's landmarks, (n, d).
        source: The very photos that were anonymized, (m, d).
        mate: Another photo of the person in each photo, (m, d).
        probes: Which photos the released faces are of, n of them.
    """

    own: Codes
    shared: Codes
    source: Codes
    mate: Codes
    probes: Probes


def privacy_measures(views: Views, threshold: float) -> dict[str, Estimate]:
    """Measures of protocol C2 for one recognizer.

    Args:
        views: Embeddings.
        threshold: Similarity from which two faces count as one person.

    Returns:
        P1 (self-match, the larger of both alignments), P2 (match with another photo), P3 (rank-1 and rank-5 against
        other photos and against the sources), P7 (somebody else of the gallery matches), and the same rank of clean
        photos as ceiling.
    """
    own, probes = views.own, views.probes
    clean, mate = views.source[probes.places], views.mate[probes.places]
    similarity = self_similarity(views)
    others = probes.scores(own, views.mate)
    others[np.arange(len(probes)), probes.people] = -1.0
    return {
        "P1": probes.rate(similarity >= threshold),
        "P2": probes.rate((own * mate).sum(1) >= threshold),
        "P3 rank-1 mate": probes.found(own, views.mate),
        "P3 rank-5 mate": probes.found(own, views.mate, k=5),
        "P3 rank-1 source": probes.found(own, views.source),
        "P7 collision": probes.rate(others.max(1) >= threshold),
        "clean rank-1 mate": probes.found(clean, views.mate),
        "clean P2": probes.rate((clean * mate).sum(1) >= threshold),
    }


def own_original_found(views: Views) -> Estimate:
    """P4: share of released faces whose nearest photo among all that were anonymized is their own original.

    Source: Kung et al., "Face Anonymization Made Simple" (WACV 2025), who search the test set with a FaceNet. Where
    both photos of a person are in the set, the person's other photo is a miss.
    """
    return views.probes.rate(rank_k(views.own, views.source, views.probes.places))


def self_similarity(views: Views) -> NDArray[np.float64]:
    """Similarity of each released face to its own source, the larger of both alignments, (n,)."""
    source = views.source[views.probes.places]
    return np.maximum((views.own * source).sum(1), (views.shared * source).sum(1)).astype(np.float64)


def similarity_tail(similarity: NDArray[np.float64]) -> dict[str, float]:
    """P5: mean, 95th and 99.9th percentile and maximum; empty for an empty sample."""
    if len(similarity) == 0:
        return {}
    return {
        "mean": float(similarity.mean()),
        "p95": float(np.quantile(similarity, 0.95)),
        "p99.9": float(np.quantile(similarity, 0.999)),
        "max": float(similarity.max()),
    }


def replaced_measures(treated: Codes, source: Codes, probes: Probes, threshold: float) -> dict[str, Estimate]:
    """P1 and rank-1 against the source for faces treated in another way (blur, pixels, mask).

    Args:
        treated: Embeddings of the treated faces, (n, d).
        source: Gallery of the sources, (m, d).
        probes: Which photos the treated faces are of.
        threshold: Similarity from which two faces count as one person.

    Returns:
        Both measures.
    """
    return {
        "P1": probes.rate((treated * source[probes.places]).sum(1) >= threshold),
        "P3 rank-1 source": probes.found(treated, source),
    }
