"""Projections that take identity out of features: planted directions, what is measured, and what is published."""

import cv2
import numpy as np
import pytest

from training.jobs.fit_feature_projection import JOB, FitFeatureProjectionConfig, run
from training.jobs.index_features import (
    discriminant_directions,
    planted_features,
    search_measures,
    within_whitener,
)
from training.runs.config import ConfigError, resolve_config


def test_search_finds_the_person_by_a_planted_direction_and_not_without_it():
    rng = np.random.default_rng(0)
    views = np.stack([np.eye(40)] * 3, axis=1) + 0.01 * rng.normal(size=(40, 3, 40))
    seen = search_measures(views, np.zeros(40), np.eye(40), np.eye(40))
    assert set(seen.values()) == {1.0}
    blind = search_measures(views, np.zeros(40), np.zeros((40, 40)), np.eye(40))
    assert blind["identity rank-1"] == pytest.approx(1 / 40)
    assert blind["crop recall@10"] == pytest.approx(10 / 40)


def test_the_whitener_makes_differences_within_a_person_alike_in_all_directions():
    rng = np.random.default_rng(1)
    scale = np.array([8.0, 2.0, 0.5])
    fit = scale * rng.normal(size=(4000, 2, 3))
    whitened = ((fit[:, 0] - fit[:, 1]) / 2**0.5) @ within_whitener(fit)
    floor = (scale**2).mean()
    assert whitened.var(0) == pytest.approx(scale**2 / (scale**2 + floor), rel=0.1)


def test_what_is_removed_gives_the_attacker_nothing_to_whiten():
    features = planted_features(150, seed=0)
    center = features.fit.reshape(-1, 96).mean(0)
    directions = discriminant_directions(features.fit, center, 6)
    projection = np.eye(96) - directions @ directions.T
    assert directions.T @ directions == pytest.approx(np.eye(6), abs=1e-9)
    before = search_measures(features.held, center, np.eye(96), within_whitener(features.fit))
    after = search_measures(features.held, center, projection, within_whitener(features.fit, projection))
    assert after["identity top-10, whitened"] < before["identity top-10, whitened"] / 2
    assert after["crop recall@10"] > 0.95


def test_a_run_finds_planted_directions_and_publishes_nothing_unasked(make_run_context, tmp_path):
    config = resolve_config(FitFeatureProjectionConfig, preset=JOB.preset("smoke"))
    report = run(config, make_run_context(tmp_path))
    assert [check.claim for check in report.checks if not check.holds] == []
    assert report.artifacts == ()
    rows = report.tables["in the service"]
    assert {row["method"] for row in rows} == {"gradient_sliding"}
    assert {tuple(row) for row in rows} == {("method", "job", "measure", "without", "with", "n")}
    with pytest.raises(AssertionError, match="must not be published"):
        run(config.model_copy(update={"publish": True}), make_run_context(tmp_path))


def test_a_folder_needs_boxes_and_enough_people(make_run_context, tmp_path):
    cv2.imwrite(str(tmp_path / "Person_0001.png"), np.zeros((64, 64, 3), np.uint8))
    config = FitFeatureProjectionConfig(folder=tmp_path)
    with pytest.raises(ConfigError, match="boxes"):
        run(config, make_run_context(tmp_path))
    boxes = tmp_path / "boxes.csv"
    boxes.write_text("file,left\nPerson_0001.png,1\n")
    with pytest.raises(ConfigError, match="no column 'x1'"):
        run(config.model_copy(update={"boxes": boxes}), make_run_context(tmp_path))
    boxes.write_text("file,x1,y1,x2,y2\nPerson_0001.png,nan,1,2,3\nPerson_0002.png,,,,\n")
    with pytest.raises(ConfigError, match="at least 20 people"):
        run(config.model_copy(update={"boxes": boxes}), make_run_context(tmp_path))


def test_the_discriminant_direction_is_the_steady_one_not_the_loud_one():
    rng = np.random.default_rng(2)
    person = rng.normal(size=(500, 1, 1)) + 0.1 * rng.normal(size=(500, 2, 1))
    loud, quiet = 4 * rng.normal(size=(500, 2, 1)), 0.1 * rng.normal(size=(500, 2, 18))
    fit = np.concatenate([person, loud, quiet], axis=-1)
    first = discriminant_directions(fit, fit.reshape(-1, 20).mean(0), 1)
    assert abs(first[0, 0]) > 0.9
    assert fit.mean(1).std(0)[0] < fit.mean(1).std(0)[1]
