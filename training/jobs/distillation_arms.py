"""Arms of the ablation of the distillation, and the tables and sentences that compare their students face by face.

An outcome is claimed where the 95 % bootstrap interval of the paired difference leaves zero out. Nothing is corrected
for the number of comparisons, so about one in twenty of the true zeros is claimed as well. Every arm is trained once,
and the interval is over faces, not over trainings: the arm of another seed tells what other rows and noise change by
themselves, and a claim no larger than that is marked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from training.audit.paired import Paired, paired
from training.audit.statistics import Estimate, mean, rate
from training.audit.tables import Table
from training.jobs.swap_readings import MEASURES, Readings

MIN_SAMPLE: Final = 96
"""Faces from which on differences are claimed."""
TOLERANCE: Final = 0.1
"""Share of the teacher's mean within which a student counts as equal."""


@dataclass(frozen=True, slots=True)
class Arm:
    """A distillation with one term left out.

    Attributes:
        term: what is left out, as the sentences name it.
        without: settings of `training.jobs.distill_generator` that leave it out.
    """

    term: str
    without: Mapping[str, Any] = field(default_factory=dict)


_NO_LANDMARKS: Final = {"landmark_weight": 0.0, "detector_weight": 0.0}
FULL: Final = "all terms"
RESEEDED: Final = "all terms, other rows and noise"
ONE_ORACLE: Final = "one oracle in the hinge (fr_feature)"
ARMS: Final[Mapping[str, Arm]] = {
    FULL: Arm("nothing"),
    "no privacy hinge": Arm("the privacy hinge", {"hinge_weight": 0.0}),
    ONE_ORACLE: Arm("the other two oracles in the hinge", {"hinge_oracles": ("fr_feature",)}),
    "no landmark terms": Arm("the landmark terms", _NO_LANDMARKS),
    "no spread": Arm("the spread", {"spread_weight": 0.0}),
    "no transfer": Arm("the transfer", {"transfer_weight": 0.0}),
    "no patch adversary": Arm("the patch adversary", {"adversary_weight": 0.0}),
    "consistency only": Arm(
        "all terms on judged faces",
        {
            **_NO_LANDMARKS,
            "hinge_weight": 0.0,
            "spread_weight": 0.0,
            "transfer_weight": 0.0,
            "adversary_weight": 0.0,
        },
    ),
    RESEEDED: Arm("these rows and this noise", {"seed": 1000}),
}
"""The first is what the others are compared with."""


def estimates_table(readings: Mapping[str, Readings], rng: np.random.Generator) -> Table:
    """One row per way: every measure with its 95 % interval, a share with Wilson's and a mean with the bootstrap's."""
    return [
        {"way": name, **{key: _shown(_estimate(key, values[key], rng)) for key in MEASURES}}
        for name, values in readings.items()
    ]


def differences_table(
    readings: Mapping[str, Readings], first: str, rng: np.random.Generator
) -> tuple[Table, dict[str, dict[str, Paired]]]:
    """Each way but the first against the first, measure by measure.

    Args:
        readings: Way to its readings, all on the same faces.
        first: What the others are compared with.
        rng: Draws the resamples.

    Returns:
        The rows, and the comparisons by way and measure.
    """
    compared = {
        name: {key: paired(readings[first][key], values[key], rng) for key in MEASURES}
        for name, values in readings.items()
        if name != first
    }
    rows: Table = [
        {
            "way": name,
            "measure": key,
            first: round(found.without, 4),
            "this way": round(found.with_, 4),
            "difference": round(found.difference.value, 4),
            "95 % interval": f"{found.difference.lower:.4f} .. {found.difference.upper:.4f}",
            "n": found.difference.count,
            "this way is": found.outcome(MEASURES[key]),
        }
        for name, by_measure in compared.items()
        for key, found in by_measure.items()
    ]
    return rows, compared


def sentence(term: str, compared: Mapping[str, Paired], chance: Mapping[str, Paired] | None = None) -> str:
    """Say what a term buys and costs, from the arm that leaves it out.

    Args:
        term: What was left out.
        compared: The full arm against the arm without the term, by measure.
        chance: The full arm against itself with another seed, by measure.

    Returns:
        One sentence; what its absence makes worse it buys, what its absence makes better it costs, and a star marks
        what another seed changes as much. Fewer faces than `MIN_SAMPLE` claim nothing.
    """
    count = min(found.difference.count for found in compared.values())
    if count < MIN_SAMPLE:
        return f"{term}: {count} faces are too few to claim anything."
    parts: dict[str, list[str]] = {"worse": [], "better": []}
    for key, found in compared.items():
        outcome = found.outcome(MEASURES[key])
        if outcome in parts:
            seed = abs(chance[key].difference.value) if chance is not None else 0.0
            star = "*" if seed >= abs(found.difference.value) else ""
            parts[outcome].append(f"{key} {found.with_:.3f} -> {found.without:.3f}{star}")
    if not parts["worse"] and not parts["better"]:
        return f"{term}: nothing beyond the interval in {len(compared)} measures."
    bought = "buys " + "; ".join(parts["worse"]) if parts["worse"] else "buys nothing beyond the interval"
    cost = ", costs " + "; ".join(parts["better"]) if parts["better"] else ", costs nothing beyond the interval"
    rest = len(compared) - len(parts["worse"]) - len(parts["better"])
    return f"{term}: {bought}{cost} (without -> with; {rest} of {len(compared)} measures open)."


def against_teacher(name: str, compared: Mapping[str, Paired]) -> Table:
    """Whether a student is within `TOLERANCE` of the teacher, measure by measure.

    Args:
        name: The student.
        compared: The teacher against the student, by measure.

    Returns:
        The rows, with the verdict of `within`.
    """
    return [
        {
            "student": name,
            "measure": key,
            "teacher": round(found.without, 4),
            "this student": round(found.with_, 4),
            "difference": round(found.difference.value, 4),
            "95 % interval": f"{found.difference.lower:.4f} .. {found.difference.upper:.4f}",
            "n": found.difference.count,
            "within 10 % of the teacher": within(found, MEASURES[key]),
        }
        for key, found in compared.items()
    ]


def within(found: Paired, direction: int) -> str:
    """Compare the interval of the difference with `TOLERANCE` times the teacher's mean, b.

    Args:
        found: The teacher against a student.
        direction: 1 where more is better, -1 where less is.

    Returns:
        `yes` where the interval lies in [-b, b], `better` where all of it is better by more than b, `no` where all of
        it is worse by more than b, `not worse` where none of it is worse by more than b, else `open`.
    """
    bound = TOLERANCE * abs(found.without)
    worst, best = sorted((direction * found.difference.lower, direction * found.difference.upper))
    if worst > bound:
        return "better"
    if worst >= -bound:
        return "yes" if best <= bound else "not worse"
    return "no" if best < -bound else "open"


def _estimate(key: str, values: np.ndarray[Any, np.dtype[np.float64]], rng: np.random.Generator) -> Estimate:
    return rate(values > 0) if key.startswith("accepted") else mean(values, rng)


def _shown(found: Estimate) -> str:
    return f"{found.value:.3f} ({found.lower:.3f} .. {found.upper:.3f})"
