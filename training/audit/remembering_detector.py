"""A detector for runs that send the same pictures in again and again."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from models.faces.detection import Face, FaceDetector


class RememberingDetector:
    """A detector that answers at once when it is shown the same picture again."""

    name = "remembering"

    def __init__(self, detector: FaceDetector) -> None:
        """Wrap a detector."""
        self._detector = detector
        self._known: dict[bytes, tuple[Face, ...]] = {}

    def detect(self, pixels: NDArray[np.uint8]) -> list[Face]:
        """Find faces in a picture (h, w, 3) uint8, as the wrapped detector does."""
        key = hashlib.sha256(repr(pixels.shape).encode() + np.ascontiguousarray(pixels).tobytes()).digest()
        if key not in self._known:
            self._known[key] = tuple(self._detector.detect(pixels))
        return list(self._known[key])

    def forget(self) -> None:
        """Drop every answer."""
        self._known.clear()
