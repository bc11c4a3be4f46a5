"""Job: short trainings of the encoder with and without Muon, averaged weights and certified steps."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from training.jobs.certificates import summarize_looks
from training.jobs.encoder_trial import TrialFaces, TrialSettings, train_trial, trial_faces
from training.jobs.trial_measures import evaluate_trial
from training.runs.config import JobConfig
from training.runs.context import RunContext
from training.runs.job import Job, Source
from training.runs.report import Check, Report

Measured = Mapping[str, float]


class EncoderTrialsConfig(JobConfig):
    """Settings of the run."""

    faces: Path | None = Field(Path("data/faces"), description="crop set written by prepare-faces; null draws pictures")
    max_faces: int = Field(500, ge=40)
    steps: int = Field(30, ge=2, description="steps of AdamW; Muon gets as many as fit into the same processor time")
    seeds: int = Field(3, ge=1)
    batch_size: int = Field(8, ge=2)
    learning_rate: float = Field(1e-3, gt=0)
    matrix_ratio: float = Field(10.0, gt=0)
    game_steps: int = Field(160, ge=2, description="steps of the trainings with certificates")
    game_batch_size: int = Field(4, ge=2)
    game_seeds: int = Field(3, ge=1)
    certify_every: int = Field(20, ge=1)
    damping: float = Field(8.0, ge=0, description="curvature granted to both players where the steps are bounded")
    probe_steps: int = Field(100, ge=1, description="steps of the fresh probe")


def run(config: EncoderTrialsConfig, context: RunContext) -> Report:
    """Train every arm on the same faces and measure on held-out people.

    Args:
        config: Settings.
        context: Run directory, store and metrics.

    Returns:
        The report; its checks say what must hold for any data: a certificate needs damping, and no training diverges.
    """
    faces = trial_faces(config.faces, config.max_faces, config.seed, context.store)
    held = int(faces.held.sum())
    plain, muon, seconds = _optimizers(config, faces, context)
    game, bounded = _games(config, faces, context)
    rows = [
        *_rows(
            "muon",
            "train-encoder with AdamW or Muon, equal processor time",
            {"reconstruction": "held-out reconstruction error", "fresh_probe": "cosine of a fresh probe (leak)"},
            _mean([row["last"] for row in plain]),
            _mean([row["last"] for row in muon]),
            config.seeds,
        ),
        *_rows(
            "langevin_averaging",
            "encoder weights: last step or uniform mean of the second half",
            {"reconstruction": "held-out reconstruction error"},
            _mean([row["last"] for row in plain]),
            _mean([row["tail"] for row in plain]),
            config.seeds,
        ),
        *_rows(
            "langevin_averaging",
            "encoder weights: exponential mean (as trained now) or uniform mean of the second half",
            {"reconstruction": "held-out reconstruction error"},
            _mean([row["average"] for row in plain]),
            _mean([row["tail"] for row in plain]),
            config.seeds,
        ),
        *_rows(
            "small_gain_nash",
            "encoder against probe: free or certified moves of the last layers",
            {
                "share_certified": "share of looks with a certificate (damping 0 without, granted with)",
                "damping_needed": "median damping that a certificate needs, first column before bounding",
                "adversary": "cosine of the final adversary on held-out people",
                "fresh_probe": "cosine of a fresh probe (leak)",
                "reconstruction": "held-out reconstruction error",
            },
            game,
            bounded,
            config.game_seeds,
        ),
    ]
    metrics = {
        "held_out": float(held),
        **seconds,
        **{f"game {key}": value for key, value in game.items()},
        **{f"bounded {key}": value for key, value in bounded.items()},
    }
    broken = sum(not math.isfinite(row["last"]["reconstruction"]) for row in (*plain, *muon))
    checks = (
        Check("share of undamped looks with a certificate", 0.0, game["share_certified"], relation="at_most"),
        Check("trainings whose held-out error is not a number", 0.0, float(broken), relation="at_most"),
    )
    per_seed = [
        {"seed": seed, "optimizer": name, "weights": which, **row[which]}
        for name, found in (("adam", plain), ("muon", muon))
        for seed, row in enumerate(found)
        for which in row
    ]
    return Report(metrics, checks, tables={"Every seed": per_seed, "in the service": rows})


def _optimizers(
    config: EncoderTrialsConfig, faces: TrialFaces, context: RunContext
) -> tuple[list[dict[str, Measured]], list[dict[str, Measured]], dict[str, float]]:
    """Both optimizers for equal processor time; the number of Muon's steps comes from the pace of a few."""
    base = TrialSettings(
        steps=config.steps, batch_size=config.batch_size, learning_rate=config.learning_rate, adversary_start=0.2
    )
    names: tuple[Literal["adam", "muon"], ...] = ("adam", "muon")
    pace = {
        name: train_trial(faces, replace(base, optimizer=name, steps=min(4, config.steps))).seconds_per_step
        for name in names
    }
    steps = max(2, round(config.steps * pace["adam"] / pace["muon"]))
    found: dict[str, list[dict[str, Measured]]] = {name: [] for name in names}
    spent = dict.fromkeys(names, 0.0)
    for seed, name in itertools.product(range(config.seeds), names):
        settings = replace(
            base,
            seed=seed,
            optimizer=name,
            matrix_ratio=config.matrix_ratio,
            steps=config.steps if name == "adam" else steps,
        )
        trial = train_trial(faces, settings)
        spent[name] += trial.seconds_per_step * settings.steps
        networks = {"last": trial.model, "average": trial.average, "tail": trial.tail}
        row: dict[str, Measured] = {
            which: evaluate_trial(faces, network, trial, probe_steps=config.probe_steps if which == "last" else 0)
            for which, network in networks.items()
        }
        found[name].append(row)
        context.log({"seed": seed, "muon": name == "muon", "reconstruction": row["last"]["reconstruction"]})
    return (
        found["adam"],
        found["muon"],
        {"muon_steps": float(steps), "adam_steps": float(config.steps), "time_ratio": spent["muon"] / spent["adam"]},
    )


