"""Projections that take identity out of features: planted directions, what is measured, and what is published."""

import cv2
import numpy as np
import pytest

from training.jobs.fit_feature_projection import JOB, FitFeatureProjectionConfig, run
from training.jobs.index_features import BLANKED, discriminant_directions, found_people, within_whitener
from training.jobs.planted_index import planted_index
from training.jobs.projection_solvers import Effort
from training.jobs.projection_trial import Settings, Trial, Way, try_ways
from training.runs.config import ConfigError, resolve_config


def test_search_finds_the_person_by_a_planted_direction_and_not_without_it():
    rng = np.random.default_rng(0)
    views = np.stack([np.eye(40)] * 3, axis=1) + 0.01 * rng.normal(size=(40, 3, 40))
    seen = found_people(views, np.zeros(40), np.eye(40), np.eye(40), np.zeros(40))
    assert all(each.all() for each in seen.values())
    blind = found_people(views, np.zeros(40), np.zeros((40, 40)), np.eye(40), np.zeros(40))
    assert blind["identity rank-1"].sum() == 1
    assert blind["crop recall@10"].sum() == 10


def test_the_whitener_makes_differences_within_a_person_alike_in_all_directions():
    rng = np.random.default_rng(1)
    scale = np.array([8.0, 2.0, 0.5])
    fit = scale * rng.normal(size=(4000, 2, 3))
    whitened = ((fit[:, 0] - fit[:, 1]) / 2**0.5) @ within_whitener(fit)
    floor = (scale**2).mean()
    assert whitened.var(0) == pytest.approx(scale**2 / (scale**2 + floor), rel=0.1)


def test_what_is_removed_gives_the_attacker_nothing_to_whiten():
    features, _ = planted_index(150, seed=0)
    center = features.fit.reshape(-1, 96).mean(0)
    directions = discriminant_directions(features.fit, center, 6)
    projection = np.eye(96) - directions @ directions.T
    assert directions.T @ directions == pytest.approx(np.eye(6), abs=1e-9)
    before = found_people(features.held, center, np.eye(96), within_whitener(features.fit), center)
    after = found_people(features.held, center, projection, within_whitener(features.fit, projection), center)
    assert after["identity top-10, whitened"].mean() < before["identity top-10, whitened"].mean() / 2
    assert after["crop recall@10"].mean() > 0.95


def test_without_planted_identity_fewer_people_and_more_scenes_are_found():
    features, scenes = planted_index(120, seed=1)
    settings = Settings(24, 0.1, 0.05, (0.05,), (4, 16), Effort(20, 4.0, 0))
    trial = try_ways(features, scenes, scenes.features[BLANKED], settings)
    before, after = trial.means("as indexed"), trial.means("sliding")
    # an attacker subtracts the mean even if the index does not
    assert before["identity top-10, whitened"] == trial.means("centered")["identity top-10, whitened"]
    assert after["identity top-10"] < before["identity top-10"] / 2
    assert after["scene recall@10"] > before["scene recall@10"]
    changes = {(row["plain"], row["measure"]): row for row in trial.differences(0)}
    people = changes["as indexed", "identity top-10"]
    assert people["sliding less plain"] == pytest.approx(after["identity top-10"] - before["identity top-10"])
    assert people["from"] < people["sliding less plain"] < people["to"] < 0
    assert people["n"] == 120
    assert changes["as indexed", "scene recall@10"]["n"] == len(scenes.kinds)
    assert {row["projection"] for row in trial.rows(0)} == set(trial.ways)


def test_a_plain_way_is_compared_where_it_finds_most_scenes_of_those_that_leak_no_more():
    scenes = planted_index(20, seed=0)[1]

    def found(people: int, whitened: int, share: float) -> dict[str, np.ndarray]:
        hits = {"identity top-10": people, "identity top-10, whitened": whitened, "identity rank-1": 0}
        return {measure: (np.arange(100) < count).astype(float) for measure, count in hits.items()} | {
            "scene recall@10": np.full(len(scenes.kinds), share)
        }

    ways = {
        "sliding, weight 1": found(10, 10, 0.5),  # a standard error above its leak is 0.13
        "PCA, 1": found(13, 14, 0.9),
        "PCA, 2": found(13, 2, 0.7),
        "PCA, 3": found(2, 2, 0.6),
        "LDA, 1": found(14, 2, 0.9),
    }
    nothing = Way(np.zeros(1), 0, np.eye(1))
    trial = Trial(dict.fromkeys(ways, nothing), {"sliding": "sliding, weight 1"}, ways, scenes)
    assert trial.leak("PCA, 1") == pytest.approx(0.14)
    assert trial.at_equal_leak("PCA") == "PCA, 2"
    assert trial.at_equal_leak("LDA") is None


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


def test_a_folder_needs_boxes_scenes_and_enough_people(make_run_context, tmp_path):
    cv2.imwrite(str(tmp_path / "Person_0001.png"), np.zeros((64, 64, 3), np.uint8))
    config = FitFeatureProjectionConfig(folder=tmp_path, scenes=tmp_path)
    with pytest.raises(ConfigError, match="boxes"):
        run(config, make_run_context(tmp_path))
    boxes = tmp_path / "boxes.csv"
    with pytest.raises(ConfigError, match="demo-corpus"):
        run(config.model_copy(update={"boxes": boxes, "scenes": None}), make_run_context(tmp_path))
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
