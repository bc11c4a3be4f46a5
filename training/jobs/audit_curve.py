"""Job: put audits of several levels of the policy on one curve of attacker advantage against utility."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from training.audit.level_curve import (
    ATTACKS,
    LevelCurveError,
    curve_panels,
    curve_table,
    differing,
    read_level,
)
from training.runs.config import JobConfig
from training.runs.context import RunContext
from training.runs.figures import plot_panels
from training.runs.job import Job
from training.runs.report import Check, Report


class AuditCurveConfig(JobConfig):
    """Settings of the run."""

    reports: tuple[Path, ...] = Field(min_length=2, description="report.json of finished audits, one for each level")


def run(config: AuditCurveConfig, context: RunContext) -> Report:
    """Read audits of several levels and draw them on one curve.

    Args:
        config: Settings.
        context: Run directory, which takes `figures/levels.svg` and its numbers.

    Returns:
        The report; its checks are that the audits attacked the same people with the same settings, and the same
        artifacts.

    Raises:
        LevelCurveError: A report is not one of an audit, or two are of one level.
    """
    points = [read_level(path) for path in config.reports]
    levels = [point.level for point in points]
    if len(set(levels)) != len(levels):
        raise LevelCurveError(f"a curve has one audit for each level, got {', '.join(levels)}")
    points.sort(key=lambda point: sum(found.value for found in point.advantages.values()) / len(point.advantages))
    settings, versions = (
        differing([point.settings for point in points]),
        differing([point.versions for point in points]),
    )
    names = [f"settings.{name}" for name in settings] + [f"artifacts.{name}" for name in versions]
    caption = (
        "Rank-1 with the very source in the gallery, less that of the same attack on the covered face, over what the "
        "release keeps; bars are 95 % intervals"
    )
    metrics = {
        f"advantage, {attack}.{point.level}": found.value
        for point in points
        for attack, found in point.advantages.items()
    } | {f"{name}.{point.level}": found.value for point in points for name, found in point.utilities.items()}
    tables: dict[str, list[dict[str, object]]] = {
        "levels of the policy": curve_table(points),
        "attacks": [{"attack": name, "measure": measure, "less": floor} for name, (measure, floor) in ATTACKS.items()],
    }
    if names:
        tables["differences between the audits"] = [{"difference": name} for name in names]
    return Report(
        metrics=metrics,
        checks=(
            Check("settings of people and attackers that differ between the audits", 0.0, float(len(settings))),
            Check("artifacts that differ between the audits", 0.0, float(len(versions))),
        ),
        figures=(plot_panels(context.directory, "levels", curve_panels(points), caption=caption),),
        tables=tables,
    )


JOB = Job(
    name="audit-curve",
    summary="puts audits of several levels on one curve of attacker advantage against utility",
    config=AuditCurveConfig,
    run=run,
)
