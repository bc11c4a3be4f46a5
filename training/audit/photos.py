"""Photos under audit: what was sent in, what came out, and everything measured on one of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from models.anonymizer.redetection import DetectionPlan, find_faces, merge_faces
from models.anonymizer.verdict import FaceVerdict, Release
from models.faces.alignment import align_face
from models.faces.boxes import iou
from models.faces.detection import FaceDetector
from models.pictures import decode_picture
from training.audit.faces import FoundFace, central_face, same_face

REPLACED = ("anonymized", "pseudonymized")


@dataclass(slots=True, eq=False)
class AuditedPhoto:
    """One audited photo and everything measured on it.

    Attributes:
        original: Photo, (h, w, 3) uint8.
        source: Its main face.
        mate_photo: Another photo of the person, (h, w, 3).
        mate_face: Its main face.
        release: What the service gave.
        pixels: Released photo, set only when the main face left the service as another one.
        found: The main face found again.
        measures: Numbers by name.
    """

    original: NDArray[np.uint8]
    source: FoundFace
    mate_photo: NDArray[np.uint8]
    mate_face: FoundFace
    release: Release | None = None
    pixels: NDArray[np.uint8] | None = None
    found: FoundFace | None = None
    measures: dict[str, float] = field(default_factory=dict)

    @property
    def mate(self) -> NDArray[np.uint8]:
        """Aligned crop of the other photo, (128, 128, 3)."""
        return self.mate_face.crop

    @property
    def main_face(self) -> FaceVerdict | None:
        """The verdict on the audited face: that of the box which overlaps the source's most."""
        faces = self.release.verdict.faces if self.release else ()
        best = max(faces, key=lambda face: iou(face.box, self.source.face.box), default=None)
        return best if best is not None and iou(best.box, self.source.face.box) > 0 else None

    @property
    def is_replaced(self) -> bool:
        """Whether the audited face left the service as another one."""
        face = self.main_face
        is_sent = self.release is not None and self.release.verdict.status.value != "withheld"
        return is_sent and face is not None and face.status.value in REPLACED

    def mate_as_source(self) -> AuditedPhoto:
        """The person's other photo, to be audited in this one's place."""
        return AuditedPhoto(self.mate_photo, self.mate_face, self.original, self.source)

    def again(self) -> AuditedPhoto:
        """The same photo before anything was done to it."""
        return AuditedPhoto(self.original, self.source, self.mate_photo, self.mate_face)

    def read_release(self, detector: FaceDetector) -> None:
        """Set `pixels` and `found` where the main face left the service as another one.

        Args:
            detector: Looks for it.
        """
        data = self.release.image_bytes() if self.release else None
        if data is not None and self.is_replaced:
            self.pixels = decode_picture(data)
            self.found = same_face(detector, self.pixels, self.source)

    def source_aligned(self) -> NDArray[np.uint8]:
        """The released photo cut at the landmarks of the source, (128, 128, 3).

        Returns:
            The crop.

        Raises:
            ValueError: Nothing was released.
        """
        if self.pixels is None:
            raise ValueError("nothing was released")
        return align_face(self.pixels, self.source.landmarks).crop

    def own_aligned(self) -> NDArray[np.uint8]:
        """The released face cut at its own landmarks, or at the source's where it was not found again."""
        return self.found.crop if self.found is not None else self.source_aligned()


def read_photos(pairs: list[tuple[Path, Path]], detector: FaceDetector, limit: int) -> list[AuditedPhoto]:
    """Read pairs of photos of one person each; pairs in which a face is not found are left out.

    The faces are located as the service locates them, in several copies of the photo: one pass of one detector may
    put the landmarks elsewhere, and then a recognizer compares surroundings.

    Args:
        pairs: Photo to anonymize and photo of the same person.
        detector: The service's detectors in union.
        limit: Photos wanted.

    Returns:
        At most `limit` photos.
    """
    photos: list[AuditedPhoto] = []
    for first, second in pairs:
        if len(photos) == limit:
            break
        original, other = decode_picture(first.read_bytes()), decode_picture(second.read_bytes())
        source, mate = (
            central_face(merge_faces(find_faces(detector, photo, DetectionPlan(), _never), photo.shape), photo)
            for photo in (original, other)
        )
        if source is not None and mate is not None:
            photos.append(AuditedPhoto(original, source, other, mate))
    return photos


def both_photos(photos: list[AuditedPhoto], per_person: int) -> list[AuditedPhoto]:
    """The photos, and with two per person the mates after them in the same order, each with the other as its mate."""
    return photos if per_person == 1 else [*photos, *(photo.mate_as_source() for photo in photos)]


def _never() -> None:
    """The checkpoint of a search without a deadline."""


def photo_sheet(photos: list[AuditedPhoto], columns: int = 8, side: int = 150) -> NDArray[np.uint8]:
    """Original above released photo, in order; a withheld photo is black."""
    cells = []
    for photo in photos:
        data = photo.release.image_bytes() if photo.release else None
        top = _fitted(photo.original, side)
        bottom = np.zeros_like(top) if data is None else _fitted(decode_picture(data), side)
        cells.append(np.concatenate([top, bottom], axis=0))
    return _tiled(cells, columns)


def crop_sheet(photos: list[AuditedPhoto], columns: int = 12) -> NDArray[np.uint8]:
    """Source crop above released crop, in order; a face that was not replaced is black."""
    cells = []
    for photo in photos:
        released = photo.source_aligned() if photo.pixels is not None else np.zeros_like(photo.source.crop)
        cells.append(np.concatenate([photo.source.crop, released], axis=0))
    return _tiled(cells, columns)


def _fitted(pixels: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    return np.asarray(cv2.resize(pixels, (side, side), interpolation=cv2.INTER_AREA), dtype=np.uint8)


def _tiled(cells: list[NDArray[np.uint8]], columns: int) -> NDArray[np.uint8]:
    missing = -len(cells) % columns
    padded = [*cells, *[np.zeros_like(cells[0])] * missing]
    lines = [np.concatenate(padded[i : i + columns], axis=1) for i in range(0, len(padded), columns)]
    return np.concatenate(lines, axis=0)
