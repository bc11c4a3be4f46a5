"""Photos through the whole service with different restorers of crops, read against the clean photos."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.anonymizer.assembly import Assembly, assemble
from models.anonymizer.pipeline import PictureRequest
from models.anonymizer.policy import Policy
from models.anonymizer.redetection import DetectionPlan, find_faces, merge_faces
from models.faces.detection import FaceDetector
from models.faces.restoration import CropRestorer
from models.pictures import decode_picture, encode_picture
from models.registry.store import ArtifactStore
from training.audit.faces import central_face
from training.audit.photos import AuditedPhoto
from training.audit.remembering_detector import RememberingDetector

Pictures = Sequence[NDArray[np.uint8]]

_ATTRIBUTE_KEY: Final = bytes(range(32))  # one for all ways, so that they draw the same noise


class WaysService:
    """The assembled service with a restorer that is chosen call by call, everything else being equal."""

    def __init__(self, store: ArtifactStore, policy: Policy) -> None:
        """Assemble it.

        Args:
            store: Artifact store.
            policy: What is asked for; with a seed, every way draws the same identities.
        """
        self._policy = policy
        self.assembly: Assembly = assemble(store, attribute_key=_ATTRIBUTE_KEY)
        # every way begins by searching the same pictures
        self._search = RememberingDetector(self.assembly.detector)

    def release(
        self, photos: Sequence[AuditedPhoto], pictures: Pictures, restorer: CropRestorer | None
    ) -> list[AuditedPhoto]:
        """Send pictures in, all in one call.

        Args:
            photos: Clean photos.
            pictures: What is sent in their place, each (h, w, 3) uint8.
            restorer: Cleans degraded crops; None leaves them as they are.

        Returns:
            Copies of the photos with their releases.
        """
        anonymizer = self.assembly.anonymizer.variant(self._search, restorer)
        copies = [photo.again() for photo in photos]
        requests = [self._request(picture) for picture in pictures]
        for copy, release in zip(copies, anonymizer.anonymize(requests), strict=True):
            copy.release = release
        return copies

    def agrees_with_the_assembled(self, pictures: Pictures, restorer: CropRestorer) -> bool:
        """Tell whether the assembled service gives the bytes that this one gives with the service's own restorer."""
        ours = self.assembly.anonymizer.variant(self.assembly.detector, restorer)
        requests = [self._request(picture) for picture in pictures]
        pairs = zip(self.assembly.anonymizer.anonymize(requests), ours.anonymize(requests), strict=True)
        return all(theirs.image_bytes() == own.image_bytes() for theirs, own in pairs)

    def forget(self) -> None:
        """Forget where faces were found; for when other pictures are to come."""
        self._search.forget()

    def _request(self, picture: NDArray[np.uint8]) -> PictureRequest:
        return PictureRequest(encode_picture(picture, "png"), self._policy)


def read_sources(paths: Iterable[Path], detector: FaceDetector) -> Iterator[AuditedPhoto]:
    """Read photos and find their main faces as the service finds them; each is its own mate.

    Args:
        paths: Photos.
        detector: The service's detectors in union.

    Yields:
        The photos that show a face.
    """
    for path in paths:
        pixels = decode_picture(path.read_bytes())
        found = find_faces(detector, pixels, DetectionPlan(), lambda: None)
        source = central_face(merge_faces(found, pixels.shape), pixels)
        if source is not None:
            yield AuditedPhoto(pixels, source, pixels, source)
