"""Shares of the variance: planted effects come back exactly, and nothing is there where nothing was planted."""

from __future__ import annotations

import numpy as np
import pytest

from training.audit.factor_shares import effect_sums, factor_shares

LEVELS = (5, 4, 3, 2)


def effect(axes: tuple[int, ...], size: int, rng: np.random.Generator) -> np.ndarray:
    """Random numbers that depend on some factors, centered along each of them: a pure effect of exactly these."""
    shape = [count if axis in axes else 1 for axis, count in enumerate(LEVELS)]
    values = rng.normal(size=(*shape, size))
    for axis in axes:
        values = values - values.mean(axis, keepdims=True)
    return values + np.zeros((*LEVELS, 1))


def test_planted_effects_come_back_as_their_shares(rng: np.random.Generator) -> None:
    parts = {(0,): 3.0, (1,): 1.0, (2,): 0.5, (0, 2): 2.0, (0, 1, 3): 0.7}
    planted = {axes: scale * effect(axes, 6, rng) for axes, scale in parts.items()}
    total = sum(float(np.square(part).sum()) for part in planted.values())
    found = factor_shares(7.0 + sum(planted.values()))
    wanted = [np.square(planted[axes]).sum() / total if axes in planted else 0.0 for axes in ((0,), (1,), (2,), (3,))]
    np.testing.assert_allclose(found.main, wanted, atol=1e-12)
    assert found.pairs == pytest.approx(np.square(planted[0, 2]).sum() / total)
    assert found.rest == pytest.approx(np.square(planted[0, 1, 3]).sum() / total)


def test_effects_of_all_orders_add_up_to_the_total(rng: np.random.Generator) -> None:
    codes = rng.normal(size=(*LEVELS, 3))
    sums = [effect_sums(codes, order).sum() for order in range(1, 5)]
    assert sum(sums) == pytest.approx(np.square(codes - codes.mean((0, 1, 2, 3))).sum())


def test_a_code_without_factors_gives_each_the_share_of_chance(rng: np.random.Generator) -> None:
    found = factor_shares(rng.normal(size=(*LEVELS, 4000)))
    np.testing.assert_allclose(found.main, found.chance, rtol=0.08)
    assert found.chance == pytest.approx([4 / 119, 3 / 119, 2 / 119, 1 / 119])


def test_a_rotation_of_the_code_changes_no_share_and_ends_its_disentanglement(rng: np.random.Generator) -> None:
    apart = np.concatenate([effect((axis,), 1, rng) for axis in range(4)], axis=-1)
    apart /= np.sqrt(np.square(apart).sum((0, 1, 2, 3)))
    rotation = np.linalg.qr(rng.normal(size=(4, 4)))[0]
    kept, mixed = factor_shares(apart), factor_shares(apart @ rotation)
    np.testing.assert_allclose(kept.main, mixed.main, atol=1e-12)
    assert (kept.disentanglement, kept.completeness) == pytest.approx((1.0, 1.0))
    assert max(mixed.disentanglement, mixed.completeness) < 0.7


def test_standard_errors_are_those_of_repeated_sets(rng: np.random.Generator) -> None:
    def draw() -> np.ndarray:
        people = rng.normal(size=(12, 1, 1, 4))
        return (
            people + 0.7 * rng.normal(size=(1, 4, 1, 4)) * rng.gamma(2.0, 0.5, (12, 1, 1, 1)) + np.zeros((1, 1, 2, 1))
        )

    found = [factor_shares(draw()) for _ in range(300)]
    spread = np.std([shares.main[0] for shares in found])
    told = np.mean([shares.standard_errors[0] for shares in found])
    assert 0.5 < told / spread < 2.0


@pytest.mark.parametrize(
    ("codes", "words"),
    [
        (np.zeros((4, 2)), "at least two factors"),
        (np.zeros((4, 1, 2)), "at least two levels"),
        (np.ones((4, 2, 2)), "do not vary"),
        (np.full((4, 2, 2), np.nan), "finite"),
    ],
)
def test_codes_that_tell_nothing_are_refused(codes: np.ndarray, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        factor_shares(codes)
