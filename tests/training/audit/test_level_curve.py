"""Audits of several levels make one curve, and runs that do not belong on it are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from training.audit.level_curve import ATTACKS, UTILITIES, LevelCurveError, curve_panels, curve_table, read_level
from training.runs.report import Report, write_report


def test_the_advantage_is_over_the_covered_face_and_its_interval_holds_both_errors(
    made_up_audit: Callable[..., Path],
) -> None:
    point = read_level(made_up_audit("balanced"))
    found = point.advantages["faceres (P3)"]
    assert found.value == pytest.approx(0.1)
    assert (found.lower, found.upper) == pytest.approx((0.1 - 0.02 * 2**0.5, 0.1 + 0.02 * 2**0.5))
    assert point.photos == found.count == 400
    assert point.utilities["landmark error over the autoencoder's"].value == pytest.approx(1.5)


def test_what_an_audit_did_not_measure_is_left_empty_and_not_drawn(made_up_audit: Callable[..., Path]) -> None:
    points = [read_level(made_up_audit("strict", 0.7)), read_level(made_up_audit("faithful"))]
    rows = curve_table(points)
    assert all(row["light error"] == "" and row["advantage, drawn back, faceres (A4)"] == "" for row in rows)
    panels = curve_panels(points)
    assert [panel.x_label for panel in panels] == [name for name in UTILITIES if name != "light error"]
    assert {curve.label for panel in panels for curve in panel.series} < set(ATTACKS)
    assert list(panels[0].series[0].names) == ["strict", "faithful"]


def test_a_report_older_than_a_setting_counts_as_its_default(made_up_audit: Callable[..., Path]) -> None:
    old, new = made_up_audit("strict"), made_up_audit("balanced", photos_per_person=1)
    assert read_level(old).settings == read_level(new).settings


def test_what_is_no_audit_of_a_level_is_refused(tmp_path: Path, made_up_audit: Callable[..., Path]) -> None:
    first, other = made_up_audit("strict"), made_up_audit("faithful")
    with pytest.raises(LevelCurveError, match="no finished audit"):
        read_level(tmp_path / "nowhere" / "report.json")
    (other.parent / "config.json").write_text(json.dumps({"job": "muon", "config": {}}))
    with pytest.raises(LevelCurveError, match="a run of muon"):
        read_level(other)
    write_report(Report(metrics={}), first.parent, title="audit")
    with pytest.raises(LevelCurveError, match="no readable table"):
        read_level(first)
