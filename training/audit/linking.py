"""More releases of people under audit: of their other photo (A1), and of the same photo again (A7)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from models.faces.detection import FaceDetector
from training.audit.baselines import covered
from training.audit.linkage import differencing, linkage_row
from training.audit.photos import AuditedPhoto
from training.audit.probes import Probes
from training.audit.statistics import Estimate, rate
from training.audit.tables import RECOGNIZERS, Table
from training.audit.views import Codebook, Codes, Embed, stacked

Release = Callable[[list[AuditedPhoto]], None]
"""Anonymizes photos and sets their `release`."""


def linkage_table(
    photos: Sequence[AuditedPhoto],
    probes: Probes,
    codebooks: Mapping[str, Codebook],
    release: Release,
    detector: FaceDetector,
    embed: Embed,
    people: int,
) -> Table:
    """Equal error rate of linking the releases of two photos of one person, with the context alone beside it.

    Where both photos are under audit, everybody of whom both were replaced is linked at no cost; else the other photos
    of some people are released first.

    Args:
        photos: All photos, in halves.
        probes: Those whose main face was replaced.
        codebooks: Everything that was shown, by recognizer.
        release: Anonymizes.
        detector: Finds released faces again.
        embed: Embeds crops.
        people: People whose other photo is released; 0 leaves the table out.

    Returns:
        One row for each recognizer, none for fewer than two people.
    """
    if people == 0:
        return []
    first, second = probes.couples()
    if len(first) > 1:
        return [
            linkage_row(
                name,
                {
                    "released": (book["own"][first], book["own"][second]),
                    "context alone": (book["mask"][first], book["mask"][second]),
                    "clean": (book["source"][probes.places[first]], book["source"][probes.places[second]]),
                },
            )
            for name, book in codebooks.items()
        ]
    chosen = [photos[place] for place in probes.places[:people]]
    mates = [photo.mate_as_source() for photo in chosen]
    release(mates)
    for mate in mates:
        mate.read_release(detector)
    pairs = [(photo, mate) for photo, mate in zip(chosen, mates, strict=True) if mate.pixels is not None]
    if len(pairs) < 2:
        return []
    return [
        linkage_row(
            name,
            {
                "released": _both(name, embed, [(a.own_aligned(), b.own_aligned()) for a, b in pairs]),
                "context alone": _both(
                    name, embed, [(covered(a.source.crop), covered(b.source.crop)) for a, b in pairs]
                ),
                "clean": _both(name, embed, [(a.source.crop, b.source.crop) for a, b in pairs]),
            },
        )
        for name in RECOGNIZERS
    ]


def averaged_releases(
    photos: Sequence[AuditedPhoto],
    probes: Probes,
    gallery: Codes,
    release: Release,
    detector: FaceDetector,
    embed: Embed,
    people: int,
    draws: tuple[int, ...],
) -> dict[str, Estimate]:
    """Rank-1 of faceres with the source enrolled after averaging k fresh releases of the same photo (A7).

    Args:
        photos: All photos, in halves.
        probes: Those whose main face was replaced; the first photos of people are used.
        gallery: Embeddings of the sources by faceres, one for each photo.
        release: Anonymizes.
        detector: Finds released faces again.
        embed: Embeds crops.
        people: People whose photo is released many times.
        draws: Values of k.

    Returns:
        Estimates, none where no photo left the service every time.
    """
    crops = []
    kept: list[int] = []
    for place in probes.places[probes.places < probes.gallery][:people].tolist():
        copies = [photos[place].again() for _ in range(max(draws))]
        release(copies)
        for copy in copies:
            copy.read_release(detector)
        if all(copy.pixels is not None for copy in copies):
            crops += [copy.own_aligned() for copy in copies]
            kept.append(place)
    if not kept:
        return {}
    codes = embed("faceres", np.stack(crops)).reshape(len(kept), max(draws), -1)
    found = differencing(codes, gallery[: probes.gallery], np.array(kept, dtype=np.int64), draws)
    return {f"A7 rank-1 source, {k} releases.faceres": rate(hits) for k, hits in found.items()}


def _both(name: str, embed: Embed, pairs: list[tuple[np.ndarray, np.ndarray]]) -> tuple[Codes, Codes]:
    return embed(name, stacked([a for a, _ in pairs])), embed(name, stacked([b for _, b in pairs]))
