"""The job puts audits of several levels on one figure and says what else differs between them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from training.audit.level_curve import LevelCurveError
from training.jobs.audit_curve import AuditCurveConfig, run
from training.runs.context import RunContext


def test_the_job_draws_levels_in_the_order_of_what_attackers_gain(
    tmp_path: Path, make_run_context: Callable[[Path], RunContext], made_up_audit: Callable[..., Path]
) -> None:
    reports = (made_up_audit("faithful", 1.4), made_up_audit("strict", 0.7), made_up_audit("balanced"))
    report = run(AuditCurveConfig(reports=reports), make_run_context(tmp_path))
    assert [row["level"] for row in report.tables["levels of the policy"]] == ["strict", "balanced", "faithful"]
    assert report.holds
    svg = (tmp_path / report.figures[0].path).read_text()
    assert all(level in svg for level in ("strict", "balanced", "faithful"))


def test_audits_of_other_people_are_told_apart(
    tmp_path: Path, make_run_context: Callable[[Path], RunContext], made_up_audit: Callable[..., Path]
) -> None:
    reports = (made_up_audit("strict"), made_up_audit("balanced", photos_per_person=2, photos=30))
    report = run(AuditCurveConfig(reports=reports), make_run_context(tmp_path))
    assert not report.holds
    differences = [row["difference"] for row in report.tables["differences between the audits"]]
    assert differences == ["settings.photos", "settings.photos_per_person"]


def test_two_audits_of_one_level_are_refused(
    tmp_path: Path, make_run_context: Callable[[Path], RunContext], made_up_audit: Callable[..., Path]
) -> None:
    first = made_up_audit("strict")
    with pytest.raises(LevelCurveError, match="one audit for each level, got strict, strict"):
        run(AuditCurveConfig(reports=(first, first)), make_run_context(tmp_path))
