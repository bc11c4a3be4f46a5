"""Draws replacement faces and accepts the first that no oracle takes for the source.

For every open face a block of identity candidates is drawn, all candidates of all faces go through the generator in
one batch, and the oracles judge the results (test T1 on pictures, anonymizer specification B6). Candidates are judged
in the order drawn, so blocks change the speed and not the law: what is released has the law of a one-by-one sampler.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.anonymizer.candidate_test import CandidateTest, Judgement
from models.anonymizer.face_work import FaceWork, present, run_isolated
from models.anonymizer.faults import FaultObserver
from models.anonymizer.interfaces import (
    Ensemble,
    Generator,
    IdentitySampler,
    LandmarkEstimator,
    SceneMatcher,
    SubjectResolver,
    Threshold,
)
from models.anonymizer.oracle_views import as_batch, as_pixels
from models.anonymizer.randomness import numpy_stream, torch_stream
from models.anonymizer.verdict import Reason, Status
from models.identity.pseudonym import PseudonymIssuer
from models.identity.rejection import Exhausted, ImageTest, Subject
from models.identity.sphere import Codes

Selection = Literal["first", "landmarks"]

_IDENTITY_STREAM, _NOISE_STREAM = 1, 2  # first index of the random streams of a face


@dataclass(frozen=True, slots=True)
class SynthesisSettings:
    """How candidates are drawn.

    Attributes:
        first_block: candidates per face in the first batch. Most faces accept their first candidate, and asking the
            oracles costs as much as drawing, so one is the cheapest.
        block: candidates per face in the batches after it. About every third candidate is accepted, so larger blocks
            draw many that nobody needs, and single ones leave the matrix products small.
        max_rows: rows of one generator call; more are split.
        select: `first` takes the first accepted candidate. `landmarks` takes, among the accepted ones of a block, the
            one whose landmarks are nearest to the source's; the choice looks at the source and so may tell at most
            log2(accepted candidates in the block) bits more, which are added to the leakage of the face.
        margin: how far below the threshold of an oracle a candidate must stay, in standard deviations of the
            similarity of different people; None for that of the policy's level (`MARGINS`).
        oracle_dtype: format in which the oracles multiply when they judge candidates. The gate judges what is sent in
            float32, so bfloat16, which moves similarities by some thousandths, can cost a face and never admit one.
    """

    first_block: int = 1
    block: int = 2
    max_rows: int = 64
    select: Selection = "first"
    margin: float | None = None
    oracle_dtype: torch.dtype = torch.float32

    def __post_init__(self) -> None:
        """Refuse empty blocks.

        Raises:
            ValueError: if a size is below 1 or the selection is unknown.
        """
        for name in ("first_block", "block", "max_rows"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.margin is not None and not 0.0 <= self.margin <= 3.0:
            raise ValueError(f"margin must be in [0, 3], got {self.margin}")
        if self.select not in ("first", "landmarks"):
            raise ValueError(f"select must be 'first' or 'landmarks', got {self.select!r}")


@dataclass(slots=True, eq=False, repr=False)
class _Row:
    """One candidate of one face."""

    face: FaceWork
    code: Codes  # (d,)
    noise: int  # index of its noise stream
    tries: int  # T1 tests of this synthesis up to and with this candidate
    gallery_tries: int
    crop: NDArray[np.uint8] | None = None
    is_accepted: bool = False


class Synthesizer:
    """Gives faces their replacement crops."""

    def __init__(
        self,
        ensemble: Ensemble,
        thresholds: Mapping[str, Threshold],
        sampler: IdentitySampler,
        generator: Generator,
        *,
        settings: SynthesisSettings = SynthesisSettings(),
        landmarks: LandmarkEstimator | None = None,
        matcher: SceneMatcher | None = None,
        pseudonyms: PseudonymIssuer | None = None,
        subjects: SubjectResolver | None = None,
        device: torch.device,
        observer: FaultObserver,
    ) -> None:
        """Take networks and settings.

        Args:
            ensemble: the oracles.
            thresholds: their calibration.
            sampler: proposes identity codes.
            generator: draws faces.
            settings: how candidates are drawn.
            landmarks: shows candidates to the oracles aligned by their own landmarks too, as the gate will; needed for
                `select="landmarks"`.
            matcher: coarse attribute match; without it every candidate suits.
            pseudonyms: needed for the scope `pseudonym`; without it every face is drawn fresh.
            subjects: names the subjects of faces; where it does not, the request's scope key does, for a picture with
                one face.
            device: where the networks run.
            observer: told of every fault.

        Raises:
            ValueError: if the selection needs landmarks and there is no estimator.
        """
        if settings.select == "landmarks" and landmarks is None:
            raise ValueError("select='landmarks' needs a landmark estimator")
        self._test = CandidateTest(
            ensemble,
            thresholds,
            margin=settings.margin,
            landmarks=landmarks,
            device=device,
            dtype=settings.oracle_dtype,
        )
        self._sampler = sampler
        self._generator = generator
        self._settings = settings
        self._landmarks = landmarks
        self._matcher = matcher
        self._pseudonyms = pseudonyms
        self._subjects = subjects
        self._device = device
        self._observer = observer

    def synthesize(self, faces: Sequence[FaceWork]) -> None:
        """Give each face an accepted crop, or a fault that says why there is none.

        Args:
            faces: faces with codes and without a crop.
        """
        for face in faces:
            face.tries, face.fault = 0, None
        run_isolated([face for face in faces if face.suits is None], self._match, Reason.ENCODER_FAILED, self._observer)
        for face in faces:
            if face.fault is None:
                run_isolated([face], self._try_pseudonym, Reason.SAMPLER_FAILED, self._observer)
        self._draw_fresh([face for face in faces if face.crop is None and face.fault is None])

    def _match(self, faces: Sequence[FaceWork]) -> None:
        """Make the coarse attribute match of faces that have none yet."""
        if self._matcher is None:
            return
        crops = as_batch([present(face.aligned).crop for face in faces]).to(self._device)
        codes = torch.stack([present(face.attribute_code) for face in faces]).to(self._device)
        for face, suits in zip(faces, self._matcher(crops, codes), strict=True):
            face.suits = suits

    def _draw_fresh(self, faces: Sequence[FaceWork]) -> None:
        first = self._settings.first_block if self._settings.select == "first" else self._settings.block
        open_faces, size = list(faces), first
        while open_faces:
            rows: list[_Row] = []

            def propose(group: Sequence[FaceWork], rows: list[_Row] = rows, size: int = size) -> None:
                rows += self._propose(group[0], size)

            for face in open_faces:
                run_isolated([face], propose, Reason.SAMPLER_FAILED, self._observer)
            self._preview(rows)

            def settle(group: Sequence[FaceWork], rows: list[_Row] = rows) -> None:
                self._settle(group[0], [row for row in rows if row.face is group[0]])

            for face in open_faces:
                run_isolated([face], settle, Reason.INTERNAL_ERROR, self._observer)
            open_faces = [
                face for face in open_faces if face.crop is None and face.fault is None and not face.deadline.is_over
            ]
            size = self._settings.block

    def _propose(self, face: FaceWork, size: int) -> list[_Row]:
        if face.identity_stream is None:
            face.identity_stream = numpy_stream(face.identity_seed, _IDENTITY_STREAM)
        left = face.policy.max_tries - face.tries
        drawn = self._sampler.candidates(
            present(face.identity_code), min(size, left), left, face.identity_stream, face.suits
        )
        if drawn.codes.shape[1:] != present(face.identity_code).shape or not np.isfinite(drawn.codes).all():
            raise ValueError("the sampler must give finite codes of the source's dimension")
        rows = []
        for code, tries, gallery_tries in zip(drawn.codes, drawn.tries, drawn.gallery_tries, strict=True):
            face.tries += tries
            face.attempts += tries
            rows.append(_Row(face, code, face.attempts, face.tries, gallery_tries))
        face.tries += drawn.refused_after
        face.attempts += drawn.refused_after
        if not rows:
            face.fault = Reason.SAMPLER_EXHAUSTED
        return rows

    def _settle(self, face: FaceWork, rows: Sequence[_Row]) -> None:
        """Take an accepted candidate, or note that the tries are used up."""
        accepted = [row for row in rows if row.is_accepted]
        if face.fault is not None:
            return
        if not accepted:
            if face.tries >= face.policy.max_tries:
                face.fault = Reason.SAMPLER_EXHAUSTED
            return
        chosen = accepted[0]
        if self._settings.select == "landmarks" and len(accepted) > 1:
            chosen = min(accepted, key=self._landmark_error)
            face.choice_bits = math.log2(len(accepted))
        # the meter counts refusals: accepted candidates that were not chosen are none
        face.crop, face.tries, face.gallery_tries = chosen.crop, accepted[0].tries, chosen.gallery_tries

    def _landmark_error(self, row: _Row) -> float:
        pair = as_batch([present(row.face.aligned).crop, present(row.crop)]).to(self._device)
        with torch.inference_mode():
            source, candidate = present(self._landmarks)(pair)
        return float((source - candidate).norm(dim=-1).mean())

    def _preview(self, rows: Sequence[_Row]) -> None:
        """Draw and judge candidates in batches of one policy; a fault stays in its picture."""
        groups: dict[tuple[int, float], list[_Row]] = {}
        for row in rows:
            groups.setdefault((row.face.policy.steps, row.face.policy.guidance), []).append(row)
        for group in groups.values():
            for start in range(0, len(group), self._settings.max_rows):
                chunk = group[start : start + self._settings.max_rows]
                faces = list({id(row.face): row.face for row in chunk}.values())

                def judge(part: Sequence[FaceWork], chunk: list[_Row] = chunk) -> None:
                    wanted = {id(face) for face in part}
                    self._judge([row for row in chunk if id(row.face) in wanted])

                run_isolated(faces, judge, Reason.GENERATOR_FAILED, self._observer)

    def _judge(self, rows: Sequence[_Row]) -> None:
        crops = self._generate(rows)  # (n, 3, 128, 128)
        finite = torch.isfinite(crops).flatten(1).all(dim=1)
        crops = torch.where(finite[:, None, None, None], crops, 0.0)
        # what is judged is what will be pasted: 8 bit levels
        pixels = as_pixels(crops)
        # a face takes its first accepted candidate, so the later ones need not be asked about any further
        groups = [id(row.face) for row in rows] if self._settings.select == "first" else None
        judged = self._ask(rows, pixels, groups)
        for index, row in enumerate(rows):
            if not bool(finite[index]):
                row.face.fault = Reason.NOT_FINITE
            elif not all(math.isfinite(values[index]) for values in judged.similarity.values()):
                row.face.fault = Reason.ORACLE_FAILED
            row.crop = pixels[index]
            row.is_accepted = bool(judged.is_accepted[index])

    def _ask(self, rows: Sequence[_Row], pixels: NDArray[np.uint8], groups: Sequence[int] | None = None) -> Judgement:
        sources = [present(present(row.face.source).embeddings) for row in rows]
        return self._test.judge(list(pixels), sources, [self._test.limits(row.face.policy) for row in rows], groups)

    def _generate(self, rows: Sequence[_Row]) -> Tensor:
        contexts = as_batch([present(row.face.aligned).crop for row in rows]).to(self._device)
        attributes = torch.stack([present(row.face.attribute_code) for row in rows])
        codes = torch.from_numpy(np.stack([row.code for row in rows]))
        with torch.inference_mode():
            crops = self._generator.generate(
                contexts,
                attributes.to(self._device),
                codes.to(self._device),
                steps=rows[0].face.policy.steps,
                guidance=rows[0].face.policy.guidance,
                generator=[torch_stream(row.face.identity_seed, _NOISE_STREAM, row.noise) for row in rows],
            )
        if not isinstance(crops, Tensor) or crops.shape != contexts.shape:
            raise ValueError(f"the generator must return {tuple(contexts.shape)}")
        return crops.float()

    def _cluster(self, face: FaceWork) -> bytes | None:
        """Name the subject of a face, None where it gets a fresh identity."""
        if face.policy.scope != "pseudonym" or self._pseudonyms is None:
            return None
        if self._subjects is not None and face.corpus_key is not None:
            subject = self._subjects(face.picture_digest, face.relative_box)
            if subject is not None:
                return len(face.corpus_key).to_bytes(4, "big") + face.corpus_key + subject
        return face.scope_key if face.is_only_face else None

    def _try_pseudonym(self, group: Sequence[FaceWork]) -> None:
        """Give a face its subject's code; all candidates share one noise, so the accepted preview is the picture."""
        face = group[0]
        cluster = self._cluster(face)
        if cluster is None:
            return
        previewed: dict[bytes, _Row] = {}

        def preview(codes: Codes) -> Mapping[str, NDArray[np.float64]]:
            rows = [_Row(face, code, -1 - face.rounds, 0, 1) for code in codes]
            crops = self._generate(rows)
            if not bool(torch.isfinite(crops).all()):
                raise ValueError("the generator drew numbers that are not finite")
            pixels = as_pixels(crops)
            for row, crop in zip(rows, pixels, strict=True):
                row.crop = crop
                previewed[row.code.tobytes()] = row
            return {name: values.numpy() for name, values in self._ask(rows, pixels).similarity.items()}

        given = present(self._pseudonyms).issue(
            cluster,
            Subject(present(face.identity_code)),
            image_test=ImageTest(preview, self._test.limits(face.policy)),
            bin_test=face.suits,
            max_tries=face.policy.max_tries,
        )
        face.tries = given.source_tries
        face.attempts += given.source_tries
        if isinstance(given, Exhausted):
            face.fault = Reason.SAMPLER_EXHAUSTED
            return
        row = previewed.get(given.code.tobytes())
        if row is None:  # a subject known before: its face is not chosen again, only drawn
            preview(given.code[None])
            row = previewed[given.code.tobytes()]
        face.crop, face.status, face.gallery_tries = row.crop, Status.PSEUDONYMIZED, given.gallery_tries
