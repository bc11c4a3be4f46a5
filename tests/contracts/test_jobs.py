"""What every job must do."""

from __future__ import annotations

import ast
import re
import time
from pathlib import Path
from typing import Any

import pytest

from training.jobs.catalog import JOBS, load_job, read_cards
from training.runs.config import JobConfig, config_hash, resolve_config
from training.runs.execution import Place, execute
from training.runs.job import Job

REPOSITORY = Path(__file__).resolve().parents[2]
SMOKE_SECONDS = 30.0  # processor seconds: fifteen seconds on two cores

every_job = pytest.mark.parametrize("module", JOBS, ids=[module.rpartition(".")[2] for module in JOBS])


def load(module: str) -> Job[Any]:
    return load_job(module.rpartition(".")[2].replace("_", "-"))


def defines_job(path: Path) -> bool:
    return any(
        isinstance(target, ast.Name) and target.id == "JOB"
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.Assign | ast.AnnAssign)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
    )


def bibliography_titles() -> set[str]:
    text = (REPOSITORY / "docs" / "references.bib").read_text(encoding="utf-8")
    return {plain(title) for title in re.findall(r"^\s*title\s*=\s*\{(.+)\},?\s*$", text, re.MULTILINE)}


def plain(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", " ", title.replace("{", "").replace("}", "").lower()).strip()


def test_every_module_with_a_job_is_listed_once_in_order() -> None:
    found = {f"training.jobs.{p.stem}" for p in (REPOSITORY / "training" / "jobs").glob("*.py") if defines_job(p)}
    assert set(JOBS) == found
    assert list(JOBS) == sorted(set(JOBS))


def test_every_listed_job_has_a_card() -> None:
    cards, problems = read_cards()
    assert problems == []
    assert len({card.name for card in cards}) == len(JOBS)


@every_job
def test_the_job_is_what_its_card_says(module: str) -> None:
    job, (card,) = load(module), read_cards((module,))[0]
    assert (job.name, job.family, job.summary) == (card.name, card.family, card.summary)
    assert module == f"training.jobs.{job.stem}"
    assert 10 <= len(job.summary) <= 100
    assert not job.summary.endswith(".")


@every_job
def test_the_configuration_is_frozen_strict_and_hashable_in_every_preset(module: str) -> None:
    job = load(module)
    assert issubclass(job.config, JobConfig)
    assert job.config.model_config["frozen"] is True
    assert job.config.model_config["extra"] == "forbid"
    assert "smoke" in job.presets or job.family == "product", (
        "only a job that needs private data may lack a smoke preset"
    )
    complete = not any(field.is_required() for field in job.config.model_fields.values())
    for name in {*job.presets, *(["full"] if complete else [])}:
        assert config_hash(resolve_config(job.config, preset=job.preset(name)))


@every_job
def test_the_source_is_in_the_bibliography(module: str) -> None:
    source = load(module).source
    if source is not None:
        assert plain(source.title) in bibliography_titles()
        assert source.url.startswith(("https://", "arXiv:"))


@every_job
def test_a_method_has_a_home_a_test_and_a_page(module: str) -> None:
    job = load(module)
    if job.family == "product":
        pytest.skip("a product job trains or calibrates an artifact; its method lives with the artifact's package")
    homes = [
        path
        for package in ("training", "models")
        for path in [*(REPOSITORY / package).rglob(f"{job.stem}.py"), *(REPOSITORY / package).rglob(f"{job.stem}/")]
        if "jobs" not in path.parts
    ]
    tests = [path for path in (REPOSITORY / "tests").rglob(f"test_{job.stem}*.py") if "jobs" not in path.parts]
    assert homes, f"no module training/**/{job.stem}.py"
    assert tests, f"no test tests/**/test_{job.stem}.py"
    assert job.source is not None
    assert job.page is not None
    page = (REPOSITORY / job.page).read_text(encoding="utf-8")
    assert page.startswith("# ")
    assert f"doppel-train run {job.name}" in page
    assert job.source.url in page


@pytest.mark.slow
@every_job
def test_the_smoke_run_holds_its_checks_in_time(module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = load(module)
    if "smoke" not in job.presets:
        pytest.skip(f"{job.name} has no smoke preset: it runs on data that the repository does not hold")
    missing = [need for need in job.needs if not (REPOSITORY / need).exists()]
    if missing:
        pytest.skip(f"{job.name} needs {', '.join(missing)}")
    # A job that names its needs finds them; any other must run, and write, anywhere.
    monkeypatch.chdir(REPOSITORY if job.needs else tmp_path)
    config = resolve_config(job.config, preset=job.preset("smoke"))
    begin = time.process_time()
    report = execute(job, config, Place(runs=tmp_path / "runs", artifacts=tmp_path / "artifacts")).report
    assert time.process_time() - begin <= SMOKE_SECONDS
    assert report.checks, "a job without checks claims nothing"
    assert [check.claim for check in report.checks if not check.holds] == []
