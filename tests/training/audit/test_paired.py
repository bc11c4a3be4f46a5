"""Pairs see what two means do not, and say nothing where there is nothing."""

from __future__ import annotations

import numpy as np
import pytest

from training.audit.paired import paired


def test_a_small_difference_between_very_different_photos_shows_in_pairs() -> None:
    rng = np.random.default_rng(0)
    photos = rng.normal(5, 3, 60)
    found = paired(photos, photos - 0.2 + rng.normal(0, 0.1, 60), rng)
    assert found.difference.upper < 0
    assert found.difference.value == pytest.approx(found.with_ - found.without)
    assert (found.outcome(-1), found.outcome(1), found.outcome(0)) == ("better", "worse", "open")


def test_of_two_equal_treatments_the_interval_holds_zero_in_about_95_of_100_trials() -> None:
    rng = np.random.default_rng(1)
    trials = [paired(rng.normal(0, 1, 60), rng.normal(0, 1, 60), rng).outcome(1) for _ in range(300)]
    # binomial, 300 trials at 5 to 6 %: three deviations
    assert 4 <= 300 - trials.count("open") <= 31


def test_only_photos_measured_under_both_count() -> None:
    first, second = np.array([1.0, np.nan, 3.0, 4.0]), np.array([2.0, 2.0, np.nan, 5.0])
    found = paired(first, second, np.random.default_rng(0))
    assert (found.without, found.with_, found.difference.count) == (2.5, 3.5, 2)
    nothing = paired(first[1:3], second[1:3], np.random.default_rng(0))
    assert np.isnan(nothing.difference.value)
    assert (nothing.difference.count, nothing.outcome(1)) == (0, "open")
    with pytest.raises(ValueError, match="same photos"):
        paired(first, second[:3], np.random.default_rng(0))


def test_one_photo_decides_nothing() -> None:
    single = paired(np.array([1.0, np.nan]), np.array([0.0, 0.0]), np.random.default_rng(0))

    assert (single.difference.count, single.outcome(-1), single.outcome(1)) == (1, "open", "open")
