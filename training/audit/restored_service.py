"""The assembled service with another restorer of crops, or with none."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from models.anonymizer.assembly import Assembly, AssemblySettings
from models.anonymizer.candidates import RejectionCandidates
from models.anonymizer.landmark_correction import LandmarkCorrection
from models.anonymizer.pipeline import Anonymizer
from models.anonymizer.randomness import FaceSeeds
from models.anonymizer.scenes import SceneMatcher
from models.faces.detection import Face, FaceDetector
from models.faces.restoration import CropRestorer
from models.identity.attribute_match import AttributeMatch
from models.identity.gallery import EnrolledGallery
from models.identity.rejection import RejectionSampler
from models.oracles.ensemble import SERVING_ORACLES


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


def with_restorer(
    assembly: Assembly,
    match: AttributeMatch,
    restorer: CropRestorer | None,
    *,
    settings: AssemblySettings,
    attribute_key: bytes,
    detector: FaceDetector,
) -> Anonymizer:
    """Build the anonymizer of an assembly once more, with another restorer; networks, gate and meter are shared.

    With the same keys and the store's own restorer its releases are those of the assembly's own anonymizer.

    Args:
        assembly: The assembled service, on the CPU.
        match: The store's attribute match.
        restorer: Cleans degraded crops; None leaves them as they are.
        settings: What the assembly was built with.
        attribute_key: Key of the attribute noise.
        detector: Searches the pictures that are sent in: the assembly's own, or one that answers as it does.

    Returns:
        The anonymizer.
    """
    gallery = EnrolledGallery(assembly.manifold.dim, settings.gallery_threshold, settings.gallery_false_match_rate)
    return Anonymizer(
        detector,
        assembly.ensemble,
        assembly.thresholds.at(settings.far, SERVING_ORACLES),
        assembly.identity,
        assembly.attributes,
        RejectionCandidates(RejectionSampler(assembly.manifold, settings.identity_threshold, gallery=gallery)),
        LandmarkCorrection(
            assembly.generator, assembly.attributes.landmark_net, assembly.attributes.encoder.landmark_mean
        ),
        assembly.gate,
        assembly.meter,
        settings=settings.synthesis,
        limits=settings.limits,
        seeds=FaceSeeds(attribute_key, "1"),
        landmarks=assembly.attributes.landmark_net,
        matcher=SceneMatcher(assembly.generator, match),
        restorer=restorer,
        models=assembly.versions,
    )
