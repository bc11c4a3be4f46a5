"""The command line: outcomes per file, resumption, exit codes, machine-readable output."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from typer.testing import CliRunner

import service.wiring
from models.pictures import PictureError, decode_picture
from service.cli import app


@pytest.fixture
def doppel(monkeypatch, tmp_path, fake_anonymizer, new_engine):
    """Run a command with fakes behind it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DOPPEL_DATA_DIR", str(tmp_path / "corpus"))
    monkeypatch.setenv("DOPPEL_ARTIFACTS", str(tmp_path / "artifacts"))
    opened = []

    def corpus(settings, *, writable):
        while opened:
            opened.pop().close()
        opened.append(new_engine(settings, fake_anonymizer).corpus)
        return opened[0]

    monkeypatch.setattr(service.wiring, "build_anonymizer", lambda settings: fake_anonymizer)
    monkeypatch.setattr(service.wiring, "build_corpus", corpus)
    monkeypatch.setattr(service.wiring, "required_artifacts", lambda: ("face-generator",))

    def run(*arguments, exit_code=0):
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        assert result.exit_code == exit_code, (result.output, result.exception)
        return result

    yield run
    while opened:
        opened.pop().close()


@pytest.fixture
def photos(tmp_path, pictures):
    folder = tmp_path / "photos"
    (folder / "deep").mkdir(parents=True)
    (folder / "face.png").write_bytes(pictures.draw(pictures.red))
    (folder / "lake.jpg").write_bytes(pictures.draw(pictures.gray, media="jpeg"))
    (folder / "deep" / "withheld.png").write_bytes(pictures.draw(pictures.blue))
    (folder / "raises.webp").write_bytes(pictures.draw(pictures.green, media="webp"))
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff not a picture")
    (folder / "notes.txt").write_text("not a picture either")
    return folder


