"""Faces are found by two detectors, and a search that fails never looks like a picture without faces."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from models.faces import mtcnn as mtcnn_module
from models.faces.boxes import Face
from models.faces.detection import (
    DetectionError,
    MtcnnDetector,
    UltraLightDetector,
    UnionDetector,
    detect_multi_scale,
    iou,
)
from models.faces.detector import Look


@pytest.fixture(scope="module")
def mtcnn():
    return MtcnnDetector()


@pytest.fixture(scope="module")
def ultralight(ultralight_file):
    return UltraLightDetector.from_file(ultralight_file, device="cpu")


@pytest.fixture(scope="module")
def detectors(mtcnn, ultralight):
    return {"mtcnn": mtcnn, "ultralight": ultralight, "union": UnionDetector([mtcnn, ultralight])}


NAMES = ("mtcnn", "ultralight", "union")


class Scripted:
    """A detector that answers what it was told to and remembers what it was asked."""

    name = "scripted"

    def __init__(self, answer=(), error=None):
        self.answer, self.error, self.asked = answer, error, []

    def detect(self, pixels):
        self.asked.append(pixels)
        if self.error is not None:
            raise self.error
        return list(self.answer(pixels)) if callable(self.answer) else list(self.answer)


def drawn_box(size, x=0, y=0):
    return (x + 0.25 * size, y + 0.18 * size, x + 0.75 * size, y + 0.83 * size)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [80, 200, 420])
def test_a_drawn_face_is_found_once_and_where_it_is(name, size, detectors, draw_face):
    faces = detectors[name].detect(draw_face(size))
    assert len(faces) == 1
    assert iou(faces[0].box, drawn_box(size)) > 0.6
    assert faces[0].score > 0.6


def test_mtcnn_gives_the_landmarks_in_image_order(mtcnn, draw_face, face_landmarks):
    (face,) = mtcnn.detect(draw_face(200))
    assert face.landmarks.shape == (5, 2)
    assert np.abs(face.landmarks - face_landmarks(200)).max() < 8


@pytest.mark.parametrize("name", NAMES)
def test_every_face_of_a_group_is_found(name, detectors, draw_face):
    group = np.full((240, 640, 3), (120, 140, 120), np.uint8)
    places = [(10, 20), (220, 35), (430, 10)]
    for shade, (x, y) in enumerate(places):
        group[y : y + 190, x : x + 190] = draw_face(190, (224 - 50 * shade, 172 - 40 * shade, 140 - 35 * shade))
    faces = detectors[name].detect(group)
    for x, y in places:
        assert any(iou(face.box, drawn_box(190, x, y)) > 0.5 for face in faces)


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_face_lying_on_its_side_is_found_where_it_is(turns, ultralight, draw_face):
    picture = np.full((260, 330, 3), (120, 140, 120), np.uint8)
    picture[30:230, 90:290] = np.rot90(draw_face(200), -turns)
    faces = ultralight.detect(picture)
    low, high = 0.18 * 200, 0.83 * 200
    box = {1: (290 - high, 80, 290 - low, 180), 2: (140, 230 - high, 240, 230 - low), 3: (90 + low, 80, 90 + high, 180)}
    assert any(iou(face.box, box[turns]) > 0.4 for face in faces)


@pytest.mark.parametrize("name", NAMES)
def test_a_face_in_the_dark_is_found(name, detectors, draw_face):
    assert len(detectors[name].detect((draw_face(200) * 0.08).astype(np.uint8))) == 1


@pytest.mark.parametrize("name", NAMES)
def test_pictures_without_a_face_are_empty(name, detectors, rng):
    noise = rng.integers(0, 256, (150, 200, 3), dtype=np.uint8)
    checker = np.kron(np.indices((10, 12)).sum(axis=0) % 2, np.ones((15, 15)))[:, :, None].repeat(3, axis=2) * 255
    for picture in (noise, checker.astype(np.uint8), np.full((150, 200, 3), 90, np.uint8)):
        assert detectors[name].detect(picture) == []


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (10, 10), (19, 21), (40, 40), (4000, 3), (3, 4000)])
def test_pictures_of_any_shape_are_searched(name, shape, detectors, rng):
    assert detectors[name].detect(np.full((*shape, 3), 200, np.uint8)) == []
    detectors[name].detect(rng.integers(0, 256, (*shape, 3), dtype=np.uint8))


@pytest.mark.parametrize("name", NAMES)
def test_a_face_does_not_depend_on_what_was_searched_before(name, detectors, draw_face, rng):
    detector = detectors[name]
    alone = detector.detect(draw_face(150))
    two = np.concatenate([draw_face(150), draw_face(150)], axis=1)
    for other in (np.zeros((1, 1, 3), np.uint8), two, rng.integers(0, 256, (33, 77, 3), dtype=np.uint8)):
        detector.detect(other)
        again = detector.detect(draw_face(150))
        assert [face.box for face in again] == [face.box for face in alone]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "picture",
    [np.zeros((9, 9), np.uint8), np.zeros((9, 9, 4), np.uint8), np.zeros((9, 9, 3)), np.zeros((0, 9, 3), "u1")],
)
def test_what_is_no_rgb_picture_is_an_error_and_not_an_empty_result(name, picture, detectors):
    with pytest.raises(DetectionError):
        detectors[name].detect(picture)


def test_a_failing_network_is_a_detection_error_without_its_message(mtcnn, draw_face, monkeypatch):
    def fail(*_args, **_kwargs):
        raise IndexError("pixels 1 2 3")

    monkeypatch.setattr(mtcnn._network, "detect", fail)
    with pytest.raises(DetectionError) as caught:
        mtcnn.detect(draw_face(100))
    assert "pixels" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("field", [0, 1, 2])
def test_a_value_that_is_not_a_number_is_a_detection_error(field, mtcnn, draw_face, monkeypatch):
    answer = [np.array([[1.0, 2, 50, 60]]), np.array([0.9]), np.ones((1, 5, 2))]
    answer[field] = answer[field] * np.nan
    monkeypatch.setattr(mtcnn._network, "detect", lambda *_args, **_kwargs: tuple(answer))
    with pytest.raises(DetectionError, match="not a number"):
        mtcnn.detect(draw_face(100))


def session(scores, boxes=None):
    class Session:
        def run(self, _names, _feeds):
            if scores is None:
                raise RuntimeError("out of memory")
            n = len(scores)
            columns = np.stack([1 - np.array(scores), np.array(scores)], axis=1)[None]
            corners = np.tile([0.1, 0.1, 0.4, 0.5], (n, 1)) if boxes is None else np.array(boxes)
            return columns.astype(np.float32), corners[None].astype(np.float32)

    return Session()


def test_the_second_detector_fails_closed_too(draw_face):
    for scores in (None, [0.1, np.nan]):
        with pytest.raises(DetectionError):
            UltraLightDetector(session(scores)).detect(draw_face(100))
    with pytest.raises(DetectionError, match="not a number"):
        UltraLightDetector(session([0.9], [[0.1, np.inf, 0.4, 0.5]])).detect(draw_face(100))


def test_shares_of_the_padded_input_become_pixels_of_the_picture():
    detector = UltraLightDetector(session([0.9, 0.3], [[0.25, 0.25, 0.5, 0.5], [0, 0, 1, 1]]), turns=(0,))
    (face,) = detector.detect(np.zeros((480, 480, 3), np.uint8))
    assert face.box == pytest.approx((160, 120, 320, 240))  # the picture is shown at half size, left in the frame
    assert face.landmarks is None


def test_a_box_in_the_padding_is_no_face():
    detector = UltraLightDetector(session([0.9], [[0.8, 0.1, 0.95, 0.4]]), turns=(0,))
    assert detector.detect(np.zeros((240, 240, 3), np.uint8)) == []


def test_weights_that_were_tampered_with_are_refused_before_they_are_loaded(monkeypatch):
    monkeypatch.setattr(mtcnn_module, "_MTCNN_DIGESTS", {"pnet.pt": "0" * 64})
    monkeypatch.setattr(mtcnn_module.importlib, "import_module", lambda _name: pytest.fail("loaded"))
    with pytest.raises(DetectionError, match=r"pnet\.pt is not the expected file"):
        MtcnnDetector()


def test_settings_out_of_range_are_refused():
    for bad in ({"min_face_size": 5}, {"thresholds": (0.5, 0.5)}, {"thresholds": (0.5, 0.5, 1.0)}):
        with pytest.raises(ValueError):
            MtcnnDetector(**bad)
    for bad in ({"threshold": 0.0}, {"nms_iou": 1.0}, {"turns": (4,)}, {"turns": ()}):
        with pytest.raises(ValueError):
            UltraLightDetector(None, **bad)
    with pytest.raises(ValueError, match="at least one"):
        UnionDetector([])


def test_smaller_faces_than_asked_for_are_not_looked_for(mtcnn, draw_face):
    picture = np.full((300, 300, 3), (150, 170, 190), np.uint8)
    picture[100:170, 100:170] = draw_face(70)
    assert len(mtcnn.detect(picture)) == 1
    assert MtcnnDetector(min_face_size=80).detect(picture) == []


LANDMARKS = np.array([[40.0, 40], [60, 40], [50, 50], [42, 60], [58, 60]])
SEEN = Face((30.0, 25.0, 70.0, 75.0), 0.9, LANDMARKS, "first")
AGAIN = Face((32.0, 24.0, 71.0, 77.0), 0.95, None, "second")
ELSEWHERE = Face((130.0, 30.0, 170.0, 80.0), 0.7, None, "second")
PICTURE = np.zeros((200, 300, 3), np.uint8)


def test_a_face_that_both_see_is_one_face_with_the_firsts_landmarks():
    (face,) = UnionDetector([Scripted([SEEN]), Scripted([AGAIN])]).detect(PICTURE)
    assert face.box == SEEN.box
    assert face.landmarks is LANDMARKS
    assert face.score == 0.95
    assert face.detector == "first+second"


def test_a_part_of_a_known_face_is_no_face_of_its_own():
    inner = Face((40.0, 40.0, 55.0, 55.0), 0.8, None, "second")
    assert len(UnionDetector([Scripted([SEEN]), Scripted([inner])]).detect(PICTURE)) == 1


def test_a_face_that_only_the_second_sees_is_kept_and_looked_at_again_enlarged():
    def first(pixels):
        if pixels.shape == PICTURE.shape:
            return [SEEN]
        return [Face((40.0, 40.0, 120.0, 140.0), 0.8, LANDMARKS, "first")]

    known, extra = UnionDetector([Scripted(first), Scripted([AGAIN, ELSEWHERE])]).detect(PICTURE)
    assert known.box == SEEN.box
    assert extra.box == ELSEWHERE.box
    # the region of 100 px about the box was shown at 160 px
    np.testing.assert_allclose(extra.landmarks, LANDMARKS / 1.6 + (100, 5))


def test_without_landmarks_on_the_second_look_the_face_stays_without():
    first = Scripted(lambda pixels: [SEEN] if pixels.shape == PICTURE.shape else [])
    assert UnionDetector([first, Scripted([ELSEWHERE])]).detect(PICTURE)[1].landmarks is None


def test_one_failing_detector_fails_the_union():
    broken = Scripted(error=DetectionError("no"))
    for order in ([Scripted([SEEN]), broken], [broken, Scripted([SEEN])]):
        with pytest.raises(DetectionError):
            UnionDetector(order).detect(PICTURE)


def test_the_real_union_gives_landmarks_to_a_cut_off_face_or_leaves_it_bare(detectors, draw_face):
    cut = np.ascontiguousarray(draw_face(240)[:, :135])
    faces = detectors["union"].detect(cut)
    assert faces
    assert all(face.landmarks is None or face.landmarks.shape == (5, 2) for face in faces)


def test_every_scale_and_the_mirror_are_searched_and_mapped_back(mtcnn, draw_face, face_landmarks):
    picture = np.full((220, 300, 3), (150, 170, 190), np.uint8)
    picture[10:210, 5:205] = draw_face(200)
    faces = detect_multi_scale(mtcnn, picture, scales=(1.0, 0.5, 1.5), flip=True)
    assert len(faces) == 6
    for face in faces:
        assert iou(face.box, drawn_box(200, 5, 10)) > 0.6
        assert np.abs(face.landmarks - face_landmarks(200) - (5, 10)).max() < 9


def test_enlargements_are_cut_down_to_the_largest_side_and_reductions_are_not():
    seen = Scripted()
    detect_multi_scale(seen, np.zeros((100, 200, 3), np.uint8), scales=(1.0, 0.5, 1.5, 8.0), max_side=250)
    assert [picture.shape[:2] for picture in seen.asked] == [(100, 200), (50, 100), (125, 250), (125, 250)]


def test_a_picture_larger_than_the_largest_side_is_still_searched_at_its_own_size():
    seen = Scripted()
    detect_multi_scale(seen, np.zeros((100, 200, 3), np.uint8), scales=(1.0, 1.5), max_side=50)
    assert [picture.shape[:2] for picture in seen.asked] == [(100, 200), (100, 200)]


def test_a_search_fails_when_one_of_its_scales_fails():
    def fail_small(pixels):
        if pixels.shape[0] < 100:
            raise DetectionError("no")
        return []

    with pytest.raises(DetectionError):
        detect_multi_scale(Scripted(fail_small), np.zeros((100, 100, 3), np.uint8))
    for scales in ((), (1.0, 0.0)):
        with pytest.raises(ValueError, match="positive scales"):
            detect_multi_scale(Scripted(), PICTURE, scales=scales)


def test_a_tiny_picture_can_be_halved(mtcnn):
    assert detect_multi_scale(mtcnn, np.zeros((1, 1, 3), np.uint8)) == []


class ScriptedExaminer(Scripted):
    """A detector that also answers what it was told about single boxes."""

    def __init__(self, looks, answer=(SEEN,)):
        super().__init__(lambda pixels: answer if pixels.shape == PICTURE.shape else ())
        self.looks, self.boxes = looks, []

    def look(self, pixels, box, turn=0):
        self.boxes.append((box, turn))
        return list(self.looks)


THERE = LANDMARKS + np.array([100.0, 5.0])
MIRRORED = THERE + np.array([1.0, 0.0])


def looked(*looks, found=ELSEWHERE):
    examiner = ScriptedExaminer(looks)
    faces = UnionDetector([examiner, Scripted([found])]).detect(PICTURE)
    assert len(faces) == 2
    assert examiner.boxes == [(found.box, found.turn)]
    return faces[1]


def test_a_face_that_is_refused_in_every_window_is_kept_in_doubt():
    face = looked(Look(ELSEWHERE.box, (0.3, 0.69), (THERE, MIRRORED)), Look(ELSEWHERE.box, (0.1, 0.1), (THERE, THERE)))
    assert face.box == ELSEWHERE.box
    assert face.is_doubtful
    assert face.landmarks is None


def test_one_window_that_is_no_refusal_leaves_no_doubt():
    face = looked(Look(ELSEWHERE.box, (0.3, 0.71), (THERE, MIRRORED)), Look(ELSEWHERE.box, (0.1, 0.1), (THERE, THERE)))
    assert not face.is_doubtful
    assert face.landmarks is None


def test_a_certain_look_gives_the_mean_of_the_landmarks_of_both_sides():
    face = looked(Look(ELSEWHERE.box, (0.95, 0.92), (THERE, MIRRORED)))
    np.testing.assert_allclose(face.landmarks, THERE + np.array([0.5, 0.0]))
    assert not face.is_doubtful


@pytest.mark.parametrize(
    "look",
    [
        Look(ELSEWHERE.box, (0.99, 0.8), (THERE, MIRRORED)),
        Look((200.0, 30.0, 260.0, 80.0), (0.99, 0.99), (THERE, MIRRORED)),
        Look(ELSEWHERE.box, (0.99, 0.99), (THERE, THERE + np.array([9.0, 0.0]))),
    ],
    ids=["one side only", "another place", "sides disagree"],
)
def test_an_uncertain_look_gives_neither_landmarks_nor_doubt(look):
    face = looked(look)
    assert face.landmarks is None
    assert not face.is_doubtful


def test_a_window_that_shows_a_known_face_says_nothing_of_the_box():
    face = looked(Look(SEEN.box, (0.99, 0.99), (LANDMARKS, LANDMARKS)))
    assert face.is_doubtful
    assert face.landmarks is None


def test_a_face_seen_in_a_turned_picture_is_looked_at_in_that_turn():
    looked(Look(ELSEWHERE.box, (0.8, 0.8), (THERE, THERE)), found=Face(ELSEWHERE.box, 0.9, None, "second", turn=3))


def test_a_failing_look_fails_the_union():
    class Broken(ScriptedExaminer):
        def look(self, pixels, box, turn=0):
            raise DetectionError("no")

    with pytest.raises(DetectionError):
        UnionDetector([Broken([]), Scripted([ELSEWHERE])]).detect(PICTURE)


@pytest.mark.parametrize("turn", [0, 1, 2, 3])
def test_the_landmark_network_sees_a_face_upright_whichever_way_it_lies(turn, mtcnn, draw_face, face_landmarks):
    picture = np.full((240, 300, 3), (120, 140, 120), np.uint8)
    picture[20:220, 60:260] = np.rot90(draw_face(200), -turn)
    points = face_landmarks(200) - 99.5
    for _ in range(turn):  # a quarter turn clockwise
        points = np.stack([-points[:, 1], points[:, 0]], axis=1)
    points = points + np.array([159.5, 119.5])
    box = (60.0 + 40, 20.0 + 40, 260.0 - 40, 220.0 - 40)
    looks = mtcnn.look(picture, box, turn)
    best = max(looks, key=lambda look: min(look.scores))
    assert min(best.scores) > 0.9
    for landmarks in best.landmarks:
        assert np.abs(landmarks - points).max() < 12
    assert iou(best.box, box) > 0.4
    assert max(score for look in mtcnn.look(picture, (2.0, 180.0, 42.0, 230.0), turn) for score in look.scores) < 0.7


def test_a_box_or_an_answer_that_is_not_finite_is_a_detection_error(mtcnn, draw_face, monkeypatch):
    for box in ((10.0, 10.0, 10.0, 40.0), (10.0, float("nan"), 30.0, 40.0), (10.0, 10.0, float("inf"), 40.0)):
        with pytest.raises(DetectionError, match="finite"):
            mtcnn.look(draw_face(100), box)
    forward = mtcnn._network.onet.forward
    monkeypatch.setattr(mtcnn._network.onet, "forward", lambda x: tuple(part * np.nan for part in forward(x)))
    with pytest.raises(DetectionError, match="not a number"):
        mtcnn.look(draw_face(100), (20.0, 20.0, 80.0, 80.0))


@pytest.mark.parametrize(("name", "side"), [("pnet", 60), ("rnet", 24), ("onet", 48)])
def test_networks_that_see_channels_last_find_what_they_find_channels_first(name, side, mtcnn):
    wrapped = getattr(mtcnn._network, name)
    first = copy.deepcopy(wrapped.network).to(memory_format=torch.contiguous_format)
    pictures = torch.rand(3, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.inference_mode():
        for expected, found in zip(first(pictures), wrapped(pictures), strict=True):
            assert torch.allclose(expected, found, atol=1e-5)