def _games(config: EncoderTrialsConfig, faces: TrialFaces, context: RunContext) -> tuple[Measured, Measured]:
    """Free training that is only watched, and training whose last layers keep to certified lengths."""
    arms: list[Measured] = []
    for damping, clamp in ((0.0, False), (config.damping, True)):
        found: list[Measured] = []
        for seed in range(config.game_seeds):
            settings = TrialSettings(
                steps=config.game_steps,
                seed=seed,
                batch_size=config.game_batch_size,
                learning_rate=config.learning_rate,
                certify_every=config.certify_every,
                damping=damping,
                clamp=clamp,
            )
            trial = train_trial(faces, settings)
            found.append(
                summarize_looks(trial.looks)
                | evaluate_trial(faces, trial.average, trial, probe_steps=config.probe_steps)
            )
            context.log({"seed": seed, "damping": damping, **found[-1]})
        arms.append(_mean(found))
    return arms[0], arms[1]


def _mean(rows: Sequence[Measured]) -> dict[str, float]:
    return {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}


def _rows(
    method: str, job: str, words: Mapping[str, str], without: Measured, with_it: Measured, n: int
) -> list[dict[str, Any]]:
    return [
        {"method": method, "job": job, "measure": text, "without": without[key], "with": with_it[key], "n": n}
        for key, text in words.items()
    ]


JOB = Job(
    name="encoder-trials",
    summary="short encoder trainings: Muon, averaged weights, certified steps, against the plain way",
    source=Source(
        "Muon: An optimizer for hidden layers in neural networks", "https://kellerjordan.github.io/posts/muon/", 2024
    ),
    config=EncoderTrialsConfig,
    run=run,
    wants_large_malloc_thresholds=True,
    presets={
        "smoke": {"faces": None, "max_faces": 40, "steps": 2, "seeds": 1, "batch_size": 2, "game_batch_size": 2}
        | {"game_steps": 3, "game_seeds": 1, "certify_every": 2, "probe_steps": 2}
    },
)
