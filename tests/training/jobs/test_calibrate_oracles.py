"""The calibration job on pictures drawn by the test: choice of people and photos, publication, gates."""

import numpy as np
import pytest
import torch

from models.faces.alignment import crop_template
from models.faces.boxes import Face
from models.oracles.thresholds import ARTIFACT, CalibrationError, load_thresholds
from models.registry.promotion import PromotionRefusedError
from models.registry.store import ArtifactStore
from training.jobs.calibrate_oracles import (
    JOB,
    CalibrateOraclesConfig,
    crop_main_face,
    identity_in_half,
    pick_photos,
    read_landmarks,
    read_suspects,
)
from training.runs.context import RunContext


@pytest.fixture(scope="module")
def folder(tmp_path_factory, draw_labeled_photos):
    return draw_labeled_photos(tmp_path_factory.mktemp("photos"), 12)


@pytest.fixture
def context(upstream_store, tmp_path):
    store = ArtifactStore(tmp_path / "artifacts")
    store.root.mkdir()
    for name in ("upstream-mobileface", "upstream-fr-feature"):
        (store.root / name).symlink_to((upstream_store / name).resolve())

    def publish(name, kind, files, **fields):
        return f"{name}@{store.publish(name, kind, files, **fields).version}"

    nothing = {
        "log": lambda values: None,
        "should_stop": lambda: False,
        "save": lambda c: None,
        "restore": lambda: None,
    }
    return RunContext(tmp_path, torch.device("cpu"), store=store, publish=publish, **nothing)


def config(folder, **changes):
    settings = {
        "folder": folder,
        "landmarks": folder / "landmarks.csv",
        "identity_half": "all",
        "oracles": ("fr_feature", "mobileface"),
    }
    return CalibrateOraclesConfig(**(settings | changes))


def test_calibration_is_published_promoted_and_loadable(folder, context):
    report = JOB.run(config(folder), context)
    assert report.holds
    thresholds = load_thresholds(context.store)
    assert {entry.oracle for entry in thresholds.entries} == {"fr_feature", "mobileface"}
    assert thresholds.get("fr_feature", 1e-3).num_pairs == 6
    assert thresholds.get("fr_feature", 1e-3).num_all_pairs == 66
    assert thresholds.true_accept_rates["fr_feature@0.001"] > 0.5
    assert report.artifacts == (f"{ARTIFACT}@{context.store.promoted(ARTIFACT)}",)
    assert report.metrics["people"] == 12


def test_gate_that_fails_is_published_but_not_promoted(folder, context):
    shuffled = folder / "wrong.csv"
    names = sorted(path.name for path in folder.glob("*.png"))
    lines = [f"{name},{index % 12}" for index, name in enumerate(names)]
    shuffled.write_text("file,identity\n" + "\n".join(lines) + "\n")
    with pytest.raises(PromotionRefusedError, match="fr_feature"):
        JOB.run(config(folder, labels=shuffled), context)
    assert len(context.store.versions(ARTIFACT)) == 1
    assert context.store.promoted(ARTIFACT) is None


def test_halves_are_disjoint_complete_and_stable():
    names = [f"Person_{index}" for index in range(400)]
    calibration = {name for name in names if identity_in_half(name, "calibration")}
    test = {name for name in names if identity_in_half(name, "test")}
    assert calibration | test == set(names)
    assert calibration & test == set()
    assert 150 < len(calibration) < 250
    # SHA-256("abc") ends in ...15ad: odd; SHA-256("") ends in ...b855: odd; SHA-256("a") ends in ...48bb: odd
    assert [identity_in_half(name, "test") for name in ("abc", "", "a")] == [True, True, True]
    assert all(identity_in_half(name, "all") for name in names)


def test_two_photos_of_each_person_are_drawn_and_people_can_be_limited(folder):
    photos = pick_photos(folder, None, "all", None, np.random.default_rng(0))
    assert len(photos.first) == 12
    for first, second in zip(photos.first, photos.second, strict=True):
        assert first != second
        assert first.name[:9] == second.name[:9]
    fewer = pick_photos(folder, None, "all", 5, np.random.default_rng(0))
    assert len(set(fewer.first)) == 5
    with pytest.raises(CalibrationError, match="no labeled photos"):
        pick_photos(folder / "..", None, "all", None, np.random.default_rng(0))


def test_landmarks_are_read_in_the_order_of_the_template(folder):
    landmarks = read_landmarks(folder / "landmarks.csv")
    np.testing.assert_allclose(landmarks["Person_00_0001.png"], crop_template(), atol=1e-3)


def test_suspected_photos_are_left_out(folder, context, tmp_path):
    names = sorted(path.name for path in folder.glob("*.png"))
    suspects = {names[0], names[1], names[2]}  # both photos of one person, one of another
    weights = tmp_path / "weights.csv"
    rows = [f"{name},{0.01 if name in suspects else 0.9},{int(name in suspects)}" for name in names]
    weights.write_text("file,weight,suspect\n" + "\n".join(rows) + "\n")
    assert read_suspects(weights) == suspects
    photos = pick_photos(folder, None, "all", None, np.random.default_rng(0), without=suspects)
    assert len(photos.first) == 11
    assert photos.second.count(None) == 1
    assert not suspects & {path.name for path in (*photos.first, *photos.second) if path is not None}
    report = JOB.run(config(folder, weights=weights), context)
    assert report.metrics["people"] == 11
    manifest = context.store.resolve(ARTIFACT).manifest
    assert "3 photos" in manifest.provenance["data"]


@pytest.mark.parametrize("text", ["file,weight\na.png,0.5\n", "file,weight,suspect\na.png,0.5,maybe\n"])
def test_a_list_of_suspects_that_does_not_say_whom_is_refused(tmp_path, text):
    path = tmp_path / "weights.csv"
    path.write_text(text)
    with pytest.raises(CalibrationError, match="suspect"):
        read_suspects(path)


def test_the_most_certain_face_stands_for_a_photo(folder):
    points = crop_template()

    class TwoFaces:
        def detect(self, pixels):
            box = (0.0, 0.0, 127.0, 127.0)
            return [
                Face(box, 0.7, points, "drawn"),
                Face(box, 0.9, points + 6.0, "drawn"),
                Face(box, 0.99, None, "drawn"),
            ]

    path = next(folder.glob("*.png"))
    crop = crop_main_face(path, None, TwoFaces())
    assert (crop == crop_main_face(path, {path.name: points + 6.0}, None)).all()
    assert not (crop == crop_main_face(path, {path.name: points}, None)).all()
    assert crop_main_face(path, {}, None) is None
