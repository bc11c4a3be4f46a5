"""The ablation of the encoder's loss: what arms share, what is compared, and what is said of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from training.jobs.ablate_encoder import AblateEncoderConfig, Difference, difference, drawn_readers, run, sentence
from training.jobs.disentangling_measures import MEASURES, measure_disentangling
from training.jobs.encoder_ablations import ARMS, AS_TRAINED, Arm
from training.jobs.encoder_trial import HAND_SET, TrialSettings, drawn_faces, train_trial
from training.jobs.train_encoder import TrainEncoderConfig
from training.objectives.disentangling_terms import TermWeights
from training.runs.context import RunContext

TINY = {"faces": None, "max_faces": 40, "steps": 3, "seeds": 2, "batch_size": 2, "probe_steps": 1}


def test_the_first_arm_is_the_training_as_it_is() -> None:
    assert ARMS[AS_TRAINED] == Arm(HAND_SET)
    default = TrainEncoderConfig()
    assert (default.rate_weight, default.adversary_weight) == (HAND_SET.rate, HAND_SET.leak)
    assert default.term_weights.is_zero
    assert TrainEncoderConfig(overlap_weight=0.5).term_weights == TermWeights(overlap=0.5)


def test_every_arm_differs_from_the_first_and_from_every_other() -> None:
    assert len({repr(arm) for arm in ARMS.values()}) == len(ARMS)


def test_a_term_of_no_weight_changes_nothing_and_one_of_some_weight_only_the_training() -> None:
    faces = drawn_faces(16, 0)
    recognizer, landmarks = drawn_readers()
    plain = TrialSettings(steps=3, batch_size=2, adversary_start=0.0)
    settings = [
        plain,
        replace(plain, recognizer=recognizer, landmarks=landmarks),
        replace(plain, extra=TermWeights(mutual_information=1e-12, overlap=1e-12, cycle=1e-12)),
        replace(plain, extra=TermWeights(cycle=10.0)),
    ]
    trained = [train_trial(faces, chosen).model for chosen in settings]
    first, same, nothing, cycled = (torch.cat([p.detach().flatten() for p in model.parameters()]) for model in trained)
    assert torch.equal(first, same)
    # equal batches and equal noise: terms of almost no weight leave almost the same network
    assert float((first - nothing).norm()) < 0.05 * float((first - cycled).norm())


def test_every_measure_has_one_value_per_held_out_face() -> None:
    faces = drawn_faces(40, 0)
    trial = train_trial(faces, TrialSettings(steps=2, batch_size=2))
    found = measure_disentangling(faces, trial.average, trial, probe_steps=2)
    assert set(found) == set(MEASURES)
    assert {values.shape for values in found.values()} == {(10,)}
    assert all(np.isfinite(values).all() for values in found.values())
    assert found["lower"].mean() <= math.log(10)
    assert ((found["overlap"] >= 0) & (found["overlap"] <= 1 + 1e-9)).all()


def test_arms_are_compared_on_the_seeds_both_have() -> None:
    first = np.array([[1.0, 2.0, 3.0], [10.0, 10.0, 10.0]])
    found = difference(first, first[:1] + 1.0)
    assert (found.without, found.with_, found.seeds) == (2.0, 3.0, 1)
    assert found.lower == found.upper == pytest.approx(1.0)
    assert found.is_certain


def test_the_sentence_tells_gain_and_price_and_leaves_out_what_is_open() -> None:
    found = {
        "rate": Difference(100.0, 50.0, -60.0, -40.0, 2),
        "reconstruction": Difference(0.20, 0.25, 0.01, 0.09, 2),
        "overlap": Difference(0.02, 0.01, -0.03, 0.01, 2),
    }
    text = sentence(found)
    assert text == "buys rate, nats 100 -> 50; costs held-out reconstruction error 0.2 -> 0.25"
    assert sentence({"overlap": found["overlap"]}) == "nothing beyond the interval"


def test_the_report_has_every_arm_with_its_seeds(
    tmp_path: Path, make_run_context: Callable[[Path], RunContext]
) -> None:
    lines: list[object] = []
    context = replace(make_run_context(tmp_path), log=lines.append)
    arms = (AS_TRAINED, "neither")
    report = run(AblateEncoderConfig.model_validate({**TINY, "arms": arms}), context)
    assert len(lines) == 4
    table, sentences, paired, by_seed = report.tables.values()
    assert [row["arm"] for row in table] == list(arms)
    assert [row["seeds"] for row in table] == [2, 2]
    assert len(sentences) == 1
    assert len(paired) == len(MEASURES)
    assert [(row["arm"], row["seed"]) for row in by_seed] == [(arm, seed) for arm in arms for seed in (0, 1)]
    assert report.holds


def test_a_run_whose_time_is_up_too_early_says_what_is_missing(
    tmp_path: Path, make_run_context: Callable[[Path], RunContext]
) -> None:
    config = AblateEncoderConfig.model_validate({**TINY, "arms": (AS_TRAINED, "neither"), "minutes": 1e-6})
    with pytest.raises(ValueError, match="neither"):
        run(config, make_run_context(tmp_path))


def test_arms_that_are_unknown_or_named_twice_are_refused(
    tmp_path: Path, make_run_context: Callable[[Path], RunContext]
) -> None:
    for arms, words in (((AS_TRAINED, "more luck"), "unknown"), ((AS_TRAINED, AS_TRAINED), "twice")):
        with pytest.raises(ValueError, match=words):
            run(AblateEncoderConfig.model_validate({**TINY, "arms": arms}), make_run_context(tmp_path))
