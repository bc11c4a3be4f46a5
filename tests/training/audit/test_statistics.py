"""Intervals cover, and rank-1 counts what it says."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from training.audit.statistics import Estimate, design_effect, difference, mean, rank_k, rate, ratio


def test_the_wilson_interval_covers_the_true_rate_about_nineteen_times_in_twenty(rng: np.random.Generator) -> None:
    covered = 0
    for _ in range(300):
        estimate = rate(rng.random(200) < 0.03)
        covered += estimate.lower <= 0.03 <= estimate.upper
    assert 0.90 <= covered / 300 <= 0.99


def test_the_bootstrap_interval_covers_the_true_mean(rng: np.random.Generator) -> None:
    covered = 0
    for _ in range(100):
        estimate = mean(rng.normal(0.5, 1.0, 80), rng, resamples=300)
        covered += estimate.lower <= 0.5 <= estimate.upper
    assert covered >= 88


def test_without_repeated_people_the_interval_is_wilsons() -> None:
    hits = np.array([True] * 7 + [False] * 93)
    interval = stats.binomtest(7, 100).proportion_ci(0.95, method="wilson")
    for people in (None, np.arange(100)):
        estimate = rate(hits, people)
        assert (estimate.lower, estimate.upper) == pytest.approx((interval.low, interval.high))


def test_two_photos_that_always_agree_count_as_one_and_two_that_never_do_as_two() -> None:
    hits, people = np.array([True] * 5 + [False] * 45), np.arange(50)
    alike = rate(np.concatenate([hits, hits]), np.concatenate([people, people]))
    once = rate(hits)
    assert (alike.lower, alike.upper, alike.count) == pytest.approx((once.lower, once.upper, 100), rel=0.02)
    assert design_effect(np.concatenate([hits, ~hits]), np.concatenate([people, people])) == 1.0


def test_nothing_found_in_two_photos_of_everybody_says_as_much_as_in_one() -> None:
    people = np.arange(200) % 100
    assert rate(np.zeros(200, dtype=np.bool_), people).upper == rate(np.zeros(100, dtype=np.bool_)).upper


def test_intervals_over_people_cover_where_intervals_over_photos_do_not(rng: np.random.Generator) -> None:
    people = np.arange(200) % 100
    over_people = over_photos = means_over_people = means_over_photos = 0
    for _ in range(300):
        # a person is easy or hard: nearly always found or nearly never
        chance = np.where(rng.random(100) < 0.3, 0.97, 0.03)
        truth = 0.3 * 0.97 + 0.7 * 0.03
        hits = rng.random(200) < chance[people]
        clustered, plain = rate(hits, people), rate(hits)
        over_people += clustered.lower <= truth <= clustered.upper
        over_photos += plain.lower <= truth <= plain.upper
        values = np.where(hits, 1.0, 0.0)
        clustered, plain = (mean(values, rng, which, resamples=200) for which in (people, None))
        means_over_people += clustered.lower <= truth <= clustered.upper
        means_over_photos += plain.lower <= truth <= plain.upper
    assert over_people >= 0.91 * 300
    assert means_over_people >= 0.89 * 300
    assert over_photos < 0.89 * 300
    assert means_over_photos < 0.89 * 300


def test_empty_samples_are_not_numbers() -> None:
    assert math.isnan(rate(np.zeros(0, dtype=np.bool_)).value)
    assert math.isnan(mean(np.array([np.nan]), np.random.default_rng(0)).value)


def test_rank_one_counts_the_probes_whose_nearest_entry_is_their_own() -> None:
    gallery = np.eye(3, dtype=np.float32)
    probes = np.array([[1.0, 0, 0], [0.9, 0.1, 0], [0, 0, 1.0]], dtype=np.float32)
    assert rank_k(probes, gallery, np.array([0, 1, 2])).tolist() == [True, False, True]


def test_the_interval_of_a_difference_and_of_a_ratio_holds_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(5)
    trials, held = 600, np.zeros(2)
    for _ in range(trials):
        first, second = rate(rng.random(300) < 0.2), rate(rng.random(300) < 0.1)
        held[0] += difference(first, second).lower <= 0.1 <= difference(first, second).upper
        a, b = (
            Estimate(float(x.mean()), float(x.mean() - 1.96 * x.std() / 20), float(x.mean() + 1.96 * x.std() / 20), 400)
            for x in (rng.exponential(3.0, 400), rng.exponential(2.0, 400))
        )
        held[1] += ratio(a, b).lower <= 1.5 <= ratio(a, b).upper
    # four deviations of a share of .95 over the trials
    assert np.abs(held / trials - 0.95).max() < 4 * (0.95 * 0.05 / trials) ** 0.5


def test_a_ratio_over_what_may_be_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot divide"):
        ratio(Estimate(1.0, 0.9, 1.1, 9), Estimate(0.1, -0.1, 0.3, 9))
