"""The table of all methods: what each newest full run predicted and measured, and what it does for the service."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from training.runs.config import config_hash, resolve_config
from training.runs.environment import read_environment
from training.runs.execution import read_run_config
from training.runs.job import Job
from training.runs.report import Report, ReportError, markdown_table, read_report

SERVICE_TABLE: Final = "in the service"
"""Table of a report whose rows say what a method does for the service."""
SERVICE_COLUMNS: Final = ("method", "job", "measure", "without", "with", "n")
"""Keys of such a row: stem of the method, what it does, unit included, the plain way, the method, sample size."""

_HEAD = """# Methods

Which one to take is in [choosing.md](choosing.md). Written by `doppel-train methods-table` from the newest complete run
of each job with the preset `full`; do not edit.
"""

_SERVICE_NOTE = """What a method does for the service, from the newest complete run of each job; `without` is the plain
way that the row names."""


@dataclass(frozen=True, slots=True)
class FullRun:
    """A complete run with the full preset: its report and its environment record."""

    report: Report
    environment: Mapping[str, Any]

    @property
    def machine(self) -> str:
        """Processor and threads in words."""
        processor, threads = self.environment.get("processor"), self.environment.get("torch_threads", "?")
        return f"{processor or 'unknown processor'}, torch threads: {threads}"

    def seconds(self, kind: str) -> str:
        """Rounded ``wall_seconds`` or ``processor_seconds``; runs of older versions did not record them."""
        return f"{self.environment[kind]:.0f}" if kind in self.environment else "not recorded"


def newest_full_run(job: Job[Any], runs: Iterable[Path]) -> FullRun | None:
    """Find the newest complete run whose configuration is that of the job's full preset.

    A run made before the defaults changed is no full run any more. Unreadable directories are errors, not gaps.

    Args:
        job: The job.
        runs: Folders of run directories, ``<runs>/<job>/<UTC stamp>-<config hash>``.

    Returns:
        The run, or None where there is none.
    """
    full = config_hash(resolve_config(job.config, preset=job.preset("full")))
    directory = _newest(job.name, runs, f"*-{full}*")
    return None if directory is None else FullRun(read_report(directory)[1], read_environment(directory))


def service_rows(names: Sequence[str], runs: Sequence[Path]) -> list[dict[str, Any]]:
    """Collect what methods do for the service from the newest complete run of each job, whatever its configuration.

    Args:
        names: The jobs, in the order of the rows.
        runs: Folders of run directories.

    Returns:
        The rows of the tables `SERVICE_TABLE`, each with the keys `SERVICE_COLUMNS`.

    Raises:
        ReportError: A row has other keys, or one of its numbers is none.
    """
    rows: list[dict[str, Any]] = []
    for name in names:
        directory = _newest(name, runs, "*")
        if directory is None:
            continue
        for row in read_report(directory)[1].tables.get(SERVICE_TABLE, ()):
            try:
                words = {key: str(row[key]) for key in ("method", "job", "measure")}
                numbers = {key: float(row[key]) for key in ("without", "with")}
                rows.append({**words, **numbers, "n": int(row["n"])})
            except (KeyError, TypeError, ValueError) as error:
                raise ReportError(f"a row of {SERVICE_TABLE!r} in {directory} is not usable: {error!r}") from error
    return rows


def render_methods(jobs: Sequence[Job[Any]], runs: Sequence[Path], *, products: Sequence[str] = ()) -> str:
    """Render the page: one row per method, one per check, one per use. The same runs give the same bytes.

    Args:
        jobs: The method jobs, in the order of the page; product jobs have no page to link to and are left out.
        runs: Folders of run directories.
        products: Names of the product jobs, whose runs may also say what a method does for the service.

    Returns:
        Markdown whose links are relative to the folder of the method pages.
    """
    methods: list[dict[str, Any]] = []
    checks: list[dict[str, Any]] = []
    machines: set[str] = set()
    for job in jobs:
        if job.page is None:
            continue
        link = f"[{job.name}]({Path(job.page).name})"
        run = newest_full_run(job, runs)
        row = {"method": link, "family": job.family, "what it shows": job.summary}
        if run is None:
            methods.append({**row, "checks held": "not run"})
            continue
        held = sum(check.holds for check in run.report.checks)
        methods.append(
            {
                **row,
                "checks held": f"{held} of {len(run.report.checks)}",
                "wall seconds": run.seconds("wall_seconds"),
                "processor seconds": run.seconds("processor_seconds"),
            }
        )
        machines.add(run.machine)
        checks += [
            {
                "method": link,
                "claim": check.claim,
                "predicted": check.bound,
                "measured": float(check.measured),
                "tolerance": float(check.tolerance),
                "holds": "yes" if check.holds else "**no**",
            }
            for check in run.report.checks
        ]
    lines = [_HEAD, *markdown_table(methods), ""]
    if machines:
        lines += ["Measured on " + "; ".join(sorted(machines)) + ".", ""]
    if checks:
        lines += ["## Checks", "", *markdown_table(checks), ""]
    if uses := service_rows([*(job.name for job in jobs), *products], runs):
        pages = {job.stem: f"[{job.name}]({Path(job.page).name})" for job in jobs if job.page is not None}
        order = {stem: place for place, stem in enumerate(pages)}
        uses.sort(key=lambda row: order.get(row["method"], len(order)))
        linked = [{**row, "method": pages.get(row["method"], row["method"])} for row in uses]
        lines += ["## In the service", "", _SERVICE_NOTE, "", *markdown_table(linked), ""]
    return "\n".join(lines)


def _newest(name: str, runs: Iterable[Path], pattern: str) -> Path | None:
    """The newest complete run directory of a job whose name fits a pattern, over all folders."""
    complete = [
        directory
        for folder in runs
        for directory in (folder / name).glob(pattern)
        if directory.is_dir() and directory.suffix != ".partial" and read_run_config(directory)[0] == name
    ]
    return max(complete, key=lambda found: found.name, default=None)
