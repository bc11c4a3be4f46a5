"""The verdict on a picture and the release that carries it.

A `Verdict` is sealed: it carries an HMAC over all its fields under a key drawn once per process and known to this
module only. The one function that seals, `_issue`, is used by `models.anonymizer.gate`; a verdict built or altered
anywhere else fails its own check. A `Release` hands bytes out only while verdict, seal and bytes agree.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import json
import math
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any, NoReturn

from models.anonymizer.errors import VerdictForgedError


class Status(StrEnum):
    """Outcome for a face or a picture, from harmless to refused."""

    NO_FACE = "no_face"
    ANONYMIZED = "anonymized"
    PSEUDONYMIZED = "pseudonymized"
    REDACTED = "redacted"
    WITHHELD = "withheld"


class Reason(StrEnum):
    """Closed list of machine-readable reasons for a redaction or a refusal."""

    # the picture
    UNDECODABLE = "undecodable"
    PICTURE_TOO_LARGE = "picture_too_large"
    TOO_MANY_FACES = "too_many_faces"
    DEADLINE = "deadline"
    OUT_OF_MEMORY = "out_of_memory"
    DETECTOR_FAILED = "detector_failed"
    COMPOSITING_FAILED = "compositing_failed"
    ENCODING_FAILED = "encoding_failed"
    LEFTOVER_FACE = "leftover_face"
    OUTSIDE_CHANGED = "outside_changed"
    METADATA_PRESENT = "metadata_present"
    BYTES_CHANGED = "bytes_changed"
    MISCONFIGURED = "misconfigured"
    INTERNAL_ERROR = "internal_error"
    # one face
    REQUESTED = "requested"
    NO_LANDMARKS = "no_landmarks"
    NOT_ALIGNABLE = "not_alignable"
    FACE_TOO_SMALL = "face_too_small"
    ORACLE_FAILED = "oracle_failed"
    ENCODER_FAILED = "encoder_failed"
    SAMPLER_EXHAUSTED = "sampler_exhausted"
    SAMPLER_FAILED = "sampler_failed"
    GENERATOR_FAILED = "generator_failed"
    NOT_FINITE = "not_finite"
    SIMILARITY_EXCEEDED = "similarity_exceeded"
    SOURCE_VISIBLE = "source_visible"
    FACE_NOT_FOUND = "face_not_found"
    LANDMARKS_MOVED = "landmarks_moved"
    NOT_REALISTIC = "not_realistic"
    REDACTION_NOT_SOLID = "redaction_not_solid"


@dataclass(frozen=True, slots=True)
class FaceVerdict:
    """What was done to one face and what the gate measured on the released bytes.

    Attributes:
        box: x0, y0, x1, y1 in pixels of the released picture.
        status: `anonymized`, `pseudonymized`, `redacted` or `withheld`.
        reason: why the face is not a synthetic one, or None.
        det_score: detector score of the source face, in [0, 1].
        attempts: identity candidates drawn for it.
        steps: denoising steps of the generator, 0 when it was not used.
        max_oracle_similarity: largest cosine similarity of source and released face over oracles and views, rounded
            to 0.05; None when not measured.
        threshold: privacy threshold of the oracle with the smallest margin.
        margins: oracle name -> threshold minus similarity, rounded to 0.05.
        passed: the gate's checks for this treatment hold.
        leaked_bits: what rejection may have told about the source (harmonic meter), in bits.
        landmark_deviation: mean distance of the landmarks found again from those of the source, in eye distances,
            rounded to 0.01; None when not measured.
        match_probability: oracle name -> probability, at equal priors, that source and released face show one person,
            rounded to 0.05 and read off the rounded margin, so that it adds nothing to what the margins tell; for
            information, no decision rests on it. None when not measured, or without match calibrators.
    """

    box: tuple[float, float, float, float]
    status: Status
    reason: Reason | None = None
    det_score: float = 0.0
    attempts: int = 0
    steps: int = 0
    max_oracle_similarity: float | None = None
    threshold: float | None = None
    margins: Mapping[str, float] = field(default_factory=dict)
    passed: bool = False
    leaked_bits: float = 0.0
    landmark_deviation: float | None = None
    match_probability: Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        """Freeze margins and probabilities, and refuse numbers that are not finite.

        Raises:
            ValueError: if a number is not finite or the status is not one of a face.
        """
        object.__setattr__(self, "margins", MappingProxyType(dict(self.margins)))
        if self.match_probability is not None:
            object.__setattr__(self, "match_probability", MappingProxyType(dict(self.match_probability)))
        if self.status is Status.NO_FACE:
            raise ValueError("a face verdict cannot be no_face")
        numbers = [*self.box, self.det_score, self.leaked_bits, *self.margins.values()]
        numbers += (self.match_probability or {}).values()
        numbers += [
            value
            for value in (self.max_oracle_similarity, self.threshold, self.landmark_deviation)
            if value is not None
        ]
        if not all(math.isfinite(value) for value in numbers):
            raise ValueError("a face verdict holds finite numbers only")

    def as_dict(self) -> dict[str, Any]:
        """List the fields as JSON types."""
        return {
            "box": [round(float(value), 2) for value in self.box],
            "status": self.status.value,
            "reason": None if self.reason is None else self.reason.value,
            "det_score": round(float(self.det_score), 4),
            "attempts": self.attempts,
            "steps": self.steps,
            "max_oracle_similarity": self.max_oracle_similarity,
            "threshold": self.threshold,
            "margins": {name: float(value) for name, value in sorted(self.margins.items())},
            "passed": self.passed,
            "leaked_bits": round(float(self.leaked_bits), 6),
            "landmark_deviation": self.landmark_deviation,
            "match_probability": None
            if self.match_probability is None
            else dict(sorted(self.match_probability.items())),
        }


@dataclass(frozen=True, slots=True)
class Verdict:
    """Sealed outcome for one picture; only the gate can make one.

    Attributes:
        status: outcome of the picture: its worst face, `no_face`, or `withheld`.
        reason: why it is withheld or holds a redacted face, or None.
        faces: one verdict for each face.
        digest: sha256 of the verified bytes in hexadecimal, None when withheld.
        seal: HMAC-SHA256 over all of the above.
    """

    status: Status
    reason: Reason | None
    faces: tuple[FaceVerdict, ...]
    digest: str | None
    seal: bytes

    def __post_init__(self) -> None:
        """Check the seal and that the parts agree.

        Raises:
            VerdictForgedError: if the seal is not the gate's, or the status contradicts faces or digest.
        """
        self._check()

    def __repr__(self) -> str:
        """Show the outcome, not the seal."""
        return f"Verdict(status={self.status.value!r}, reason={self.reason!s}, faces={len(self.faces)})"

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        """Refuse to be pickled or copied: the seal means nothing in another process.

        Args:
            protocol: pickle protocol, unused.

        Raises:
            TypeError: always.
        """
        raise TypeError("a Verdict cannot be pickled or copied")

    @property
    def is_releasable(self) -> bool:
        """Whether bytes may leave with this verdict."""
        return self.status is not Status.WITHHELD

    def verify(self, data: bytes) -> None:
        """Check that seal, fields and bytes belong together.

        Args:
            data: the bytes about to be sent.

        Raises:
            VerdictForgedError: if the verdict is not the gate's, withholds the picture, or was given on other bytes.
        """
        self._check()
        if self.digest is None:
            raise VerdictForgedError("the verdict withholds the picture: no bytes belong to it")
        if not hmac.compare_digest(_digest(data), self.digest):
            raise VerdictForgedError("the bytes are not those the gate verified")

    def _check(self) -> None:
        message = _message(self.status, self.reason, self.faces, self.digest)
        if not isinstance(self.seal, bytes) or not hmac.compare_digest(_seal(message), self.seal):
            raise VerdictForgedError("only models.anonymizer.gate can make a verdict")
        complaint = _contradiction(self.status, self.faces, self.digest)
        if complaint is not None:
            raise VerdictForgedError(complaint)


class Release:
    """What leaves the anonymizer for one picture: a verdict and, unless withheld, the bytes it was given on."""

    __slots__ = ("_data", "_provenance", "height", "media_type", "timings_s", "verdict", "width")

    def __init__(
        self,
        verdict: Verdict,
        data: bytes | None,
        *,
        media_type: str,
        width: int = 0,
        height: int = 0,
        timings_s: Mapping[str, float] | None = None,
        provenance: Mapping[str, Any] | None = None,
    ) -> None:
        """Bind bytes to their verdict.

        Args:
            verdict: the gate's verdict.
            data: encoded picture the gate verified; must be None when the verdict withholds the picture.
            media_type: for instance `image/jpeg`.
            width: pixels.
            height: pixels.
            timings_s: stage name -> seconds.
            provenance: the record of models.anonymizer.provenance.

        Raises:
            VerdictForgedError: if the verdict was not given on these bytes.
        """
        if data is not None:
            verdict.verify(data)
        elif verdict.is_releasable:
            raise VerdictForgedError("a verdict that releases a picture needs its bytes")
        self.verdict = verdict
        self.media_type = media_type
        self.width = width
        self.height = height
        self.timings_s: Mapping[str, float] = MappingProxyType(dict(timings_s or {}))
        self._provenance = dict(provenance or {})
        self._data = data

    @property
    def status(self) -> Status:
        """The verdict's status."""
        return self.verdict.status

    @property
    def reason(self) -> Reason | None:
        """The verdict's reason."""
        return self.verdict.reason

    def image_bytes(self) -> bytes | None:
        """Hand the picture out after checking seal and digest once more.

        Returns:
            The encoded picture, or None when it is withheld.

        Raises:
            VerdictForgedError: if verdict or bytes were changed since the gate saw them.
        """
        if self._data is None:
            return None
        self.verdict.verify(self._data)
        return self._data

    def provenance(self) -> dict[str, Any]:
        """Give the record that says what was synthesized, by which models, under which policy."""
        return dict(self._provenance)

    def __repr__(self) -> str:
        """Show outcome and size, never bytes."""
        return f"Release({self.verdict!r}, {self.media_type}, {self.width}x{self.height})"

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        """Refuse to be pickled or copied, so that bytes never travel without their check.

        Args:
            protocol: pickle protocol, unused.

        Raises:
            TypeError: always.
        """
        raise TypeError("a Release cannot be pickled or copied")


