"""Everything that recognizers are shown in an audit, embedded once by each of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from models.faces.alignment import CROP_SIZE
from training.audit.baselines import BASELINES, covered
from training.audit.inversion import Embed as Recognizer
from training.audit.inversion import fit_inversion, reconstruct
from training.audit.photos import AuditedPhoto
from training.audit.probes import Probes

Crops = NDArray[np.uint8]
Codes = NDArray[np.float32]
Codebook = Mapping[str, Codes]
"""What was shown to its embeddings by one recognizer."""
Embed = Callable[[str, Crops], Codes]
"""Name of a recognizer and crops (n, 128, 128, 3) to unit embeddings (n, d)."""

DRAWN_BACK = {"A4": "drawn back", "A6 drawn": "drawn back from the context"}
"""What an inversion network is shown, the released face or the covered one, and the name of its drawings."""
_LEARNED_FROM = ("pupils", "pupil mates", "pupil sources", "pupil masks")


def shown_crops(photos: Sequence[AuditedPhoto], probes: Probes, pupils: Sequence[AuditedPhoto]) -> dict[str, Crops]:
    """Cut what recognizers are shown.

    Args:
        photos: All photos, in halves.
        probes: Those whose main face was replaced.
        pupils: Released photos of other people, from whom attackers learn.

    Returns:
        `source` and `mate` have one crop for each photo; `own` and `shared` (released, cut at their own landmarks and
        at the source's) and the treatments of `BASELINES` one for each probe; the four of the pupils one for each
        pupil.
    """
    released = [photos[place] for place in probes.places]
    return {
        "own": stacked([photo.own_aligned() for photo in released]),
        "shared": stacked([photo.source_aligned() for photo in released]),
        "source": stacked([photo.source.crop for photo in photos]),
        "mate": stacked([photo.mate for photo in photos]),
        "pupils": stacked([photo.own_aligned() for photo in pupils]),
        "pupil mates": stacked([photo.mate for photo in pupils]),
        "pupil sources": stacked([photo.source.crop for photo in pupils]),
        "pupil masks": stacked([covered(photo.source.crop) for photo in pupils]),
        **{name: stacked([change(photo.source.crop) for photo in released]) for name, change in BASELINES.items()},
    }


def drawn_back(
    crops: Mapping[str, Crops], recognizers: Sequence[Recognizer], steps: int, seed: int
) -> dict[str, Crops]:
    """Let inversion networks that learned from the pupils draw the probes' originals (A4, A6).

    Args:
        crops: What `shown_crops` cut.
        recognizers: Those in the attacker's loss.
        steps: Training steps; 0 draws nothing.
        seed: Of the training.

    Returns:
        Drawings of the probes by the values of `DRAWN_BACK`, empty where there is nothing to learn from.
    """
    if steps == 0 or not len(crops["pupils"]) or not len(crops["own"]):
        return {name: stacked([]) for name in DRAWN_BACK.values()}
    shown = {"A4": ("pupils", "own"), "A6 drawn": ("pupil masks", "mask")}
    return {
        DRAWN_BACK[measure]: reconstruct(
            fit_inversion(crops[theirs], crops["pupil sources"], recognizers, steps=steps, seed=seed), crops[ours]
        )
        for measure, (theirs, ours) in shown.items()
    }


def embedded(name: str, crops: Mapping[str, Crops], probes: Probes, embed: Embed) -> dict[str, Codes]:
    """Embed everything by one recognizer.

    Args:
        name: The recognizer.
        crops: What it is shown.
        probes: The probes; where the photos are in two halves, the mates are the photos of the other half.
        embed: Embeds.

    Returns:
        Embeddings by the same names.
    """
    codes = {key: embed(name, value) for key, value in crops.items() if key != "mate"}
    if len(crops["source"]) == 2 * probes.gallery:
        codes["mate"] = np.roll(codes["source"], probes.gallery, axis=0)
    else:
        codes["mate"] = embed(name, crops["mate"])
    return codes


def joined(codebooks: Mapping[str, Codebook]) -> tuple[dict[str, Codes], list[int]]:
    """Join the recognizers' embeddings side by side, for attackers who look with all of them.

    Args:
        codebooks: Embeddings by recognizer.

    Returns:
        Joined embeddings of what trained attackers look at, and the column at which each recognizer's begins, and the
        end.
    """
    keys = ("own", "source", "mate", "mask", *_LEARNED_FROM)
    books = list(codebooks.values())
    splits = np.cumsum([0, *(book["source"].shape[1] for book in books)]).tolist()
    return {key: np.concatenate([book[key] for book in books], axis=1) for key in keys}, splits


def stacked(crops: Sequence[Crops]) -> Crops:
    """Stack crops, of which there may be none."""
    return np.stack(crops) if len(crops) else np.zeros((0, CROP_SIZE, CROP_SIZE, 3), dtype=np.uint8)
