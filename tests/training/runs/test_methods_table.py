"""The table of all methods."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import training.cli
from training.jobs.catalog import Card
from training.runs.execution import Place, execute
from training.runs.job import Job
from training.runs.methods_table import newest_full_run, render_methods
from training.runs.report import Check, Report, ReportError


def rows(text: str, method: str) -> list[list[str]]:
    """Cells of every table row that starts with the method."""
    lines = [line for line in text.splitlines() if line.startswith(f"| [{method}]")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


@pytest.fixture
def method(toy_job: Job[Any]) -> Job[Any]:
    checks = [Check("loss at the end", 0.5, 0.25, 0.0, "at_most"), Check("distance |x - y|", 1.0, 3.0, 0.5)]
    return replace(toy_job, family="first_order", run=lambda config, context: Report({}, checks))


def test_a_method_has_its_summary_its_counts_and_one_row_per_check(
    method: Job[Any], toy_config: Callable[..., Any], place: Place
) -> None:
    execute(method, toy_config(), place)
    overview, first, second = rows(render_methods([method], [place.runs]), "toy")
    assert overview[:4] == ["[toy](toy.md)", "first_order", "a line fitted in a few steps", "1 of 2"]
    assert first[1:] == ["loss at the end", "<= 0.5", "0.25", "0", "yes"]
    assert second[1:] == [r"distance \|x - y\|", "1", "3", "0.5", "**no**"]


def test_the_seconds_are_those_of_the_run(method: Job[Any], toy_config: Callable[..., Any], place: Place) -> None:
    directory = execute(method, toy_config(), place).directory
    record = json.loads((directory / "environment.json").read_text())
    (directory / "environment.json").write_text(json.dumps({**record, "wall_seconds": 12.3, "processor_seconds": 7.6}))
    text = render_methods([method], [place.runs])
    assert rows(text, "toy")[0][4:] == ["12", "8"]
    assert f"Measured on {record['processor']}" in text


def test_a_run_without_recorded_seconds_still_counts(
    method: Job[Any], toy_config: Callable[..., Any], place: Place
) -> None:
    (execute(method, toy_config(), place).directory / "environment.json").unlink()
    assert rows(render_methods([method], [place.runs]), "toy")[0][4:] == ["not recorded", "not recorded"]


def test_other_presets_partial_runs_and_absent_runs_do_not_count(
    method: Job[Any], toy_config: Callable[..., Any], place: Place
) -> None:
    execute(method, toy_config(steps=3), place)
    directory = execute(method, toy_config(), place).directory
    directory.rename(directory.with_name(directory.name + ".partial"))
    assert newest_full_run(method, [place.runs, place.runs / "absent"]) is None
    assert rows(render_methods([method], [place.runs]), "toy")[0][3] == "not run"


def test_the_newest_of_all_folders_is_taken(method: Job[Any], toy_config: Callable[..., Any], place: Place) -> None:
    old = execute(method, toy_config(), place).directory
    elsewhere = place.runs.parent / "elsewhere" / "toy"
    changed = replace(method, run=lambda config, context: Report({"fresh": 1.0}))
    new = execute(changed, toy_config(), place).directory
    shutil.move(new, elsewhere / f"99991231T235959Z-{old.name.partition('-')[2]}")
    found = newest_full_run(method, [place.runs.parent / "elsewhere", place.runs])
    assert found is not None
    assert found.report.metrics == {"fresh": 1.0}


def test_a_full_run_with_a_broken_report_is_an_error(
    method: Job[Any], toy_config: Callable[..., Any], place: Place
) -> None:
    (execute(method, toy_config(), place).directory / "report.json").write_text("{")
    with pytest.raises(ReportError, match="no readable report"):
        render_methods([method], [place.runs])


def test_the_page_depends_on_the_runs_alone_and_leaves_product_jobs_out(
    method: Job[Any], toy_job: Job[Any], toy_config: Callable[..., Any], place: Place
) -> None:
    execute(method, toy_config(), place)
    assert render_methods([method], [place.runs]) == render_methods([method, toy_job], [place.runs])


def use(method: str, job: str, without: float, with_: float) -> dict[str, Any]:
    return {"method": method, "job": job, "measure": "error, px", "without": without, "with": with_, "n": 40}


def reporting(job: Job[Any], *uses: dict[str, Any], claims: Sequence[Check] = ()) -> Job[Any]:
    return replace(job, run=lambda config, context: Report({}, claims, tables={"in the service": uses}))


def service_section(text: str) -> list[str]:
    return [line for line in text.partition("## In the service")[2].splitlines() if line.startswith("|")][2:]


def test_what_methods_do_for_the_service_is_sorted_by_method_then_as_given(
    method: Job[Any], toy_job: Job[Any], toy_config: Callable[..., Any], place: Place
) -> None:
    later = replace(method, name="second-toy")
    shop = replace(toy_job, name="shop")
    uses = use("second_toy", "sorts", 2.0, 1.5), use("toy", "paints", 1.0, 3.0), use("pageless", "waits", 0.0, 0.5)
    execute(reporting(shop, *uses), toy_config(steps=3), place)
    checked = reporting(method, use("toy", "draws", 0.12345, 0.1), claims=[Check("loss", 1.0, 0.5, 0.0, "at_most")])
    execute(checked, toy_config(), place)
    text = render_methods([method, later], [place.runs], products=["shop", "never-run"])
    assert service_section(text) == [
        "| [toy](toy.md) | draws | error, px | 0.1235 | 0.1 | 40 |",
        "| [toy](toy.md) | paints | error, px | 1 | 3 | 40 |",
        "| [second-toy](second_toy.md) | sorts | error, px | 2 | 1.5 | 40 |",
        "| pageless | waits | error, px | 0 | 0.5 | 40 |",
    ]
    assert text.index("## Checks") < text.index("## In the service")
    assert text == render_methods([method, later], [place.runs], products=["shop", "never-run"])


def test_the_newest_run_of_any_configuration_speaks_for_the_service(
    method: Job[Any], toy_config: Callable[..., Any], place: Place
) -> None:
    old = execute(reporting(method, use("toy", "old", 1.0, 2.0)), toy_config(), place).directory
    old.rename(old.with_name("20000101T000000Z-" + old.name.partition("-")[2]))
    execute(reporting(method, use("toy", "new", 1.0, 2.0)), toy_config(steps=3), place)
    partial = execute(reporting(method, use("toy", "partial", 1.0, 2.0)), toy_config(steps=4), place).directory
    partial.rename(partial.with_name("9" + partial.name + ".partial"))
    (line,) = service_section(render_methods([method], [place.runs]))
    assert "| new |" in line


def test_a_page_without_uses_has_no_such_section(
    method: Job[Any], toy_config: Callable[..., Any], place: Place
) -> None:
    execute(method, toy_config(), place)
    assert "In the service" not in render_methods([method], [place.runs], products=["shop"])


@pytest.mark.parametrize("spoiled", [{"without": "much"}, {"n": None}])
def test_a_use_without_its_numbers_is_an_error(
    method: Job[Any], toy_config: Callable[..., Any], place: Place, spoiled: dict[str, Any]
) -> None:
    execute(reporting(method, use("toy", "draws", 1.0, 2.0) | spoiled), toy_config(), place)
    with pytest.raises(ReportError, match="is not usable"):
        render_methods([method], [place.runs])


@pytest.fixture
def call(method: Job[Any], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    cards = [Card("toy", "first_order", method.summary, "m"), Card("shop", "product", "not a method", "n")]
    monkeypatch.setattr(training.cli, "read_cards", lambda: (cards, []))
    monkeypatch.setattr(training.cli, "load_job", {"toy": method}.__getitem__)
    return lambda *arguments: CliRunner().invoke(training.cli.app, [str(argument) for argument in arguments])


def test_the_command_prints_what_it_would_write(call: Callable[..., Result], tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    printed = call("methods-table", tmp_path / "runs")
    assert printed.exit_code == 0
    assert rows(printed.stdout, "toy")[0][3] == "not run"
    page = tmp_path / "README.md"
    assert call("methods-table", tmp_path / "runs", "--output", page).stdout == f"{page}\n"
    assert page.read_text() == printed.stdout


def test_a_missing_folder_of_runs_is_a_usage_error(call: Callable[..., Result], tmp_path: Path) -> None:
    result = call("methods-table", tmp_path / "nowhere")
    assert result.exit_code == 2
    assert "nowhere" in result.stderr
