"""Builds everything behind the routes from settings and artifacts; torch and the networks are imported on call."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from models.anonymizer.verdict import Release
from models.pictures import DecodeLimits, decode_picture
from service.corpus import LibraryCorpus
from service.ports import Engine, EngineFailedError, ModelInfo, Picture
from service.settings import Settings, derive_key

if TYPE_CHECKING:
    from models.anonymizer.assembly import Assembly, AssemblySettings
    from models.anonymizer.pipeline import Anonymizer as Pipeline
    from models.faces.detection import UnionDetector
    from models.identity.subjects import SubjectTable


class PipelineAnonymizer:
    """The pipeline of models.anonymizer in the words of service.ports."""

    def __init__(self, pipeline: Pipeline) -> None:
        """Use a pipeline."""
        self._pipeline = pipeline

    def anonymize(self, pictures: Sequence[Picture]) -> list[Release]:
        """Give one release per picture, in order."""
        from models.anonymizer.pipeline import PictureRequest

        return self._pipeline.anonymize(
            [
                PictureRequest(
                    picture.data,
                    picture.policy,
                    scope_key=picture.scope_key,
                    deadline_s=picture.deadline_s,
                    corpus_key=picture.corpus_key,
                )
                for picture in pictures
            ]
        )


def build_engine(settings: Settings) -> Engine:
    """Load the models and open the store.

    Args:
        settings: the settings.

    Returns:
        The engine.

    Raises:
        ArtifactError: if an artifact is missing or damaged, or two do not belong together.
        StoreError: if the store is damaged or another process writes to it.
        SubjectTableError: if the subject table is missing, damaged or made with another key.
    """
    assembly = _assemble(settings)
    return Engine(
        anonymizer=PipelineAnonymizer(assembly.anonymizer),
        corpus=build_corpus(settings, writable=True),
        models=_describe(settings, assembly),
        check_models=lambda: _check_oracles(assembly),
        check_picture=picture_check(settings),
        policy_version=_policy_version(settings),
    )


def build_anonymizer(settings: Settings) -> PipelineAnonymizer:
    """Load the anonymizer alone.

    Args:
        settings: the settings.

    Returns:
        The anonymizer.

    Raises:
        ArtifactError: if an artifact is missing or damaged, or two do not belong together.
        SubjectTableError: if the subject table is missing, damaged or made with another key.
    """
    return PipelineAnonymizer(_assemble(settings).anonymizer)


def build_corpus(settings: Settings, *, writable: bool) -> LibraryCorpus:
    """Open the picture store with its encoders and a detector of its own.

    Args:
        settings: the settings.
        writable: whether this is the one process that writes.

    Returns:
        The corpus; a writable one has the default collection.

    Raises:
        ArtifactError: if the detector's artifact is missing or damaged.
        StoreError: if the store is damaged or another process writes to it.
    """
    from models.embedding import PictureEmbedder
    from retrieval.disclosure import DENIED_KEYS, Disclosure
    from retrieval.library import Library

    hidden = frozenset(key.lower() for key in settings.hidden_payload_keys)
    library = Library(
        settings.data_dir,
        PictureEmbedder.load(),
        _detector(settings),
        writable=writable,
        disclosure=Disclosure(denied=DENIED_KEYS | hidden, names=settings.hidden_names),
    )
    corpus = LibraryCorpus(library)
    if writable:
        corpus.create_collection(settings.default_collection)
    return corpus


def picture_check(settings: Settings) -> Callable[[bytes], None]:
    """Give the check that uploads pass before they wait for the anonymizer.

    Args:
        settings: the settings.

    Returns:
        A function that raises PictureError.
    """
    limits = _decode_limits(settings)

    def check(data: bytes) -> None:
        decode_picture(data, limits)

    return check


def required_artifacts() -> tuple[str, ...]:
    """Name the artifacts the service cannot do without."""
    from models.anonymizer.assembly import OWN_ARTIFACTS, UPSTREAM_ARTIFACTS

    return (*OWN_ARTIFACTS, *UPSTREAM_ARTIFACTS)


def load_subjects(settings: Settings) -> SubjectTable | None:
    """Open the subject table.

    Args:
        settings: the settings.

    Returns:
        The table, or None where no table is set.

    Raises:
        SubjectTableError: if it is missing, damaged or made with another key.
    """
    from models.identity.subjects import SubjectTable

    if settings.subjects is None or settings.subjects_key is None:
        return None
    return SubjectTable.load(settings.subjects, settings.subjects_key.get_secret_value().encode())


def _assemble(settings: Settings) -> Assembly:
    from models.anonymizer.assembly import assemble
    from models.identity.pseudonym_book import FilePseudonymBook
    from models.registry.store import ArtifactStore
    from models.runtime import choose_device, inference_threads

    subjects = load_subjects(settings)
    inference_threads(settings.num_threads or None)
    book = None
    if settings.master_key is not None:
        # without a master key pseudonyms end with the process, and so does their book
        settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        book = FilePseudonymBook(settings.data_dir / "pseudonyms")
    return assemble(
        ArtifactStore(settings.artifacts),
        _assembly_settings(settings),
        device=choose_device(settings.device),
        attribute_key=derive_key(settings, "attribute-noise"),
        pseudonym_key=derive_key(settings, "pseudonym"),
        pseudonym_epoch=settings.key_epoch,
        pseudonym_book=book,
        subjects=subjects,
        provenance_key=derive_key(settings, "provenance"),
    )


def _assembly_settings(settings: Settings) -> AssemblySettings:
    from models.anonymizer.assembly import AssemblySettings
    from models.anonymizer.pipeline import PipelineLimits

    limits = PipelineLimits(decode=_decode_limits(settings), max_faces=settings.limits.max_faces)
    return AssemblySettings(far=settings.false_accept_rate, limits=limits)


def _decode_limits(settings: Settings) -> DecodeLimits:
    limits = settings.limits
    return DecodeLimits(max_bytes=limits.max_body_bytes, max_pixels=limits.max_pixels, max_side=limits.max_side)


def _detector(settings: Settings) -> UnionDetector:
    from models.faces.detection import load_detector
    from models.registry.store import ArtifactStore

    return load_detector(ArtifactStore(settings.artifacts))


def _describe(settings: Settings, assembly: Assembly) -> tuple[ModelInfo, ...]:
    from models.oracles.ensemble import ORACLES
    from models.registry.store import ArtifactStore

    store = ArtifactStore(settings.artifacts)
    oracle_of = {ORACLES[name].artifact: name for name in assembly.ensemble.names}
    roles = {
        "upstream-fr-detect": "detector",
        "upstream-fr-landmark": "landmarks",
        "face-encoder": "encoder",
        "face-autoencoder": "autoencoder",
        "face-generator": "generator",
        "identity-manifold": "manifold",
        "match-calibrators": "calibrators",
        "oracle-thresholds": "thresholds",
        "realism-test": "realism",
    }
    described = []
    for name, version in sorted(assembly.versions.items()):
        manifest = store.resolve(name, version).manifest
        thresholds = {}
        if name in oracle_of:
            entry = assembly.thresholds.get(oracle_of[name], settings.false_accept_rate)
            thresholds = {oracle_of[name]: round(entry.privacy_threshold, 4)}
        digest = hashlib.sha256(manifest.to_json().encode()).hexdigest()
        described.append(ModelInfo(roles.get(name, "oracle"), name, version, digest, thresholds))
    return tuple(described)


def _check_oracles(assembly: Assembly) -> None:
    import torch

    with torch.inference_mode():
        answers = assembly.ensemble(torch.zeros(1, 3, 128, 128))
    for name, embedding in answers.items():
        if not bool(torch.isfinite(embedding).all()):
            raise EngineFailedError(f"oracle {name} does not answer with finite numbers")


def _policy_version(settings: Settings) -> str:
    """Hash every choice that a verdict depends on beside the artifacts."""
    return hashlib.sha256(repr(_assembly_settings(settings)).encode()).hexdigest()[:16]
