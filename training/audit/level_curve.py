"""Levels of the policy on one curve: what an attacker gains over the covered face, against what a release keeps."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from training.audit.statistics import Estimate, difference, ratio
from training.runs.figures import Panel, Series
from training.runs.report import Report, ReportError, read_report

ATTACKS: Final[Mapping[str, tuple[str, str]]] = {
    "faceres (P3)": ("P3 rank-1 source.faceres", "A6 rank-1 source.faceres"),
    "trained on pairs (A3)": ("A3 rank-1 source.pairs attacker", "A6 trained rank-1 source.pairs attacker"),
    "drawn back, faceres (A4)": ("A4 rank-1 source.faceres", "A6 drawn rank-1 source.faceres"),
}
"""Attacks on a gallery of the very sources: the measure, and the same attack on the covered face."""
LANDMARKS: Final = ("U2 landmark error", "U2 landmark error, autoencoder only")
UTILITIES: Final[Mapping[str, str]] = {
    "pose error, rad": "U3 pose error, rad",
    "landmark error over the autoencoder's": LANDMARKS[0],
    "expression agrees in all three": "U5 expression agrees in all three",
    "light error": "U6 light error",
}
"""What a release keeps, and the measure of the report."""
SAME: Final = (
    "seed", "folder", "labels", "weights", "identity_half",
    "photos", "photos_per_person", "attacker_people", "inversion_steps",
)  # fmt: skip
"""Settings that decide who is attacked, and by whom."""
_DEFAULTS: Final = {"photos_per_person": 1}  # of reports older than the setting
_TABLE: Final = "measures with 95 % intervals"


class LevelCurveError(ValueError):
    """Reports that do not make a curve of levels."""


@dataclass(frozen=True, slots=True)
class LevelPoint:
    """An audit of one level.

    Attributes:
        level: The level.
        advantages: Attack of `ATTACKS` to rank-1 less that of the covered face; those that the audit ran.
        utilities: Reading of `UTILITIES` to its estimate; those that the audit took.
        photos: Released photos.
        settings: Values of `SAME`.
        versions: Artifact to version.
    """

    level: str
    advantages: Mapping[str, Estimate]
    utilities: Mapping[str, Estimate]
    photos: int
    settings: Mapping[str, object]
    versions: Mapping[str, str]


def read_level(path: Path) -> LevelPoint:
    """Read the report of a finished audit.

    Args:
        path: The report.json, or the run directory that holds it.

    Returns:
        Its point of the curve.

    Raises:
        LevelCurveError: It is no report of an audit of one level, or it has neither an attack nor a reading.
    """
    directory = path if path.is_dir() else path.parent
    try:
        report = read_report(directory)[1]
        record = json.loads((directory / "config.json").read_text(encoding="utf-8"))
        job, config = record["job"], record["config"]
    except (ReportError, OSError, ValueError, KeyError, TypeError) as error:
        raise LevelCurveError(f"no finished audit in {directory}: {error}") from error
    if job != "audit" or "level" not in config:
        raise LevelCurveError(f"{directory} is a run of {job}, not an audit of a level")
    estimates = _estimates(report, directory)
    advantages = {
        attack: difference(estimates[measure], estimates[floor])
        for attack, (measure, floor) in ATTACKS.items()
        if measure in estimates and floor in estimates
    }
    utilities = {name: estimates[measure] for name, measure in UTILITIES.items() if measure in estimates}
    if all(name in estimates for name in LANDMARKS):
        utilities["landmark error over the autoencoder's"] = _landmark_ratio(estimates)
    else:
        utilities.pop("landmark error over the autoencoder's", None)
    if not advantages or not utilities:
        raise LevelCurveError(f"the report in {directory} holds {len(advantages)} attacks, {len(utilities)} readings")
    return LevelPoint(
        str(config["level"]),
        advantages,
        utilities,
        max(found.count for found in advantages.values()),
        {name: config.get(name, _DEFAULTS.get(name)) for name in SAME},
        {str(row["artifact"]): str(row["version"]) for row in report.tables.get("artifacts", [])},
    )


def differing(points: Sequence[Mapping[str, object]]) -> list[str]:
    """Keys whose values are not the same in all of some mappings, sorted."""
    keys = {key for point in points for key in point}
    return sorted(key for key in keys if len({json.dumps(point.get(key)) for point in points}) > 1)


def curve_table(points: Sequence[LevelPoint]) -> list[dict[str, object]]:
    """One row for each level: advantages and readings with their intervals; empty where an audit did not ask."""
    return [
        {"level": point.level}
        | {f"advantage, {name}": _text(point.advantages.get(name)) for name in ATTACKS}
        | {name: _text(point.utilities.get(name)) for name in UTILITIES}
        | {"n": point.photos}
        for point in points
    ]


def curve_panels(points: Sequence[LevelPoint]) -> list[Panel]:
    """One panel for each reading that any audit took: advantage of every attack over the reading, by level."""
    panels: list[Panel] = []
    for utility in UTILITIES:
        curves = [_curve(points, attack, utility) for attack in ATTACKS]
        curves = [curve for curve in curves if len(curve.x)]
        if curves:
            panels.append(Panel(curves, utility, "rank-1 with the source, less the covered face's"))
    return panels


def _curve(points: Sequence[LevelPoint], attack: str, utility: str) -> Series:
    both = [point for point in points if attack in point.advantages and utility in point.utilities]
    both.sort(key=lambda point: point.utilities[utility].value)
    x, y = [point.utilities[utility] for point in both], [point.advantages[attack] for point in both]
    return Series(
        attack,
        [found.value for found in x],
        [found.value for found in y],
        "joined",
        [point.level for point in both],
        [(found.lower, found.upper) for found in x],
        [(found.lower, found.upper) for found in y],
    )


def _estimates(report: Report, directory: Path) -> dict[str, Estimate]:
    """Values from the metrics, which are not rounded, and intervals from the table; what is not finite is left out."""
    found: dict[str, Estimate] = {}
    try:
        for row in report.tables[_TABLE]:
            name = str(row["measure"])
            lower, upper = (float(end) for end in str(row["95 % interval"]).split(".."))
            value = float(report.metrics.get(name, float(row["value"])))
            if np.isfinite([value, lower, upper]).all():
                found[name] = Estimate(value, min(lower, value), max(upper, value), int(row["n"]))
    except (KeyError, ValueError, TypeError) as error:
        raise LevelCurveError(f"the report in {directory} has no readable table of measures: {error}") from error
    return found


def _landmark_ratio(estimates: Mapping[str, Estimate]) -> Estimate:
    first, second = (estimates[name] for name in LANDMARKS)
    try:
        return ratio(first, second)
    except ValueError as error:
        raise LevelCurveError(f"the landmark error of the autoencoder is not known well enough: {error}") from error


def _text(found: Estimate | None) -> str:
    return "" if found is None else f"{found.value:.3f} ({found.lower:.3f} .. {found.upper:.3f})"
