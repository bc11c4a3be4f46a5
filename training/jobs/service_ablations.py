"""The service with one of its parts left out or changed, for the table of what each part buys.

Unsafe ways exist here only: nothing that a server can be configured to do leaves a recognizer out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from models.anonymizer.assembly import Assembly, AssemblySettings, assemble, load_realism
from models.anonymizer.candidates import RejectionCandidates
from models.anonymizer.gate import Gate
from models.anonymizer.interfaces import Generator
from models.anonymizer.landmark_correction import LandmarkCorrection
from models.anonymizer.pipeline import Anonymizer, PictureRequest
from models.anonymizer.policy import Policy
from models.anonymizer.randomness import FaceSeeds
from models.anonymizer.scenes import SceneMatcher
from models.anonymizer.synthesis import SynthesisSettings
from models.encoder.levels import Level
from models.identity.attribute_match import load_attribute_match
from models.identity.leakage import LeakageMeter
from models.identity.rejection import RejectionSampler
from models.oracles.ensemble import SERVING_ORACLES
from models.pictures import encode_picture
from models.registry.store import ArtifactStore
from training.audit.photos import AuditedPhoto
from training.audit.remembering_detector import RememberingDetector

_ATTRIBUTE_KEY: Final = bytes(range(32))  # every way adds the same noise
_NEVER: Final = 0.999  # a similarity that two pictures of different faces do not reach


@dataclass(frozen=True, slots=True)
class Way:
    """One way to run the service.

    Attributes:
        oracles: recognizers that may refuse a face, in the sampler and in the gate.
        margin: distance of candidates from the thresholds, in deviations.
        matches: whether candidates have to suit the scene (T4).
        corrects: whether drawn faces are warped to the landmarks told.
        level: what the attribute code may tell.
        steps: denoising steps.
    """

    oracles: tuple[str, ...] = SERVING_ORACLES
    margin: float = SynthesisSettings().margin
    matches: bool = True
    corrects: bool = True
    level: Level = "balanced"
    steps: int = 4


SERVED: Final = "as served"
WAYS: Final[Mapping[str, Way]] = {
    SERVED: Way(),
    "swapped only: no recognizer refuses": Way(oracles=()),
    "one recognizer refuses (fr_feature)": Way(oracles=("fr_feature",)),
    "no margin": Way(margin=0.0),
    "no coarse match (T4)": Way(matches=False),
    "no landmark correction": Way(corrects=False),
    "level faithful": Way(level="faithful"),
    "level strict": Way(level="strict"),
    "2 steps": Way(steps=2),
    "1 step": Way(steps=1),
}


class AblatedService:
    """The assembled service, and the same with parts left out; every way sees the same photos, seeds and noise."""

    def __init__(self, store: ArtifactStore, far: float, seed: int) -> None:
        """Assemble it.

        Args:
            store: artifact store.
            far: false-accept rate of the thresholds.
            seed: with the same seed every way proposes the same identities.
        """
        self.assembly: Assembly = assemble(store, AssemblySettings(far=far))
        self._realism = load_realism(store)
        self._matcher = SceneMatcher(self.assembly.generator, load_attribute_match(store))
        self._far = far
        self._seed = seed
        # every way begins by searching the same pictures
        self._search = RememberingDetector(self.assembly.detector)

    def release(self, photos: Sequence[AuditedPhoto], first: int, way: Way) -> tuple[list[AuditedPhoto], float]:
        """Send photos through one way, all in one call.

        Args:
            photos: the photos.
            first: index of the first, from which seeds are made.
            way: the way.

        Returns:
            Copies of the photos with their releases, and what the meter counted for them in bits.
        """
        meter = LeakageMeter()
        requests = [
            PictureRequest(
                encode_picture(photo.original, "png"),
                Policy(level=way.level, steps=way.steps, media="png", seed=self._seed + index),
            )
            for index, photo in enumerate(photos, start=first)
        ]
        copies = [photo.again() for photo in photos]
        for copy, release in zip(copies, self._anonymizer(way, meter).anonymize(requests), strict=True):
            copy.release = release
        return copies, meter.source_bits

    def forget(self) -> None:
        """Forget where faces were found; for when other photos are to come."""
        self._search.forget()

    def _anonymizer(self, way: Way, meter: LeakageMeter) -> Anonymizer:
        parts, settings = self.assembly, AssemblySettings(far=self._far)
        calibrated = parts.thresholds.at(self._far, SERVING_ORACLES)
        thresholds = {
            name: entry if name in way.oracles else replace(entry, privacy_threshold=_NEVER, impostor_std=0.0)
            for name, entry in calibrated.items()
        }
        gate = Gate(parts.detector, parts.ensemble, thresholds, self._realism)
        attributes = parts.attributes
        generator: Generator = parts.generator
        if way.corrects:
            generator = LandmarkCorrection(generator, attributes.landmark_net, attributes.encoder.landmark_mean)
        apart = settings.identity_threshold if way.oracles else 1.0
        return Anonymizer(
            self._search,
            parts.ensemble,
            thresholds,
            parts.identity,
            attributes,
            parts.levels,
            RejectionCandidates(RejectionSampler(parts.manifold, apart)),
            generator,
            gate,
            meter,
            settings=SynthesisSettings(margin=way.margin),
            seeds=FaceSeeds(_ATTRIBUTE_KEY),
            landmarks=attributes.landmark_net,
            matcher=self._matcher if way.matches else None,
        )
