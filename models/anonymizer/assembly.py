"""Builds the anonymizer from an artifact store: every artifact verified, every parent checked, or nothing is built."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import torch
from diffusers.models.modeling_utils import ModelMixin

from models.anonymizer.candidates import RejectionCandidates
from models.anonymizer.faults import FaultObserver, ignore_faults
from models.anonymizer.gate import Gate, GateBounds
from models.anonymizer.interfaces import SubjectResolver
from models.anonymizer.landmark_correction import LandmarkCorrection
from models.anonymizer.pipeline import Anonymizer, PipelineLimits
from models.anonymizer.randomness import FaceSeeds
from models.anonymizer.realism import RealismTest
from models.anonymizer.redetection import DetectionPlan
from models.anonymizer.scenes import SceneMatcher
from models.anonymizer.synthesis import SynthesisSettings
from models.diffusion.autoencoder import LatentAutoencoder
from models.diffusion.denoiser import FaceDenoiser
from models.diffusion.generator import FaceGenerator
from models.encoder.attribute_levels import AttributeLevels, load_attribute_levels
from models.encoder.attributes import AttributeEncoder, FaceAttributes
from models.encoder.variational import IdentityEncoder
from models.faces.alignment import CROP_SIZE
from models.faces.detection import UnionDetector, load_detector
from models.faces.restoration import ARTIFACT_NAME as RESTORER_ARTIFACT
from models.faces.restoration import CropRestorer, RestorationError, load_crop_restorer
from models.identity.attribute_match import load_attribute_match
from models.identity.gallery import EnrolledGallery
from models.identity.leakage import LeakageMeter
from models.identity.manifold import IdentityManifold, load_manifold
from models.identity.pseudonym import PseudonymIssuer, PseudonymKey
from models.identity.pseudonym_book import MemoryPseudonymBook, PseudonymBook
from models.identity.rejection import RejectionSampler
from models.oracles.calibrators import ARTIFACT as CALIBRATORS_ARTIFACT
from models.oracles.calibrators import MatchCalibrators, load_match_calibrators
from models.oracles.ensemble import ORACLES, SERVING_ORACLES, OracleEnsemble, load_ensemble
from models.oracles.networks.landmarks68 import load_landmarks
from models.oracles.thresholds import Thresholds, load_thresholds
from models.registry.manifest import ArtifactError
from models.registry.store import ArtifactStore
from models.runtime import autocast_dtype

M = TypeVar("M", bound=ModelMixin)

OWN_ARTIFACTS = (
    "attribute-levels",
    "attribute-match",
    "face-autoencoder",
    "face-encoder",
    "face-generator",
    "identity-manifold",
    "oracle-thresholds",
    "realism-test",
)
OPTIONAL_ARTIFACTS = (CALIBRATORS_ARTIFACT, RESTORER_ARTIFACT)
"""Of ours as well; no release depends on them, so that a store may lack them. One that is there has to be sound."""
UPSTREAM_ARTIFACTS = (
    "upstream-fr-detect",
    "upstream-fr-landmark",
    *(ORACLES[name].artifact for name in SERVING_ORACLES),
)


class ParentMismatchError(ArtifactError):
    """Two promoted artifacts do not belong together."""


@dataclass(frozen=True, slots=True)
class AssemblySettings:
    """What an installation may choose.

    Attributes:
        far: false-accept rate of the oracles' privacy thresholds.
        identity_threshold: cosine to the source's code that a new identity must stay below.
        gallery_threshold: cosine between codes from which two pseudonyms would be one face.
        gallery_false_match_rate: rate at which codes of different people reach it.
        synthesis: how candidates are drawn.
        bounds: bounds of the gate.
        plan: copies of a picture that are searched for faces.
        limits: bounds on pictures.
    """

    far: float = 1e-3
    identity_threshold: float = 0.15
    gallery_threshold: float = 0.6
    gallery_false_match_rate: float = 1e-4
    synthesis: SynthesisSettings = field(default_factory=SynthesisSettings)
    bounds: GateBounds = field(default_factory=GateBounds)
    plan: DetectionPlan = field(default_factory=DetectionPlan)
    limits: PipelineLimits = field(default_factory=PipelineLimits)


@dataclass(frozen=True, slots=True)
class Assembly:
    """A working anonymizer with the parts that others share.

    Attributes:
        anonymizer: the pipeline.
        gate: its gate.
        detector: union of both detectors.
        ensemble: serving oracles, centered.
        thresholds: the whole calibration.
        manifold: bank and density of identities.
        generator: draws faces.
        attributes: attribute code.
        levels: limits it to what a policy's level lets it tell.
        identity: identity encoder.
        meter: counts leaked bits.
        versions: artifact name to version, of everything that was loaded.
    """

    anonymizer: Anonymizer
    gate: Gate
    detector: UnionDetector
    ensemble: OracleEnsemble
    thresholds: Thresholds
    manifold: IdentityManifold
    generator: FaceGenerator
    attributes: FaceAttributes
    levels: AttributeLevels
    identity: IdentityEncoder
    meter: LeakageMeter
    versions: Mapping[str, str]


def assemble(
    store: ArtifactStore,
    settings: AssemblySettings = AssemblySettings(),
    *,
    device: torch.device | None = None,
    attribute_key: bytes | None = None,
    pseudonym_key: bytes | None = None,
    pseudonym_scope: str = "default",
    pseudonym_epoch: str = "1",
    pseudonym_book: PseudonymBook | None = None,
    subjects: SubjectResolver | None = None,
    provenance_key: bytes | None = None,
    clock: Callable[[], float] = time.monotonic,
    observer: FaultObserver = ignore_faults,
) -> Assembly:
    """Load, verify and connect everything.

    Args:
        store: artifact store with the promoted artifacts.
        settings: choices of the installation.
        device: where the networks run; the CPU by default.
        attribute_key: key of the attribute noise, shared by processes that serve the same pictures.
        pseudonym_key: secret of the pseudonyms, at least 32 bytes; without it the scope `pseudonym` draws fresh faces.
        pseudonym_scope: within which a subject keeps its face.
        pseudonym_epoch: until when it does.
        pseudonym_book: where assigned indices are kept; in memory by default.
        subjects: names the subjects of faces for pseudonyms, for instance a `models.identity.subjects.SubjectTable`.
        provenance_key: signs provenance records.
        clock: monotonic clock of deadlines.
        observer: told of every fault.

    Returns:
        The assembly.

    Raises:
        ArtifactError: an artifact is missing or damaged, or two do not belong together.
    """
    place = device or torch.device("cpu")
    present = tuple(name for name in OPTIONAL_ARTIFACTS if store.promoted(name) is not None)
    versions = check_parents(store, (*OWN_ARTIFACTS, *UPSTREAM_ARTIFACTS, *present))
    thresholds = load_thresholds(store)
    ensemble = load_ensemble(store, centers=thresholds.centers).to(place)
    at_far = thresholds.at(settings.far, SERVING_ORACLES)
    generator = FaceGenerator(
        load_network(store, "face-autoencoder", LatentAutoencoder),
        load_network(store, "face-generator", FaceDenoiser),
        autocast_dtype(place),
    )
    if generator.autoencoder.crop_size != CROP_SIZE:
        side = generator.autoencoder.crop_size
        raise ArtifactError(f"face-autoencoder draws crops of {side} px, the service cuts them at {CROP_SIZE} px")
    generator = generator.eval().to(place)
    identity = load_network(store, "face-encoder", IdentityEncoder, "identity").to(place)
    attributes = load_attributes(store).to(place)
    levels = load_attribute_levels(store)
    manifold = load_manifold(store)
    detector = load_detector(store)
    gate = Gate(
        detector,
        ensemble,
        at_far,
        load_realism(store),
        bounds=settings.bounds,
        plan=settings.plan,
        curves=load_curves(store),
        device=place,
        observer=observer,
    )
    gallery = EnrolledGallery(manifold.dim, settings.gallery_threshold, settings.gallery_false_match_rate)
    sampler = RejectionSampler(manifold, settings.identity_threshold, gallery=gallery)
    pseudonyms = None
    if pseudonym_key is not None:
        pseudonyms = PseudonymIssuer(
            PseudonymKey(pseudonym_key),
            pseudonym_book or MemoryPseudonymBook(),
            sampler,
            manifold=versions["identity-manifold"],
            scope=pseudonym_scope,
            epoch=pseudonym_epoch,
        )
    meter = LeakageMeter()
    anonymizer = Anonymizer(
        detector,
        ensemble,
        at_far,
        identity,
        attributes,
        levels,
        RejectionCandidates(sampler),
        LandmarkCorrection(generator, attributes.landmark_net, attributes.encoder.landmark_mean),
        gate,
        meter,
        settings=replace(settings.synthesis, oracle_dtype=autocast_dtype(place)),
        limits=settings.limits,
        seeds=FaceSeeds(attribute_key, pseudonym_epoch),
        landmarks=attributes.landmark_net,
        matcher=SceneMatcher(generator, load_attribute_match(store)),
        restorer=_load_noise_restorer(store) if RESTORER_ARTIFACT in present else None,
        pseudonyms=pseudonyms,
        subjects=subjects,
        models=versions,
        provenance_key=provenance_key,
        device=place,
        clock=clock,
        observer=observer,
    )
    return Assembly(
        anonymizer,
        gate,
        detector,
        ensemble,
        thresholds,
        manifold,
        generator,
        attributes,
        levels,
        identity,
        meter,
        versions,
    )


def check_parents(
    store: ArtifactStore, names: tuple[str, ...] = (*OWN_ARTIFACTS, *UPSTREAM_ARTIFACTS)
) -> dict[str, str]:
    """Verify every byte of the promoted artifacts, and that each was made with the promoted versions of its parents.

    Args:
        store: artifact store.
        names: artifacts to check.

    Returns:
        Artifact name to version.

    Raises:
        ArtifactError: an artifact is missing or damaged.
        ParentMismatchError: an artifact was made with another version of a parent.
    """
    versions: dict[str, str] = {}
    parents: dict[str, Mapping[str, str]] = {}
    for name in names:
        manifest = store.resolve(name).manifest
        versions[name], parents[name] = manifest.version, manifest.parents
    for name, wanted in parents.items():
        for parent, version in wanted.items():
            if parent in versions and versions[parent] != version:
                raise ParentMismatchError(
                    f"{name}@{versions[name]} was made with {parent}@{version}, the store promotes {versions[parent]}"
                )
    return versions


def load_network(store: ArtifactStore, name: str, kind: type[M], folder: str = "", *, version: str | None = None) -> M:
    """Load a network from an artifact, verified, in float32 and evaluation mode.

    Args:
        store: artifact store.
        name: artifact name.
        kind: class of the network.
        folder: folder inside the artifact.
        version: exact version; the promoted one by default.

    Returns:
        The network, without gradients, channels last.
    """
    artifact = store.resolve(name, version)
    source = Path(artifact.directory) / folder
    module = kind.from_pretrained(source, torch_dtype=torch.float32, local_files_only=True, low_cpu_mem_usage=False)
    return module.eval().requires_grad_(False).to(memory_format=torch.channels_last)


def load_curves(store: ArtifactStore) -> MatchCalibrators | None:
    """Load the promoted match calibrators.

    Args:
        store: artifact store.

    Returns:
        Calibrators of every serving oracle, or None when none are promoted.

    Raises:
        ArtifactError: they are damaged, lack an oracle, or belong to other oracles or thresholds.
    """
    if store.promoted(CALIBRATORS_ARTIFACT) is None:
        return None
    curves = load_match_calibrators(store)
    for name in SERVING_ORACLES:
        curves.get(name)
    return curves


def load_realism(store: ArtifactStore) -> RealismTest:
    """Load the promoted realism test.

    Args:
        store: artifact store.

    Returns:
        The test.

    Raises:
        ArtifactError: it is missing or damaged.
    """
    artifact = store.resolve("realism-test")
    files = {entry.path: artifact.read_bytes(entry.path) for entry in artifact.manifest.files}
    try:
        return RealismTest.from_files(files)
    except (KeyError, ValueError) as error:
        raise ArtifactError(f"realism-test@{artifact.manifest.version} does not fit this code: {error}") from error


def _load_noise_restorer(store: ArtifactStore) -> CropRestorer:
    """Load the restorer of noisy crops; what it does to compressed ones moves the landmarks and is left out."""
    try:
        return load_crop_restorer(store).of_kind("noise")
    except RestorationError as error:
        raise ArtifactError(f"{RESTORER_ARTIFACT}@{store.promoted(RESTORER_ARTIFACT)} is unusable: {error}") from error


def load_attributes(store: ArtifactStore) -> FaceAttributes:
    """Load the attribute code of the promoted `face-encoder`, with the landmark network that it reads."""
    return FaceAttributes(load_network(store, "face-encoder", AttributeEncoder, "attributes"), load_landmarks(store))
