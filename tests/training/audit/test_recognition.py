"""Measures of verification and identification on embeddings whose answers are known."""

from __future__ import annotations

import numpy as np
import pytest

from training.audit.baselines import BASELINES, covered
from training.audit.probes import Probes
from training.audit.recognition import (
    Views,
    own_original_found,
    privacy_measures,
    replaced_measures,
    similarity_tail,
)
from training.audit.statistics import top_scored
from training.audit.subgroups import gap, subgroups


@pytest.fixture
def views() -> Views:
    """Four people; the first is recognized, the second looks like the third, and of the last nothing was released."""
    people = np.eye(4, dtype=np.float32)
    own = np.stack([people[0], people[2], -people[2]])
    return Views(own, own, people, people, Probes(np.array([0, 1, 2]), 4))


def test_every_measure_counts_the_right_faces(views: Views) -> None:
    measures = privacy_measures(views, 0.5)
    assert measures["P1"].value == pytest.approx(1 / 3)
    assert measures["P2"].value == pytest.approx(1 / 3)
    assert measures["P3 rank-1 mate"].value == pytest.approx(1 / 3)
    assert measures["P7 collision"].value == pytest.approx(1 / 3)
    assert measures["clean rank-1 mate"].value == 1.0
    assert measures["P1"].count == 3


def test_self_match_takes_the_better_of_both_alignments(views: Views) -> None:
    people = views.source
    worse = Views(views.own[[2, 1, 0]], views.own, people, people, views.probes)
    assert privacy_measures(worse, 0.5)["P1"].value == pytest.approx(1 / 3)


def test_the_own_original_is_looked_for_among_all_photos_and_not_in_one_half() -> None:
    first, second = np.eye(4, dtype=np.float32)[:2], np.eye(4, dtype=np.float32)[2:]
    sources, mates = np.concatenate([first, second]), np.concatenate([second, first])
    # the release of the first photo shows its original, that of the second looks like the other photo of the person
    views = Views(first, first, sources, mates, Probes(np.array([0, 2]), 2))
    assert own_original_found(views).value == 0.5
    assert privacy_measures(Views(first[[0, 0]], first, sources, mates, Probes(np.array([0, 2]), 2)), 0.5)[
        "P3 rank-1 source"
    ].value == pytest.approx(1.0)


def test_equal_scores_go_to_the_earlier_column() -> None:
    scores = np.zeros((2, 3))
    assert top_scored(scores, np.array([0, 1])).tolist() == [True, False]
    assert top_scored(scores, np.array([0, 1]), k=2).tolist() == [True, True]


def test_treatments_change_the_face_only_and_a_mask_leaves_one_color(rng: np.random.Generator) -> None:
    crop = rng.integers(0, 256, (128, 128, 3), dtype=np.uint8)
    for change in BASELINES.values():
        treated = change(crop)
        assert np.array_equal(treated[:8], crop[:8])
        assert np.abs(treated[60:70, 60:70].astype(int) - crop[60:70, 60:70]).mean() > 10
    assert len(np.unique(covered(crop)[60:70, 60:70].reshape(-1, 3), axis=0)) == 1


def test_other_treatments_are_measured_against_the_source(views: Views) -> None:
    measures = replaced_measures(views.own, views.source, views.probes, 0.5)
    assert measures["P1"].value == pytest.approx(1 / 3)
    assert measures["P3 rank-1 source"].value == pytest.approx(1 / 3)


def test_the_tail_is_that_of_the_sample_and_empty_without_one() -> None:
    tail = similarity_tail(np.arange(101) / 100.0)
    assert (tail["mean"], tail["p95"], tail["max"]) == pytest.approx((0.5, 0.95, 1.0))
    assert similarity_tail(np.zeros(0)) == {}


def test_the_gap_leaves_small_groups_out() -> None:
    labels = np.array([[1.0, 2.5]] * 30 + [[-1.0, 5.0]] * 30 + [[1.0, 8.0]] * 3)
    values = np.array([0.1] * 30 + [0.4] * 30 + [9.0] * 3)
    groups = subgroups(labels)
    assert {name: int(mask.sum()) for name, mask in groups.items() if mask.any()} == {
        "apparent women": 30,
        "apparent men": 33,
        "0 to 30 years": 30,
        "45 to 60 years": 30,
        "60 and older": 3,
    }
    del groups["apparent men"]
    assert gap(values, groups) == pytest.approx(0.3)
