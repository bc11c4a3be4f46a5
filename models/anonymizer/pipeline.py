"""Pictures in, releases out: detect, align, encode, replace, paste, encode, judge.

All faces of all pictures of a call go through the networks together; everything else happens picture by picture, and a
fault in one picture withholds that picture only. No exception leaves `Anonymizer.anonymize`, no original face does.
"""

from __future__ import annotations

import copy
import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from models.anonymizer.admission import admit, is_replaced_with
from models.anonymizer.composition import compose
from models.anonymizer.deadline import Deadline
from models.anonymizer.errors import VerdictForgedError
from models.anonymizer.face_work import FaceWork
from models.anonymizer.faults import FaultObserver, StageError, ignore_faults, reason_of, stage
from models.anonymizer.gate import Gate, Inspection, TreatedFace
from models.anonymizer.interfaces import (
    AttributeEncoder,
    AttributeLimiter,
    Ensemble,
    Generator,
    IdentityEncoder,
    IdentitySampler,
    LandmarkEstimator,
    LeakageMeter,
    SceneMatcher,
    SubjectResolver,
    Threshold,
)
from models.anonymizer.policy import Policy
from models.anonymizer.provenance import describe, require_key
from models.anonymizer.randomness import FaceSeeds
from models.anonymizer.redetection import find_faces, merge_faces
from models.anonymizer.source_encoding import SourceEncoder
from models.anonymizer.synthesis import SynthesisSettings, Synthesizer
from models.anonymizer.verdict import Reason, Release, Verdict
from models.faces.boxes import Box
from models.faces.detection import FaceDetector
from models.faces.restoration import CropRestorer
from models.identity.leakage import leaked_bits
from models.identity.pseudonym import PseudonymIssuer
from models.pictures import DecodeLimits, decode_picture, encode_picture

_COVER_ROUNDS = 3  # a cover may reach into a neighbor, which then has to be covered too
_FINAL_REASONS = frozenset({Reason.ORACLE_FAILED})  # drawing again cannot help


@dataclass(frozen=True, slots=True)
class PictureRequest:
    """One picture to anonymize.

    Attributes:
        data: encoded picture.
        policy: what the caller asks for.
        scope_key: in the scope `pseudonym`: names the subject of a picture with one face, where no resolver does. Faces
            without a subject get a fresh identity.
        corpus_key: in the scope `pseudonym`, with a resolver: within what the subjects that it names keep their faces;
            None to not ask it.
        deadline_s: on the pipeline's monotonic clock; None for no limit.
    """

    data: bytes = field(repr=False)
    policy: Policy = field(default_factory=Policy)
    scope_key: bytes | None = field(default=None, repr=False)
    deadline_s: float | None = None
    corpus_key: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class PipelineLimits:
    """Bounds on the pictures.

    Attributes:
        decode: bytes and pixels of a source.
        max_faces: a picture with more is withheld.
        min_eye_distance: in pixels; a face with less is covered.
        quality: of JPEG and WebP.
    """

    decode: DecodeLimits = field(default_factory=DecodeLimits)
    max_faces: int = 64
    min_eye_distance: float = 8.0
    quality: int = 92


@dataclass(slots=True, eq=False, repr=False)
class _PictureWork:
    """State of one picture; never shown."""

    index: int
    request: PictureRequest
    deadline: Deadline
    digest: bytes = b""
    pixels: NDArray[np.uint8] | None = None
    faces: list[FaceWork] = field(default_factory=list)
    verdict: Verdict | None = None
    data: bytes | None = None
    size: tuple[int, int] = (0, 0)
    rounds: int = 0
    timings_s: dict[str, float] = field(default_factory=dict)

    @property
    def max_rounds(self) -> int:
        return 1 + self.request.policy.max_resyntheses + _COVER_ROUNDS


