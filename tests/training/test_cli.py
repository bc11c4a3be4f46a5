"""The command line: outputs, precedence, exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner, Result

import training.cli
from models.registry.store import ArtifactStore
from training.jobs.catalog import CatalogError, load_job, read_cards
from training.runs.job import Job


@pytest.fixture
def call(tmp_path: Path, toy_job: Job[Any], monkeypatch: pytest.MonkeyPatch) -> Any:
    def load(name: str) -> Job[Any]:
        if name != "toy":
            raise CatalogError(f"no job is called {name!r}")
        return toy_job

    monkeypatch.setattr(training.cli, "load_job", load)
    monkeypatch.setenv("DOPPEL_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("DOPPEL_ARTIFACTS", str(tmp_path / "artifacts"))
    return lambda *arguments: CliRunner().invoke(training.cli.app, [str(argument) for argument in arguments])


def partial_of(tmp_path: Path) -> Path:
    (found,) = (tmp_path / "runs" / "toy").glob("*.partial")
    return found


def test_run_prints_the_directory_and_the_checks_and_ends_with_0(call: Any) -> None:
    result: Result = call("run", "toy", "--preset", "smoke")
    assert result.exit_code == 0
    directory, check = result.stdout.splitlines()
    assert (Path(directory) / "report.md").is_file()
    assert check.startswith("ok    toy claim")


def test_the_device_auto_is_the_one_that_is_there(call: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    prepare = training.cli._prepare

    def record(*arguments: Any) -> Any:
        place = prepare(*arguments)
        seen.append(place.device)
        return place

    monkeypatch.setattr(training.cli, "_prepare", record)
    assert call("run", "toy", "--preset", "smoke", "--device", "auto").exit_code == 0
    assert seen == ["cpu"]


def test_a_failed_check_ends_with_1(call: Any) -> None:
    result = call("run", "toy", "--set", "steps=1", "--set", "tolerance=0")
    assert result.exit_code == 1
    assert "FAIL" in result.stdout
    directory = result.stdout.splitlines()[0]
    assert call("report", directory).exit_code == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "nope"), "no job is called 'nope'"),
        (("run", "toy", "--preset", "huge"), "no preset 'huge'; it has full, smoke"),
        (("run", "toy", "--set", "step=1"), "step: Extra inputs"),
        (("run", "toy", "--set", "steps=0"), "got 0"),
        (("run", "toy", "--device", "abacus"), "'abacus'"),
        pytest.param(
            ("run", "toy", "--device", "cuda"),
            "no CUDA device",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device"),
        ),
        (("run", "toy", "--config", "/no/such.toml"), "/no/such.toml"),
        (("run",), "Missing argument"),
        (("resume", "/no/such"), "not a run directory"),
        (("report", "/no/such"), "no readable report"),
        (("promote", "toy"), "NAME@VERSION"),
        (("promote", "toy@0123456789abcdef"), "toy@0123456789abcdef"),
        (("list", "--family", "nope"), "no job has family 'nope'"),
    ],
)
def test_usage_and_configuration_errors_end_with_2(call: Any, arguments: tuple[str, ...], message: str) -> None:
    result = call(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stdout == ""


def test_an_interrupted_run_ends_with_130_and_resumes_to_0(call: Any, tmp_path: Path) -> None:
    result = call("run", "toy", "--set", "stop_at=3")
    assert result.exit_code == 130
    assert f"doppel-train resume {partial_of(tmp_path)}" in result.stderr
    resumed = call("resume", partial_of(tmp_path), "--json")
    assert resumed.exit_code == 0
    assert json.loads(resumed.stdout)["metrics"]["steps"] == 12


def test_dry_run_prints_the_resolved_configuration_and_runs_nothing(call: Any, tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text("steps = 5\nseed = 7\n")
    result = call("run", "toy", "--preset", "smoke", "--config", file, "--set", "seed=8", "--dry-run")
    assert json.loads(result.stdout)["config"] | {"steps": 5, "seed": 8} == json.loads(result.stdout)["config"]
    assert not (tmp_path / "runs").exists()


def test_list_reads_every_card_without_importing_the_jobs(call: Any) -> None:
    records = json.loads(call("list", "--family", "first_order", "--json").stdout)
    assert {"muon", "large-step-logistic", "exponentiated-gradient"} <= {record["name"] for record in records}
    cards, problems = read_cards(("training.jobs.no_such_job", "training.jobs.muon", "training.jobs.catalog"))
    assert [card.name for card in cards] == ["muon"]
    assert len(problems) == 2


def test_a_listed_module_that_is_missing_or_no_job_is_an_error() -> None:
    with pytest.raises(CatalogError, match="listed but missing"):
        load_job("no-such-job", ("training.jobs.no_such_job",))
    with pytest.raises(CatalogError, match="must end with JOB"):
        load_job("catalog", ("training.jobs.catalog",))


def test_show_prints_source_presets_and_defaults(call: Any) -> None:
    text = call("show", "toy").stdout
    assert "A toy (2024)" in text
    assert 'smoke: {"steps": 3}' in text
    assert "config   steps = 12" in text
    assert json.loads(call("show", "toy", "--json").stdout)["config"]["steps"]["default"] == 12


def test_report_compares_runs(call: Any) -> None:
    directories = [call("run", "toy", "--set", f"steps={n}").stdout.splitlines()[0] for n in (1, 2)]
    result = call("report", *directories)
    assert result.exit_code == 0
    assert "| steps | 1 | 2 |" in result.stdout


def test_artifacts_are_listed_verified_promoted_and_pruned(call: Any, tmp_path: Path) -> None:
    references = [
        json.loads(call("run", "toy", "--set", f"seed={seed}", "--set", "publish=true", "--json").stdout)["artifacts"][
            0
        ]
        for seed in (1, 2)
    ]
    assert call("artifacts", "prune").stdout == ""  # nothing is promoted: nothing is superseded
    assert call("promote", references[1]).exit_code == 0
    assert f"{references[1]}  promoted" in call("artifacts", "list").stdout
    assert call("artifacts", "prune").stdout == f"superseded  {references[0]}\n"
    assert call("artifacts", "verify").stdout.count("ok ") == 2
    assert call("artifacts", "prune", "--delete").exit_code == 0
    assert ArtifactStore(tmp_path / "artifacts").versions("toy") == [references[1].partition("@")[2]]


def test_a_corrupt_artifact_ends_with_3(call: Any, tmp_path: Path) -> None:
    call("run", "toy", "--set", "publish=true")
    (content,) = (tmp_path / "artifacts").glob("toy/*/w.bin")
    content.chmod(0o644)
    content.write_bytes(b"abd")
    verified = call("artifacts", "verify")
    assert verified.exit_code == 3
    assert "corrupt  toy@" in verified.stdout
    assert call("promote", f"toy@{content.parent.name}").exit_code == 3


def test_a_promoted_version_and_its_ancestors_are_never_superseded(call: Any, tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "artifacts")
    parent = store.publish("parent", "weights", {"a": b"1"})
    newer = store.publish("parent", "weights", {"a": b"2"})
    child = store.publish("child", "weights", {"a": b"3"}, parents={"parent": parent.version})
    store.set_promoted("parent", newer.version)
    store.set_promoted("child", child.version)
    assert call("artifacts", "prune").stdout == ""
