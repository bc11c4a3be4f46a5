"""``doppel-train``: list, show, run, resume and report jobs; look after artifacts.

Results go to stdout, logs to stderr. Exit codes: 0 everything holds, 1 a check or a gate failed, 2 usage or
configuration, 3 a stored artifact is corrupt, 130 interrupted (the run can be resumed).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from training.jobs.catalog import CatalogError, load_job, read_cards
from training.runs.config import ConfigError, config_hash, resolve_config

if TYPE_CHECKING:
    from training.runs.execution import Outcome, Place
    from training.runs.job import Job

app = typer.Typer(
    name="doppel-train",
    help="Offline jobs: training, calibration and the methods behind them.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    add_completion=False,
)
artifacts = typer.Typer(help="Look after the artifact store.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(artifacts, name="artifacts")

EXIT_FAILED, EXIT_USAGE, EXIT_CORRUPT, EXIT_INTERRUPTED = 1, 2, 3, 130

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Runs = Annotated[Path, typer.Option(envvar="DOPPEL_RUNS", help="Folder of run directories.")]
Artifacts = Annotated[Path, typer.Option("--artifacts", envvar="DOPPEL_ARTIFACTS", help="Artifact store.")]
Device = Annotated[str, typer.Option(help="Torch device, for example cpu or cuda:0; auto takes CUDA if any.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Torch threads; default: torch decides.")]


@app.command("list")
def list_jobs(
    family: Annotated[str | None, typer.Option(help="Only jobs of this family.")] = None, as_json: AsJson = False
) -> None:
    """Print what exists, one line each."""
    cards, problems = read_cards()
    chosen = [card for card in cards if family is None or card.family == family]
    if as_json:
        typer.echo(json.dumps([{"name": c.name, "family": c.family, "summary": c.summary} for c in chosen], indent=2))
    else:
        for card in chosen:
            typer.echo(f"{card.name:34} {card.family:18} {card.summary}")
    for problem in problems:
        _log(f"warning: {problem}")
    if family is not None and not chosen:
        known = ", ".join(sorted({card.family for card in cards}))
        _fail(f"no job has family {family!r}; known: {known}", EXIT_USAGE)


@app.command()
def show(job: str, as_json: AsJson = False) -> None:
    """Print source, method page, presets and the configuration with its defaults."""
    with _exit_codes():
        found = load_job(job)
        source = found.source
        record: dict[str, Any] = {
            "name": found.name,
            "family": found.family,
            "summary": found.summary,
            "source": None if source is None else f"{source.title} ({source.year}), {source.url}",
            "page": found.page,
            "presets": {name: dict(values) for name, values in found.presets.items()},
            "config": found.config.model_json_schema()["properties"],
        }
        if as_json:
            typer.echo(json.dumps(record, indent=2))
            return
        for key in ("name", "family", "summary", "source", "page"):
            typer.echo(f"{key:8} {record[key] or '-'}")
        for name, values in found.presets.items():
            typer.echo(f"preset   {name}: {json.dumps(dict(values)) if values else 'the defaults'}")
        for name, field in found.config.model_fields.items():
            default = "(required)" if field.is_required() else repr(field.get_default(call_default_factory=True))
            typer.echo(f"config   {name} = {default}  {field.description or ''}".rstrip())


@app.command()
def run(
    job: str,
    preset: Annotated[str | None, typer.Option(help="Named overrides, for example smoke or full.")] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file of overrides.")] = None,
    assignments: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="One override.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the resolved configuration and stop.")] = False,
    device: Device = "cpu",
    threads: Threads = None,
    runs: Runs = Path("runs"),
    store: Artifacts = Path("artifacts"),
    as_json: AsJson = False,
) -> None:
    """Run a job; precedence: defaults < preset < file < --set."""
    with _exit_codes():
        found = load_job(job)
        overrides = found.preset(preset) if preset else {}
        settings = resolve_config(found.config, preset=overrides, file=config, assignments=assignments or ())
        if dry_run:
            typer.echo(
                json.dumps(
                    {"job": job, "hash": config_hash(settings), "config": settings.model_dump(mode="json")}, indent=2
                )
            )
            return
        from training.runs.execution import execute

        place = _prepare(found, runs, store, device, threads)
        _finish(execute(found, settings, place), as_json)


@app.command()
def resume(
    directory: Annotated[Path, typer.Argument(metavar="RUN", help="An interrupted run, *.partial.")],
    device: Device = "cpu",
    threads: Threads = None,
    store: Artifacts = Path("artifacts"),
    as_json: AsJson = False,
) -> None:
    """Continue an interrupted run from its checkpoint."""
    with _exit_codes():
        from training.runs.execution import read_run_config
        from training.runs.execution import resume as resume_run

        found = load_job(read_run_config(directory)[0])
        place = _prepare(found, directory.parent.parent, store, device, threads)
        _finish(resume_run(found, directory, place), as_json)


@app.command()
def report(directories: Annotated[list[Path], typer.Argument(metavar="RUN...")], as_json: AsJson = False) -> None:
    """Print one report, or the metrics of several runs side by side."""
    with _exit_codes():
        from training.runs.report import ReportError, read_report, render_comparison, render_markdown

        try:
            found = [(directory, *read_report(directory)) for directory in directories]
        except ReportError as error:
            raise ConfigError(str(error)) from error
        if as_json:
            records = [json.loads((directory / "report.json").read_text(encoding="utf-8")) for directory in directories]
            typer.echo(json.dumps(records, indent=2))
        elif len(found) == 1:
            typer.echo(render_markdown(found[0][2], title=found[0][1]))
        else:
            typer.echo(render_comparison([(f"{d.parent.name}/{d.name}", record) for d, _, record in found]))
        if not all(record.holds for _, _, record in found):
            raise typer.Exit(EXIT_FAILED)


@app.command("methods-table")
def methods_table(
    runs: Annotated[list[Path], typer.Argument(metavar="RUNS...", help="Folders of run directories.")],
    output: Annotated[Path | None, typer.Option(help="Write here, for example docs/methods/README.md.")] = None,
) -> None:
    """Print (or write) the table of all methods from their newest complete full runs."""
    with _exit_codes():
        from training.runs.methods_table import render_methods
        from training.runs.report import ReportError

        if absent := [folder for folder in runs if not folder.is_dir()]:
            raise ConfigError(f"no such folder of runs: {absent[0]}")
        cards, problems = read_cards()
        if problems:
            raise ConfigError("; ".join(problems))
        try:
            methods = [load_job(card.name) for card in cards if card.family != "product"]
            products = [card.name for card in cards if card.family == "product"]
            text = render_methods(methods, runs, products=products)
        except ReportError as error:
            raise ConfigError(str(error)) from error
        if output is None:
            typer.echo(text, nl=False)
        else:
            output.write_text(text, encoding="utf-8")
            typer.echo(str(output))


@artifacts.command("list")
def list_artifacts(store: Artifacts = Path("artifacts"), as_json: AsJson = False) -> None:
    """Print every version of every artifact; the promoted one is marked."""
    from models.registry.store import ArtifactStore

    with _exit_codes():
        opened = ArtifactStore(store)
        rows = [
            {"name": name, "version": version, "promoted": version == opened.promoted(name)}
            for name in opened.names()
            for version in opened.versions(name)
        ]
        if as_json:
            typer.echo(json.dumps(rows, indent=2))
            return
        for row in rows:
            typer.echo(f"{row['name']}@{row['version']}{'  promoted' if row['promoted'] else ''}")


@artifacts.command("verify")
def verify_artifacts(store: Artifacts = Path("artifacts")) -> None:
    """Hash every file of every artifact again."""
    from models.registry.store import ArtifactCorruptError, ArtifactStore

    opened = ArtifactStore(store)
    corrupt = 0
    with _exit_codes():
        for name in opened.names():
            for version in opened.versions(name):
                try:
                    opened.resolve(name, version)
                    typer.echo(f"ok       {name}@{version}")
                except ArtifactCorruptError as error:
                    corrupt += 1
                    typer.echo(f"corrupt  {name}@{version}: {error}")
            opened.promoted(name)
    if corrupt:
        _fail(f"{corrupt} corrupt", EXIT_CORRUPT)


@artifacts.command("cards")
def write_cards(
    store: Artifacts = Path("artifacts"),
    output: Annotated[Path, typer.Option("--output", help="Folder to write.")] = Path("docs/models"),
) -> None:
    """Write the model cards of the promoted artifacts."""
    from models.registry.store import ArtifactStore
    from training.runs.model_cards import write_model_cards

    with _exit_codes():
        for path in write_model_cards(ArtifactStore(store), output):
            typer.echo(str(path))


@artifacts.command("prune")
def prune_artifacts(
    store: Artifacts = Path("artifacts"),
    delete: Annotated[bool, typer.Option("--delete", help="Delete them; otherwise only print.")] = False,
) -> None:
    """Print (or delete) superseded versions: neither promoted nor an ancestor of something promoted."""
    from models.registry.store import ArtifactStore
    from training.runs.pruning import remove_version, superseded_versions

    with _exit_codes():
        opened = ArtifactStore(store)
        for name, version in superseded_versions(opened):
            if delete:
                remove_version(opened, name, version)
            typer.echo(f"{'deleted' if delete else 'superseded'}  {name}@{version}")


@app.command()
def promote(
    reference: Annotated[str, typer.Argument(metavar="NAME@VERSION")], store: Artifacts = Path("artifacts")
) -> None:
    """Move the alias the service follows, if the artifact's gates hold."""
    from models.registry.promotion import PromotionRefusedError
    from models.registry.promotion import promote as promote_version
    from models.registry.store import ArtifactStore

    name, at, version = reference.partition("@")
    if not at or not version:
        _fail(f"expected NAME@VERSION, got {reference!r}", EXIT_USAGE)
    with _exit_codes():
        try:
            promote_version(ArtifactStore(store), name, version)
        except PromotionRefusedError as error:
            _fail(str(error), EXIT_FAILED)
        typer.echo(f"promoted {name}@{version}")


