"""Job: what each term of the encoder's loss buys, by short trainings from one start on equal data."""

from __future__ import annotations

import itertools
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field

from models.oracles.ensemble import load_oracle
from models.oracles.networks.landmarks68 import load_landmarks
from models.registry.store import ArtifactStore
from training.jobs.disentangling_measures import MEASURES, measure_disentangling
from training.jobs.encoder_ablations import ARMS, AS_TRAINED
from training.jobs.encoder_trial import TrialSettings, train_trial, trial_faces
from training.jobs.paired_trials import by_person, crossed_interval
from training.objectives.gradient_independence import PictureReader, landmark_reader, oracle_reader
from training.runs.config import JobConfig
from training.runs.context import RunContext
from training.runs.job import Job, Source
from training.runs.report import Check, Report

Values = NDArray[np.float64]

_RECOGNIZER: Final = "dlib"
"""Serving oracle whose embedding must not move (G3); the auditors are never trained against."""


class AblateEncoderConfig(JobConfig):
    """Settings of the run."""

    faces: Path | None = Field(Path("data/faces"), description="crop set written by prepare-faces; null draws pictures")
    max_faces: int = Field(1200, ge=40)
    arms: tuple[str, ...] = Field(tuple(ARMS), min_length=2, description="ways to train; the first is compared with")
    steps: int = Field(200, ge=2)
    seeds: int = Field(2, ge=1, description="trainings of each arm; equal seeds mean equal starts, batches and noise")
    batch_size: int = Field(16, ge=2)
    probe_steps: int = Field(100, ge=1, description="steps of each fresh probe")
    minutes: float | None = Field(
        None, gt=0, description="minutes after which no training starts; then arms are compared on fewer seeds"
    )


@dataclass(frozen=True, slots=True)
class Difference:
    """A measure under the first arm and under another, and the 95 % interval of the second less the first."""

    without: float
    with_: float
    lower: float
    upper: float
    seeds: int

    @property
    def is_certain(self) -> bool:
        """Whether the interval leaves zero out."""
        return self.lower > 0 or self.upper < 0


def run(config: AblateEncoderConfig, context: RunContext) -> Report:
    """Train every arm with every seed, measure on held-out people, compare with the first arm.

    An arm and the first one are compared on the seeds that both were trained with.

    Args:
        config: Settings.
        context: Run directory, store and metrics.

    Returns:
        The report; its checks say what must hold for any data: no training diverges, and no lower bound on the learned
        part exceeds the upper one.

    Raises:
        ValueError: An arm is unknown or named twice, or not all were trained once when the run was stopped or the time
            was up.
    """
    if unknown := sorted(set(config.arms) - set(ARMS)):
        raise ValueError(f"unknown arms {unknown}; there are {sorted(ARMS)}")
    if len(set(config.arms)) < len(config.arms):
        raise ValueError(f"an arm is named twice: {list(config.arms)}")
    start = time.monotonic()
    faces = trial_faces(config.faces, config.max_faces, config.seed, context.store)
    recognizer, landmarks = drawn_readers() if config.faces is None else _readers(context.store)
    people = faces.people[faces.held].numpy()
    measured: dict[str, list[dict[str, Values]]] = defaultdict(list)
    seconds: dict[str, list[float]] = defaultdict(list)
    for seed, name in itertools.product(range(config.seed, config.seed + config.seeds), config.arms):
        late = config.minutes is not None and time.monotonic() - start > 60 * config.minutes
        if late or context.should_stop():
            break
        settings = TrialSettings(
            steps=config.steps,
            seed=seed,
            batch_size=config.batch_size,
            weights=ARMS[name].weights,
            extra=ARMS[name].extra,
            recognizer=recognizer,
            landmarks=landmarks,
        )
        trial = train_trial(faces, settings)
        found = measure_disentangling(faces, trial.average, trial, probe_steps=config.probe_steps)
        measured[name].append({key: by_person(values[None], people)[0] for key, values in found.items()})
        seconds[name].append(trial.seconds_per_step)
        means = {key: float(values.mean()) for key, values in found.items()}
        context.log({"seed": seed, "arm": config.arms.index(name), "seconds_per_step": seconds[name][-1], **means})
    if missing := [name for name in config.arms if name not in measured]:
        raise ValueError(f"the time was up before these arms were trained: {missing}")
    values = {name: {key: np.stack([found[key] for found in measured[name]]) for key in MEASURES} for name in measured}
    return _report(config, values, {name: float(np.mean(part)) for name, part in seconds.items()})


def sentence(differences: Mapping[str, Difference]) -> str:
    """Say what an arm changes beyond the intervals.

    Args:
        differences: By the names of `MEASURES`; of every measure less is better.

    Returns:
        What became less is bought, what became more is paid.
    """

    def listed(chosen: Mapping[str, Difference]) -> str:
        return ", ".join(f"{MEASURES[key]} {one.without:.3g} -> {one.with_:.3g}" for key, one in chosen.items())

    certain = {key: one for key, one in differences.items() if one.is_certain}
    bought = {key: one for key, one in certain.items() if one.upper < 0}
    paid = {key: one for key, one in certain.items() if one.lower > 0}
    parts = [f"{word} {listed(chosen)}" for word, chosen in (("buys", bought), ("costs", paid)) if chosen]
    return "; ".join(parts) or "nothing beyond the interval"


