"""Tuning the loss weights: the hand-set weights set their own limit, and the plain search finds what obeys it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from training.jobs import tune_loss_weights as module
from training.jobs.loss_weight_search import grid, search
from training.jobs.paired_trials import Change
from training.jobs.tune_loss_weights import TuneLossWeightsConfig, _hand_set, is_sound, run
from training.objectives.encoder_loss import ARTIFACT_NAME, load_loss_weights
from training.problems.loss_weight_proxy import LossWeightProxy
from training.runs.context import RunContext

SMALL = {"faces": None, "max_faces": 80, "components": 8, "steps": 200, "candidates": 9}
BETTER, OPEN, WORSE = (
    Change(0.2, 0.2 + (low + high) / 2, low, high, 9, 2) for low, high in ((-2e-2, -1e-2), (-1e-2, 1e-2), (1e-3, 1e-2))
)


def proxy() -> LossWeightProxy:
    rng = torch.Generator().manual_seed(0)
    worth, leak = 0.05 * torch.rand(2, 10, generator=rng, dtype=torch.float64) + 0.002
    return LossWeightProxy(worth, leak, leak, torch.ones(10, dtype=torch.float64))


def test_without_a_limit_it_is_the_leak_that_hand_set_weights_lead_to() -> None:
    found = proxy()
    weights, limit = _hand_set(TuneLossWeightsConfig(), found)
    assert float(found.leak @ found.lower_solution(weights)) == pytest.approx(limit, rel=1e-6)
    assert float(weights[1]) == pytest.approx(0.2 / (2 * limit**0.5), rel=1e-6)


def test_the_search_solves_the_lower_level_and_keeps_the_best_pair_that_obeys_the_limit() -> None:
    found = proxy()
    _, limit = _hand_set(TuneLossWeightsConfig(), found)
    pairs = grid(49)
    choice = search(found, limit, pairs, 49 * 200)
    exact = {
        tuple(pair.tolist()): float(found.validation(shares))
        for pair in pairs
        for shares in [found.lower_solution(pair)]
        if float(found.leak @ shares) <= limit
    }
    assert exact[tuple(choice.weights.tolist())] == pytest.approx(min(exact.values()))
    assert choice.gradients == 49 * 200
    assert choice.violation > 0  # it had to visit pairs that leak


@pytest.mark.parametrize(
    ("leak", "reconstruction", "fresh_probe", "sound"),
    [
        (0.05, BETTER, OPEN, True),
        (0.04, OPEN, BETTER, True),
        (0.0501, BETTER, OPEN, False),
        (0.05, WORSE, OPEN, False),
        (0.05, BETTER, WORSE, False),
    ],
)
def test_weights_are_sound_when_the_limit_is_kept_and_nothing_is_clearly_worse(
    leak: float, reconstruction: Change, fresh_probe: Change, sound: bool
) -> None:
    assert is_sound(leak, 0.05, {"reconstruction": reconstruction, "fresh_probe": fresh_probe}) is sound


def test_weights_that_trained_nothing_are_neither_sound_nor_published(
    make_run_context: Callable[[Path], RunContext], tmp_path: Path
) -> None:
    # the context refuses to publish
    report = run(TuneLossWeightsConfig(**SMALL, trial_steps=0, publish=True), make_run_context(tmp_path))
    assert report.artifacts == ()
    assert report.metrics["sound"] == 0.0


def test_sound_weights_are_published_promoted_and_read_back(
    make_run_context: Callable[[Path], RunContext], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def pairs(faces: object, first: object, second: object, **keywords: object) -> dict[str, Change]:
        seen.extend((first, second))
        return {"reconstruction": BETTER, "fresh_probe": OPEN, "rate": WORSE}

    monkeypatch.setattr(module, "train_pairs", pairs)
    context = make_run_context(tmp_path)

    def publish(name: str, kind: str, files: object, **fields: object) -> str:
        manifest = context.store.publish(name, kind, files, **fields)  # type: ignore[arg-type]
        return f"{name}@{manifest.version}"

    report = run(TuneLossWeightsConfig(**SMALL, publish=True), replace(context, publish=publish))
    (reference,) = report.artifacts
    version = reference.partition("@")[2]
    found = load_loss_weights(context.store, version)
    assert context.store.promoted(ARTIFACT_NAME) == version
    assert (found.rate, found.leak) == pytest.approx((report.metrics["weight_rate"], report.metrics["weight_leak"]))
    assert [arm.weights.leak for arm in seen] == pytest.approx([0.2, found.leak])
    rows = [row for row in report.tables["in the service"] if "train-encoder" in row["job"]]
    assert [(row["method"], row["without"], row["n"]) for row in rows] == [("lv_hba", 0.2, 9)] * 3
