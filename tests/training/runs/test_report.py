"""Checks and rendered reports."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from training.runs.figures import Panel, Series, plot_panels, plot_series
from training.runs.report import (
    Check,
    Report,
    ReportError,
    read_report,
    render_comparison,
    render_markdown,
    write_report,
)


@pytest.mark.parametrize(
    ("relation", "measured", "holds"),
    [
        ("equal", 1.05, True), ("equal", 0.95, True), ("equal", 1.2, False), ("equal", math.nan, False),
        ("at_most", -50.0, True), ("at_most", 1.05, True), ("at_most", 1.2, False), ("at_most", math.nan, False),
        ("at_least", 50.0, True), ("at_least", 0.95, True), ("at_least", 0.8, False), ("at_least", math.nan, False),
    ],
)  # fmt: skip
def test_a_check_holds_on_the_right_side_of_its_prediction(relation: str, measured: float, holds: bool) -> None:
    assert Check("c", 1.0, measured, 0.1, relation).holds is holds  # type: ignore[arg-type]


def test_a_negative_tolerance_is_refused() -> None:
    with pytest.raises(ValueError, match=r"got -0\.1"):
        Check("c", 1.0, 1.0, -0.1)


def test_infinite_numbers_survive_the_file(tmp_path: Path) -> None:
    report = Report({"never": math.inf}, [Check("c", math.inf, math.inf)], tables={"t": [{"a": math.inf}]})
    write_report(report, tmp_path, title="t")
    _, found = read_report(tmp_path)
    assert found.metrics == {"never": math.inf}
    assert found.checks[0].holds


def test_a_directory_without_a_report_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match="no readable report"):
        read_report(tmp_path)


def test_a_failed_check_stands_out() -> None:
    text = render_markdown(Report({"m": 0.123456}, [Check("claim", 1.0, 2.0)]), title="T")
    assert "**A check failed.**" in text
    assert "| claim | 1 | 2 | 0 | **no** |" in text
    assert "0.1235" in text


def test_a_comparison_has_one_column_per_run() -> None:
    table = render_comparison([("a", Report({"x": 1.0})), ("b", Report({"x": 2.0, "y": 3.0}))])
    assert "| metric | a | b |" in table
    assert "| y | nan | 3 |" in table


def test_a_figure_is_reproducible_and_lies_beside_its_numbers(tmp_path: Path) -> None:
    series = [Series("measured", [1, 10], [2, 3]), Series("predicted", [1, 10], [2, 4], "dashed")]
    draw = {"x_label": "n", "y_label": "error", "caption": "c", "log_x": True}
    figure = plot_series(tmp_path / "a", "f", series, **draw)
    plot_series(tmp_path / "b", "f", series, **draw)
    assert (tmp_path / "a" / figure.path).read_bytes() == (tmp_path / "b" / figure.path).read_bytes()
    assert (tmp_path / "a/figures/f.csv").read_text().splitlines()[1] == "measured,1,2"


def test_panels_hold_points_with_names_and_intervals_and_their_numbers_say_which_panel(tmp_path: Path) -> None:
    named = Series("a", [1.0], [2.0], "joined", ["first"], [(0.5, 1.5)], [(1.0, 3.0)])
    panels = [Panel([named], "x", "y"), Panel([Series("b", [1], [4])], "z", "y")]
    figure = plot_panels(tmp_path, "f", panels, caption="c")
    assert "first" in (tmp_path / figure.path).read_text()
    assert (tmp_path / "figures/f.csv").read_text().splitlines() == [
        "panel,label,x,y,name,x_lower,x_upper,y_lower,y_upper",
        "x,a,1.0,2.0,first,0.5,1.5,1.0,3.0",
        "z,b,1,4,,,,,",
    ]


def test_a_figure_without_panels_and_points_without_their_intervals_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="0 panels"):
        plot_panels(tmp_path, "f", [], caption="c")
    with pytest.raises(ValueError, match="2 points and 1 y_intervals"):
        Series("a", [1, 2], [3, 4], y_intervals=[(0, 1)])
