"""Every way in which a part may fail, and the one thing that must then be true: no source face leaves."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

import models.anonymizer.composition as composition
import models.anonymizer.pipeline as pipeline
import models.anonymizer.redaction as redaction
from models.anonymizer.redetection import DetectionPlan
from models.anonymizer.verdict import Status
from models.faces.alignment import face_mask
from models.faces.boxes import Face
from models.faces.compositing import Pasted
from models.faces.detection import DetectionError

PLAN = DetectionPlan(scales=(1.0, 0.5))
SOURCE_PASSES = 3  # two scales and the mirror image
SOURCE_CALLS = 1  # the oracles are asked about the source once,
VIEWS_CALLS = 2  # then about the first candidate,
GATE_CALLS = 3  # then about its other views, and then by the gate

FAULTS: dict[str, Callable[[Any, Any, pytest.MonkeyPatch], None]] = {}


def fault(name: str, *arguments: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    def register(apply: Callable[..., None]) -> Callable[..., None]:
        assert name not in FAULTS
        FAULTS[name] = lambda rig, kit, patch: apply(rig, kit, patch, *arguments)
        return apply

    return register


def fails(error: Exception) -> Callable[..., Any]:
    def change(*_: Any) -> Any:
        raise error

    return change


def passes_time(rig: Any) -> Callable[..., Any]:
    rig.deadline_s = rig.clock.now + 5.0

    def change(answer: Any, *_: Any) -> Any:
        rig.clock.now += 10.0
        return answer

    return change


def with_faces(**fields: Any) -> Callable[..., Any]:
    return lambda faces, *_: [replace(face, **fields) for face in faces]


# --- detector

DETECTOR_ANSWERS: dict[str, Callable[..., Any]] = {
    "raises": fails(RuntimeError("network")),
    "raises its own error": fails(DetectionError("network")),
    "runs out of memory": fails(MemoryError()),
    "returns none": lambda *_: None,
    "returns a NaN box": with_faces(box=(math.nan, 10.0, 50.0, 60.0)),
    "returns an empty box": with_faces(box=(50.0, 50.0, 50.0, 50.0)),
    "returns a NaN score": with_faces(score=math.nan),
    "returns NaN landmarks": with_faces(landmarks=np.full((5, 2), np.nan)),
    "returns three landmarks": with_faces(landmarks=np.zeros((3, 2))),
    "returns no faces but a string": lambda *_: "none",
}
for when, start in (("at the source", 0), ("on the output", SOURCE_PASSES)):
    for what, answer in DETECTOR_ANSWERS.items():

        @fault(f"detector {what} {when}", answer, start)
        def _detector(rig: Any, kit: Any, patch: Any, answer: Any, start: int) -> None:
            rig.detector = kit.AlteredMethod(rig.detector, "detect", answer, start)

    @fault(f"detector hangs {when}", start)
    def _detector_hangs(rig: Any, kit: Any, patch: Any, start: int) -> None:
        rig.detector = kit.AlteredMethod(rig.detector, "detect", passes_time(rig), start)


@fault("detector finds no landmarks in the source")
def _no_landmarks(rig: Any, kit: Any, patch: Any) -> None:
    rig.detector = kit.AlteredMethod(rig.detector, "detect", with_faces(landmarks=None), 0)


@fault("detector puts all landmarks of the source on one point")
def _one_point(rig: Any, kit: Any, patch: Any) -> None:
    rig.detector = kit.AlteredMethod(rig.detector, "detect", with_faces(landmarks=np.full((5, 2), 80.0)), 0)


@fault("detector puts the landmarks of the source far from its box")
def _far_landmarks(rig: Any, kit: Any, patch: Any) -> None:
    moved = lambda faces, *_: [replace(face, landmarks=face.landmarks + 300.0) for face in faces]  # noqa: E731
    rig.detector = kit.AlteredMethod(rig.detector, "detect", moved, 0)


@fault("detector finds 70 faces")
def _crowd(rig: Any, kit: Any, patch: Any) -> None:
    crowd = [Face((float(2 * i), 0.0, 2.0 * i + 1.9, 2.0), 0.9, None, "marks") for i in range(70)]
    rig.detector = kit.AlteredMethod(rig.detector, "detect", lambda *_: crowd, 0)


@fault("detector finds nothing in the output")
def _lost(rig: Any, kit: Any, patch: Any) -> None:
    rig.detector = kit.AlteredMethod(rig.detector, "detect", lambda *_: [], SOURCE_PASSES)


@fault("detector finds nothing in the source but something in the output")
def _missed(rig: Any, kit: Any, patch: Any) -> None:
    rig.detector = kit.AlteredMethod(rig.detector, "detect", lambda *_: [], 0, SOURCE_PASSES)


@fault("detector finds the face elsewhere in the output")
def _moved_box(rig: Any, kit: Any, patch: Any) -> None:
    moved = lambda faces, *_: [face.moved((1.0, 1.0), (45.0, 0.0)) for face in faces]  # noqa: E731
    rig.detector = kit.AlteredMethod(rig.detector, "detect", moved, SOURCE_PASSES)


@fault("detector finds other landmarks in the output")
def _moved_landmarks(rig: Any, kit: Any, patch: Any) -> None:
    moved = lambda faces, *_: [replace(face, landmarks=face.landmarks + 20.0) for face in faces]  # noqa: E731
    rig.detector = kit.AlteredMethod(rig.detector, "detect", moved, SOURCE_PASSES)


@fault("detector is unsure about the output")
def _unsure(rig: Any, kit: Any, patch: Any) -> None:
    rig.detector = kit.AlteredMethod(rig.detector, "detect", with_faces(score=0.2), SOURCE_PASSES)


# --- oracles


def one_oracle(change: Callable[[torch.Tensor], Any]) -> Callable[..., Any]:
    return lambda answers, *_: {**answers, "east": change(answers["east"])}


ORACLE_ANSWERS: dict[str, Callable[..., Any]] = {
    "raises": fails(RuntimeError("network")),
    "runs out of memory": fails(MemoryError()),
    "runs out of device memory": fails(torch.OutOfMemoryError("allocate")),
    "is missing": lambda answers, *_: {name: answers[name] for name in ("north", "south")},
    "is unknown": lambda answers, *_: {**answers, "west": answers["east"]},
    "returns NaN": one_oracle(lambda rows: rows * torch.nan),
    "returns infinity": one_oracle(lambda rows: rows * torch.inf),
    "returns zeros": one_oracle(torch.zeros_like),
    "returns ones": one_oracle(torch.ones_like),
    "returns a number": one_oracle(lambda rows: 1.0),
    "returns one vector": one_oracle(lambda rows: rows[0]),
    "returns a row too few": one_oracle(lambda rows: rows[1:]),
    "returns nothing": lambda *_: {},
}
for when, start in (
    ("at the source", 0),
    ("at the candidates", SOURCE_CALLS),
    ("at the other views of the candidates", VIEWS_CALLS),
    ("in the gate", GATE_CALLS),
):
    for what, answer in ORACLE_ANSWERS.items():

        @fault(f"oracle {what} {when}", answer, start)
        def _oracle(rig: Any, kit: Any, patch: Any, answer: Any, start: int) -> None:
            stop = start + 1 if start < GATE_CALLS else None
            rig.ensemble = kit.Altered(rig.ensemble, answer, start, stop)

    @fault(f"oracle hangs {when}", start)
    def _oracle_hangs(rig: Any, kit: Any, patch: Any, start: int) -> None:
        rig.ensemble = kit.Altered(rig.ensemble, passes_time(rig), start)


LANDMARK_ANSWERS: dict[str, Callable[..., Any]] = {
    "raises": fails(RuntimeError("network")),
    "returns NaN": lambda *_: torch.full((1, 68, 2), torch.nan),
    "returns one point": lambda *_: torch.zeros(1, 68, 2),
    "returns five points": lambda *_: torch.rand(1, 5, 2),
    "returns nothing": lambda *_: torch.empty(0, 68, 2),
}
for what, answer in LANDMARK_ANSWERS.items():

    @fault(f"landmark network {what}", answer)
    def _landmarks(rig: Any, kit: Any, patch: Any, answer: Any) -> None:
        rig.options["landmarks"] = answer


@fault("oracle sees one person in everything")
def _one_person(rig: Any, kit: Any, patch: Any) -> None:
    def change(answers: Any, *_: Any) -> Any:
        same = torch.zeros_like(answers["east"])
        same[:, 0] = 1.0
        return {**answers, "east": same}

    rig.ensemble = kit.Altered(rig.ensemble, change)


@fault("oracle changes its dimension in the gate")
def _dimension(rig: Any, kit: Any, patch: Any) -> None:
    longer = one_oracle(lambda rows: torch.cat([rows, torch.zeros(len(rows), 3)], dim=1))
    rig.ensemble = kit.Altered(rig.ensemble, longer, GATE_CALLS)


@fault("oracle threshold turns NaN after the start")
def _nan_threshold(rig: Any, kit: Any, patch: Any) -> None:
    def wrap(gate: Any) -> Any:
        rig.thresholds["east"].privacy_threshold = math.nan
        return gate

    rig.wrap_gate = wrap


@fault("oracle margin is NaN")
def _nan_margin(rig: Any, kit: Any, patch: Any) -> None:
    rig.thresholds["east"].impostor_std = math.nan


@fault("oracle without a threshold")
def _no_threshold(rig: Any, kit: Any, patch: Any) -> None:
    del rig.thresholds["east"]


@fault("threshold without an oracle")
def _no_oracle(rig: Any, kit: Any, patch: Any) -> None:
    rig.thresholds["west"] = kit.FixedThreshold()


# --- encoders


IDENTITY_ANSWERS: dict[str, Callable[..., Any]] = {
    "raises": fails(RuntimeError("network")),
    "returns NaN": lambda codes, *_: codes * torch.nan,
    "returns zeros": lambda codes, *_: codes * 0.0,
    "returns a code too long": lambda codes, *_: codes * 3.0,
    "returns a row too many": lambda codes, *_: torch.cat([codes, codes]),
    "returns another dimension": lambda codes, *_: torch.nn.functional.normalize(codes[:, :50], dim=1),
    "returns none": lambda *_: None,
}
for what, answer in IDENTITY_ANSWERS.items():

    @fault(f"identity encoder {what}", answer)
    def _identity(rig: Any, kit: Any, patch: Any, answer: Any) -> None:
        rig.identity_encoder = kit.Altered(rig.identity_encoder, answer)


ATTRIBUTE_ANSWERS: dict[str, Callable[..., Any]] = {
    "raises": fails(RuntimeError("network")),
    "returns a NaN mean": lambda codes, *_: (codes[0] * torch.nan, codes[1]),
    "returns an infinite spread": lambda codes, *_: (codes[0], codes[1] * torch.inf),
    "returns a negative spread": lambda codes, *_: (codes[0], -codes[1]),
    "returns no spread": lambda codes, *_: codes[0],
    "returns a row too many": lambda codes, *_: (codes[0].repeat(2, 1, 1, 1), codes[1].repeat(2, 1, 1, 1)),
}
for what, answer in ATTRIBUTE_ANSWERS.items():

    @fault(f"attribute encoder {what}", answer)
    def _attribute(rig: Any, kit: Any, patch: Any, answer: Any) -> None:
        rig.attribute_encoder = kit.Altered(rig.attribute_encoder, answer)


LEVEL_ANSWERS: dict[str, Callable[..., Any]] = {
    "raises": fails(RuntimeError("map")),
    "runs out of memory": fails(MemoryError()),
    "returns NaN": lambda codes, *_: codes * torch.nan,
    "returns one infinity": lambda codes, *_: codes.index_fill(3, torch.tensor([0]), torch.inf),
    "returns none": lambda *_: None,
    "returns a number": lambda *_: torch.tensor(0.5),
    "returns a row too few": lambda codes, *_: codes[1:],
    "returns a row too many": lambda codes, *_: torch.cat([codes, codes]),
    "returns another shape": lambda codes, *_: codes[..., :1],
}
for what, answer in LEVEL_ANSWERS.items():

    @fault(f"level {what}", answer)
    def _level(rig: Any, kit: Any, patch: Any, answer: Any) -> None:
        rig.levels = kit.Altered(rig.levels, answer)


# --- sampler

SAMPLER_ANSWERS: dict[str, Callable[..., Any]] = {
    "raises": fails(RuntimeError("sampler")),
    "is exhausted": lambda drawn, *_: replace(
        drawn, codes=drawn.codes[:0], tries=(), gallery_tries=(), refused_after=9
    ),
    "returns NaN": lambda drawn, *_: replace(drawn, codes=drawn.codes * np.nan),
    "returns another dimension": lambda drawn, *_: replace(drawn, codes=drawn.codes[:, :9]),
    "returns too few counts": lambda drawn, *_: replace(drawn, tries=()),
    "returns none": lambda *_: None,
}
for what, answer in SAMPLER_ANSWERS.items():

    @fault(f"sampler {what}", answer)
    def _sampler(rig: Any, kit: Any, patch: Any, answer: Any) -> None:
        rig.sampler = kit.AlteredMethod(rig.sampler, "candidates", answer)


# --- generator


def of_source(change: Callable[[np.ndarray], Any]) -> Callable[..., Any]:
    """The generator returns a change of its context, the source crop."""

    def answer(_: Any, crops: torch.Tensor, *rest: Any) -> Any:
        pixels = ((crops.permute(0, 2, 3, 1).numpy() + 1.0) * 127.5).round().astype(np.uint8)
        return torch.from_numpy(np.stack([change(crop) for crop in pixels])).permute(0, 3, 1, 2).float() / 127.5 - 1.0

    return answer


def in_mask(drawn: torch.Tensor, crops: torch.Tensor, change: Any) -> torch.Tensor:
    mask = torch.from_numpy(face_mask())
    return change(drawn) * mask + crops * (1.0 - mask)


def mosaic(crop: np.ndarray) -> np.ndarray:
    small = cv2.resize(crop, (16, 16), interpolation=cv2.INTER_AREA)
    return cv2.resize(small, (128, 128), interpolation=cv2.INTER_NEAREST)


def half(drawn: torch.Tensor, crops: torch.Tensor, *_: Any) -> torch.Tensor:
    result = drawn.clone()
    result[..., :64] = crops[..., :64]
    return result


GENERATOR_ANSWERS: dict[str, Callable[..., Any]] = {
    "raises": fails(RuntimeError("network")),
    "runs out of memory": fails(MemoryError()),
    "runs out of device memory": fails(torch.OutOfMemoryError("allocate")),
    "returns none": lambda *_: None,
    "returns another shape": lambda drawn, *_: drawn[..., :64],
    "returns a row too many": lambda drawn, *_: torch.cat([drawn, drawn]),
    "draws NaN": lambda drawn, *_: drawn * torch.nan,
    "draws one NaN": lambda drawn, *_: drawn.index_fill(3, torch.tensor([64]), torch.nan),
    "draws infinity": lambda drawn, *_: drawn * torch.inf,
    "draws black": lambda drawn, crops, *_: in_mask(drawn, crops, lambda x: x * 0.0 - 1.0),
    "draws gray": lambda drawn, crops, *_: in_mask(drawn, crops, lambda x: x * 0.0),
    "draws one color": lambda drawn, crops, *_: in_mask(
        drawn, crops, lambda x: x.mean(dim=(2, 3), keepdim=True).expand_as(x)
    ),
    "draws noise": lambda drawn, crops, *_: in_mask(drawn, crops, lambda x: torch.rand_like(x) * 2.0 - 1.0),
    "draws a smear": lambda drawn, crops, *_: in_mask(
        drawn, crops, lambda x: torch.nn.functional.avg_pool2d(x, 9, stride=1, padding=4)
    ),
    "draws a mosaic of a new face": lambda drawn, crops, *_: in_mask(
        drawn, crops, lambda x: torch.nn.functional.avg_pool2d(x, 8).repeat_interleave(8, 2).repeat_interleave(8, 3)
    ),
    "copies the source": of_source(lambda crop: crop),
    "mirrors the source": of_source(lambda crop: crop[:, ::-1].copy()),
    "blurs the source": of_source(lambda crop: cv2.GaussianBlur(crop, (0, 0), 3.0)),
    "pixelates the source": of_source(mosaic),
    "shifts the source": of_source(lambda crop: np.roll(crop, 4, axis=1)),
    "brightens the source": of_source(lambda crop: np.clip(crop.astype(int) + 30, 0, 255).astype(np.uint8)),
    "keeps half of the source": half,
    "keeps a quarter of the source": lambda drawn, crops, *_: torch.cat(
        [half(drawn, crops)[:, :, :70], drawn[:, :, 70:]], dim=2
    ),
    "mixes source and new face": lambda drawn, crops, *_: 0.5 * drawn + 0.5 * crops,
}
for what, answer in GENERATOR_ANSWERS.items():

    @fault(f"generator {what}", answer)
    def _generator(rig: Any, kit: Any, patch: Any, answer: Any) -> None:
        rig.generator = kit.AlteredMethod(rig.generator, "generate", answer)


# --- paste and cover


def shifted(pixels: np.ndarray, crop: np.ndarray, matrix: np.ndarray, mask: np.ndarray, by: float) -> Pasted:
    moved = matrix.copy()
    moved[:, 2] -= by
    return composition_paste(pixels, crop, moved, mask)


composition_paste = composition.paste_face
cover = redaction.redact_ellipse

PASTES: dict[str, Callable[..., Any]] = {
    "raises": fails(ValueError("paste")),
    "does nothing": lambda pixels, *_: Pasted(pixels.copy(), np.zeros(pixels.shape[:2], dtype=bool)),
    "is off by 8 pixels": lambda *arguments: shifted(*arguments, by=8.0),
    "is off by 25 pixels": lambda *arguments: shifted(*arguments, by=25.0),
    "is off by 90 pixels": lambda *arguments: shifted(*arguments, by=90.0),
    "pastes half": lambda pixels, crop, matrix, mask: composition_paste(
        pixels, crop, matrix, mask * (np.arange(128) > 63).astype(np.float32)
    ),
    "changes a pixel outside": lambda *arguments: Pasted(
        cv2.circle(composition_paste(*arguments).pixels, (2, 2), 1, (0, 0, 0)), composition_paste(*arguments).touched
    ),
    "returns another size": lambda pixels, *_: Pasted(pixels[:-1], np.ones(pixels[:-1].shape[:2], dtype=bool)),
    "returns none": lambda *_: None,
}
for what, answer in PASTES.items():

    @fault(f"paste {what}", answer)
    def _paste(rig: Any, kit: Any, patch: Any, answer: Any) -> None:
        patch.setattr(composition, "paste_face", answer)


COVERS: dict[str, Callable[..., Any]] = {
    "raises": fails(ValueError("cover")),
    "does nothing": lambda pixels, *_: Pasted(pixels, np.zeros(pixels.shape[:2], dtype=bool)),
    "blurs": lambda pixels, *_: Pasted(cv2.GaussianBlur(pixels, (0, 0), 4.0), np.ones(pixels.shape[:2], dtype=bool)),
    "covers another place": lambda pixels, box, matrix: cover(pixels, tuple(value + 50.0 for value in box)),
    "covers half": lambda pixels, box, matrix: cover(pixels, (box[0], box[1], (box[0] + box[2]) / 2.0, box[3])),
}
for what, answer in COVERS.items():

    @fault(f"cover {what}", answer)
    def _cover(rig: Any, kit: Any, patch: Any, answer: Any) -> None:
        patch.setattr(redaction, "redact_ellipse", answer)
        rig.policy["mode"] = "redact"


@fault("an extra face is pasted outside")
def _extra_face(rig: Any, kit: Any, patch: Any) -> None:
    encode = pipeline.encode_picture

    def with_extra(pixels: Any, *arguments: Any) -> bytes:
        pixels = pixels.copy()
        pixels[:64, 104:] = cv2.resize(kit.draw_crop(np.arange(64), 1), (64, 64), interpolation=cv2.INTER_AREA)
        return encode(pixels, *arguments)

    patch.setattr(pipeline, "encode_picture", with_extra)


# --- encoder of the picture


def with_exif(data: bytes, media: str) -> bytes:
    tags = Image.Exif()
    tags[0x010E] = "a name"
    target = io.BytesIO()
    Image.open(io.BytesIO(data)).save(target, media.upper(), exif=tags.tobytes())
    return target.getvalue()


ENCODERS: dict[str, Callable[..., Any]] = {
    "raises": fails(ValueError("encoder")),
    "runs out of memory": fails(MemoryError()),
    "returns nothing": lambda *_: b"",
    "returns none": lambda *_: None,
    "cuts the bytes": lambda data, *_: data[: len(data) * 2 // 3],
    "appends bytes": lambda data, *_: data + b"tail",
    "adds metadata": lambda data, pixels, media, *_: with_exif(data, media),
}
for what, answer in ENCODERS.items():

    @fault(f"picture encoder {what}", answer)
    def _encoder(rig: Any, kit: Any, patch: Any, answer: Any) -> None:
        patch.setattr(pipeline, "encode_picture", kit.Altered(pipeline.encode_picture, answer))


@fault("picture encoder returns the source")
def _returns_source(rig: Any, kit: Any, patch: Any) -> None:
    encode = pipeline.encode_picture
    source = PICTURE(kit).pixels
    patch.setattr(pipeline, "encode_picture", lambda pixels, *arguments: encode(source, *arguments))


@fault("picture encoder returns another size")
def _returns_another_size(rig: Any, kit: Any, patch: Any) -> None:
    encode = pipeline.encode_picture
    patch.setattr(pipeline, "encode_picture", lambda pixels, *arguments: encode(pixels[:-8], *arguments))


@fault("picture encoder returns another format")
def _returns_another_format(rig: Any, kit: Any, patch: Any) -> None:
    encode = pipeline.encode_picture
    patch.setattr(pipeline, "encode_picture", lambda pixels, *_: encode(pixels, "webp"))


# --- time, memory and the rest

STAGES: dict[str, tuple[str, str]] = {
    "sampler": ("sampler", "candidates"),
    "generator": ("generator", "generate"),
}
for what, (part, method) in STAGES.items():

    @fault(f"{what} hangs", part, method)
    def _stage_hangs(rig: Any, kit: Any, patch: Any, part: str, method: str) -> None:
        setattr(rig, part, kit.AlteredMethod(getattr(rig, part), method, passes_time(rig)))


for what in ("identity_encoder", "attribute_encoder"):

    @fault(f"{what} hangs", what)
    def _encoder_hangs(rig: Any, kit: Any, patch: Any, part: str) -> None:
        setattr(rig, part, kit.Altered(getattr(rig, part), passes_time(rig)))


for what, module, name in (
    ("decoder", pipeline, "decode_picture"),
    ("paste", composition, "paste_face"),
    ("picture encoder", pipeline, "encode_picture"),
):

    @fault(f"{what} hangs", module, name)
    def _function_hangs(rig: Any, kit: Any, patch: Any, module: Any, name: str) -> None:
        patch.setattr(module, name, kit.Altered(getattr(module, name), passes_time(rig)))


@fault("the deadline has passed before the start")
def _late(rig: Any, kit: Any, patch: Any) -> None:
    rig.deadline_s = rig.clock.now - 1.0


@fault("the deadline is NaN")
def _nan_deadline(rig: Any, kit: Any, patch: Any) -> None:
    rig.deadline_s = math.nan


@fault("the realism test raises")
def _realism_raises(rig: Any, kit: Any, patch: Any) -> None:
    rig.realism = kit.AlteredMethod(rig.realism, "accepts", fails(RuntimeError("features")))


@fault("the leakage meter raises")
def _meter_raises(rig: Any, kit: Any, patch: Any) -> None:
    rig.meter = kit.AlteredMethod(rig.meter, "record", fails(RuntimeError("meter")))


@fault("the bytes are swapped for the source after the verdict")
def _swapped(rig: Any, kit: Any, patch: Any) -> None:
    bind = pipeline.Anonymizer._bind
    source = PICTURE(kit).encoded()
    patch.setattr(
        pipeline.Anonymizer, "_bind", lambda self, work, verdict, data: bind(self, work, verdict, data and source)
    )


@fault("the gate is replaced by one that forges verdicts")
def _forger(rig: Any, kit: Any, patch: Any) -> None:
    from models.anonymizer.verdict import Verdict

    def forge(*_: Any) -> Any:
        return Verdict(Status.NO_FACE, None, (), "0" * 64, b"0" * 32)

    rig.wrap_gate = lambda gate: kit.AlteredMethod(gate, "inspect", forge)


@fault("the gate approves other bytes")
def _other_bytes(rig: Any, kit: Any, patch: Any) -> None:
    from models.anonymizer.gate import Inspection
    from models.anonymizer.verdict import _issue

    verdict = _issue(Status.NO_FACE, None, (), b"other bytes")
    rig.wrap_gate = lambda gate: kit.AlteredMethod(gate, "inspect", lambda *_: Inspection(verdict, True))


def PICTURE(kit: Any) -> Any:  # noqa: N802
    return kit.draw_picture(3)


def test_without_a_fault_the_face_is_replaced(rig: Any, studio: Any) -> None:
    rig.plan = PLAN
    for media in ("png", "jpeg", "webp"):
        release = rig.run(PICTURE(studio), media=media)[0]
        assert release.status is Status.ANONYMIZED
        assert release.verdict.faces[0].attempts == 1, "the oracle call numbers above assume one candidate"
        studio.assert_no_source_face(release, PICTURE(studio))
    assert rig.faults == []


def test_the_check_for_a_surviving_face_can_fail(rig: Any, studio: Any) -> None:
    picture = PICTURE(studio)
    face = picture.faces[0]
    assert studio.canary_correlation(picture.pixels, face) > 0.5
    assert studio.equal_blocks(picture.pixels, face) > 20
    assert abs(studio.canary_correlation(cv2.GaussianBlur(picture.pixels, (0, 0), 2.0), face)) > 0.2


def test_the_table_has_at_least_forty_faults() -> None:
    assert len(FAULTS) >= 40


@pytest.mark.parametrize(("media", "on_failure"), [("png", "redact"), ("jpeg", "withhold")])
@pytest.mark.parametrize("name", FAULTS)
def test_no_source_face_leaves(
    name: str, media: str, on_failure: str, rig: Any, studio: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.plan = PLAN
    rig.policy.update(max_resyntheses=1, max_tries=6, media=media, on_failure=on_failure)
    FAULTS[name](rig, studio, monkeypatch)
    picture = PICTURE(studio)
    (release,) = rig.run(picture)
    assert release.status in (Status.REDACTED, Status.WITHHELD)
    assert release.reason is not None
    if release.status is Status.REDACTED:
        assert all(face.status is Status.REDACTED and face.reason is not None for face in release.verdict.faces)
    studio.assert_no_source_face(release, picture)


@pytest.mark.parametrize(
    "data",
    [b"", b"\xff\xd8\xff", b"GIF89a" + bytes(40), bytes(1000), b"\x89PNG\r\n\x1a\n" + bytes(60)],
    ids=["empty", "cut jpeg", "gif", "zeros", "cut png"],
)
def test_bytes_that_are_no_picture_are_withheld(data: bytes, rig: Any) -> None:
    (release,) = rig.run(data)
    assert (release.status, str(release.reason)) == (Status.WITHHELD, "undecodable")
    assert release.image_bytes() is None


def test_faults_are_reported_by_slug_and_type_only(rig: Any, studio: Any) -> None:
    rig.detector = studio.AlteredMethod(rig.detector, "detect", fails(RuntimeError("pixels: 12 13 14")))
    rig.run(PICTURE(studio))
    assert rig.faults[0] == ("detector_failed", "RuntimeError")
    assert "12 13" not in str(rig.faults)