class Anonymizer:
    """Replaces or covers every face of pictures, and releases what the gate has verified."""

    def __init__(
        self,
        detector: FaceDetector,
        ensemble: Ensemble,
        thresholds: Mapping[str, Threshold],
        identity_encoder: IdentityEncoder,
        attribute_encoder: AttributeEncoder,
        levels: AttributeLimiter,
        sampler: IdentitySampler,
        generator: Generator,
        gate: Gate,
        meter: LeakageMeter,
        *,
        settings: SynthesisSettings = SynthesisSettings(),
        limits: PipelineLimits = PipelineLimits(),
        seeds: FaceSeeds | None = None,
        landmarks: LandmarkEstimator | None = None,
        matcher: SceneMatcher | None = None,
        restorer: CropRestorer | None = None,
        pseudonyms: PseudonymIssuer | None = None,
        subjects: SubjectResolver | None = None,
        models: Mapping[str, str] | None = None,
        provenance_key: bytes | None = None,
        device: torch.device | None = None,
        clock: Callable[[], float] = time.monotonic,
        observer: FaultObserver = ignore_faults,
    ) -> None:
        """Take every part.

        Args:
            detector: union of all detectors.
            ensemble: the oracles.
            thresholds: calibration, one entry for each oracle.
            identity_encoder: embeddings to identity code.
            attribute_encoder: crop to attribute distribution.
            levels: what the level of a policy lets the attribute code tell.
            sampler: proposes identities.
            generator: draws faces; row i depends on row i of its inputs only.
            gate: judges encoded pictures.
            meter: counts leaked bits.
            settings: how candidates are drawn.
            limits: bounds on the pictures.
            seeds: key of the attribute noise; share one key among processes that serve the same pictures.
            landmarks: with it, candidates are shown to the oracles aligned by their own landmarks too; needed for
                `select="landmarks"`.
            matcher: coarse attribute match of candidates; without it every candidate suits.
            restorer: cleans degraded crops before they are encoded; without it they are taken as they are.
            pseudonyms: needed for the scope `pseudonym`.
            subjects: names the subjects of faces for pseudonyms.
            models: artifact name -> version, for provenance.
            provenance_key: signs provenance records when given.
            device: where the networks run.
            clock: monotonic clock in seconds, of deadlines and timings.
            observer: told of every fault: reason slug and exception type.
        """
        if provenance_key is not None:
            require_key(provenance_key)
        place = device or torch.device("cpu")
        self._detector = detector
        self._gate = gate
        self._meter = meter
        self._limits = limits
        self._restorer = restorer
        self._seeds = seeds or FaceSeeds()
        self._models = dict(models or {})
        self._provenance_key = provenance_key
        self._clock = clock
        self._observer = observer
        self._source_encoder = SourceEncoder(
            ensemble, thresholds, identity_encoder, attribute_encoder, levels, place, observer
        )
        self._synthesizer = Synthesizer(
            ensemble,
            thresholds,
            sampler,
            generator,
            settings=settings,
            landmarks=landmarks,
            matcher=matcher,
            pseudonyms=pseudonyms,
            subjects=subjects,
            device=place,
            observer=observer,
        )

    def variant(self, detector: FaceDetector, restorer: CropRestorer | None) -> Anonymizer:
        """Give the same anonymizer with other first steps; gate, networks, keys and meter are shared.

        Args:
            detector: searches the sources; the gate keeps its own.
            restorer: cleans degraded crops before they are encoded; None leaves them as they are.

        Returns:
            The anonymizer.
        """
        other = copy.copy(self)
        other._detector, other._restorer = detector, restorer
        return other

    def anonymize(self, pictures: Sequence[PictureRequest]) -> list[Release]:
        """Anonymize pictures.

        Args:
            pictures: any number.

        Returns:
            One release for each, in order. A picture that could not be anonymized, covered and verified is withheld.
            The time of a batched stage counts in full for every picture that took part.
        """
        works = [
            _PictureWork(index, request, Deadline(request.deadline_s, self._clock))
            for index, request in enumerate(pictures)
        ]
        try:
            for work in works:
                self._guard(work, self._open)
            self._batch(works, "oracles", self._source_encoder.remember)
            self._batch(works, "encode", self._source_encoder.encode)
            for _ in range(max((work.max_rounds for work in works), default=0)):
                self._batch(works, "synthesize", self._synthesize)
                for work in works:
                    self._guard(work, self._try_release)
            return [self._release(work) for work in works]
        finally:
            for work in works:
                work.pixels = None
                for face in work.faces:
                    face.forget()

    def _open(self, work: _PictureWork) -> None:
        """Decode, find the faces, align them."""
        policy = work.request.policy
        with self._timed([work], "decode"), stage(Reason.UNDECODABLE, self._observer):
            work.deadline.check()
            work.digest = hashlib.sha256(work.request.data).digest()
            work.pixels = pixels = _fitted(decode_picture(work.request.data, self._limits.decode), policy.max_side)
            work.size = (pixels.shape[1], pixels.shape[0])
        with self._timed([work], "detect"), stage(Reason.DETECTOR_FAILED, self._observer):
            seen = find_faces(self._detector, pixels, self._gate.plan, work.deadline.check)
            found = merge_faces(seen, pixels.shape)
        if len(found) > self._limits.max_faces:
            raise StageError(Reason.TOO_MANY_FACES)
        with self._timed([work], "align"), stage(Reason.NOT_ALIGNABLE, self._observer):
            for face in found:
                if not any(is_replaced_with(face.box, other) for other in work.faces):
                    admit(
                        self._add_face(work, face.box, face.score),
                        face.landmarks,
                        pixels,
                        self._limits.min_eye_distance,
                        self._restorer,
                    )
            for added in work.faces:
                added.is_only_face = len(work.faces) == 1
            work.deadline.check()

    def _add_face(self, work: _PictureWork, box: Box, score: float) -> FaceWork:
        index = len(work.faces)
        width, height = work.size
        face = FaceWork(
            picture=work.index,
            index=index,
            box=box,
            det_score=score,
            policy=work.request.policy,
            deadline=work.deadline,
            scope_key=work.request.scope_key,
            identity_seed=self._seeds.identity_seed(work.digest, index, work.request.policy.seed),
            attribute_seed=self._seeds.attribute_seed(work.digest, index),
            corpus_key=work.request.corpus_key,
            picture_digest=work.digest,
            relative_box=(box[0] / width, box[1] / height, box[2] / width, box[3] / height),
        )
        work.faces.append(face)
        return face

    def _synthesize(self, faces: Sequence[FaceWork]) -> None:
        self._synthesizer.synthesize(
            [face for face in faces if face.is_synthetic and face.crop is None and face.fault is None]
        )

    def _try_release(self, work: _PictureWork) -> None:
        """Compose, encode and ask the gate; on a refusal decide for each face what happens next."""
        work.deadline.check()
        policy = work.request.policy
        for face in work.faces:
            if face.is_synthetic and face.crop is None:
                self._give_up(face, face.fault or Reason.SAMPLER_EXHAUSTED)
        with self._timed([work], "compose"), stage(Reason.COMPOSITING_FAILED, self._observer):
            if work.pixels is None:
                raise StageError(Reason.INTERNAL_ERROR)
            composed = compose(work.pixels, work.faces)
            work.deadline.check()
        with self._timed([work], "encode_picture"), stage(Reason.ENCODING_FAILED, self._observer):
            data = encode_picture(composed, policy.media, self._limits.quality)
            work.deadline.check()
        work.rounds += 1
        for face in work.faces:
            face.rounds += face.is_synthetic
        with self._timed([work], "verify"):
            treated = [_treated(face) for face in work.faces]
            inspection = self._gate.inspect(data, treated, policy, size=work.size, deadline=work.deadline)
        if inspection.verdict.is_releasable:
            work.data, work.verdict = data, inspection.verdict
            for face in work.faces:
                if face.is_synthetic:
                    self._meter.record("pre", max(1, face.tries))
                    self._meter.record("post", face.rounds)
                    self._meter.record("gallery", face.gallery_tries)
        else:
            self._react(work, inspection)

    def _react(self, work: _PictureWork, inspection: Inspection) -> None:
        """Draw refused faces again while the policy allows, then cover them; a refused cover is the end."""
        outcomes = inspection.verdict.faces
        is_final = not inspection.is_complete or work.rounds >= work.max_rounds or len(outcomes) != len(work.faces)
        refused = [
            (face, outcome.reason) for face, outcome in zip(work.faces, outcomes, strict=False) if not outcome.passed
        ]
        if is_final or any(not face.is_synthetic for face, _ in refused):
            work.verdict = inspection.verdict
            return
        for face, reason in refused:
            if face.rounds <= work.request.policy.max_resyntheses and reason not in _FINAL_REASONS:
                face.crop = None
            else:
                self._give_up(face, reason or Reason.INTERNAL_ERROR)
        for box in inspection.leftovers:
            if len(work.faces) >= self._limits.max_faces:
                raise StageError(Reason.TOO_MANY_FACES)
            self._give_up(self._add_face(work, box, 0.0), Reason.LEFTOVER_FACE)

    def _give_up(self, face: FaceWork, reason: Reason) -> None:
        """Cover a face that could not be replaced, or withhold its picture when the policy says so."""
        if face.crop is None and face.tries > 0:
            face.leaked_bits = self._meter.record("pre", face.tries + 1)
        elif face.rounds > 0:
            face.leaked_bits = self._meter.record("post", face.rounds + 1)
        if face.policy.on_failure == "withhold":
            raise StageError(reason)
        face.redact(reason)

    def _release(self, work: _PictureWork) -> Release:
        verdict = work.verdict or self._gate.withhold(Reason.INTERNAL_ERROR, [_treated(face) for face in work.faces])
        try:
            return self._bind(work, verdict, work.data)
        except VerdictForgedError:
            self._observer(Reason.BYTES_CHANGED.value, VerdictForgedError.__name__)
            return self._bind(work, self._gate.withhold(Reason.BYTES_CHANGED), None)

    def _bind(self, work: _PictureWork, verdict: Verdict, data: bytes | None) -> Release:
        policy = work.request.policy
        return Release(
            verdict,
            data,
            media_type=f"image/{policy.media}",
            width=work.size[0],
            height=work.size[1],
            timings_s=work.timings_s,
            provenance=describe(verdict, policy, self._models, self._provenance_key),
        )

    def _guard(self, work: _PictureWork, step: Callable[[_PictureWork], None]) -> None:
        """Run a step of an undecided picture; whatever it raises withholds this picture and no other."""
        if work.verdict is not None:
            return
        try:
            step(work)
        except Exception as error:
            reason = reason_of(error, Reason.INTERNAL_ERROR)
            self._observer(reason.value, type(error).__name__)
            work.verdict, work.data = self._gate.withhold(reason, [_treated(face) for face in work.faces]), None

    def _batch(self, works: Sequence[_PictureWork], name: str, step: Callable[[Sequence[FaceWork]], None]) -> None:
        """Run a batched stage on the faces of all undecided pictures that still have time."""
        open_works = [work for work in works if work.verdict is None and not work.deadline.is_over]
        faces = [face for work in open_works for face in work.faces]
        if not faces:
            return
        with self._timed(open_works, name):
            try:
                step(faces)
            except Exception as error:
                # the stages isolate their own faults; whatever still comes here leaves no face without a mark
                reason = reason_of(error, Reason.INTERNAL_ERROR)
                self._observer(reason.value, type(error).__name__)
                for face in faces:
                    face.crop, face.fault = None, reason

    @contextmanager
    def _timed(self, works: Sequence[_PictureWork], name: str) -> Iterator[None]:
        start = self._clock()
        try:
            yield
        finally:
            elapsed = self._clock() - start
            for work in works:
                work.timings_s[name] = work.timings_s.get(name, 0.0) + elapsed


def _treated(face: FaceWork) -> TreatedFace:
    bits = face.leaked_bits
    if face.is_synthetic:
        bits = leaked_bits(max(1, face.tries)) + leaked_bits(max(1, face.rounds)) + face.choice_bits
    return TreatedFace(
        box=face.box,
        status=face.status,
        source=face.source,
        reason=face.reason,
        det_score=face.det_score,
        attempts=face.attempts,
        steps=face.policy.steps if face.is_synthetic else 0,
        leaked_bits=bits,
    )


def _fitted(pixels: NDArray[np.uint8], max_side: int) -> NDArray[np.uint8]:
    """Shrink a picture whose longer side is too long."""
    height, width = pixels.shape[:2]
    scale = max_side / max(height, width)
    if scale >= 1.0:
        return pixels
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
