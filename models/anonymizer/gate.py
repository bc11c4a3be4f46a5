"""The release gate: looks at the bytes that will be sent, and alone can say that they may be.

The gate trusts no earlier stage. It decodes the encoded picture, searches it for faces again, cuts out every treated
face with the matrix of the source and asks every oracle about it. A face passes only when each test says so; a number
that is not finite, an oracle that is missing and an exception are failures. Comparisons are written so that NaN fails
them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.anonymizer.bytestream import carries_only_pixels
from models.anonymizer.deadline import Deadline
from models.anonymizer.errors import GateConfigurationError
from models.anonymizer.faults import FaultObserver, StageError, ignore_faults, stage
from models.anonymizer.interfaces import Ensemble, MatchCurves, Threshold
from models.anonymizer.oracle_views import as_batch, embed, similarities, views
from models.anonymizer.policy import Policy
from models.anonymizer.realism import RealismTest
from models.anonymizer.redaction import cover_box, is_solid
from models.anonymizer.redetection import DetectionPlan, Region, find_faces, is_treated, merge_faces
from models.anonymizer.source_record import SourceRecord
from models.anonymizer.verdict import FaceVerdict, Reason, Status, Verdict, _issue, worst
from models.faces.alignment import align_face, sample_crop
from models.faces.boxes import Box, Face, iou
from models.faces.detection import FaceDetector
from models.pictures import DecodeLimits, decode_picture

_SYNTHETIC = (Status.ANONYMIZED, Status.PSEUDONYMIZED)


@dataclass(frozen=True, slots=True)
class TreatedFace:
    """What was done to one face, as the pipeline claims it.

    Attributes:
        box: box of the source face in pixels.
        status: `anonymized`, `pseudonymized` or `redacted`.
        source: memory of the source face; None when it could not be aligned, and then only a redaction can pass.
        reason: why the face is redacted.
        det_score: detector score of the source face.
        attempts: identity candidates drawn.
        steps: denoising steps.
        leaked_bits: what rejection may have told about the source.
    """

    box: Box
    status: Status
    source: SourceRecord | None = None
    reason: Reason | None = None
    det_score: float = 0.0
    attempts: int = 0
    steps: int = 0
    leaked_bits: float = 0.0


@dataclass(frozen=True, slots=True)
class Inspection:
    """Result of one look at encoded bytes.

    Attributes:
        verdict: sealed; withholds the picture unless everything passed.
        is_complete: whether all tests were made; if not, the verdict says nothing about single faces.
        leftovers: boxes of faces found outside the treated ones.
    """

    verdict: Verdict
    is_complete: bool
    leftovers: tuple[Box, ...] = ()


@dataclass(frozen=True, slots=True)
class GateBounds:
    """Bounds of the tests that no calibration sets.

    Attributes:
        min_overlap: intersection over union from which a face found in the output is the treated one.
        max_landmark_deviation: mean distance of its landmarks from the source's, in eye distances.
        max_light_deviation: distance of its light from the source's (see SourceRecord.light_deviation); gray or burnt
            faces lie beyond.
        max_copied_share: share of textured tiles that may look like the source's (see SourceRecord.copied_share).
    """

    min_overlap: float = 0.4
    max_landmark_deviation: float = 0.15
    max_copied_share: float = 0.1
    max_light_deviation: float = 0.75

    def __post_init__(self) -> None:
        """Refuse bounds that test nothing.

        Raises:
            GateConfigurationError: if a bound is outside (0, 1).
        """
        for name in ("min_overlap", "max_landmark_deviation", "max_copied_share", "max_light_deviation"):
            if not 0.0 < getattr(self, name) < 1.0:
                raise GateConfigurationError(f"{name} must be in (0, 1), got {getattr(self, name)}")


@dataclass(slots=True)
class _Measured:
    """What the tests of one face found."""

    reason: Reason | None = None
    similarity: dict[str, float] = field(default_factory=dict)  # largest over the views
    landmark_deviation: float | None = None


class Gate:
    """Judges encoded pictures and seals the verdicts."""

    def __init__(
        self,
        detector: FaceDetector,
        ensemble: Ensemble,
        thresholds: Mapping[str, Threshold],
        realism: RealismTest,
        *,
        bounds: GateBounds = GateBounds(),
        plan: DetectionPlan = DetectionPlan(),
        limits: DecodeLimits = DecodeLimits(max_bytes=64 * 2**20),
        curves: MatchCurves | None = None,
        device: torch.device | None = None,
        observer: FaultObserver = ignore_faults,
    ) -> None:
        """Set the gate up.

        Args:
            detector: union of all detectors; raises when one of them failed.
            ensemble: the oracles.
            thresholds: calibration, one entry for each oracle of the ensemble.
            realism: the test that smears do not pass.
            bounds: bounds without a calibration.
            plan: copies of the picture that are searched for faces.
            limits: size of the pictures it decodes.
            curves: turn similarities into probabilities of a match, which verdicts then report and nothing decides by.
            device: where the oracles run.
            observer: told of every fault.

        Raises:
            GateConfigurationError: if there is no oracle, or a threshold is not a cosine below 1.
        """
        if not thresholds:
            raise GateConfigurationError("the gate needs the privacy threshold of at least one oracle, got none")
        for name, threshold in thresholds.items():
            if not -1.0 < threshold.privacy_threshold < 1.0:
                raise GateConfigurationError(
                    f"the privacy threshold of oracle {name} must be in (-1, 1), got {threshold.privacy_threshold}"
                )
        self._detector = detector
        self._ensemble = ensemble
        self._thresholds = dict(thresholds)
        self._realism = realism
        self._bounds = bounds
        self._plan = plan
        self._limits = limits
        self._curves = curves
        self._device = device or torch.device("cpu")
        self._observer = observer

    @property
    def plan(self) -> DetectionPlan:
        """The copies of a picture that are searched; a source searched less thoroughly would only be withheld."""
        return self._plan

    def inspect(
        self,
        data: bytes,
        faces: Sequence[TreatedFace],
        policy: Policy,
        *,
        size: tuple[int, int],
        deadline: Deadline = Deadline(),
    ) -> Inspection:
        """Judge an encoded picture.

        Args:
            data: the bytes that would be sent.
            faces: every face that was found in the source, with its treatment.
            policy: the caller's policy; its `max_similarity` can only tighten the thresholds.
            size: width and height the picture must have.
            deadline: after it, the picture is withheld.

        Returns:
            A verdict that releases these bytes, or one that withholds them and says for every face why.
        """
        try:
            return self._inspect(data, tuple(faces), policy, size, deadline)
        except StageError as error:
            return Inspection(self.withhold(error.reason, faces), is_complete=False)
        except Exception as error:
            self._observer(Reason.INTERNAL_ERROR.value, type(error).__name__)
            return Inspection(self.withhold(Reason.INTERNAL_ERROR, faces), is_complete=False)

    def withhold(self, reason: Reason, faces: Sequence[TreatedFace] = ()) -> Verdict:
        """Seal a verdict that releases nothing.

        Args:
            reason: why.
            faces: the faces known so far.

        Returns:
            The verdict; it says nothing about tests of single faces.
        """
        verdicts = tuple(
            FaceVerdict(face.box, Status.WITHHELD, reason, face.det_score, face.attempts, face.steps)
            for face in faces
            if all(math.isfinite(value) for value in (*face.box, face.det_score))
        )
        return _issue(Status.WITHHELD, reason, verdicts, None)

    def _inspect(
        self, data: bytes, faces: tuple[TreatedFace, ...], policy: Policy, size: tuple[int, int], deadline: Deadline
    ) -> Inspection:
        # 1. the bytes: pixels of the right size and nothing else
        with stage(Reason.ENCODING_FAILED, self._observer):
            deadline.check()
            if not carries_only_pixels(data, policy.media):
                raise StageError(Reason.METADATA_PRESENT)
            pixels = decode_picture(data, self._limits)
            if (pixels.shape[1], pixels.shape[0]) != size:
                raise StageError(Reason.ENCODING_FAILED)

        # 2. every face in the picture belongs to a treated one
        with stage(Reason.DETECTOR_FAILED, self._observer):
            found = find_faces(self._detector, pixels, self._plan, deadline.check)
        regions = [_region(face) for face in faces]
        shape = (pixels.shape[0], pixels.shape[1])
        leftovers = tuple(face.box for face in merge_faces(found, shape) if not is_treated(face, regions, shape))

        # 3. every treated face is what its status says
        with stage(Reason.ORACLE_FAILED, self._observer):
            crops = [None if face.source is None else sample_crop(pixels, face.source.matrix) for face in faces]
            compared = self._compare(faces, crops, pixels, found)
            deadline.check()
        with stage(Reason.INTERNAL_ERROR, self._observer):
            measured = []
            for index, face in enumerate(faces):
                if face.status in _SYNTHETIC:
                    measured.append(self._judge_synthetic(face, crops[index], compared[index], found, policy))
                elif face.status is Status.REDACTED:
                    later = [other.box for other in faces[index + 1 :] if other.status is Status.REDACTED]
                    measured.append(self._judge_redacted(face, compared[index], pixels, later, policy))
                else:
                    raise StageError(Reason.INTERNAL_ERROR)
            deadline.check()

        verdicts = tuple(self._face_verdict(face, result, policy) for face, result in zip(faces, measured, strict=True))
        failed = [verdict.reason for verdict in verdicts if not verdict.passed]
        if leftovers:
            return Inspection(_issue(Status.WITHHELD, Reason.LEFTOVER_FACE, verdicts, None), True, leftovers)
        if failed:
            return Inspection(_issue(Status.WITHHELD, failed[0], verdicts, None), True)
        status = worst([verdict.status for verdict in verdicts])
        reason = next((verdict.reason for verdict in verdicts if verdict.reason is not None), None)
        return Inspection(_issue(status, reason, verdicts, data), True)

    def _compare(
        self,
        faces: Sequence[TreatedFace],
        crops: Sequence[NDArray[np.uint8] | None],
        pixels: NDArray[np.uint8],
        found: Sequence[Face],
    ) -> list[dict[str, Tensor] | None]:
        """Similarity of each released face to its source, oracle -> (views,); None where there is no source.

        The views are those of the crop at the source's place, and the crop at the landmarks that the released face
        shows, which is the one that an attacker makes.
        """
        known: list[tuple[int, NDArray[np.uint8], dict[str, Tensor]]] = []
        for index, (face, crop) in enumerate(zip(faces, crops, strict=True)):
            embeddings = None if face.source is None else face.source.embeddings
            if crop is not None and embeddings is not None:
                known.append((index, crop, embeddings))
        result: list[dict[str, Tensor] | None] = [None] * len(faces)
        if not known:
            return result
        own = [
            (row, align_face(pixels, landmarks).crop)
            for row, (index, _, _) in enumerate(known)
            for _, landmarks in self._found_again(faces[index], found)[:1]
        ]
        seen = views(as_batch([crop for _, crop, _ in known]).to(self._device))  # (views, n, 3, 128, 128)
        asked = torch.cat([seen.flatten(0, 1), *(as_batch([crop]).to(self._device) for _, crop in own)])
        answers = embed(self._ensemble, asked, self._thresholds)
        sources = {name: torch.stack([embeddings[name] for _, _, embeddings in known]) for name in self._thresholds}
        count = seen.shape[0] * seen.shape[1]
        placed = {name: answer[:count].unflatten(0, seen.shape[:2]) for name, answer in answers.items()}
        compared = similarities(sources, placed)  # oracle -> (views, n)
        rows = torch.tensor([row for row, _ in own], dtype=torch.long)
        chosen = {name: source[rows] for name, source in sources.items()}
        compared_own = similarities(chosen, {name: answer[count:] for name, answer in answers.items()})
        for row, (index, _, _) in enumerate(known):
            result[index] = {
                name: torch.cat([values[:, row], compared_own[name][rows == row]]) for name, values in compared.items()
            }
        return result

    def _found_again(self, face: TreatedFace, found: Sequence[Face]) -> list[tuple[Face, NDArray[np.float64]]]:
        """Detections with landmarks that overlap a treated face, the most certain first."""
        again = [
            (other, other.landmarks)
            for other in found
            if other.landmarks is not None and iou(other.box, face.box) >= self._bounds.min_overlap
        ]
        return sorted(again, key=lambda pair: -pair[0].score)

    def _judge_synthetic(
        self,
        face: TreatedFace,
        crop: NDArray[np.uint8] | None,
        compared: dict[str, Tensor] | None,
        found: Sequence[Face],
        policy: Policy,
    ) -> _Measured:
        if face.source is None or crop is None or compared is None:
            return _Measured(Reason.ORACLE_FAILED)
        result = self._judge_similarity(compared, policy)
        if result.reason is not None:
            return result
        if not face.source.copied_share(crop) <= self._bounds.max_copied_share:
            return replace(result, reason=Reason.SOURCE_VISIBLE)
        again = [(_deviation(marks, face.source), other.score) for other, marks in self._found_again(face, found)]
        if not again:
            return replace(result, reason=Reason.FACE_NOT_FOUND)
        result.landmark_deviation = again[0][0]  # of the most certain detection
        if not result.landmark_deviation <= self._bounds.max_landmark_deviation:
            return replace(result, reason=Reason.LANDMARKS_MOVED)
        if not self._realism.accepts(crop, face.source.laplacian_energy, max(score for _, score in again)):
            return replace(result, reason=Reason.NOT_REALISTIC)
        if not face.source.light_deviation(crop) <= self._bounds.max_light_deviation:
            return replace(result, reason=Reason.NOT_REALISTIC)
        return result

    def _judge_redacted(
        self,
        face: TreatedFace,
        compared: dict[str, Tensor] | None,
        pixels: NDArray[np.uint8],
        later: Sequence[Box],
        policy: Policy,
    ) -> _Measured:
        matrix = None if face.source is None else face.source.matrix
        if not is_solid(pixels, face.box, later, matrix):
            return _Measured(Reason.REDACTION_NOT_SOLID)
        if compared is None:  # nothing to compare with, and one color tells nobody from anybody
            return _Measured()
        result = self._judge_similarity(compared, policy)
        # no pixel of the face is left, so a likeness is one of the surroundings: it is reported, and no reason to stop
        return replace(result, reason=None) if result.reason is Reason.SIMILARITY_EXCEEDED else result

    def _judge_similarity(self, compared: dict[str, Tensor], policy: Policy) -> _Measured:
        result = _Measured()
        for name, threshold in self._thresholds.items():
            values = compared[name]
            if not bool(torch.isfinite(values).all()):
                return _Measured(Reason.ORACLE_FAILED)
            result.similarity[name] = float(values.max())
            if not result.similarity[name] < policy.threshold(threshold.privacy_threshold):
                result.reason = Reason.SIMILARITY_EXCEEDED
        return result

    def _face_verdict(self, face: TreatedFace, measured: _Measured, policy: Policy) -> FaceVerdict:
        limits = {name: policy.threshold(threshold.privacy_threshold) for name, threshold in self._thresholds.items()}
        margins = {name: limits[name] - value for name, value in measured.similarity.items()}
        tightest = min(margins, key=lambda name: margins[name], default=None)
        shown = {name: _rounded(value) for name, value in margins.items()}
        passed = measured.reason is None
        return FaceVerdict(
            box=face.box,
            status=face.status if passed else Status.WITHHELD,
            reason=face.reason if passed else measured.reason,
            det_score=face.det_score,
            attempts=face.attempts,
            steps=face.steps,
            max_oracle_similarity=_rounded(max(measured.similarity.values())) if measured.similarity else None,
            threshold=None if tightest is None else limits[tightest],
            margins=shown,
            passed=passed,
            leaked_bits=face.leaked_bits,
            landmark_deviation=None if measured.landmark_deviation is None else round(measured.landmark_deviation, 2),
            match_probability=self._match_probability({name: limits[name] - value for name, value in shown.items()}),
        )

    def _match_probability(self, similarity: Mapping[str, float]) -> dict[str, float] | None:
        """Probabilities for similarities that were rounded already: near even odds a curve is steep."""
        if self._curves is None or not similarity:
            return None
        return {
            name: _rounded(float(self._curves.probability(name, max(-1.0, min(1.0, value)))))
            for name, value in similarity.items()
        }


def _region(face: TreatedFace) -> Region:
    return Region(
        box=face.box,
        matrix=None if face.source is None else face.source.matrix,
        cover=cover_box(face.box) if face.status is Status.REDACTED else None,
    )


def _deviation(landmarks: NDArray[np.float64], source: SourceRecord) -> float:
    distances = np.linalg.norm(landmarks - source.landmarks, axis=1)
    return float(distances.mean()) / source.eye_distance


def _rounded(value: float) -> float:
    """Round to 0.05: an exact similarity would help an attacker who searches for the source."""
    return round(round(value / 0.05) * 0.05, 2)
