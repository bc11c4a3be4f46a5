"""The attacks of the audit, wired to a service under audit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from models.embedding import PictureEmbedder
from models.image_encoder import ImageEncoder
from training.audit.attribute_probe import attribute_codes
from training.audit.fidelity import Fidelity, kernel_distances
from training.audit.identification import recognized, trained
from training.audit.index_attack import index_attacks
from training.audit.keys import Keys, key_attacks
from training.audit.photos import AuditedPhoto
from training.audit.probes import Probes
from training.audit.regurgitation import training_set_similarity
from training.audit.remembering_detector import RememberingDetector
from training.audit.statistics import Estimate
from training.audit.tables import RECOGNIZERS, Table
from training.audit.views import Codes, drawn_back, embedded, shown_crops
from training.data.face_crops import CropSet
from training.jobs.audited_service import Audited


@dataclass(frozen=True, slots=True)
class Recognition:
    """What recognizers and trained attackers found.

    Attributes:
        estimates: By `measure.recognizer`.
        elsewhere: The same faces treated in other ways.
        similarities: Of each probe to its source, by recognizer, (n,).
        codes: Embeddings of everything shown, by recognizer.
    """

    estimates: dict[str, Estimate]
    elsewhere: Table
    similarities: dict[str, NDArray[np.float64]]
    codes: dict[str, dict[str, Codes]]


def recognition(
    audited: Audited,
    photos: Sequence[AuditedPhoto],
    probes: Probes,
    pupils: Sequence[AuditedPhoto],
    pupil_people: NDArray[np.int64],
    *,
    inversion_steps: int,
    seed: int,
    rng: np.random.Generator,
) -> Recognition:
    """Let stock recognizers and trained attackers look at the releases (A0, A2 to A6).

    Args:
        audited: The service.
        photos: All photos, in halves.
        probes: Those whose main face was replaced.
        pupils: Released photos of other people; empty for no trained attacker.
        pupil_people: Person of each, (p,).
        inversion_steps: Training steps of the inversion networks.
        seed: Of attribute noise and inversion networks.
        rng: Draws wrong pairs.

    Returns:
        What was found.
    """
    crops = shown_crops(photos, probes, pupils)
    recognizers = list(audited.assembly.ensemble.oracles.values())
    crops |= drawn_back(crops, recognizers, inversion_steps, seed)
    result = Recognition({}, [], {}, {})
    for name in RECOGNIZERS:
        result.codes[name] = codes = embedded(name, crops, probes, audited.embed)
        estimates, elsewhere, result.similarities[name] = recognized(name, codes, probes, audited.threshold(name))
        result.estimates.update(estimates)
        result.elsewhere.extend(elsewhere)
        audited.log({"audited_recognizers": len(result.codes)})
    if len(pupils):
        told = {"probes": (crops["source"][probes.places], seed), "pupils": (crops["pupil sources"], seed + 1)}

        def codes_told(whose: str) -> Codes:
            assembly = audited.assembly
            return attribute_codes(assembly.attributes, assembly.levels, audited.policy.level, *told[whose])

        result.estimates.update(trained(result.codes, codes_told, probes, pupil_people, rng))
    return result


def secrets(
    audited: Audited, photos: Sequence[AuditedPhoto], probes: Probes, people: int, seed: int
) -> tuple[dict[str, Estimate], Table]:
    """Let holders of the present and of older keys draw the releases of some people again (A8, P9).

    Args:
        audited: The service.
        photos: All photos, in halves.
        probes: Those whose main face was replaced.
        people: People whose photos show one face, at most; fewer than two leave it out.
        seed: Draws both sets of keys.

    Returns:
        Estimates and the table of pseudonyms.
    """
    if people < 2:
        return {}, []
    first = probes.places[probes.places < probes.gallery].tolist()
    chosen = [photos[place] for place in first if _show_one_face(photos, place, probes.gallery)][:people]
    if len(chosen) < 2:
        return {}, []
    rng = np.random.default_rng([seed, len(b"keys")])
    current, other = (Keys(rng.bytes(32), rng.bytes(32), int(rng.integers(2**31)), str(epoch)) for epoch in (2, 1))
    return key_attacks(chosen, current, other, audited.with_keys, audited.detector, audited.embed)


def searches(
    audited: Audited, photos: Sequence[AuditedPhoto], probes: Probes, pupils: Sequence[AuditedPhoto], people: int
) -> Table:
    """Search an index of some people's pictures, and one of their releases, with photos of them (A9).

    Args:
        audited: The service.
        photos: All photos, in halves.
        probes: Those whose main face was replaced.
        pupils: Released photos of other people, who serve as strangers where the probes are too few.
        people: People in the index, at most; 0 leaves it out.

    Returns:
        The table of the index attacks.
    """
    first = [photos[place] for place in probes.places[probes.places < probes.gallery]]
    members, strangers = first[:people], [*first[people:], *pupils][:people]
    if not members:
        return []
    indexed = {
        "originals": [photo.original for photo in members],
        "releases": [photo.pixels for photo in members if photo.pixels is not None],
    }
    queries = {
        "another photo": ([photo.mate_photo for photo in members], [photo.mate_photo for photo in strangers]),
        "the very photo": ([photo.original for photo in members], [photo.original for photo in strangers]),
    }
    with TemporaryDirectory() as folder:
        detector = RememberingDetector(audited.assembly.detector)
        return index_attacks(indexed, queries, PictureEmbedder.load(), detector, Path(folder) / "store")


def as_a_set(
    photos: Sequence[AuditedPhoto], probes: Probes, fidelity: Fidelity, limit: int, rng: np.random.Generator
) -> dict[str, Estimate]:
    """Kernel distance of the first photos' releases from the people's other photos (U7); nothing for a limit of 0.

    Args:
        photos: All photos, in halves.
        probes: Those whose main face was replaced.
        fidelity: Readings of all photos.
        limit: Released photos used, at most.
        rng: Draws halves.

    Returns:
        The distances.
    """
    if limit == 0:
        return {}
    return kernel_distances(photos[: probes.gallery], fidelity, ImageEncoder.load().embed, limit, rng)


def near_training_faces(audited: Audited, found: Recognition, probes: Probes, faces: CropSet | None) -> Table:
    """Compare releases with the faces that the generator learned from (P8); nothing without them.

    Args:
        audited: The service.
        found: What recognizers found.
        probes: The probes.
        faces: What the generator learned from and the part held out of it.

    Returns:
        The table.
    """
    if faces is None:
        return []
    learned, held_out = faces.split()
    codes = found.codes["faceres"]
    compared = {
        "released": codes["own"],
        "the same people as sent in": codes["source"][probes.places],
        "faces held out of training": audited.embed("faceres", held_out.crops),
    }
    return training_set_similarity(compared, audited.embed("faceres", learned.crops), audited.threshold("faceres"))


def _show_one_face(photos: Sequence[AuditedPhoto], place: int, gallery: int) -> bool:
    """Whether the service saw one face in a first photo, and in the second where that is under audit too."""
    both = photos[place::gallery]
    return all(photo.release is not None and len(photo.release.verdict.faces) == 1 for photo in both)
