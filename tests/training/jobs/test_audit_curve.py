"""The job puts audits of several levels on one figure and says what else differs between them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from training.audit.level_curve import LevelCurveError
from training.jobs.audit_curve import AuditCurveConfig, run
from training.runs.context import RunContext
from training.runs.report import Report, write_report

MEASURES = {
    "P3 rank-1 source.faceres": 0.15,
    "A6 rank-1 source.faceres": 0.05,
    "A3 rank-1 source.pairs attacker": 0.2,
    "A6 trained rank-1 source.pairs attacker": 0.1,
    "U2 landmark error": 0.06,
    "U2 landmark error, autoencoder only": 0.04,
    "U3 pose error, rad": 0.1,
    "U5 expression agrees in all three": 0.6,
}


def made_up(root: Path, level: str, factor: float = 1.0, **settings: Any) -> Path:
    directory = root / f"{level}-{factor}"
    directory.mkdir()
    values = {name: value * factor for name, value in MEASURES.items()}
    rows = [
        {
            "measure": name,
            "value": round(value, 4),
            "95 % interval": f"{value - 0.02:.4f} .. {value + 0.02:.4f}",
            "n": 400,
        }
        for name, value in values.items()
    ]
    tables = {"measures with 95 % intervals": rows, "artifacts": [{"artifact": "a", "version": "1"}]}
    write_report(Report(metrics=values, tables=tables), directory, title="audit")
    config = {"seed": 0, "folder": None, "photos": 400, "level": level, **settings}
    (directory / "config.json").write_text(json.dumps({"job": "audit", "config": config}))
    return directory / "report.json"


def test_the_job_draws_levels_in_the_order_of_what_attackers_gain(
    tmp_path: Path, make_run_context: Callable[[Path], RunContext]
) -> None:
    reports = (made_up(tmp_path, "faithful", 1.4), made_up(tmp_path, "strict", 0.7), made_up(tmp_path, "balanced"))
    report = run(AuditCurveConfig(reports=reports), make_run_context(tmp_path))
    assert [row["level"] for row in report.tables["levels of the policy"]] == ["strict", "balanced", "faithful"]
    assert report.holds
    svg = (tmp_path / report.figures[0].path).read_text()
    assert all(level in svg for level in ("strict", "balanced", "faithful"))


def test_audits_of_other_people_are_told_apart(tmp_path: Path, make_run_context: Callable[[Path], RunContext]) -> None:
    reports = (made_up(tmp_path, "strict"), made_up(tmp_path, "balanced", photos_per_person=2, photos=30))
    report = run(AuditCurveConfig(reports=reports), make_run_context(tmp_path))
    assert not report.holds
    differences = [row["difference"] for row in report.tables["differences between the audits"]]
    assert differences == ["settings.photos", "settings.photos_per_person"]


def test_two_audits_of_one_level_are_refused(tmp_path: Path, make_run_context: Callable[[Path], RunContext]) -> None:
    first = made_up(tmp_path, "strict")
    with pytest.raises(LevelCurveError, match="one audit for each level, got strict, strict"):
        run(AuditCurveConfig(reports=(first, first)), make_run_context(tmp_path))
