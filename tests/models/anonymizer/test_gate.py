"""What the gate lets pass and what it stops, and that no check can be taken out of it unnoticed."""

from __future__ import annotations

import ast
import math
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

import models.anonymizer.gate as gate_module
from models.anonymizer.deadline import Deadline
from models.anonymizer.errors import GateConfigurationError
from models.anonymizer.oracle_views import as_batch, embed, similarities
from models.anonymizer.policy import Policy
from models.anonymizer.redaction import redact_faces
from models.anonymizer.redetection import DetectionPlan
from models.anonymizer.source_record import SourceRecord
from models.anonymizer.verdict import Reason, Status
from models.faces.alignment import align_face, face_mask
from models.faces.boxes import Face, iou
from models.faces.compositing import paste_face
from models.pictures import encode_picture

GATE_SOURCE = Path(gate_module.__file__).read_text()
PLAN = DetectionPlan(scales=(1.0,), mirrored=False)
Case = Callable[["Bench"], Any]


@dataclass
class Bench:
    """A picture whose face was replaced well, and a gate of any (mutated) gate module to show it to."""

    kit: Any
    realism: Any
    module: Any
    source: Any
    record: SourceRecord
    box: tuple[float, float, float, float]
    released: Any
    ensemble: Any
    detector: Any
    encoded: dict[bytes, bytes] = field(default_factory=dict)

    def gate(self, **parts: Any) -> Any:
        defaults = {
            "detector": self.detector,
            "ensemble": self.ensemble,
            "thresholds": {name: self.kit.FixedThreshold() for name in self.kit.ProjectionOracles.names},
            "realism": self.realism,
            "plan": PLAN,
        }
        return self.module.Gate(**{**defaults, **parts})

    def face(self, **fields: Any) -> Any:
        defaults = {"box": self.box, "status": Status.ANONYMIZED, "source": self.record, "det_score": 0.9}
        return self.module.TreatedFace(**{**defaults, **fields})

    def cover(self, pixels: Any = None) -> Any:
        return redact_faces(self.released if pixels is None else pixels, [(self.box, None)]).pixels

    def encode(self, pixels: Any) -> bytes:
        """Encode, once for all mutants."""
        key = pixels.tobytes()
        if key not in self.encoded:
            self.encoded[key] = encode_picture(pixels, "png")
        return self.encoded[key]

    def look(self, pixels: Any, *faces: Any, gate: Any = None, policy: Any = None, **options: Any) -> Any:
        data = pixels if isinstance(pixels, bytes) else self.encode(pixels)
        arguments = {"size": (self.source.shape[1], self.source.shape[0]), **options}
        return (gate or self.gate()).inspect(data, faces, policy or Policy(media="png"), **arguments)


def outcome(inspection: Any) -> tuple[str, str | None]:
    verdict = inspection.verdict
    return str(verdict.status), None if verdict.reason is None else str(verdict.reason)


def expect(status: Status, reason: Reason | None, run: Callable[[Bench], Any]) -> Case:
    def check(bench: Bench) -> None:
        inspection = run(bench)
        assert outcome(inspection) == (str(status), None if reason is None else str(reason))

    return check


def blind(bench: Bench) -> Any:
    """Oracles that see no likeness anywhere."""

    def change(answers: Any, *_: Any) -> Any:
        blinded = {}
        for name, rows in answers.items():
            source = bench.record.embeddings[name]
            away = torch.roll(source, 1)
            away = away - (away @ source) * source
            blinded[name] = (away / away.norm()).float().expand_as(rows)
        return blinded

    return bench.kit.Altered(bench.ensemble, change)


def seeing(bench: Bench, similarity: float, views: tuple[int, ...] = (0, 1, 2, 3)) -> Any:
    """Oracles of which one sees a fixed likeness, in some views: four at the source's place, the fifth at its own."""

    def change(answers: Any, *_: Any) -> Any:
        count = len(answers["east"])
        source = bench.record.embeddings["east"]
        away = torch.roll(source, 1)
        away = away - (away @ source) * source
        away = away / away.norm()
        rows = away.expand(count, -1).clone()
        for view in views:
            rows[view] = similarity * source + math.sqrt(1.0 - similarity**2) * away
        return {**blind(bench)(torch.zeros(count, 3, 128, 128)), "east": rows}

    return bench.kit.Altered(bench.ensemble, change)