def drawn_readers() -> tuple[PictureReader, PictureReader]:
    """Stand-ins for recognizer and landmark network where pictures are drawn: fixed random maps of 8x8 means."""
    rng = torch.Generator().manual_seed(0)
    first, second = (torch.randn(192, size, generator=rng) / 14 for size in (32, 136))
    view = partial(F.adaptive_avg_pool2d, output_size=8)
    return (
        PictureReader(view, lambda seen: F.normalize(seen.flatten(1) @ first, dim=1)),
        PictureReader(view, lambda seen: seen.flatten(1) @ second),
    )


def _readers(store: ArtifactStore) -> tuple[PictureReader, PictureReader]:
    return oracle_reader(load_oracle(store, _RECOGNIZER)), landmark_reader(load_landmarks(store))


def _report(
    config: AblateEncoderConfig, values: Mapping[str, Mapping[str, Values]], seconds: Mapping[str, float]
) -> Report:
    first, *others = config.arms
    differences = {
        name: {key: difference(values[first][key], values[name][key]) for key in MEASURES} for name in others
    }
    means = {name: {key: float(found.mean()) for key, found in row.items()} for name, row in values.items()}
    table: list[dict[str, Any]] = [
        {
            "arm": name,
            "seeds": len(values[name]["reconstruction"]),
            **{words: _shown(means[name][key], differences.get(name, {}).get(key)) for key, words in MEASURES.items()},
            "step time over the first arm": f"{seconds[name] / seconds[first]:.2f}",
        }
        for name in config.arms
    ]
    paired: list[dict[str, Any]] = [
        {
            "arm": name,
            "measure": MEASURES[key],
            first: one.without,
            "this arm": one.with_,
            "95 % interval of the difference": f"{one.lower:.4g} .. {one.upper:.4g}",
            "seeds": one.seeds,
        }
        for name, row in differences.items()
        for key, one in row.items()
    ]
    by_seed: list[dict[str, Any]] = [
        {"arm": name, "seed": config.seed + index, **{key: float(found[index].mean()) for key, found in row.items()}}
        for name, row in values.items()
        for index in range(len(row["reconstruction"]))
    ]
    broken = sum(not np.isfinite(row["reconstruction"]).all() for row in values.values())
    excess = max(row["lower"] - row["upper"] for row in means.values())
    certain = sum(one.is_certain for row in differences.values() for one in row.values())
    return Report(
        metrics={
            "held-out people": float(values[first]["reconstruction"].shape[1]),
            "fewest seeds of a comparison": float(min(row["seeds"] for row in paired)),
            "seconds per step of the first arm": seconds[first],
            "intervals": float(len(paired)),
            "intervals that leave zero out": float(certain),
        },
        checks=(
            Check("arms whose held-out error is not a number", 0.0, float(broken), relation="at_most"),
            Check("largest excess of a lower bound over its upper bound, nats", 0.0, excess, relation="at_most"),
        ),
        tables={
            "Every arm; in brackets the 95 % interval of the difference from the first": table,
            "What each arm buys": [
                {"arm": name, f"beyond the interval, against {first}": sentence(row)}
                for name, row in differences.items()
            ],
            "Paired differences": paired,
            "Every seed": by_seed,
        },
    )


def difference(first: Values, other: Values) -> Difference:
    """Compare two arms on the seeds both have.

    Args:
        first: A measure under the first arm, by seed and held-out person, (s, p).
        other: The same under another arm, (t, p), from the same first seed on.

    Returns:
        The difference over min(s, t) seeds.
    """
    seeds = min(len(first), len(other))
    before, after = first[:seeds], other[:seeds]
    lower, upper = crossed_interval(after - before, np.random.default_rng(0))
    return Difference(float(before.mean()), float(after.mean()), lower, upper, seeds)


def _shown(mean: float, change: Difference | None) -> str:
    if change is None:
        return f"{mean:.3g}"
    return f"{mean:.3g} ({change.lower:+.2g} .. {change.upper:+.2g})"


JOB = Job(
    name="ablate-encoder",
    summary="what each term of the encoder's loss buys: short trainings with one left out or added",
    source=Source("Identity-Decoupled Anonymization for Visual Evidence in Multi-modal RAG", "arXiv:2604.23584", 2026),
    config=AblateEncoderConfig,
    run=run,
    wants_large_malloc_thresholds=True,
    presets={
        "smoke": {"faces": None, "max_faces": 40, "steps": 5, "seeds": 1, "batch_size": 4, "probe_steps": 2}
        | {"arms": (AS_TRAINED, "neither", "+ vCLUB penalty", "+ G1 to G4", "+ swap-cycle")}
    },
)
