"""Logistic leaks: read on people or pictures that no probe saw; chance stays chance, penalties suit the labels."""

import math

import numpy as np
import pytest
import torch

from training.jobs.coded_faces import PLANTED, draw_faces
from training.jobs.logistic_leaks import (
    choose_ridge,
    enrolled_probe,
    leak_rows,
    service_rows,
    side_accuracy,
    side_probes,
)
from training.jobs.logistic_probes import ProbeProblem


def standardized(faces, held):
    codes = faces.codes.reshape(len(faces.codes), -1)
    return (codes - codes[~held].mean(0)) / codes[~held].std(0)


def test_sides_of_people_no_probe_saw_are_told_by_the_planted_channels_and_by_no_other():
    faces = draw_faces(200, 3, seed=1)
    held = faces.people % 2 == 1
    codes, targets = standardized(faces, held), faces.components(held, 2)
    leak = side_probes(codes, targets, faces.people, held, targets[held])
    assert leak.plain == 1.0  # guessed by the truth itself
    assert leak.accuracy["products"] > 0.7  # the embeddings are noisy themselves
    assert leak.accuracy == pytest.approx(dict.fromkeys(leak.accuracy, leak.accuracy["products"]), abs=0.01)
    kept = codes[:, ~np.isin(np.arange(160) // 16, PLANTED)]
    # 100 people times two components: four deviations of a fair coin are 0.14
    assert side_accuracy(kept, targets, held, leak.ridge) < 0.64
    assert side_accuracy(codes, targets, held, leak.ridge) == pytest.approx(leak.accuracy["products"])


def test_the_picture_asked_about_is_not_among_the_known_ones():
    faces = draw_faces(15, 4, seed=2)
    codes = faces.codes.reshape(60, -1)
    honest = enrolled_probe(codes, faces.people)
    assert honest.tested == 15
    assert min(honest.accuracy.values()) > 0.5
    # every last picture gets the code of another person: a probe that had seen it would name it all the same
    moved = codes.copy()
    moved[3::4] = np.roll(codes[3::4], 1, axis=0)
    assert enrolled_probe(moved, faces.people).accuracy["products"] < 0.25


def test_people_with_two_pictures_keep_the_only_one_that_is_known():
    faces = draw_faces(9, 3, seed=3)
    rows = np.array([row for row in range(27) if row not in (1, 4)])  # the first two people have two pictures
    leak = enrolled_probe(faces.codes.reshape(27, -1)[rows], faces.people[rows])
    assert leak.tested == 9
    assert math.isfinite(leak.ridge)


def test_rows_say_what_ours_and_the_plain_way_did():
    faces = draw_faces(10, 3, seed=4)
    leak = enrolled_probe(faces.codes.reshape(30, -1), faces.people)
    rows = leak_rows(leak)
    assert [row["way"] for row in rows] == ["products", "L-BFGS", "lbfgs", "newton-cg"]
    assert rows[0]["gradient norm"] < 1e-6
    uses = {
        (row["job"].rpartition("plain: ")[2], row["measure"].partition(" ")[0]): row for row in service_rows(leak, "x")
    }
    assert {row["method"] for row in uses.values()} == {"gradient_normalized_smoothness"}
    assert all(tuple(row) == ("method", "job", "measure", "without", "with", "n") for row in uses.values())
    assert all(math.isfinite(row["without"]) and math.isfinite(row["with"]) for row in uses.values())
    assert (uses["x", "held-out"]["without"], uses["x", "held-out"]["with"]) == (leak.plain, leak.accuracy["products"])
    assert uses["L-BFGS", "oracle"]["with"] == leak.mean("products", "calls")
    assert uses["L-BFGS", "oracle"]["without"] == leak.mean("L-BFGS", "calls")


def test_labels_that_the_features_do_not_explain_get_the_larger_penalty():
    rng = np.random.default_rng(6)
    features = torch.from_numpy(rng.normal(size=(120, 25)))
    told, untold = (features[:, 0] > 0).long(), torch.from_numpy(rng.integers(0, 2, 120))
    fold, ridges = np.arange(120) % 3, (1e-3, 1e-1, 10.0)
    assert choose_ridge((ProbeProblem(features, told, 2, 1.0),), fold, ridges) == 1e-3
    assert choose_ridge((ProbeProblem(features, untold, 2, 1.0),), fold, ridges) == 10.0


def test_rows_of_no_part_are_never_left_out():
    # Only the last row is left out; the penalty is judged on it alone, where its label is what the others say.
    features = torch.ones(10, 1, dtype=torch.float64)
    labels = torch.tensor([1, 1, 1, 1, 1, 1, 0, 0, 0, 1])
    fold = np.where(np.arange(10) == 9, 0, -1)
    assert choose_ridge((ProbeProblem(features, labels, 2, 1.0),), fold, (1e-3, 10.0)) == 1e-3
    against = torch.cat([labels[:-1], torch.tensor([0])])
    assert choose_ridge((ProbeProblem(features, against, 2, 1.0),), fold, (1e-3, 10.0)) == 10.0