def shifted_record(bench: Bench, by: float) -> SourceRecord:
    record = SourceRecord(
        align_face(bench.source, bench.record.landmarks), bench.record.landmarks + by, bench.record.embeddings
    )
    return record


def forgotten(bench: Bench) -> SourceRecord:
    record = shifted_record(bench, 0.0)
    record.forget()
    return record


def stops_a_forgotten_source(bench: Bench) -> None:
    inspection = bench.look(bench.released, bench.face(source=forgotten(bench)))
    assert outcome(inspection) == ("withheld", "oracle_failed")
    assert inspection.is_complete


def overlapping_covers(bench: Bench) -> Any:
    """Two covers of different colors, the second over a part of the first."""
    pixels = bench.released.copy()
    pixels[:, 100:] //= 3
    other = (bench.box[0] + 40.0, bench.box[1] + 30.0, bench.box[2] + 30.0, bench.box[3] + 10.0)
    covered = redact_faces(pixels, [(bench.box, None), (other, None)]).pixels
    faces = [bench.face(status=REDACTED), bench.face(status=REDACTED, box=other, source=None)]
    return bench.look(covered, *faces)


def small_cover(bench: Bench) -> Any:
    """A cover of the mouth only, before a detector that sees no face in what is left."""
    x0, y0, x1, y1 = bench.box
    mouth = (x0 + 0.35 * (x1 - x0), y0 + 0.7 * (y1 - y0), x0 + 0.65 * (x1 - x0), y0 + 0.9 * (y1 - y0))
    covered = redact_faces(bench.released, [(mouth, None)]).pixels
    blinded = bench.kit.AlteredMethod(bench.detector, "detect", lambda *_: [])
    return bench.look(covered, bench.face(status=REDACTED, box=mouth), gate=bench.gate(detector=blinded))


