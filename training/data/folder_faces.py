"""The faces of a folder's pictures, found and aligned as the service does it; held in memory and nowhere else."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from models.anonymizer.redetection import DetectionPlan, find_faces, merge_faces
from models.faces.alignment import align_face
from models.faces.boxes import Box, Face, clip
from models.faces.detection import DetectionError, FaceDetector
from models.pictures import PictureError, decode_picture

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp"})


@dataclass(slots=True, eq=False, repr=False)
class FolderFaces:
    """Faces of pictures, in the order of the pictures; never shown.

    Attributes:
        digests: sha256 of each picture's bytes.
        sources: for each picture, its number among those that were given.
        pictures: for each face, the number of its picture.
        boxes: for each face, its box in shares of width and height.
        crops: aligned faces, (128, 128, 3) uint8 each.
        is_main: for each face, whether it is the largest of its picture.
        num_unusable: pictures that could not be decoded or searched.
    """

    digests: list[bytes] = field(default_factory=list)
    sources: list[int] = field(default_factory=list)
    pictures: list[int] = field(default_factory=list)
    boxes: list[Box] = field(default_factory=list)
    crops: list[NDArray[np.uint8]] = field(default_factory=list)
    is_main: list[bool] = field(default_factory=list)
    num_unusable: int = 0

    def __len__(self) -> int:
        """Count the faces."""
        return len(self.pictures)

    def add(
        self, source: int, data: bytes, faces: Sequence[Face], pixels: NDArray[np.uint8], min_eye_distance: float
    ) -> None:
        """Take a picture with those of its faces that have landmarks and are large enough to be recognized.

        Args:
            source: its number.
            data: its bytes.
            faces: what was found, the largest first.
            pixels: what it shows, (h, w, 3) uint8.
            min_eye_distance: in pixels.
        """
        height, width = pixels.shape[:2]
        number = len(self.digests)
        self.digests.append(hashlib.sha256(data).digest())
        self.sources.append(source)
        for face in faces:
            box = clip(face.box, pixels.shape)
            if face.landmarks is None or not (box[0] < box[2] and box[1] < box[3]):
                continue
            if float(np.linalg.norm(face.landmarks[1] - face.landmarks[0])) < min_eye_distance:
                continue
            self.is_main.append(number not in self.pictures[-1:])
            self.pictures.append(number)
            self.boxes.append((box[0] / width, box[1] / height, box[2] / width, box[3] / height))
            self.crops.append(align_face(pixels, np.asarray(face.landmarks, dtype=np.float64)).crop)


def find_folder_faces(
    pictures: Sequence[Callable[[], bytes]],
    detector: FaceDetector,
    *,
    plan: DetectionPlan = DetectionPlan(),
    min_eye_distance: float = 8.0,
    checkpoint: Callable[[], None] = lambda: None,
) -> FolderFaces:
    """Find and align the faces of pictures; one that cannot be decoded or searched is counted and left out.

    Args:
        pictures: each gives its bytes.
        detector: union of all detectors, as the service uses it.
        plan: the copies of a picture that are searched, as the service searches them.
        min_eye_distance: in pixels; a smaller face is left out.
        checkpoint: called before each picture; raises to stop.

    Returns:
        The faces. A picture that is there twice, byte for byte, is taken once.
    """
    found = FolderFaces()
    known: set[bytes] = set()
    for source, read in enumerate(pictures):
        checkpoint()
        data = read()
        digest = hashlib.sha256(data).digest()
        if digest in known:
            continue
        known.add(digest)
        try:
            pixels = decode_picture(data)
            faces = merge_faces(find_faces(detector, pixels, plan, checkpoint), pixels.shape)
        except (PictureError, DetectionError):
            found.num_unusable += 1
            continue
        found.add(source, data, faces, pixels, min_eye_distance)
    return found
