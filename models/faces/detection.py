"""Searching a picture for faces: the union of detectors, and the multi-scale search of the release gate.

A missed face is a leak and a false box only costs a redaction, so thresholds are set for recall and two detectors of
different make look at every picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.faces.boxes import Face as Face
from models.faces.boxes import clip, enlarge, same_head
from models.faces.boxes import iou as iou
from models.faces.detector import DetectionError as DetectionError
from models.faces.detector import Examiner, Look, require_picture
from models.faces.detector import FaceDetector as FaceDetector
from models.faces.heads import center_radius, face_matrix
from models.faces.mtcnn import MtcnnDetector as MtcnnDetector
from models.faces.raster import resize
from models.faces.ultralight import UltraLightDetector as UltraLightDetector
from models.registry.store import ArtifactStore

_LOOK_AGAIN_SIDE: Final = 160  # px of the region about a missed face, so the face itself is about 80

_REFUSED_SCORE: Final = 0.7  # of all windows about a box; more than a second look at real faces ever falls below
_CERTAIN_SCORE: Final = 0.9  # of a window and its mirror image, from which landmarks are believed
_CERTAIN_IOU: Final = 0.5  # of the box that the landmark network draws with the box in question
_MIRROR_DEVIATION: Final = 0.2  # eye distances between the landmarks of a window and of its mirror image
_KNOWN_RADIUS: Final = 0.8  # mask radius about a known face within which another window shows that face


class UnionDetector:
    """The union of several detectors; the first one supplies landmarks.

    A face that only another detector saw is offered to the first one once more, cut out and enlarged, and then, where
    the first detector is an `Examiner`, its last network is shown windows about the box. That brings landmarks, or a
    clear refusal in every window, which is noted as doubt; else the face stays bare. Bare and doubtful faces are found
    faces all the same: both can only be covered, and doubt counts where the box is a part of another head.
    """

    name = "union"

    def __init__(self, detectors: Sequence[FaceDetector]) -> None:
        """Join detectors.

        Args:
            detectors: The first one gives landmarks; the others add what it misses.

        Raises:
            ValueError: No detector is given.
        """
        if not detectors:
            raise ValueError("a union needs at least one detector")
        self._detectors = tuple(detectors)

    def detect(self, pixels: NDArray[np.uint8]) -> list[Face]:
        """Find whatever any of the detectors finds.

        Args:
            pixels: The picture (h, w, 3) uint8 RGB.

        Returns:
            Faces, those of the first detector first.

        Raises:
            DetectionError: One of the detectors failed; what the others saw does not count then.
        """
        faces = list(self._detectors[0].detect(pixels))
        for detector in self._detectors[1:]:
            for found in detector.detect(pixels):
                same = [index for index, face in enumerate(faces) if same_head(found, face, pixels.shape)]
                if not same:
                    faces.append(self._examined(pixels, self._with_landmarks(pixels, found), faces))
                    continue
                best = max(same, key=lambda index: iou(found.box, faces[index].box))
                names = f"{faces[best].detector}+{found.detector}"
                faces[best] = replace(faces[best], score=max(faces[best].score, found.score), detector=names)
        return faces

    def _with_landmarks(self, pixels: NDArray[np.uint8], found: Face) -> Face:
        """Ask the first detector about the enlarged neighborhood of a face that it missed."""
        x0, y0, x1, y1 = enlarge(found.box, 2.0, pixels.shape)
        region = pixels[y0:y1, x0:x1]
        factor = _LOOK_AGAIN_SIDE / max(region.shape[:2])
        larger = resize(region, max(1, round((x1 - x0) * factor)), max(1, round((y1 - y0) * factor)))
        scale = ((x1 - x0) / larger.shape[1], (y1 - y0) / larger.shape[0])
        seen = [face.moved(scale, (float(x0), float(y0))) for face in self._detectors[0].detect(larger)]
        matching = [face for face in seen if same_head(found, face, pixels.shape)]
        if not matching:
            return found
        best = max(matching, key=lambda face: iou(face.box, found.box))
        return replace(found, landmarks=best.landmarks, detector=f"{found.detector}+{best.detector}")

    def _examined(self, pixels: NDArray[np.uint8], found: Face, faces: Sequence[Face]) -> Face:
        """Have a bare face examined: it gains landmarks, is doubted, or stays as it is."""
        examiner = self._detectors[0]
        if found.landmarks is not None or not isinstance(examiner, Examiner):
            return found
        known = [
            matrix
            for face in faces
            if face.landmarks is not None and (matrix := face_matrix(face.landmarks)) is not None
        ]
        # a window that shows a known face says nothing of the box beside it
        own = [
            look
            for look in examiner.look(pixels, found.box, found.turn)
            if all(_shown_at(look, matrix) > _KNOWN_RADIUS for matrix in known)
        ]
        if max((score for look in own for score in look.scores), default=0.0) < _REFUSED_SCORE:
            return replace(found, is_doubtful=True)
        best = max(own, key=lambda look: min(look.scores))
        first, second = best.landmarks
        eye_distance = float(np.linalg.norm(first[1] - first[0]))
        is_certain = (
            min(best.scores) >= _CERTAIN_SCORE
            and iou(clip(best.box, pixels.shape), clip(found.box, pixels.shape)) >= _CERTAIN_IOU
            and float(np.linalg.norm(first - second, axis=1).mean()) <= _MIRROR_DEVIATION * eye_distance
        )
        return replace(found, landmarks=(first + second) / 2.0) if is_certain else found


def _shown_at(look: Look, matrix: NDArray[np.float64]) -> float:
    """Return the mask radius of a known face at which a window sees its face."""
    x, y = look.landmarks[0].mean(axis=0).tolist()
    return center_radius((x, y, x, y), matrix)


def load_detector(store: ArtifactStore) -> UnionDetector:
    """Load the detectors of the service.

    Args:
        store: Store with the network of the second one.

    Returns:
        Their union.

    Raises:
        ArtifactError: The network is missing or damaged.
    """
    network = store.resolve("upstream-fr-detect").path("fr_detect.onnx")
    return UnionDetector([MtcnnDetector(), UltraLightDetector.from_file(network)])


def detect_multi_scale(
    detector: FaceDetector,
    pixels: NDArray[np.uint8],
    scales: Sequence[float] = (1.0, 0.5, 1.5),
    flip: bool = False,
    max_side: int = 4096,
) -> list[Face]:
    """Search a picture at several sizes: what hides at one size shows at another.

    Args:
        detector: Who searches.
        pixels: The picture (h, w, 3) uint8 RGB.
        scales: Factors of the picture's size; each is searched by itself.
        flip: Whether the mirrored picture is searched too.
        max_side: An enlargement beyond this many pixels a side is cut down to it.

    Returns:
        All faces of all passes in the picture's coordinates, doubles included.

    Raises:
        DetectionError: One pass failed.
        ValueError: No scale is given or one is not positive.
    """
    if not scales or min(scales) <= 0.0:
        raise ValueError(f"expected positive scales, got {tuple(scales)}")
    require_picture(pixels)
    height, width = pixels.shape[:2]
    found: list[Face] = []
    for wanted in scales:
        scale = max(min(wanted, max_side / max(height, width)), min(wanted, 1.0))
        resized = resize(pixels, max(1, round(width * scale)), max(1, round(height * scale)))
        back = (width / resized.shape[1], height / resized.shape[0])
        found.extend(face.moved(back) for face in detector.detect(resized))
        if flip:
            mirrored = detector.detect(np.ascontiguousarray(resized[:, ::-1]))
            found.extend(_mirrored(face, resized.shape[1]).moved(back) for face in mirrored)
    return found


def _mirrored(face: Face, width: int) -> Face:
    """Return a face of the mirrored picture as the picture shows it; left and right change their names."""
    x0, y0, x1, y1 = face.box
    landmarks = None
    if face.landmarks is not None:
        landmarks = face.landmarks[[1, 0, 2, 4, 3]].copy()
        landmarks[:, 0] = width - 1.0 - landmarks[:, 0]
    return replace(face, box=(width - x1, y0, width - x0, y1), landmarks=landmarks, turn=-face.turn % 4)
