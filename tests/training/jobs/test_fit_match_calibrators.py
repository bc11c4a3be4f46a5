"""The calibrator job: the fit against scikit-learn, its meaning on scores of known law, and publication."""

import numpy as np
import pytest
import torch

from models.oracles.calibrators import ARTIFACT, load_match_calibrators
from models.oracles.thresholds import ARTIFACT as THRESHOLDS_ARTIFACT
from models.oracles.thresholds import CalibrationError
from models.registry.promotion import PromotionRefusedError
from models.registry.store import ArtifactStore
from training.jobs.calibrate_oracles import JOB as CALIBRATE
from training.jobs.calibrate_oracles import CalibrateOraclesConfig
from training.jobs.fit_match_calibrators import JOB, FitMatchCalibratorsConfig, drawn_crops
from training.jobs.match_curves import (
    Pairs,
    calibration_error,
    fit_lbfgs,
    fit_newton,
    fit_undamped,
    log_loss,
    match_probability,
    measure_pairs,
)
from training.runs.context import RunContext

ORACLES = ("fr_feature", "mobileface")


def gaussian_pairs(seed, genuine=4000, impostor=20000):
    """Similarities whose log-likelihood ratio is known: two Gaussians of equal spread."""
    rng = np.random.default_rng(seed)
    return Pairs(rng.normal(0.4, 0.12, genuine), rng.normal(0.05, 0.12, impostor))


def test_newton_and_scikit_learn_find_the_same_curve():
    pairs = gaussian_pairs(0)
    ours, peer = fit_newton(pairs, 1e-4), fit_lbfgs(pairs, 1e-4)
    assert ours.gradient_norm < 1e-9
    assert ours.slope == pytest.approx(peer.slope, rel=1e-4)
    assert ours.intercept == pytest.approx(peer.intercept, rel=1e-4)
    assert ours.objective <= peer.objective + 1e-12
    assert ours.evaluations < 20


def test_unguarded_newton_ends_at_the_same_curve_and_says_how_near():
    pairs = gaussian_pairs(6)
    bare, ours = fit_undamped(pairs, 1e-4), fit_newton(pairs, 1e-4)
    assert bare.slope == pytest.approx(ours.slope, rel=1e-6)
    assert bare.intercept == pytest.approx(ours.intercept, rel=1e-6)
    assert bare.gradient_norm <= 1e-9
    assert 2 <= bare.evaluations < 20


def test_calibration_error_is_nothing_for_the_true_curve_and_the_gap_for_a_wrong_one():
    pairs = gaussian_pairs(7, genuine=40000, impostor=40000)
    fit = fit_newton(pairs, 1e-7)
    # ten bins of 80 000 pairs: the mean absolute deviation of shares is a few thousandths
    assert calibration_error(fit, pairs) < 0.01
    always = type(fit)(0.0, 50.0, 0.0, 0.0, 0)
    assert calibration_error(always, pairs) == pytest.approx(0.5)
    coin = type(fit)(0.0, 0.0, 0.0, 0.0, 0)
    assert calibration_error(coin, pairs) == pytest.approx(0.0, abs=1e-9)
    # too timid on either side: the errors of the bins cancel, and still count
    assert calibration_error(type(fit)(fit.slope / 4, fit.intercept / 4, 0.0, 0.0, 0), pairs) > 0.1


def test_the_curve_is_the_log_likelihood_ratio_whatever_the_numbers_of_pairs():
    # equal spread s: log ratio = (a - b) / s^2 * (x - (a + b) / 2)
    for seed, impostor in ((1, 4000), (2, 40000)):
        fit = fit_newton(gaussian_pairs(seed, impostor=impostor), 1e-7)
        assert fit.slope == pytest.approx(0.35 / 0.12**2, rel=0.06)
        assert -fit.intercept / fit.slope == pytest.approx(0.225, abs=0.006)
        assert match_probability(fit, 0.225) == pytest.approx(0.5, abs=0.04)


def test_log_loss_is_log_two_for_a_coin_and_balanced():
    fit = fit_newton(gaussian_pairs(3), 1e-4)
    coin = type(fit)(0.0, 0.0, 0.0, 0.0, 0)
    assert log_loss(coin, gaussian_pairs(4)) == pytest.approx(np.log(2))
    few, many = gaussian_pairs(5, impostor=2000), gaussian_pairs(5, impostor=2000)
    many = Pairs(many.genuine, np.tile(many.impostor, 10))
    assert log_loss(fit, few) == pytest.approx(log_loss(fit, many), rel=1e-6)


def test_pairs_are_the_rows_and_all_different_people():
    rng = np.random.default_rng(0)
    first, second = (rng.normal(size=(5, 8)).astype(np.float32) for _ in range(2))
    pairs = measure_pairs(first, second)
    assert pairs.genuine == pytest.approx([float(a @ b) for a, b in zip(first, second, strict=True)], rel=1e-5)
    assert len(pairs.impostor) == 10
    assert pairs.impostor[0] == pytest.approx(float(first[0] @ first[1]), rel=1e-5)
    with pytest.raises(CalibrationError, match="two people"):
        measure_pairs(first[:1], second[:1])


