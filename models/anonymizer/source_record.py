"""What is remembered of a source face until its picture is judged, and no longer.

The record holds biometric data. It cannot be printed or pickled, it stays in memory of one request, and the pipeline
makes it forget everything when the picture is done.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

import cv2
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from models.anonymizer.oracle_views import as_batch
from models.anonymizer.realism import laplacian_energy
from models.encoder.light_code import light_numbers
from models.faces.alignment import AlignedFace, face_mask

_HIGH_PASS_SIGMA = 3.0  # px
_TILE, _STRIDE = 16, 8  # px
_MIN_TEXTURE = 4.0  # gray levels; encoder noise dominates below
_COPY_CORRELATION = 0.9


class SourceRecord:
    """Opaque memory of one source face: what the gate compares the released face with."""

    __slots__ = ("_light", "_texture", "embeddings", "landmarks", "laplacian_energy", "matrix")

    def __init__(
        self, aligned: AlignedFace, landmarks: NDArray[np.float64], embeddings: Mapping[str, Tensor] | None
    ) -> None:
        """Remember a face.

        Args:
            aligned: source crop and the matrix that cut it out of the picture.
            landmarks: (5, 2) in pixels of the picture.
            embeddings: oracle name -> (d_k,); None when the oracles could not be asked, and then only a solid
                redaction can pass.
        """
        self.matrix = aligned.matrix
        self.landmarks = landmarks
        self.embeddings: dict[str, Tensor] | None = None if embeddings is None else dict(embeddings)
        self.laplacian_energy = laplacian_energy(aligned.crop)
        self._texture: NDArray[np.float32] | None = _high_pass(aligned.crop)
        self._light: Tensor | None = _light(aligned.crop)

    @property
    def eye_distance(self) -> float:
        """Distance of the eyes in pixels of the picture."""
        return float(np.linalg.norm(self.landmarks[1] - self.landmarks[0]))

    def copied_share(self, crop: NDArray[np.uint8]) -> float:
        """Measure how much of the source's fine texture a released crop shows at the same place.

        Tiles that lie wholly inside the face mask and hold texture in the source are correlated with the released
        crop. A face that is drawn anew reaches a correlation of 0.9 by accident in few tiles; pixels that were not
        replaced reach it in all.

        Args:
            crop: released crop (128, 128, 3), cut with `matrix`.

        Returns:
            Share of the textured tiles that are copies; 0 when no tile holds texture.
        """
        if self._texture is None:
            return 1.0  # nothing is remembered: assume the worst
        source, released = _tiles(self._texture), _tiles(_high_pass(crop))  # (n, 256), rows centered
        source_norm, released_norm = np.linalg.norm(source, axis=1), np.linalg.norm(released, axis=1)
        textured = source_norm >= _MIN_TEXTURE * _TILE
        if not textured.any():
            return 0.0
        copied = (source * released).sum(axis=1) > _COPY_CORRELATION * source_norm * released_norm
        return float(copied[textured].mean())

    def light_deviation(self, crop: NDArray[np.uint8]) -> float:
        """Measure how far the light of a released crop is from the source's.

        Args:
            crop: released crop (128, 128, 3), cut with `matrix`.

        Returns:
            Distance of the light numbers: root mean square difference of what the harmonics explain of the three
            colors inside the mask, summed over the colors, where black is -1 and white 1; NaN after `forget`.
        """
        return float("nan") if self._light is None else float((_light(crop) - self._light).norm())

    def forget(self) -> None:
        """Drop embeddings, texture and light."""
        self.embeddings = None
        self._texture = None
        self._light = None

    def __repr__(self) -> str:
        """Show nothing."""
        return "SourceRecord(...)"

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        """Refuse to be pickled or copied.

        Args:
            protocol: pickle protocol, unused.

        Raises:
            TypeError: always.
        """
        raise TypeError("a SourceRecord cannot be pickled or copied")


def _high_pass(crop: NDArray[np.uint8]) -> NDArray[np.float32]:
    luma = crop.astype(np.float32) @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    return np.asarray(luma - cv2.GaussianBlur(luma, (0, 0), _HIGH_PASS_SIGMA))


def _light(crop: NDArray[np.uint8]) -> Tensor:
    return light_numbers(as_batch([crop]))[0]


def _tiles(texture: NDArray[np.float32]) -> NDArray[np.float32]:
    """Cut out the overlapping tiles inside the face mask, one per row, and subtract their means."""
    windows = np.lib.stride_tricks.sliding_window_view(texture, (_TILE, _TILE))[::_STRIDE, ::_STRIDE]
    masks = np.lib.stride_tricks.sliding_window_view(face_mask() >= 1.0, (_TILE, _TILE))[::_STRIDE, ::_STRIDE]
    tiles = windows[masks.all(axis=(2, 3))].reshape(-1, _TILE * _TILE)
    return np.asarray(tiles - tiles.mean(axis=1, keepdims=True))
