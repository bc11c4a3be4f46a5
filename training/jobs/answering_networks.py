"""Networks at hand that answer the questions of an audit (U10), wired to a service under audit."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.embedding import PictureEmbedder
from models.oracles.ensemble import AUDITOR_ORACLES
from training.audit.baselines import covered
from training.audit.offline_answers import answer_photos, choose_nearest
from training.audit.photos import AuditedPhoto
from training.audit.questions import QUESTIONS, Answered, Answers, identity_question, scene_question
from training.jobs.audited_service import Audited, instruments_of

NETWORKS = "networks at hand"


def answers_of_networks(audited: Audited, photos: list[AuditedPhoto]) -> tuple[list[Answered], dict[str, Answers]]:
    """Ask networks at hand what tells nobody who it is.

    Args:
        audited: The service.
        photos: Photos whose main face was replaced, n of them.

    Returns:
        One entry for each of `QUESTIONS`, and the answers on the originals by question, (n,).
    """
    instruments = instruments_of(audited.assembly, audited.store, audited.detector)
    crops = np.stack([photo.source.crop for photo in photos])
    original = answer_photos([photo.original for photo in photos], crops, instruments)
    shown = np.stack([photo.source_aligned() for photo in photos])
    released = answer_photos([photo.pixels for photo in photos if photo.pixels is not None], shown, instruments)
    found = [Answered(each, NETWORKS, original[each.name], released[each.name]) for each in QUESTIONS]
    return found, original


def identity_by_auditors(
    audited: Audited, photos: list[AuditedPhoto], line_ups: NDArray[np.int64], truth: Answers
) -> list[Answered]:
    """Ask recognizers that the gate does not ask who it is.

    Args:
        audited: The service.
        photos: Photos whose main face was replaced, n of them.
        line_ups: Photos whose mates stand in each line-up, (n, c).
        truth: Place of the person in each, (n,).

    Returns:
        One entry for each recognizer.
    """
    gallery = np.stack([photo.mate for photo in photos])
    shown = {
        "original": np.stack([photo.source.crop for photo in photos]),
        "released": np.stack([photo.own_aligned() for photo in photos]),
        "covered": np.stack([covered(photo.source.crop) for photo in photos]),
    }
    found = []
    for name in AUDITOR_ORACLES:
        people = audited.embed(name, gallery)
        chosen = {way: choose_nearest(audited.embed(name, crops), people, line_ups) for way, crops in shown.items()}
        question = identity_question(line_ups.shape[1])
        found.append(
            Answered(question, name, chosen["original"], chosen["released"], truth=truth, covered=chosen["covered"])
        )
    return found


def scene_by_features(
    audited: Audited, photos: list[AuditedPhoto], line_ups: NDArray[np.int64], truth: Answers
) -> Answered:
    """Ask the picture features of the index which photo of other people looks most alike, faces blanked.

    Args:
        audited: The service.
        photos: Photos whose main face was replaced, n of them.
        line_ups: Photos whose mates stand in each line-up, (n, c), at least three in each.
        truth: Place of the person in each, (n,), who is taken out.

    Returns:
        The answers.
    """
    embedder = PictureEmbedder.load()

    def features(pictures: list[NDArray[np.uint8]]) -> NDArray[np.float32]:
        boxes = [[face.box for face in audited.detector.detect(pixels)] for pixels in pictures]
        return embedder.embed_pictures(list(zip(pictures, boxes, strict=True)))

    others = np.stack([np.delete(row, place) for row, place in zip(line_ups, truth, strict=True)])
    gallery = features([photo.mate_photo for photo in photos])
    original = choose_nearest(features([photo.original for photo in photos]), gallery, others)
    released = choose_nearest(features([p.pixels for p in photos if p.pixels is not None]), gallery, others)
    return Answered(scene_question(others.shape[1]), "picture features", original, released)