def lines(result):
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_a_folder_is_anonymized_file_by_file(doppel, photos, tmp_path):
    report = tmp_path / "report.json"
    found = {line["source"]: line for line in lines(doppel("anonymize", photos, "out", "--json", "--report", report))}
    statuses = {name: (line["status"], line["reason"]) for name, line in found.items()}
    assert statuses == {
        "face.png": ("anonymized", None),
        "lake.jpg": ("no_face", None),
        "deep/withheld.png": ("withheld", "leftover_face"),
        "raises.webp": ("withheld", "internal_error"),
        "broken.jpg": ("withheld", "undecodable"),
    }
    written = sorted(path.name for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert written == ["face.png", "lake.jpg", "manifest.jsonl"]
    assert decode_picture((tmp_path / "out" / "face.png").read_bytes()).shape == (32, 48, 3)
    assert (tmp_path / "out" / "lake.jpg").read_bytes()[:2] == b"\xff\xd8"
    summary = json.loads(report.read_text())
    assert summary["counts"] == {"anonymized": 1, "no_face": 1, "withheld": 3}
    assert len(summary["pictures"]) == 5


def test_a_second_run_does_only_what_is_missing_or_changed(doppel, photos, tmp_path, fake_anonymizer, pictures):
    doppel("anonymize", photos, "out")
    first = sum(fake_anonymizer.batches)
    doppel("anonymize", photos, "out")
    assert sum(fake_anonymizer.batches) == first
    (tmp_path / "out" / "face.png").unlink()
    (photos / "broken.jpg").write_bytes(pictures.draw(pictures.gray, media="jpeg"))
    with (tmp_path / "out" / "manifest.jsonl").open("a") as stream:
        stream.write('{"source": "torn')
    result = doppel("anonymize", photos, "out", "--json")
    assert sum(fake_anonymizer.batches) == first + 2
    assert {line["source"]: line["status"] for line in lines(result)}["broken.jpg"] == "no_face"
    assert (tmp_path / "out" / "face.png").is_file()


def test_several_workers_do_every_file_once(doppel, photos, tmp_path, pictures, fake_anonymizer):
    for number in range(8):
        (photos / f"n{number}.png").write_bytes(pictures.draw(size=(20 + number, 20)))
    result = doppel("anonymize", photos, "out", "--workers", 3, "--json")
    names = [line["source"] for line in lines(result)]
    assert len(names) == len(set(names)) == 13
    assert len((tmp_path / "out" / "manifest.jsonl").read_text().splitlines()) == 13


def test_one_file_goes_to_one_file(doppel, photos, tmp_path):
    result = doppel("anonymize", photos / "face.png", "single.jpg")
    assert "anonymized" in result.stdout
    assert (tmp_path / "single.jpg").read_bytes()[:2] == b"\xff\xd8"


def test_nothing_is_left_where_a_picture_is_withheld(doppel, photos, tmp_path):
    target = tmp_path / "old.png"
    target.write_bytes(b"an older output")
    doppel("anonymize", photos / "deep" / "withheld.png", target, exit_code=1)
    assert not target.exists()


def test_the_exit_code_tells_nothing_usage_and_artifacts_apart(doppel, photos, tmp_path, monkeypatch):
    doppel("anonymize", tmp_path / "nowhere", "out", exit_code=2)
    doppel("anonymize", photos, photos, exit_code=2)
    doppel("anonymize", photos, "out", "--seed", 1, exit_code=2)
    doppel("anonymize", photos, "out", "--steps", 9, exit_code=2)
    doppel("serve", exit_code=2)
    doppel("serve", "--insecure", "--host", "0.0.0.0", exit_code=2)
    doppel("models", "verify", exit_code=3)
    from models.registry.store import ArtifactNotFoundError

    def missing(settings):
        raise ArtifactNotFoundError("no artifact face-generator")

    monkeypatch.setattr(service.wiring, "build_anonymizer", missing)
    result = doppel("anonymize", photos, "out", exit_code=3)
    assert "face-generator" in result.stderr
    assert result.stdout == ""


def test_a_seed_is_taken_where_the_settings_allow_it(doppel, photos, monkeypatch, fake_anonymizer):
    monkeypatch.setenv("DOPPEL_ALLOW_SEED", "true")
    doppel("anonymize", photos / "face.png", "seeded.png", "--seed", 7)
    assert fake_anonymizer.policies[0].seed == 7


def test_the_level_reaches_the_policy(doppel, photos, fake_anonymizer):
    doppel("anonymize", photos / "face.png", "plain.png")
    doppel("anonymize", photos / "face.png", "strict.png", "--level", "strict")
    (photos / "captions.csv").write_text("file,caption\nlake.jpg,a lake\n")
    doppel("ingest", photos, "--captions", photos / "captions.csv")
    doppel("retrieve", "a lake", "--top-k", 1, "--level", "faithful")
    assert [policy.level for policy in fake_anonymizer.policies] == ["balanced", "strict", "faithful"]
    doppel("anonymize", photos / "face.png", "none.png", "--level", "none", exit_code=2)
    doppel("retrieve", "a lake", "--level", "none", exit_code=2)
    assert len(fake_anonymizer.policies) == 3


def test_a_folder_is_done_again_under_another_policy(doppel, photos, fake_anonymizer):
    doppel("anonymize", photos, "out", "--level", "faithful")
    asked = len(fake_anonymizer.policies)
    doppel("anonymize", photos, "out", "--level", "faithful")
    assert len(fake_anonymizer.policies) == asked
    doppel("anonymize", photos, "out", "--level", "strict")
    assert [policy.level for policy in fake_anonymizer.policies] == ["faithful"] * asked + ["strict"] * asked


def test_photos_are_ingested_and_come_back_anonymized(doppel, photos, tmp_path):
    (photos / "captions.csv").write_text(
        "file,caption,year\nface.png,people at a table,2020\nlake.jpg,a quiet lake,2021\nbroken.jpg,nothing,2022\n"
    )
    result = doppel("ingest", photos, "--captions", photos / "captions.csv")
    assert "2 added" in result.stdout
    assert "1 refused" in result.stdout
    found = lines(doppel("retrieve", "people at a table", "--top-k", 1, "--out", tmp_path / "hits", "--json"))
    assert (found[0]["status"], found[0]["caption"]) == ("anonymized", "people at a table")
    assert decode_picture((tmp_path / "hits").joinpath(found[0]["file"].rsplit("/", 1)[1]).read_bytes()).size


def test_artifacts_are_listed_and_verified(doppel, tmp_path):
    from models.registry.store import ArtifactStore

    store = ArtifactStore(tmp_path / "artifacts")
    manifest = store.publish("tiny-thing", "weights", {"a.bin": b"abc"})
    store.set_promoted("tiny-thing", manifest.version)
    (listed,) = lines(doppel("models", "list", "--json"))
    assert listed == {"name": "tiny-thing", "version": manifest.version, "promoted": True}
    states = {line["name"]: line["ok"] for line in lines(doppel("models", "verify", "--json", exit_code=3))}
    assert states["tiny-thing"] is True
    assert states["face-generator"] is False
    path = tmp_path / "artifacts" / "tiny-thing" / manifest.version / "a.bin"
    path.chmod(0o644)
    path.write_bytes(b"abd")
    states = {line["name"]: line["ok"] for line in lines(doppel("models", "verify", "--json", exit_code=3))}
    assert states["tiny-thing"] is False


def test_fetching_reports_on_standard_error_and_lists_on_standard_output(doppel, tmp_path, monkeypatch):
    import models.registry.upstream as upstream

    def fetch(store, *, source, progress):
        progress(upstream.FetchProgress("upstream-dlib", "published", 1, 1))
        assert source == tmp_path / "packages"
        return [store.publish("upstream-dlib", "weights", {"a": b"1"}, license="CC0-1.0")]

    monkeypatch.setattr(upstream, "fetch_upstream", fetch)
    result = doppel("models", "fetch", "--from", tmp_path / "packages", "--json")
    assert lines(result)[0]["name"] == "upstream-dlib"
    assert "[1/1]" in result.stderr


def test_the_openapi_document_is_written(doppel, tmp_path):
    doppel("openapi", "--out", tmp_path / "openapi.json")
    assert json.loads((tmp_path / "openapi.json").read_text())["info"]["title"] == "Doppel"


def test_threads_spin_for_microseconds_only_and_no_command_line_loads_torch(tmp_path):
    code = (
        "import os, sys; from typer.testing import CliRunner; from service.cli import app; "
        "CliRunner().invoke(app, ['keys', 'new', 'x']); "
        "assert os.environ['OMP_WAIT_POLICY'] == 'PASSIVE'; assert int(os.environ['GOMP_SPINCOUNT']) == 20000; "
        "assert 'torch' not in sys.modules"
    )
    environment = {
        name: value for name, value in os.environ.items() if name not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    }
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, cwd=tmp_path, timeout=60)


def test_a_new_key_opens_the_service_and_only_its_hash_is_printed(doppel):
    from service.auth import find_principal
    from service.settings import ApiKey

    result = doppel("keys", "new", "ci", "--scope", "write")
    (record,) = json.loads(result.stdout)
    key = result.stderr.split(": ", 1)[1].strip()
    assert key not in result.stdout
    principal = find_principal(key, [ApiKey(**record)])
    assert principal is not None
    assert principal.may("write")
    assert not principal.may("admin")


def test_a_picture_error_names_the_reason(tmp_path, pictures, fake_anonymizer):
    from models.anonymizer.policy import Policy
    from models.pictures import PictureTooLargeError
    from service.bulk import anonymize_files, plan

    source = tmp_path / "a.png"
    source.write_bytes(pictures.draw())

    def too_large(data):
        raise PictureTooLargeError("too large")

    assert issubclass(PictureTooLargeError, PictureError)
    jobs = plan(source, tmp_path / "b.png")
    (entry,) = anonymize_files(jobs, None, Policy(), lambda: fake_anonymizer, too_large)
    assert (entry.status, entry.reason, entry.output) == ("withheld", "picture_too_large", None)