@pytest.fixture(scope="module")
def folder(tmp_path_factory, draw_labeled_photos):
    return draw_labeled_photos(tmp_path_factory.mktemp("photos"), 10)


@pytest.fixture(scope="module")
def calibrated(upstream_store, folder, tmp_path_factory):
    """A store with two oracles and their thresholds."""
    root = tmp_path_factory.mktemp("store")
    store = ArtifactStore(root / "artifacts")
    store.root.mkdir()
    for name in ("upstream-mobileface", "upstream-fr-feature"):
        (store.root / name).symlink_to((upstream_store / name).resolve())
    settings = {"folder": folder, "landmarks": folder / "landmarks.csv", "identity_half": "all", "oracles": ORACLES}
    CALIBRATE.run(CalibrateOraclesConfig(**settings), make_context(root, store))
    return store


def make_context(directory, store):
    def publish(name, kind, files, **fields):
        return f"{name}@{store.publish(name, kind, files, **fields).version}"

    return RunContext(
        directory,
        torch.device("cpu"),
        log=lambda values: None,
        should_stop=lambda: False,
        save=lambda checkpoint: None,
        restore=lambda: None,
        store=store,
        publish=publish,
    )


def config(folder, **changes):
    settings = {
        "folder": folder,
        "landmarks": folder / "landmarks.csv",
        "fit_half": "all",
        "held_out_half": "all",
        "oracles": ORACLES,
    }
    return FitMatchCalibratorsConfig(**(settings | changes))


def test_calibrators_are_published_promoted_and_loadable(folder, calibrated, tmp_path):
    report = JOB.run(config(folder), make_context(tmp_path, calibrated))
    calibrators = load_match_calibrators(calibrated)
    assert report.artifacts == (f"{ARTIFACT}@{calibrated.promoted(ARTIFACT)}",)
    assert [curve.oracle for curve in calibrators.calibrators] == list(ORACLES)
    assert calibrators.thresholds_version == calibrated.promoted(THRESHOLDS_ARTIFACT)
    curve = calibrators.get("fr_feature")
    assert (curve.num_genuine, curve.num_impostor) == (10, 45)
    assert curve.held_out_log_loss < 0.35
    assert calibrators.probability("fr_feature", 1.0) > 0.9
    assert (tmp_path / "figures" / "reliability_mobileface.svg").is_file()
    rows = report.tables["in the service"]
    assert {row["method"] for row in rows} == {"gradient_normalized_smoothness"}
    assert all(set(row) == {"method", "job", "measure", "without", "with", "n"} for row in rows)


def test_without_a_folder_other_heads_are_drawn_for_either_half_and_nothing_is_published(calibrated, tmp_path):
    (tmp_path / "empty").mkdir()
    context = make_context(tmp_path, ArtifactStore(tmp_path / "empty"))
    settings = FitMatchCalibratorsConfig(artifacts=calibrated.root, oracles=ORACLES, max_people=5, max_log_loss=1e9)
    before = calibrated.versions(ARTIFACT)
    report = JOB.run(settings, context)
    assert report.artifacts == ()
    assert calibrated.versions(ARTIFACT) == before
    assert not list((tmp_path / "empty").iterdir())
    assert [(row["genuine"], row["impostor"]) for row in report.tables["calibrators"]] == [(5, 10), (5, 10)]
    # curves of the same pairs would have the same loss on either half
    fitted, held = (drawn_crops(settings)[half] for half in ("calibration", "test"))
    assert not np.array_equal(fitted[0], held[0])
    assert not np.array_equal(fitted[0], fitted[1])


def test_a_gate_that_fails_is_published_but_not_promoted(folder, calibrated, tmp_path):
    before = calibrated.promoted(ARTIFACT)
    with pytest.raises(PromotionRefusedError, match="log_loss"):
        JOB.run(config(folder, max_log_loss=1e-9), make_context(tmp_path, calibrated))
    assert calibrated.promoted(ARTIFACT) == before


def test_a_fit_that_did_not_converge_is_not_published(folder, calibrated, tmp_path):
    before = calibrated.versions(ARTIFACT)
    with pytest.raises(CalibrationError, match="gradient norm"):
        JOB.run(config(folder, max_gradient=1e-300), make_context(tmp_path, calibrated))
    assert calibrated.versions(ARTIFACT) == before


def test_people_with_one_photo_are_left_out_and_too_few_are_an_error(folder, calibrated, tmp_path):
    labels = tmp_path / "labels.csv"
    names = sorted(path.name for path in folder.glob("*.png"))
    # three people keep both photos, the others share none
    lines = [f"{name},{name[:9] if index < 6 else name}" for index, name in enumerate(names)]
    labels.write_text("file,identity\n" + "\n".join(lines) + "\n")
    with pytest.raises(CalibrationError, match="got 3"):
        JOB.run(config(folder, labels=labels), make_context(tmp_path, calibrated))
