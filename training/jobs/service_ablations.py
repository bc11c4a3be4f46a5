"""The service with one of its parts left out or changed, for the table of what each part buys.

Unsafe ways exist here only: nothing that a server can be configured to do leaves a recognizer out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import torch
from torch import Tensor

from models.anonymizer.assembly import Assembly, AssemblySettings, assemble, load_network, load_realism
from models.anonymizer.candidate_test import MARGINS
from models.anonymizer.candidates import RejectionCandidates
from models.anonymizer.gate import Gate, GateBounds
from models.anonymizer.interfaces import Generator
from models.anonymizer.landmark_correction import LandmarkCorrection
from models.anonymizer.pipeline import Anonymizer, PictureRequest
from models.anonymizer.policy import Policy
from models.anonymizer.randomness import FaceSeeds
from models.anonymizer.scenes import SceneMatcher
from models.anonymizer.synthesis import SynthesisSettings
from models.diffusion.autoencoder import LatentAutoencoder
from models.diffusion.denoiser import FaceDenoiser
from models.diffusion.generator import FaceGenerator
from models.encoder.attribute_levels import AttributeLevels
from models.encoder.landmark_code import LANDMARK_CHANNELS, NUM_LANDMARKS, to_sheets
from models.encoder.levels import Level
from models.identity.attribute_match import load_attribute_match
from models.identity.leakage import LeakageMeter
from models.identity.rejection import RejectionSampler
from models.oracles.ensemble import SERVING_ORACLES
from models.pictures import encode_picture
from models.registry.store import ArtifactStore
from models.runtime import autocast_dtype
from training.audit.photos import AuditedPhoto
from training.audit.remembering_detector import RememberingDetector

_ATTRIBUTE_KEY: Final = bytes(range(32))  # every way adds the same noise
_NEVER: Final = 0.999  # a similarity that two pictures of different faces do not reach


@dataclass(frozen=True, slots=True)
class Way:
    """One way to run the service.

    Attributes:
        oracles: recognizers that may refuse a face, in the sampler and in the gate.
        margin: distance of candidates from the thresholds, in deviations; None for the level's.
        matches: whether candidates have to suit the scene (T4).
        corrects: whether drawn faces are warped to the landmarks told.
        level: what the attribute code may tell.
        tells: whether it tells anything; without, the code of everybody is drawn, and the gate asks neither landmarks
            nor light of what nobody told it.
        steps: denoising steps, 1 to 4 of the student.
        is_taught: whether the student draws; else its undistilled teacher, in `TEACHER_STEPS`.
    """

    oracles: tuple[str, ...] = SERVING_ORACLES
    margin: float | None = None
    matches: bool = True
    corrects: bool = True
    level: Level = "balanced"
    tells: bool = True
    steps: int = 4
    is_taught: bool = True


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
    "level strict, the margin of balanced": Way(level="strict", margin=MARGINS["balanced"]),
    "nothing told: the code of everybody": Way(tells=False),
    "twice the margin": Way(margin=1.5),
    "2 steps": Way(steps=2),
    "1 step": Way(steps=1),
    "the teacher in 20 steps": Way(is_taught=False),
}
TEACHER_STEPS: Final = 20


class AblatedService:
    """The assembled service, and the same with parts left out; every way sees the same photos, seeds and noise."""

    def __init__(self, store: ArtifactStore, far: float, seed: int, teacher: str | None = None) -> None:
        """Assemble it.

        Args:
            store: artifact store.
            far: false-accept rate of the thresholds.
            seed: with the same seed every way proposes the same identities.
            teacher: version of the undistilled face-generator; needed by ways in which it draws.
        """
        self.assembly: Assembly = assemble(store, AssemblySettings(far=far))
        self._teacher = None if teacher is None else _undistilled(store, teacher)
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
        bounds = GateBounds() if way.tells else GateBounds(max_landmark_deviation=0.99, max_light_deviation=0.99)
        gate = Gate(parts.detector, parts.ensemble, thresholds, self._realism, bounds=bounds)
        attributes = parts.attributes
        generator: Generator = parts.generator
        if not way.is_taught:
            if self._teacher is None:
                raise ValueError("the undistilled teacher draws only where its version is given")
            generator = _InTwentySteps(self._teacher)
        if way.corrects:
            generator = LandmarkCorrection(generator, attributes.landmark_net, attributes.encoder.landmark_mean)
        apart = settings.identity_threshold if way.oracles else 1.0
        return Anonymizer(
            self._search,
            parts.ensemble,
            thresholds,
            parts.identity,
            attributes,
            parts.levels if way.tells else _CodeOfEverybody(parts.levels),
            RejectionCandidates(RejectionSampler(parts.manifold, apart)),
            generator,
            gate,
            meter,
            settings=SynthesisSettings(margin=way.margin, oracle_dtype=autocast_dtype(torch.device("cpu"))),
            seeds=FaceSeeds(_ATTRIBUTE_KEY),
            landmarks=attributes.landmark_net,
            matcher=self._matcher if way.matches else None,
        )


class _InTwentySteps:
    """An undistilled generator behind a policy, whose steps are those of its student."""

    def __init__(self, generator: FaceGenerator) -> None:
        self._generator = generator

    def generate(
        self,
        crops: Tensor,
        attribute_code: Tensor,
        identity_code: Tensor,
        *,
        steps: int,
        guidance: float,
        generator: Sequence[torch.Generator],
    ) -> Tensor:
        """Draw one face per row, as `FaceGenerator.generate` does, in `TEACHER_STEPS` whatever `steps` says."""
        return self._generator.generate(
            crops, attribute_code, identity_code, steps=TEACHER_STEPS, guidance=guidance, generator=generator
        )


class _CodeOfEverybody:
    """A level below all others: the same means for every face, the mean of the prior and the mean landmarks."""

    def __init__(self, levels: AttributeLevels) -> None:
        self._levels = levels

    def __call__(self, level: Level, crops: Tensor, mean: Tensor) -> Tensor:
        """Give means of the shape of `mean` that no crop has a part in."""
        sheets = to_sheets(self._levels.landmark_mean.to(mean.device).unflatten(0, (NUM_LANDMARKS, 2))[None])
        learned = torch.zeros_like(mean[:, :-LANDMARK_CHANNELS])
        return torch.cat([learned, sheets.expand(len(mean), -1, -1, -1)], dim=1)


def _undistilled(store: ArtifactStore, version: str) -> FaceGenerator:
    denoiser = load_network(store, "face-generator", FaceDenoiser, version=version)
    if denoiser.guidance is not None:
        raise ValueError(f"face-generator@{version} is distilled: it is no teacher")
    autoencoder = load_network(store, "face-autoencoder", LatentAutoencoder)
    return FaceGenerator(autoencoder, denoiser, autocast_dtype(torch.device("cpu"))).eval()
