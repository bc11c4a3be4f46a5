"""Repair: certified below every limit, metered by a prefix code, and blind to everything but comparisons."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from models.identity.errors import PreviewError
from models.identity.information import mutual_information
from models.identity.leakage import leaked_bits
from models.identity.rejection import Preview
from models.identity.sphere import Codes, uniform_directions
from training.algorithm import iterate
from training.jobs.code_repair import (
    Repaired,
    RepairSettings,
    Unrepaired,
    principal_directions,
    repair_bits,
    repair_code,
    search_bits,
    worst_excess,
)
from training.optimizers.derivative_free.directional_attacks import directional_attacks
from training.problems.networks import NetworkGoal

DIM = 12
LIMITS = {"first": -0.2, "second": -0.1}
SCALES = {"first": 0.2, "second": 0.3}


class Everywhere:
    """Proposals over the whole sphere."""

    dim = DIM

    def propose(self, rng: np.random.Generator) -> Codes:
        return uniform_directions(rng, 1, DIM)[0].astype(np.float32)

    def contains(self, codes: Codes, *, strict: bool = False) -> NDArray[np.bool_]:
        return np.ones(len(codes), dtype=bool)


def linear_preview(seed: int) -> Preview:
    """Two recognizers that see linear images of a code."""
    rng = np.random.default_rng(seed)
    source = uniform_directions(rng, 1, DIM)[0]
    wanted = {name: source @ (np.eye(DIM) + 0.2 * rng.standard_normal((DIM, DIM))) for name in LIMITS}
    wanted = {name: vector / np.linalg.norm(vector) for name, vector in wanted.items()}
    return lambda codes: {name: codes @ vector for name, vector in wanted.items()}


def refused_by(preview: Preview, seed: int, count: int = 8) -> tuple[Codes, NDArray[np.float64]]:
    """The first candidates that are refused, and by how much."""
    rng = np.random.default_rng(seed)
    codes = uniform_directions(rng, 400, DIM).astype(np.float32)
    excesses = worst_excess(preview(codes), LIMITS, SCALES)
    kept = np.flatnonzero(excesses >= 0)[:count]
    return codes[kept], excesses[kept]


def repaired(seed: int, preview: Preview, **keywords: object) -> Repaired | Unrepaired:
    codes, excesses = refused_by(preview, seed)
    return repair_code(
        codes, excesses, preview, LIMITS, SCALES, Everywhere(), rng=np.random.default_rng(seed), **keywords
    )


@pytest.mark.parametrize("seed", range(20))
def test_a_repaired_code_is_below_every_limit_when_it_is_asked_about_again(seed: int) -> None:
    preview = linear_preview(seed)
    result = repaired(seed, preview)
    assert isinstance(result, Repaired)
    assert worst_excess(preview(result.code[None]), LIMITS, SCALES)[0] < 0
    assert abs(float(np.linalg.norm(result.code)) - 1) < 1e-5
    assert all(result.certificate[name] < limit for name, limit in LIMITS.items())


def test_it_needs_no_more_calls_than_the_full_method_without_gradients() -> None:
    """The reference is the hybrid of attacks and covering search, asked for values only, at the same start."""
    ours, reference = [], []
    for seed in range(12):
        preview = linear_preview(seed)
        codes, excesses = refused_by(preview, seed)
        result = repaired(seed, preview)
        ours.append(result.calls)

        def excess(x: torch.Tensor, preview: Preview = preview) -> torch.Tensor:
            code = (x / x.norm()).numpy()[None]
            return torch.from_numpy(worst_excess(preview(code), LIMITS, SCALES))

        goal = NetworkGoal(excess, lambda y: -y.sum())
        start = torch.from_numpy(codes[int(np.argmin(excesses))].astype(np.float64))
        steps = iterate(directional_attacks(goal, samples=4, smoothing=0.05), start, seed=seed)
        state = next(state for state, _ in steps if state.goal > 0 or state.num_calls > 64)
        reference.append(state.num_calls)
    assert np.median(ours) <= np.median(reference)


def test_the_budget_is_kept_and_an_impossible_limit_is_no_repair() -> None:
    calls = []

    def preview(codes: Codes) -> Mapping[str, NDArray[np.float64]]:
        calls.append(len(codes))
        return {name: np.ones(len(codes)) for name in LIMITS}

    codes = uniform_directions(np.random.default_rng(0), 4, DIM).astype(np.float32)
    result = repair_code(
        codes,
        np.ones(4),
        preview,
        LIMITS,
        SCALES,
        Everywhere(),
        rng=np.random.default_rng(0),
        settings=RepairSettings(budget=20),
    )
    assert isinstance(result, Unrepaired)
    assert result.calls == sum(calls) <= 20


def test_a_pass_that_does_not_happen_twice_is_no_certificate() -> None:
    count = itertools.count()

    def preview(codes: Codes) -> Mapping[str, NDArray[np.float64]]:
        value = -0.9 if next(count) % 2 else 0.9
        return dict.fromkeys(LIMITS, np.full(len(codes), value))

    codes = uniform_directions(np.random.default_rng(0), 4, DIM).astype(np.float32)
    result = repair_code(codes, np.ones(4), preview, LIMITS, SCALES, Everywhere(), rng=np.random.default_rng(0))
    assert isinstance(result, Unrepaired)


def test_the_smallest_improvement_is_one() -> None:
    falling = itertools.count()

    def preview(codes: Codes) -> Mapping[str, NDArray[np.float64]]:
        return dict.fromkeys(LIMITS, np.full(len(codes), 0.9 - 1e-6 * next(falling)))

    codes = uniform_directions(np.random.default_rng(0), 4, DIM).astype(np.float32)
    result = repair_code(codes, np.ones(4), preview, LIMITS, SCALES, Everywhere(), rng=np.random.default_rng(0))
    assert result.leaked_bits == pytest.approx(repair_bits(4, ["better"] * result.calls))


def test_only_comparisons_reach_the_search() -> None:
    """Another scale of the same order, within the limits, gives the same code."""
    preview = linear_preview(3)
    codes, excesses = refused_by(preview, 3)
    limits, scales = {"first": -0.2}, {"first": 1.0}

    def stretched(trials: Codes) -> Mapping[str, NDArray[np.float64]]:
        centered = preview(trials)["first"] + 0.2
        return {"first": np.tanh(3 * centered) / 2 - 0.2}

    first, second = (
        repair_code(codes, excesses, ask, limits, scales, Everywhere(), rng=np.random.default_rng(1))
        for ask in (preview, stretched)
    )
    assert isinstance(first, Repaired)
    assert isinstance(second, Repaired)
    assert np.array_equal(first.code, second.code)
    assert first.leaked_bits == second.leaked_bits


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_an_answer_that_is_not_a_number_stops_the_repair(bad: float) -> None:
    codes = uniform_directions(np.random.default_rng(0), 2, DIM).astype(np.float32)
    with pytest.raises(PreviewError):
        repair_code(
            codes,
            np.ones(2),
            lambda trials: dict.fromkeys(LIMITS, np.full(len(trials), bad)),
            LIMITS,
            SCALES,
            Everywhere(),
            rng=np.random.default_rng(0),
        )


def test_trials_that_a_blind_test_refuses_are_never_shown_to_the_oracles() -> None:
    refusals = 0
    for seed in range(5):
        preview, shown = linear_preview(seed), []

        def watched(trials: Codes, preview: Preview = preview, shown: list[Codes] = shown) -> Mapping[str, Codes]:
            shown.extend(trials if len(trials) == 1 else [])
            return preview(trials)

        def allowed(codes: Codes) -> NDArray[np.bool_]:
            nonlocal refusals
            refusals += int((codes[:, 0] <= 0).sum())
            return codes[:, 0] > 0

        result = repaired(seed, watched, allowed=allowed)
        assert not isinstance(result, Repaired) or result.code[0] > 0
        assert all(code[0] > 0 for code in shown[1:])  # the first is the refused candidate itself
    assert refusals > 5


def test_the_code_of_the_answers_satisfies_kraft() -> None:
    """The searches that are open after m answers, or ended by a certificate before, cost at most one in all."""
    total = 0.0
    answers = ("worse", "better", "passes")
    for length in range(1, 8):
        for path in itertools.product(answers, repeat=length):
            ended = [k for k in range(1, length) if path[k - 1 : k + 1] == ("passes", "passes")]
            if (length == 7 and not ended) or ended == [length - 1]:
                total += 2.0 ** -search_bits(1, path)  # type: ignore[arg-type]
    assert total == pytest.approx(1.0)


def test_the_meter_is_at_least_the_information_of_the_repair() -> None:
    """Exactly, over sixteen equiprobable sources and thirty draws of the randomness."""
    sources = [linear_preview(100 + index) for index in range(16)]
    candidates = uniform_directions(np.random.default_rng(0), 4, DIM).astype(np.float32)
    information, metered = [], []
    for seed in range(30):
        released = []
        for preview in sources:
            excesses = worst_excess(preview(candidates), LIMITS, SCALES)
            result = repair_code(
                candidates, excesses, preview, LIMITS, SCALES, Everywhere(), rng=np.random.default_rng(seed)
            )
            released.append(result.code.tobytes() if isinstance(result, Repaired) else b"")
            metered.append(result.leaked_bits - 2 * leaked_bits(len(candidates) + 1))
        outcomes = sorted(set(released))
        information.append(mutual_information(np.array([[each == o for o in outcomes] for each in released], float)))
    assert 0.5 < float(np.mean(information)) <= float(np.mean(metered))


def test_bits_add_up_from_refusals_indices_and_answers() -> None:
    assert repair_bits(4, []) == pytest.approx(2 * leaked_bits(5) + 4.0)
    assert search_bits(1, ["worse", "worse"]) == pytest.approx(math.log2(3) + math.log2(2.5 / 1.5))


def test_principal_directions_are_orthonormal_and_the_widest() -> None:
    rng = np.random.default_rng(0)
    bank = (rng.standard_normal((500, 6)) * np.array([3, 0.1, 2, 0.1, 0.1, 0.1])).astype(np.float32)
    rows = principal_directions(bank, 2)
    assert rows @ rows.T == pytest.approx(np.eye(2), abs=1e-9)
    assert abs(rows[0, 0]) > 0.99
    assert abs(rows[1, 2]) > 0.99


@pytest.mark.parametrize(
    "settings", [{"budget": 2}, {"patience": 0}, {"radius": 0.0}, {"radius": 1.3}, {"max_radius": 2.0}]
)
def test_settings_that_cannot_search_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError):
        RepairSettings(**settings)  # type: ignore[arg-type]


def test_a_repair_without_refused_candidates_is_refused() -> None:
    with pytest.raises(ValueError, match="refused"):
        repair_code(
            np.zeros((0, DIM)),
            np.zeros(0),
            linear_preview(0),
            LIMITS,
            SCALES,
            Everywhere(),
            rng=np.random.default_rng(0),
        )
