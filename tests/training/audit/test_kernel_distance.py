"""The kernel distance is zero in the mean for one law and grows with the distance of two."""

from __future__ import annotations

import numpy as np
import pytest

from training.audit.kernel_distance import kernel_distance

DIM = 16


def unit(rows: np.ndarray) -> np.ndarray:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def test_the_estimate_is_unbiased_even_when_row_i_of_both_sets_shows_one_person(rng: np.random.Generator) -> None:
    values, biased = [], []
    for _ in range(200):
        people = rng.normal(size=(12, DIM))
        first, second = (unit(people + 0.3 * rng.normal(size=people.shape)) for _ in range(2))
        values.append(kernel_distance(first, second, rng, subsets=1).value)
        biased.append(values[-1] - 2 * (((first * second).sum(1) + 1) ** 3 - 1).mean() / 12)
    error = np.std(values) / np.sqrt(len(values))
    assert abs(np.mean(values)) < 4 * error
    # with the pairs of one person in the cross term it would be far below zero
    assert np.mean(biased) < -10 * error


def test_it_is_the_cubic_kernel_of_three_terms(rng: np.random.Generator) -> None:
    first, second = unit(rng.normal(size=(5, DIM))), unit(rng.normal(size=(5, DIM)) + 1)
    total = 0.0
    for i in range(5):
        for j in range(5):
            if i != j:
                for a, b, sign in ((first, first, 1), (second, second, 1), (first, second, -2)):
                    total += sign * (float(a[i] @ b[j]) + 1) ** 3 / 20
    assert kernel_distance(first, second, rng).value == pytest.approx(total)


def test_sets_farther_apart_are_farther_apart(rng: np.random.Generator) -> None:
    base = rng.normal(size=(60, DIM))
    found = [kernel_distance(unit(base), unit(rng.normal(size=base.shape) + shift), rng) for shift in (0.0, 0.3, 1.0)]
    assert found[0].value < found[1].value < found[2].value
    assert found[0].lower < 0 < found[0].upper
    assert found[2].lower > 0


def test_one_picture_has_no_distance_and_sets_of_two_sizes_are_refused(rng: np.random.Generator) -> None:
    assert np.isnan(kernel_distance(np.ones((1, 1)), np.ones((1, 1)), rng).value)
    with pytest.raises(ValueError, match="one size"):
        kernel_distance(np.ones((2, 1)), np.ones((3, 1)), rng)