def half_source(bench: Bench) -> Any:
    mixed = bench.released.copy()
    mixed[:, : mixed.shape[1] // 2] = bench.source[:, : mixed.shape[1] // 2]
    return mixed


def blurred(bench: Bench) -> Any:
    crop = align_face(bench.released, bench.record.landmarks).crop
    return paste_face(bench.released, cv2.GaussianBlur(crop, (0, 0), 1.5), bench.record.matrix, face_mask()).pixels


def brighter_record(bench: Bench) -> SourceRecord:
    """Memory of the same face in more light."""
    bright = (bench.source.astype(np.int16) + 100).clip(0, 255).astype(np.uint8)
    return SourceRecord(align_face(bright, bench.record.landmarks), bench.record.landmarks, bench.record.embeddings)


def second_face(bench: Bench, pixels: Any) -> Any:
    extra = cv2.resize(bench.kit.draw_crop(np.arange(64), 3), (60, 60), interpolation=cv2.INTER_AREA)
    pixels = pixels.copy()
    pixels[-60:, -60:] = extra
    return pixels


def ticking(start: float) -> Callable[[], float]:
    times = iter(np.arange(start, start + 1000.0))
    return lambda: float(next(times))


def after_detection(bench: Bench) -> Any:
    """Time runs out between the detector and the verdict."""
    count = len(list(_deadline_checks(bench, math.inf)))
    return bench.look(bench.released, bench.face(), deadline=Deadline(count - 1.0, ticking(0.0)))


def _deadline_checks(bench: Bench, limit: float) -> Iterator[float]:
    seen: list[float] = []

    def clock() -> float:
        seen.append(0.0)
        return 0.0

    bench.look(bench.released, bench.face(), deadline=Deadline(limit, clock))
    yield from seen


def exact_threshold(bench: Bench) -> Any:
    """The likeness is exactly the threshold, which must not be reached."""
    ensemble = seeing(bench, 0.6)
    answers = embed(ensemble, torch.zeros(4, 3, 128, 128), bench.kit.ProjectionOracles.names)
    value = float(similarities({"east": bench.record.embeddings["east"]}, {"east": answers["east"]})["east"].max())
    thresholds = {name: bench.kit.FixedThreshold(value) for name in bench.kit.ProjectionOracles.names}
    return bench.look(bench.released, bench.face(), gate=bench.gate(ensemble=ensemble, thresholds=thresholds))


def refuses(**parts: Any) -> Case:
    def check(bench: Bench) -> None:
        built = {name: part(bench) if callable(part) else part for name, part in parts.items()}
        with pytest.raises(GateConfigurationError):
            bench.gate(**built)

    return check


def refuses_bounds(**fields: float) -> Case:
    def check(bench: Bench) -> None:
        with pytest.raises(Exception, match=next(iter(fields))):
            bench.module.GateBounds(**fields)

    return check


def thresholds_of(value: float) -> Callable[[Bench], Any]:
    return lambda bench: {name: bench.kit.FixedThreshold(value) for name in bench.kit.ProjectionOracles.names}


def reports_numbers(bench: Bench) -> None:
    gate = bench.gate(ensemble=seeing(bench, 0.33))
    (face,) = bench.look(bench.released, bench.face(attempts=3, steps=2, leaked_bits=0.5), gate=gate).verdict.faces
    assert face.passed
    assert face.max_oracle_similarity == 0.35
    assert face.threshold == 0.6
    assert face.margins == {"north": 0.6, "east": 0.25, "south": 0.6}
    assert (face.attempts, face.steps, face.leaked_bits, face.det_score) == (3, 2, 0.5, 0.9)
    assert face.landmark_deviation is not None
    assert face.reason is None


class Curves:
    """Probability of a match that rises from 0 to 1 between the cosines 0.25 and 0.35."""

    def probability(self, oracle: str, similarity: float) -> float:
        assert -1.0 <= similarity <= 1.0
        return min(1.0, max(0.0, 10.0 * (similarity - 0.25)))


def reports_probabilities(bench: Bench) -> None:
    """They follow from the rounded margins alone: 0.30 and 0.31 give the same, and the answer of nobody changes."""
    shown = []
    for similarity in (0.30, 0.31):
        ensemble = seeing(bench, similarity)
        plain, informed = (
            bench.look(bench.released, bench.face(), gate=bench.gate(ensemble=ensemble, curves=curves)).verdict
            for curves in (None, Curves())
        )
        (face,), (before,) = informed.faces, plain.faces
        assert before.match_probability is None
        assert (informed.status, face.margins) == (plain.status, before.margins)
        shown.append(dict(face.match_probability))
    assert shown[0] == shown[1] == {"north": 0.0, "east": 0.5, "south": 0.0}
    (copy,) = bench.look(bench.source, bench.face(), gate=bench.gate(curves=Curves())).verdict.faces
    assert set(copy.match_probability.values()) == {1.0}
    unmatched = bench.face(status=Status.REDACTED, source=None, reason=Reason.NO_LANDMARKS)
    (covered,) = bench.look(bench.cover(), unmatched, gate=bench.gate(curves=Curves())).verdict.faces
    assert covered.match_probability is None


def reports_failures(bench: Bench) -> None:
    inspection = bench.look(bench.source, bench.face(reason=None))
    (face,) = inspection.verdict.faces
    assert inspection.is_complete
    assert (face.status, face.reason, face.passed) == (Status.WITHHELD, Reason.SIMILARITY_EXCEEDED, False)
    assert inspection.leftovers == ()
    assert inspection.verdict.digest is None


def reports_leftovers(bench: Bench) -> None:
    inspection = bench.look(second_face(bench, bench.released), bench.face())
    assert inspection.is_complete
    assert len(inspection.leftovers) == 1
    assert iou(inspection.leftovers[0], bench.box) < 0.1


def reports_incomplete(bench: Bench) -> None:
    inspection = bench.look(b"no picture", bench.face())
    assert not inspection.is_complete
    assert [face.passed for face in inspection.verdict.faces] == [False]


def reports_redaction(bench: Bench) -> None:
    inspection = bench.look(bench.cover(), bench.face(status=Status.REDACTED, reason=Reason.REQUESTED))
    (face,) = inspection.verdict.faces
    assert (face.status, face.reason, face.passed) == (Status.REDACTED, Reason.REQUESTED, True)


def ends_before_the_detector(bench: Bench) -> None:
    detector = bench.kit.MarkDetector()
    gate = bench.gate(detector=detector)
    inspection = bench.look(bench.released, bench.face(), gate=gate, deadline=Deadline(0.0, lambda: 1.0))
    assert outcome(inspection) == ("withheld", "deadline")
    assert detector.calls == 0


def weak(bench: Bench, **fields: Any) -> Any:
    """A detector that changes what it finds."""
    return bench.kit.AlteredMethod(
        bench.detector, "detect", lambda faces, *_: [replace(face, **fields) for face in faces]
    )


def finding(bench: Bench, box: tuple[float, float, float, float]) -> Any:
    """A gate whose detector also finds a face without landmarks in a given place."""
    extra = Face(box, 0.9, None, "extra")
    return bench.gate(detector=bench.kit.AlteredMethod(bench.detector, "detect", lambda faces, *_: [*faces, extra]))


def beside_the_box(bench: Bench) -> tuple[float, float, float, float]:
    """A small box that the cover of the face hides, and its replacement does not."""
    x0, y0, _, y1 = bench.box
    return x0 - 16.0, (y0 + y1) / 2.0 - 6.0, x0 - 2.0, (y0 + y1) / 2.0 + 6.0


def upper_left(box: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
    return box[0], box[1], (box[0] + box[2]) / 2.0, (box[1] + box[3]) / 2.0


ANONYMIZED, REDACTED, WITHHELD = Status.ANONYMIZED, Status.REDACTED, Status.WITHHELD
CASES: dict[str, Case] = {
    "a well replaced face passes": expect(ANONYMIZED, None, lambda b: b.look(b.released, b.face())),
    "a pseudonym keeps its word": expect(
        Status.PSEUDONYMIZED, None, lambda b: b.look(b.released, b.face(status=Status.PSEUDONYMIZED))
    ),
    "a covered face passes with its reason": expect(
        REDACTED, Reason.REQUESTED, lambda b: b.look(b.cover(), b.face(status=REDACTED, reason=Reason.REQUESTED))
    ),
    "a covered face without a source passes": expect(
        REDACTED,
        Reason.NO_LANDMARKS,
        lambda b: b.look(b.cover(), b.face(status=REDACTED, source=None, reason=Reason.NO_LANDMARKS)),
    ),
    "a picture without faces passes": expect(
        Status.NO_FACE, None, lambda b: b.look(b.kit.draw_background(4, 160, 168))
    ),
    "a covered face whose source was forgotten passes": expect(
        REDACTED, None, lambda b: b.look(b.cover(), b.face(status=REDACTED, source=forgotten(b)))
    ),
    "what is found in a cover is the cover": expect(
        REDACTED, None, lambda b: b.look(b.cover(), b.face(status=REDACTED), gate=finding(b, beside_the_box(b)))
    ),
    "what is found beside a replaced face is left over": expect(
        WITHHELD,
        Reason.LEFTOVER_FACE,
        lambda b: b.look(b.released, b.face(source=b.record), gate=finding(b, beside_the_box(b))),
    ),
    "overlapping covers pass": expect(REDACTED, None, overlapping_covers),
    "a replaced face whose source was forgotten is stopped": stops_a_forgotten_source,
    "the source is stopped": expect(WITHHELD, Reason.SIMILARITY_EXCEEDED, lambda b: b.look(b.source, b.face())),
    "a likeness in one view only is stopped": expect(
        WITHHELD,
        Reason.SIMILARITY_EXCEEDED,
        lambda b: b.look(b.released, b.face(), gate=b.gate(ensemble=seeing(b, 0.7, views=(1,)))),
    ),
    "a likeness only where the released face's own landmarks put it is stopped": expect(
        WITHHELD,
        Reason.SIMILARITY_EXCEEDED,
        lambda b: b.look(b.released, b.face(), gate=b.gate(ensemble=seeing(b, 0.7, views=(4,)))),
    ),
    "a likeness at the threshold is stopped": expect(WITHHELD, Reason.SIMILARITY_EXCEEDED, exact_threshold),
    "a tighter policy is obeyed": expect(
        WITHHELD,
        Reason.SIMILARITY_EXCEEDED,
        lambda b: b.look(
            b.released, b.face(), policy=Policy(media="png", max_similarity=0.2), gate=b.gate(ensemble=seeing(b, 0.3))
        ),
    ),
    "a likeness beside a solid cover stops nothing": expect(
        REDACTED, None, lambda b: b.look(b.cover(), b.face(status=REDACTED), gate=b.gate(ensemble=seeing(b, 0.7)))
    ),
    "a cover that leaves a part of the mask open is stopped": expect(WITHHELD, Reason.REDACTION_NOT_SOLID, small_cover),
    "an oracle that fails on a cover stops it": expect(
        WITHHELD,
        Reason.ORACLE_FAILED,
        lambda b: b.look(b.cover(), b.face(status=REDACTED), gate=b.gate(ensemble=seeing(b, math.nan))),
    ),
    "half of the source is stopped by its texture": expect(
        WITHHELD,
        Reason.SOURCE_VISIBLE,
        lambda b: b.look(half_source(b), b.face(), gate=b.gate(ensemble=blind(b))),
    ),
    "a face that is gone is stopped": expect(
        WITHHELD, Reason.FACE_NOT_FOUND, lambda b: b.look(b.cover(), b.face(), gate=b.gate(ensemble=blind(b)))
    ),
    "a face found without landmarks is stopped": expect(
        WITHHELD,
        Reason.FACE_NOT_FOUND,
        lambda b: b.look(b.released, b.face(), gate=b.gate(detector=weak(b, landmarks=None))),
    ),
    "a face found in a corner of its place is stopped": expect(
        WITHHELD,
        Reason.FACE_NOT_FOUND,
        lambda b: b.look(
            b.released,
            b.face(),
            gate=b.gate(detector=weak(b, box=upper_left(b.box))),
        ),
    ),
    "moved landmarks are stopped": expect(
        WITHHELD, Reason.LANDMARKS_MOVED, lambda b: b.look(b.released, b.face(source=shifted_record(b, 12.0)))
    ),
    "a smear is stopped": expect(
        WITHHELD, Reason.NOT_REALISTIC, lambda b: b.look(blurred(b), b.face(), gate=b.gate(ensemble=blind(b)))
    ),
    "a face in another light is stopped": expect(
        WITHHELD,
        Reason.NOT_REALISTIC,
        lambda b: b.look(b.released, b.face(source=brighter_record(b))),
    ),
    "a weak detection is stopped": expect(
        WITHHELD,
        Reason.NOT_REALISTIC,
        lambda b: b.look(b.released, b.face(), gate=b.gate(detector=weak(b, score=0.1))),
    ),
    "an uncovered face is stopped": expect(
        WITHHELD,
        Reason.REDACTION_NOT_SOLID,
        lambda b: b.look(b.released, b.face(status=REDACTED), gate=b.gate(ensemble=blind(b))),
    ),
    "a replaced face without a source is stopped": expect(
        WITHHELD, Reason.ORACLE_FAILED, lambda b: b.look(b.released, b.face(source=None))
    ),
    "an answer that is not a number is stopped": expect(
        WITHHELD,
        Reason.ORACLE_FAILED,
        lambda b: b.look(
            b.released,
            b.face(),
            gate=b.gate(
                ensemble=b.kit.Altered(b.ensemble, lambda answers, *_: {**answers, "east": answers["east"] * torch.nan})
            ),
        ),
    ),
    "a missing oracle is stopped": expect(
        WITHHELD,
        Reason.ORACLE_FAILED,
        lambda b: b.look(
            b.released,
            b.face(),
            gate=b.gate(ensemble=b.kit.Altered(b.ensemble, lambda answers, *_: {"east": answers["east"]})),
        ),
    ),
    "a face that nobody treated is stopped": expect(WITHHELD, Reason.LEFTOVER_FACE, lambda b: b.look(b.released)),
    "a new face outside is stopped": expect(
        WITHHELD, Reason.LEFTOVER_FACE, lambda b: b.look(second_face(b, b.released), b.face())
    ),
    "metadata is stopped": expect(
        WITHHELD, Reason.METADATA_PRESENT, lambda b: b.look(encode_picture(b.released, "png") + b"tail", b.face())
    ),
    "another format is stopped": expect(
        WITHHELD, Reason.METADATA_PRESENT, lambda b: b.look(encode_picture(b.released, "jpeg"), b.face())
    ),
    "another width is stopped": expect(
        WITHHELD, Reason.ENCODING_FAILED, lambda b: b.look(b.released, b.face(), size=(169, 160))
    ),
    "another height is stopped": expect(
        WITHHELD, Reason.ENCODING_FAILED, lambda b: b.look(b.released, b.face(), size=(168, 161))
    ),
    "an unknown treatment is stopped": expect(
        WITHHELD, Reason.INTERNAL_ERROR, lambda b: b.look(b.released, b.face(status=WITHHELD))
    ),
    "a detector that fails is stopped": expect(
        WITHHELD,
        Reason.DETECTOR_FAILED,
        lambda b: b.look(
            b.released, b.face(), gate=b.gate(detector=b.kit.AlteredMethod(b.detector, "detect", lambda *_: None))
        ),
    ),
    "time out at the end is stopped": expect(WITHHELD, Reason.DEADLINE, after_detection),
    "time out before the detector stops at once": ends_before_the_detector,
    "numbers are reported and rounded": reports_numbers,
    "probabilities are reported": reports_probabilities,
    "failures are reported": reports_failures,
    "leftovers are reported": reports_leftovers,
    "incomplete inspections say so": reports_incomplete,
    "covers are reported": reports_redaction,
    "no thresholds are refused": refuses(thresholds={}),
    "NaN thresholds are refused": refuses(thresholds=thresholds_of(math.nan)),
    "thresholds of 1 are refused": refuses(thresholds=thresholds_of(1.0)),
    "thresholds of -1 are refused": refuses(thresholds=thresholds_of(-1.0)),
    "bounds of 0 are refused": refuses_bounds(max_copied_share=0.0),
    "bounds of 1 are refused": refuses_bounds(min_overlap=1.0),
    "NaN bounds are refused": refuses_bounds(max_landmark_deviation=math.nan),
}


@pytest.fixture(scope="module")
def bench(studio: Any, realism: Any) -> Bench:
    picture = studio.draw_picture(3)
    ensemble, detector = studio.ProjectionOracles(), studio.MarkDetector()
    (found,) = detector.detect(picture.pixels)
    aligned = align_face(picture.pixels, found.landmarks)
    answers = embed(ensemble, as_batch([aligned.crop]), studio.ProjectionOracles.names)
    record = SourceRecord(aligned, found.landmarks, {name: rows[0] for name, rows in answers.items()})
    fresh = studio.draw_crop(np.random.default_rng(77).normal(size=64), 78, jitter_seed=79)
    released = paste_face(picture.pixels, fresh, aligned.matrix, face_mask()).pixels
    return Bench(studio, realism, gate_module, picture.pixels, record, found.box, released, ensemble, detector)


@pytest.mark.parametrize("name", CASES)
def test_gate(name: str, bench: Bench) -> None:
    CASES[name](bench)


def test_repeated_looks_at_the_same_bytes_agree(bench: Bench) -> None:
    first, second = (bench.look(bench.released, bench.face()).verdict for _ in range(2))
    assert first == second


def test_a_second_look_after_forgetting_fails(bench: Bench) -> None:
    record = shifted_record(bench, 0.0)
    assert bench.look(bench.released, bench.face(source=record)).verdict.status is ANONYMIZED
    record.forget()
    assert bench.look(bench.released, bench.face(source=record)).verdict.status is WITHHELD


# --- mutants of the gate

_INVERTED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.GtE, ast.LtE: ast.Gt, ast.Gt: ast.LtE, ast.GtE: ast.Lt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
_SHIFTED: dict[type[ast.cmpop], type[ast.cmpop]] = {ast.Lt: ast.LtE}

# Mutants that change nothing the gate promises; each with the reason.
EQUIVALENT = {
    "swap logic at `device or torch.device('cpu')`": "no device means the CPU in torch as well",
    "drop raise at `raise StageError(Reason.INTERNAL_ERROR)`": "the face without a result is noticed one line later",
}


_KINDS: dict[str, tuple[type[ast.AST], ...]] = {
    "invert": (ast.Compare,),
    "shift": (ast.Compare,),
    "drop if": (ast.If,),
    "negate": (ast.UnaryOp,),
    "swap logic": (ast.BoolOp,),
    "drop raise": (ast.Raise,),
}


def mutants() -> list[tuple[str, str]]:
    """One changed operator, check or negation at a time: (description, source)."""
    found: list[tuple[str, str]] = []
    for index, original in enumerate(ast.walk(ast.parse(GATE_SOURCE))):
        for kind, types_ in _KINDS.items():
            if not isinstance(original, types_):
                continue
            tree = ast.parse(GATE_SOURCE)
            label = _mutate(tree, list(ast.walk(tree))[index], kind)
            if label is not None:
                found.append((label, ast.unparse(ast.fix_missing_locations(tree))))
    return found


def _mutate(tree: ast.AST, node: ast.AST, kind: str) -> str | None:
    before = ast.unparse(node) if isinstance(node, ast.expr | ast.stmt) else ""
    line = before.splitlines()[0][:70].rstrip(":") if before else ""
    if kind in ("invert", "shift") and isinstance(node, ast.Compare):
        table = _INVERTED if kind == "invert" else _SHIFTED
        if type(node.ops[-1]) not in table:
            return None
        node.ops[-1] = table[type(node.ops[-1])]()
    elif kind == "drop if" and isinstance(node, ast.If):
        node.test = ast.Constant(value=False)
    elif kind == "negate" and isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        node.op, node.operand = ast.Not(), ast.UnaryOp(op=ast.Not(), operand=node.operand)
    elif kind == "swap logic" and isinstance(node, ast.BoolOp):
        node.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
    elif kind == "drop raise" and isinstance(node, ast.Raise):
        for parent in ast.walk(tree):
            for body in (getattr(parent, "body", None), getattr(parent, "orelse", None)):
                if isinstance(body, list) and node in body:
                    body[body.index(node)] = ast.Pass()
    else:
        return None
    return f"{kind} at `{line}`"


def load(source: str) -> types.ModuleType:
    module = types.ModuleType("mutated_gate")
    # the decorator of dataclasses looks its module up by name
    module.__dict__["__name__"] = gate_module.__name__
    exec(compile(source, "mutated_gate.py", "exec"), module.__dict__)
    return module


def first_failure(bench: Bench, source: str) -> str | None:
    """Name of the first case that notices the mutant."""
    try:
        mutated = replace(bench, module=load(source))
    except Exception:
        return "import"
    for name, case in CASES.items():
        try:
            case(mutated)
        except (Exception, pytest.fail.Exception):
            return name
    return None


def test_the_unchanged_source_survives_the_cases(bench: Bench) -> None:
    assert first_failure(bench, GATE_SOURCE) is None


def test_every_mutant_of_the_gate_is_noticed(bench: Bench) -> None:
    noticed, survivors = 0, []
    for label, source in mutants():
        if label in EQUIVALENT:
            continue
        if first_failure(bench, source) is None:
            survivors.append(label)
        else:
            noticed += 1
    assert survivors == []
    assert noticed >= 40
