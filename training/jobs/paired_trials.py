"""Two settings of one short training, with the same seeds on the same faces, and what the second one changes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from training.jobs.encoder_trial import TrialFaces, TrialSettings, train_trial
from training.jobs.trial_measures import measure_faces


@dataclass(frozen=True, slots=True)
class Change:
    """A measure under both settings, and the 95 % interval of the second less the first.

    Attributes:
        without: Mean under the first setting, over seeds and people.
        with_it: Mean under the second.
        lower: Lower end of the interval of the difference.
        upper: Upper end.
        people: Held-out people.
        seeds: Pairs of trainings.
    """

    without: float
    with_it: float
    lower: float
    upper: float
    people: int
    seeds: int

    @property
    def is_loss(self) -> bool:
        """Whether a measure of which less is better became larger for certain: the interval lies above zero."""
        return self.lower > 0.0


def train_pairs(
    faces: TrialFaces,
    first: TrialSettings,
    second: TrialSettings,
    *,
    seeds: int,
    probe_steps: int,
    log: Callable[[Mapping[str, float]], None] = lambda values: None,
) -> dict[str, Change]:
    """Train both settings with each seed, and measure their averaged encoders on held-out people.

    Args:
        faces: What to train on and to measure with.
        first: The plain setting; its seed is replaced.
        second: The other one.
        seeds: Pairs of trainings, with seeds 0, 1, ...
        probe_steps: Steps of the fresh probe.
        log: Takes the means after every training.

    Returns:
        The change of every measure of `measure_faces`.
    """
    people = faces.people[faces.held].numpy()
    found: list[list[dict[str, NDArray[np.float64]]]] = [[], []]
    for seed in range(seeds):
        for arm, settings in enumerate((first, second)):
            trial = train_trial(faces, replace(settings, seed=seed))
            found[arm].append(measure_faces(faces, trial.average, trial, probe_steps=probe_steps))
            log({"seed": seed, "arm": arm, **{key: float(part.mean()) for key, part in found[arm][-1].items()}})
    changes = {}
    for name in found[0][0]:
        before, after = (by_person(np.stack([part[name] for part in arm]), people) for arm in found)
        lower, upper = crossed_interval(after - before, np.random.default_rng(0))
        changes[name] = Change(float(before.mean()), float(after.mean()), lower, upper, before.shape[1], seeds)
    return changes


def by_person(values: NDArray[np.float64], people: NDArray[np.int64]) -> NDArray[np.float64]:
    """Mean over the faces of each person: (s, m) and (m,) to (s, p), in the order of the persons' numbers."""
    numbers = np.unique(people)
    return np.stack([values[:, people == number].mean(1) for number in numbers], axis=1)


def crossed_interval(
    differences: NDArray[np.float64], rng: np.random.Generator, *, resamples: int = 2000
) -> tuple[float, float]:
    """Percentile bootstrap of a mean over seeds and people, both drawn again.

    Args:
        differences: (s, p).
        rng: Draws the resamples.
        resamples: How many.

    Returns:
        Ends of the 95 % interval. Of s seeds the bootstrap sees the share (s - 1) / s of their variance only, so with
        one seed the interval is that of the people alone.
    """
    seeds, people = differences.shape
    means = [
        differences[rng.integers(0, seeds, seeds)][:, rng.integers(0, people, people)].mean() for _ in range(resamples)
    ]
    lower, upper = np.quantile(means, [0.025, 0.975])
    return float(lower), float(upper)