def worst(statuses: list[Status]) -> Status:
    """Give the most restrictive of several outcomes, `no_face` for none."""
    order = list(Status)
    return max(statuses, key=order.index, default=Status.NO_FACE)


def _issue(status: Status, reason: Reason | None, faces: tuple[FaceVerdict, ...], data: bytes | None) -> Verdict:
    """Seal a verdict on `data`; for models.anonymizer.gate only (an architecture test looks for other users)."""
    digest = None if data is None else _digest(data)
    return Verdict(status, reason, faces, digest, _seal(_message(status, reason, faces, digest)))


def _contradiction(status: Status, faces: tuple[FaceVerdict, ...], digest: str | None) -> str | None:
    if (status is Status.WITHHELD) != (digest is None):
        return "a picture is withheld exactly when no bytes were verified"
    if status is Status.WITHHELD:
        return None
    if not all(face.passed for face in faces):
        return "a released picture holds only faces that passed"
    if status is not worst([face.status for face in faces]):
        return "a released picture has the status of its worst face"
    return None


def _message(status: Status, reason: Reason | None, faces: tuple[FaceVerdict, ...], digest: str | None) -> bytes:
    fields = {
        "status": str(status),
        "reason": None if reason is None else str(reason),
        # repr of a float is exact, the rounded as_dict is not
        "faces": [[repr(face.box), repr(face.det_score), repr(face.leaked_bits), face.as_dict()] for face in faces],
        "digest": digest,
    }
    return json.dumps(fields, sort_keys=True).encode()


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _seal(message: bytes) -> bytes:
    return hmac.digest(_process_key(), message, "sha256")


@functools.cache
def _process_key() -> bytes:
    """Draw the sealing key on first use; it never leaves the process and dies with it."""
    return secrets.token_bytes(32)
