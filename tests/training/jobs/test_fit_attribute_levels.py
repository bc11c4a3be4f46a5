"""The landmark map of the strict level keeps what pose and expression do, and drops what sets people apart."""

from __future__ import annotations

import numpy as np
import pytest

from training.jobs.fit_attribute_levels import LandmarkSplit, ridge, split_landmarks

DIM, PEOPLE, PICTURES = 6, 400, 5


@pytest.fixture
def planted() -> dict[str, np.ndarray]:
    """Landmarks that are a linear function of four state columns, plus a person's own offset, plus noise."""
    rng = np.random.default_rng(0)
    people = np.repeat(np.arange(PEOPLE), PICTURES)
    state = rng.standard_normal((len(people), 4))
    mixing = rng.standard_normal((4, DIM))
    own = rng.standard_normal((PEOPLE, DIM)) @ rng.standard_normal((DIM, DIM))
    noise = 0.1 * rng.standard_normal((len(people), DIM))
    done = state @ mixing + noise
    return {
        "people": np.array([f"person {index}" for index in people]),
        "state": state,
        "done": done,
        "identity": own[people],
        "offsets": done + own[people],
    }


def relative_error(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


def test_the_split_finds_the_covariances_that_were_planted(planted: dict[str, np.ndarray]) -> None:
    split = split_landmarks(planted["offsets"], planted["state"], planted["people"])

    # standard errors of a covariance from 2000 rows and from 400 people
    assert relative_error(split.state, np.cov(planted["done"].T)) < 3 / np.sqrt(PEOPLE * PICTURES)
    assert relative_error(split.identity, np.cov(planted["identity"].T)) < 3 / np.sqrt(PEOPLE)


def test_with_weight_one_no_linear_map_predicts_the_state_better(planted: dict[str, np.ndarray]) -> None:
    split = split_landmarks(planted["offsets"], planted["state"], planted["people"])
    centered = planted["offsets"] - planted["offsets"].mean(0)
    best = np.linalg.lstsq(centered, planted["done"] - planted["done"].mean(0), rcond=None)[0]

    def error(matrix: np.ndarray) -> float:
        return float(np.square(centered @ matrix - planted["done"]).mean())

    # the least squares see the state of this very sample, the split sees covariances only
    assert error(split.wiener(1.0)) < 1.05 * error(best)


def test_a_larger_weight_keeps_less_identity(planted: dict[str, np.ndarray]) -> None:
    split = split_landmarks(planted["offsets"], planted["state"], planted["people"])
    kept = [np.trace(m.T @ split.identity @ m) for m in (split.wiener(weight) for weight in (0.1, 1.0, 10.0, 100.0))]

    assert kept == sorted(kept, reverse=True)
    assert kept[-1] < 0.01 * np.trace(split.identity)


def test_a_direction_without_identity_passes_unchanged() -> None:
    split = LandmarkSplit(state=np.diag([2.0, 1.0]), identity=np.diag([0.0, 3.0]))

    assert split.wiener(10.0) == pytest.approx(np.diag([1.0, 1 / 31]), abs=1e-3)


def test_ridge_agrees_with_least_squares_where_columns_tell_everything() -> None:
    rng = np.random.default_rng(1)
    columns = 3.0 + rng.standard_normal((500, 3)) * [1.0, 10.0, 0.1]
    targets = columns @ rng.standard_normal((3, 2)) + 5.0

    weights, bias = ridge(columns, targets)

    assert columns @ weights + bias == pytest.approx(targets, abs=0.02 * np.ptp(targets))