def _prepare(job: Job[Any], runs: Path, store: Path, device: str, threads: int | None) -> Place:
    # Before torch is imported: the process may be replaced.
    if job.wants_large_malloc_thresholds:
        from training.runs.malloc import with_large_malloc_thresholds

        with_large_malloc_thresholds()
    import torch

    from models.runtime import RuntimeUnavailableError, choose_device
    from training.runs.execution import Place

    if threads is not None:
        torch.set_num_threads(threads)
    try:
        place = choose_device(device) if device in ("auto", "cpu", "cuda") else torch.device(device)  # type: ignore[arg-type]
    except RuntimeUnavailableError as error:
        raise ConfigError(str(error)) from error
    except RuntimeError as error:
        raise ConfigError(f"device {device!r} is not known to torch: {error}") from error
    device = str(place)
    return Place(runs=runs, artifacts=store, device=device, echo=_log)


def _finish(outcome: Outcome, as_json: bool) -> None:
    if as_json:
        record = json.loads((outcome.directory / "report.json").read_text(encoding="utf-8"))
        typer.echo(json.dumps({"directory": str(outcome.directory), **record}, indent=2))
    else:
        typer.echo(str(outcome.directory))
        for check in outcome.report.checks:
            typer.echo(
                f"{'ok  ' if check.holds else 'FAIL'}  {check.claim}: predicted {check.predicted:.6g}, "
                f"measured {check.measured:.6g} (tolerance {check.tolerance:.3g}, {check.relation})"
            )
        for reference in outcome.report.artifacts:
            typer.echo(f"published {reference}")
    if not outcome.report.holds:
        raise typer.Exit(EXIT_FAILED)


@contextmanager
def _exit_codes() -> Iterator[None]:
    """Map the domain's exceptions to exit codes, in one place."""
    from models.registry.manifest import ArtifactError
    from models.registry.store import ArtifactCorruptError
    from training.runs.stopping import RunInterruptedError

    try:
        yield
    except (ConfigError, CatalogError) as error:
        _fail(str(error), EXIT_USAGE)
    except RunInterruptedError as error:
        _fail(f"interrupted: {error}", EXIT_INTERRUPTED)
    except KeyboardInterrupt:
        _fail("interrupted before a checkpoint was due", EXIT_INTERRUPTED)
    except ArtifactCorruptError as error:
        _fail(str(error), EXIT_CORRUPT)
    except ArtifactError as error:
        _fail(str(error), EXIT_USAGE)


def _fail(message: str, code: int) -> None:
    _log(f"error: {message}")
    raise typer.Exit(code)


def _log(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
