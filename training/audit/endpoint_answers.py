"""A vision endpoint asked about originals and releases with the same words (U10)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from training.audit.photos import AuditedPhoto
from training.audit.questions import QUESTIONS, UNANSWERED, Answered, Answers, Question, identity_question
from training.audit.vision_endpoint import OriginalsRefusedError, Shown, VisionEndpoint, VisionEndpointError

Log = Callable[[Mapping[str, float]], None]


class Interview:
    """Questions to an endpoint, until it fails; what is asked after that stays unanswered."""

    def __init__(self, endpoint: VisionEndpoint, log: Log) -> None:
        """Start asking.

        Args:
            endpoint: Who is asked.
            log: Told how many questions were asked.
        """
        self._endpoint = endpoint
        self._log = log
        self.asked = 0
        self.has_failed = False

    def answers(self, question: Question, shown: Sequence[Sequence[Shown]]) -> Answers:
        """Ask one question of several sets of pictures.

        Args:
            question: The question.
            shown: Pictures of each.

        Returns:
            Answers, (n,).

        Raises:
            OriginalsRefusedError: An original may not be sent.
        """
        found = np.full(len(shown), UNANSWERED, dtype=np.int64)
        for place, pictures in enumerate(shown):
            if self.has_failed:
                break
            try:
                found[place] = self._endpoint.ask(question, pictures)
                self.asked += 1
            except OriginalsRefusedError:
                raise
            except VisionEndpointError:
                self.has_failed = True
        self._log({"endpoint_answers": self.asked})
        return found


def endpoint_answers(
    interview: Interview,
    photos: Sequence[AuditedPhoto],
    offline: Mapping[str, Answers],
    *,
    sends_originals: bool,
) -> list[Answered]:
    """Ask every question of `QUESTIONS`.

    Args:
        interview: Asks.
        photos: Photos whose main face was replaced, n of them.
        offline: Answers of networks at hand on the originals, by question, (n,); they stand in for the endpoint's
            where originals are not sent.
        sends_originals: Whether the originals are sent.

    Returns:
        One entry for each question.
    """
    releases = [[Shown(photo.pixels, False)] for photo in photos if photo.pixels is not None]
    originals = [[Shown(photo.original, True)] for photo in photos]
    source = "endpoint" if sends_originals else "endpoint on the release, networks on the original"
    return [
        Answered(
            question,
            source,
            interview.answers(question, originals) if sends_originals else offline[question.name],
            interview.answers(question, releases),
        )
        for question in QUESTIONS
    ]


def endpoint_identity(
    interview: Interview, photos: Sequence[AuditedPhoto], line_ups: NDArray[np.int64], truth: Answers
) -> Answered:
    """Ask who it is: which photo of a line-up shows the person. The line-ups are originals.

    Args:
        interview: Asks.
        photos: Photos whose main face was replaced.
        line_ups: Photos whose mates stand in each line-up, (n, c); n of the photos are asked about.
        truth: Place of the person in each, (n,).

    Returns:
        The answers.
    """
    question = identity_question(line_ups.shape[1])
    stands = [[Shown(photos[other].mate_photo, True) for other in row] for row in line_ups]
    original = [[Shown(photo.original, True), *others] for photo, others in zip(photos, stands, strict=False)]
    released = [
        [Shown(photo.pixels, False), *others]
        for photo, others in zip(photos, stands, strict=False)
        if photo.pixels is not None
    ]
    on_originals, on_releases = interview.answers(question, original), interview.answers(question, released)
    return Answered(question, "endpoint", on_originals, on_releases, truth=truth)
