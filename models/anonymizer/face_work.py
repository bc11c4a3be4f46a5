"""A face on its way through the pipeline, and the rule that a fault in one picture stays in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from models.anonymizer.deadline import Deadline
from models.anonymizer.faults import FaultObserver, StageError, reason_of
from models.anonymizer.policy import Policy
from models.anonymizer.source_record import SourceRecord
from models.anonymizer.verdict import Reason, Status
from models.faces.alignment import AlignedFace
from models.faces.boxes import Box
from models.identity.rejection import BinTest

_Part = TypeVar("_Part")


@dataclass(slots=True, eq=False, repr=False)
class FaceWork:
    """State of one face; lives as long as its request and is never shown."""

    picture: int
    index: int
    box: Box
    det_score: float
    policy: Policy
    deadline: Deadline
    scope_key: bytes | None
    identity_seed: bytes
    attribute_seed: bytes
    corpus_key: bytes | None = None
    picture_digest: bytes = b""  # sha256 of the source's bytes
    relative_box: Box = (0.0, 0.0, 0.0, 0.0)  # in shares of width and height
    is_only_face: bool = False
    landmarks: NDArray[np.float64] | None = None
    aligned: AlignedFace | None = None
    source: SourceRecord | None = None
    identity_code: NDArray[np.float32] | None = None  # (d,)
    attribute_code: Tensor | None = None  # (c, h, w)
    crop: NDArray[np.uint8] | None = None  # accepted synthetic face
    status: Status = Status.ANONYMIZED
    reason: Reason | None = None
    fault: Reason | None = None  # why the last synthesis gave no crop
    rounds: int = 0  # syntheses judged by the gate
    attempts: int = 0  # identity candidates over all syntheses
    tries: int = 0  # T1 tests of the last synthesis, the accepted one included
    gallery_tries: int = 1
    choice_bits: float = 0.0  # what choosing among accepted candidates may have told
    leaked_bits: float = 0.0  # of a synthesis that was given up
    identity_stream: np.random.Generator | None = None
    suits: BinTest | None = None  # coarse attribute match of candidates

    @property
    def is_synthetic(self) -> bool:
        """Whether the face is to be replaced, not covered."""
        return self.status in (Status.ANONYMIZED, Status.PSEUDONYMIZED)

    def redact(self, reason: Reason) -> None:
        """Give up on a synthetic face."""
        self.status, self.reason, self.crop = Status.REDACTED, reason, None

    def forget(self) -> None:
        """Drop everything that describes the source."""
        if self.source is not None:
            self.source.forget()
        self.source = self.aligned = self.identity_code = self.attribute_code = self.crop = self.suits = None


def present(part: _Part | None) -> _Part:
    """Give a part that an earlier stage must have set.

    Args:
        part: the part or None.

    Returns:
        The part.

    Raises:
        StageError: if it is None.
    """
    if part is None:
        raise StageError(Reason.INTERNAL_ERROR)
    return part


def run_isolated(
    faces: Sequence[FaceWork],
    call: Callable[[Sequence[FaceWork]], None],
    default: Reason,
    observer: FaultObserver,
) -> None:
    """Run a batched stage; when it fails, run it picture by picture and mark the faces of the pictures that fail.

    Args:
        faces: faces of any number of pictures.
        call: the stage; must be free to run again.
        default: reason for exceptions that say nothing by their type.
        observer: told of every fault.
    """
    if not faces:
        return
    try:
        call(faces)
    except Exception as error:
        pictures = sorted({face.picture for face in faces})
        if len(pictures) > 1:
            for picture in pictures:
                run_isolated([face for face in faces if face.picture == picture], call, default, observer)
            return
        reason = reason_of(error, default)
        observer(reason.value, type(error).__name__)
        for face in faces:
            face.fault, face.crop = reason, None
