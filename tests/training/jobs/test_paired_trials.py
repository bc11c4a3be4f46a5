"""Pairs of short trainings: what is held equal, and what the interval of a change covers."""

from __future__ import annotations

import numpy as np
import pytest

from training.jobs.encoder_trial import TrialSettings, drawn_faces
from training.jobs.paired_trials import Change, by_person, crossed_interval, train_pairs
from training.objectives.encoder_loss import LossWeights


def test_equal_settings_change_nothing_and_a_dear_rate_is_a_small_one() -> None:
    faces = drawn_faces(16, 0)
    plain = TrialSettings(steps=6, batch_size=4, weights=LossWeights(0.0, 0.2))
    dear = TrialSettings(steps=6, batch_size=4, weights=LossWeights(1.0, 0.2))
    lines: list[object] = []
    same = train_pairs(faces, plain, plain, seeds=1, probe_steps=1, log=lines.append)
    assert len(lines) == 2
    assert set(same) == {"reconstruction", "adversary", "rate", "fresh_probe"}
    for change in same.values():
        assert change.without == change.with_it
        assert (change.lower, change.upper, change.people, change.seeds) == (0.0, 0.0, 4, 1)
        assert not change.is_loss
    rate = train_pairs(faces, plain, dear, seeds=1, probe_steps=1)["rate"]
    assert rate.with_it < rate.without
    assert rate.lower <= rate.with_it - rate.without <= rate.upper


def test_only_an_interval_above_zero_is_a_loss() -> None:
    assert Change(1.0, 1.2, 0.1, 0.3, 9, 2).is_loss
    assert not Change(1.0, 1.2, -0.1, 0.5, 9, 2).is_loss
    assert not Change(1.0, 0.8, -0.3, -0.1, 9, 2).is_loss


def test_faces_of_one_person_count_as_one() -> None:
    values = np.array([[1.0, 2.0, 6.0, 5.0], [0.0, 4.0, 2.0, 1.0]])
    people = np.array([3, 0, 3, 1])
    assert by_person(values, people) == pytest.approx(np.array([[2.0, 5.0, 3.5], [4.0, 1.0, 1.0]]))


@pytest.mark.parametrize(("seeds", "people"), [(6, 40), (40, 6)])
def test_the_interval_covers_the_change_of_all_seeds_and_all_people(seeds: int, people: int) -> None:
    rng = np.random.default_rng(5)
    covered = []
    for _ in range(200):
        noise = 0.3 * rng.standard_normal((seeds, 1)) + 0.3 * rng.standard_normal((1, people))
        lower, upper = crossed_interval(1.0 + noise + 0.1 * rng.standard_normal((seeds, people)), rng, resamples=200)
        covered.append(lower <= 1.0 <= upper)
    # six draws of the rarer kind: the bootstrap sees 5/6 of their variance, so its interval covers about 88 %
    assert 0.80 <= np.mean(covered) <= 0.97


def test_with_one_seed_the_interval_is_that_of_the_people() -> None:
    rng = np.random.default_rng(2)
    differences = rng.standard_normal((1, 100))
    lower, upper = crossed_interval(differences, np.random.default_rng(0))
    error = differences.std() / 10
    assert upper - lower == pytest.approx(2 * 1.96 * error, rel=0.15)
    assert lower < differences.mean() < upper
