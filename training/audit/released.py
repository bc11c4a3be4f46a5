"""Photos through the service, as an audit sends them in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from models.anonymizer.pipeline import Anonymizer, PictureRequest
from models.anonymizer.policy import Policy
from models.pictures import encode_picture
from training.audit.photos import AuditedPhoto

Log = Callable[[Mapping[str, float]], None]


@dataclass(frozen=True, slots=True)
class Service:
    """An anonymizer and how it is asked.

    Attributes:
        anonymizer: What replaces faces.
        policy: What is asked for.
        batch: Photos per call.
        log: Told how many photos are done.
    """

    anonymizer: Anonymizer
    policy: Policy
    batch: int
    log: Log

    def release(self, photos: Sequence[AuditedPhoto], subjects: Sequence[bytes] | None = None) -> None:
        """Anonymize photos and set their `release`.

        Args:
            photos: Any number; the pictures go in without loss.
            subjects: Name of the subject of each photo, for the scope `pseudonym`.
        """
        names: Sequence[bytes | None] = subjects or [None] * len(photos)
        for start in range(0, len(photos), self.batch):
            part, named = photos[start : start + self.batch], names[start : start + self.batch]
            requests = [
                PictureRequest(encode_picture(photo.original, "png"), self.policy, scope_key=name)
                for photo, name in zip(part, named, strict=True)
            ]
            for photo, release in zip(part, self.anonymizer.anonymize(requests), strict=True):
                photo.release = release
            self.log({"anonymized": start + len(part)})
