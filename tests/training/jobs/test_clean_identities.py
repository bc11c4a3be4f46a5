"""Cleaning of identity labels: flips, pairs, plain scores, and a job whose suspects the calibration leaves out."""

import csv

import numpy as np
import pytest

from models.oracles.thresholds import CalibrationError
from training.jobs.calibrate_oracles import read_suspects
from training.jobs.clean_identities import CleanIdentitiesConfig, learn_weights, run
from training.jobs.label_noise import (
    draw_faces,
    flip_labels,
    label_margin,
    measure_scale,
    own_similarity,
    pair_up,
    thresholds_of,
)


def test_a_flip_names_somebody_else_and_happens_at_its_rate():
    people = np.repeat([f"{index:03d}" for index in range(200)], 10)
    flipped = flip_labels(people, 0.2, np.random.default_rng(0))
    changed = float((flipped != people).mean())
    assert changed == pytest.approx(0.2, abs=4 * (0.2 * 0.8 / 2000) ** 0.5)
    assert set(flipped) <= set(people)
    two = np.array(["a", "b"] * 1000)
    assert float((flip_labels(two, 0.5, np.random.default_rng(1)) != two).mean()) == pytest.approx(0.5, abs=0.045)
    assert (flip_labels(people, 0.0, np.random.default_rng(0)) == people).all()


def test_pairs_are_all_of_one_label_and_the_nearest_of_others():
    people = np.array(["a", "a", "b", "b", "c"])
    similarity = np.array(
        [
            [1.0, 0.5, 0.9, 0.1, 0.0],
            [0.5, 1.0, 0.2, 0.3, 0.0],
            [0.9, 0.2, 1.0, 0.6, 0.1],
            [0.1, 0.3, 0.6, 1.0, 0.4],
            [0.0, 0.0, 0.1, 0.4, 1.0],
        ]
    )
    found = {tuple(pair) for pair in pair_up(people, similarity, 1).tolist()}
    assert found == {(0, 1), (2, 3), (0, 2), (1, 3), (3, 4)}


def test_plain_scores_fall_for_an_image_among_strangers():
    faces = draw_faces(30, 3, seed=0)
    people = faces.people.copy()
    people[0] = people[-1]
    similarity = measure_scale(faces).apply(faces.similarities()).mean(axis=0)
    assert own_similarity(people, similarity).argmin() == 0
    assert label_margin(people, similarity).argmin() == 0
    alone = people.copy()
    alone[0] = "nobody else"
    score = own_similarity(alone, similarity)
    assert score[0] == pytest.approx(score[1:].mean())


def test_flips_raise_the_threshold_and_leaving_them_out_brings_it_back():
    faces = draw_faces(150, 3, seed=1)
    rng = np.random.default_rng(2)
    people = flip_labels(faces.people, 0.2, rng)
    order, everything = rng.permutation(len(people)), np.ones(len(people), dtype=np.bool_)
    clean, rate = thresholds_of(faces, faces.people, everything, order)
    noisy, noisy_rate = thresholds_of(faces, people, everything, order)
    cleaned, _ = thresholds_of(faces, people, people == faces.people, order)
    assert (noisy > clean + 0.05).all()
    assert (noisy_rate < rate).all()
    assert (np.abs(cleaned - clean) < 0.03).all()


def test_flips_weigh_less_than_right_labels():
    faces = draw_faces(90, 3, seed=3)
    trusted = faces.take(np.arange(60))
    doubted = faces.take(np.arange(60, 270))
    people = flip_labels(doubted.people, 0.1, np.random.default_rng(4))
    weights = learn_weights(doubted, people, trusted, measure_scale(trusted), CleanIdentitiesConfig(), seed=0)
    wrong = people != doubted.people
    assert weights[wrong].max() < np.median(weights[~wrong])
    assert (weights < 0.1).sum() == pytest.approx(wrong.sum(), abs=5)


def test_a_run_writes_every_photo_and_trusts_the_verified_ones(make_run_context, tmp_path):
    faces = draw_faces(40, 3, seed=0)
    verified = tmp_path / "verified.csv"
    verified.write_text("file\n" + "\n".join(faces.files[:60]) + "\n")
    config = CleanIdentitiesConfig(max_people=40, verified=verified, flip_rates=(), steps=50)
    report = run(config, make_run_context(tmp_path))
    with (tmp_path / "weights.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["file"] for row in rows] == faces.files.tolist()
    assert all(float(row["weight"]) == 1.0 for row in rows[:60])
    assert all(0 < float(row["weight"]) < 1 for row in rows[60:])
    assert len(read_suspects(tmp_path / "weights.csv")) == report.metrics["suspects"]
    verified.write_text("file\nsomebody_0001.png\n")
    with pytest.raises(CalibrationError, match="verified"):
        run(config, make_run_context(tmp_path))
