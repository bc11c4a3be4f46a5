"""Attackers who hold the keys of the installation, and those who hold the keys of another epoch (A8, P9).

Two secrets keep a release from being drawn again. The key of the attribute noise and a policy's seed fix a fresh
release of a picture; the key of the pseudonyms fixes the faces of all subjects of an epoch. The attacker runs the
service with what they know on photos of everybody in a gallery, and looks which of the drawn faces is the released one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.faces.alignment import align_face, face_mask
from models.faces.detection import FaceDetector
from training.audit.baselines import covered
from training.audit.linkage import linkage_error
from training.audit.photos import AuditedPhoto
from training.audit.released import Service
from training.audit.statistics import Estimate, rank_k, rate, top_scored
from training.audit.tables import RECOGNIZERS, Table, ranged
from training.audit.views import Crops, Embed

MIN_PEOPLE = 2


@dataclass(frozen=True, slots=True)
class Keys:
    """What an installation keeps secret.

    Attributes:
        attribute: Key of the attribute noise, 32 bytes.
        pseudonym: Key of the pseudonyms, 32 bytes.
        seed: Seed of the policy.
        epoch: Label of the epoch.
    """

    attribute: bytes
    pseudonym: bytes
    seed: int
    epoch: str

    def __repr__(self) -> str:
        """Show no secret."""
        return "Keys(***)"


OpenService = Callable[[Keys], tuple[Service, Service]]
"""Starts a service with keys, and gives it asked for fresh faces with the seed, and asked for pseudonyms."""


@dataclass(slots=True)
class _Drawn:
    """Releases of the photos of n people: of the first photo with a known seed, of both under pseudonyms."""

    seeded: list[AuditedPhoto]
    first: list[AuditedPhoto]
    second: list[AuditedPhoto]


def key_attacks(
    photos: Sequence[AuditedPhoto],
    current: Keys,
    other: Keys,
    open_service: OpenService,
    detector: FaceDetector,
    embed: Embed,
) -> tuple[dict[str, Estimate], Table]:
    """Let the service release photos, and attackers with the same and with other keys do the same.

    Args:
        photos: One photo of each of n people, with one face.
        current: The keys of the service.
        other: The keys of another epoch.
        open_service: Starts a service.
        detector: Finds released faces again.
        embed: Embeds crops.

    Returns:
        Estimates of the attack on seeded releases, and a table of the attacks on pseudonyms by recognizer; empty for
        fewer than two people who were replaced throughout.
    """
    served = _draw(photos, open_service, current, detector, has_first=True)
    known = _draw(photos, open_service, current, detector, has_first=False)
    old = _draw(photos, open_service, other, detector, has_first=False)
    seeded = [i for i in range(len(photos)) if all(_left(way.seeded[i]) for way in (served, known, old))]
    named = [
        i
        for i in range(len(photos))
        if all(_is_pseudonym(p[i]) for p in (served.first, served.second, known.second, old.second))
    ]
    estimates: dict[str, Estimate] = {}
    if len(seeded) >= MIN_PEOPLE:
        released = _pick(served.seeded, seeded)
        for name, way in (("known", known), ("old", old)):
            difference, exact = _differences(released, _pick(way.seeded, seeded))
            hits = top_scored(-difference, np.arange(len(seeded)))
            estimates[f"A8 rank-1 source, {name} key and seed.pixels"] = rate(hits)
            estimates[f"A8 same pixels, {name} key and seed.pixels"] = rate(exact)
    return estimates, _pseudonym_table(served, known, old, named, embed) if len(named) >= MIN_PEOPLE else []


def _draw(
    photos: Sequence[AuditedPhoto], open_service: OpenService, keys: Keys, detector: FaceDetector, *, has_first: bool
) -> _Drawn:
    """Seeded releases first: codes given out as pseudonyms are kept away from by later draws."""
    subjects = [f"subject {index}".encode() for index in range(len(photos))]
    drawn = _Drawn(
        [photo.again() for photo in photos],
        [photo.again() for photo in photos],
        [photo.mate_as_source() for photo in photos],
    )
    fresh, pseudonyms = open_service(keys)
    fresh.release(drawn.seeded)
    if has_first:
        pseudonyms.release(drawn.first, subjects)
    pseudonyms.release(drawn.second, subjects)
    for photo in (*drawn.seeded, *drawn.first, *drawn.second):
        photo.read_release(detector)
    return drawn


def _pseudonym_table(served: _Drawn, known: _Drawn, old: _Drawn, rows: list[int], embed: Embed) -> Table:
    """The faces of one epoch are one person's; who holds the key redraws them, who holds another key does not."""
    first = _pick(served.first, rows)
    truth = np.arange(len(rows))
    table: Table = []
    for name in RECOGNIZERS:
        released, again, redrawn, of_old = (
            embed(name, np.stack([photo.own_aligned() for photo in part]))
            for part in (first, _pick(served.second, rows), _pick(known.second, rows), _pick(old.second, rows))
        )
        context = embed(name, np.stack([covered(photo.source.crop) for photo in first]))
        others = embed(name, np.stack([covered(photo.mate) for photo in first]))
        table.append(
            {
                "recognizer": name,
                "people": len(rows),
                "EER, one epoch": round(linkage_error(released, again), 3),
                "EER, two epochs": round(linkage_error(released, of_old), 3),
                "EER, context alone": round(linkage_error(context, others), 3),
                "rank-1, known key": ranged(rate(rank_k(released, redrawn, truth))),
                "rank-1, old key": ranged(rate(rank_k(released, of_old, truth))),
                "rank-1, context alone": ranged(rate(rank_k(context, others, truth))),
                "chance": round(1 / len(rows), 3),
            }
        )
    return table


def _differences(
    released: list[AuditedPhoto], redrawn: list[AuditedPhoto]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Mean absolute difference of drawn faces inside the mask (n, n), and whether each is drawn again exactly (n,)."""
    inside = face_mask() >= 0.5
    ours, theirs = (
        np.stack([_face(photo)[inside] for photo in part]).astype(np.float64) for part in (released, redrawn)
    )
    difference = np.stack([np.abs(theirs - face).mean(axis=(1, 2)) for face in ours])
    return difference, np.diag(difference) == 0.0


def _face(photo: AuditedPhoto) -> Crops:
    if photo.pixels is None:
        raise ValueError("nothing was released")
    return align_face(photo.pixels, photo.source.landmarks).crop


def _left(photo: AuditedPhoto) -> bool:
    return photo.pixels is not None


def _is_pseudonym(photo: AuditedPhoto) -> bool:
    face = photo.main_face
    return photo.pixels is not None and face is not None and face.status.value == "pseudonymized"


def _pick(photos: list[AuditedPhoto], rows: list[int]) -> list[AuditedPhoto]:
    return [photos[row] for row in rows]
