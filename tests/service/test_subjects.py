"""The subject table behind the service: its settings, which pictures are looked up, and what a broken one does."""

from __future__ import annotations

import hashlib
import json

import pytest
from pydantic import ValidationError

import service.wiring
from models.identity.errors import SubjectTableError
from models.identity.subjects import SubjectFace, SubjectTable
from service.wiring import build_anonymizer, load_subjects

KEY = "a-subject-key-of-some-forty-characters-0123"
BOX = (0.1, 0.1, 0.4, 0.6)


@pytest.fixture
def table_file(tmp_path):
    path = tmp_path / "subjects.json"
    SubjectTable.sealed(KEY.encode(), {hashlib.sha256(b"x").digest(): [SubjectFace(BOX, b"t" * 16)]}).save(path)
    return path


def test_a_table_needs_its_key(new_settings, table_file):
    assert load_subjects(new_settings()) is None
    with pytest.raises(ValidationError, match="subjects_key"):
        new_settings(subjects=table_file)
    with pytest.raises(ValidationError):
        new_settings(subjects=table_file, subjects_key="short")
    table = load_subjects(new_settings(subjects=table_file, subjects_key=KEY))
    assert table is not None
    assert table(hashlib.sha256(b"x").digest(), BOX) == b"t" * 16
    assert KEY not in repr(new_settings(subjects=table_file, subjects_key=KEY))


def test_the_anonymizer_is_not_built_without_a_whole_table_of_this_key(new_settings, table_file, tmp_path):
    with pytest.raises(SubjectTableError, match="another key"):
        build_anonymizer(new_settings(subjects=table_file, subjects_key=KEY[::-1]))
    table_file.write_bytes(table_file.read_bytes()[:-9])
    with pytest.raises(SubjectTableError, match="not a whole subject table"):
        build_anonymizer(new_settings(subjects=table_file, subjects_key=KEY))
    with pytest.raises(SubjectTableError, match="cannot be read"):
        build_anonymizer(new_settings(subjects=tmp_path / "none.json", subjects_key=KEY))


@pytest.mark.anyio
async def test_a_service_with_a_broken_table_is_not_ready_and_its_log_says_why(run_service, table_file):
    table_file.write_text("{}")
    async with run_service(build=service.wiring.build_engine, subjects=table_file, subjects_key=KEY) as running:
        ready = await running.client.get("/readyz")
        assert ready.status_code == 503
        assert ready.json()["checks"] == {"models": "engine-failed"}
        answer = await running.post("/v1/anonymize", {"image": "AAAA"})
        assert answer.status_code == 503
        line = next(json.loads(line) for line in running.log.getvalue().splitlines() if "models_not_loaded" in line)
        assert line["error"] == "SubjectTableError"
        assert "not a whole subject table" in line["detail"]


@pytest.mark.anyio
async def test_stored_pictures_are_looked_up_within_their_collection_and_uploads_are_not(
    run_service, table_file, pictures
):
    async with run_service(subjects=table_file, subjects_key=KEY) as running:
        data = pictures.draw(pictures.red)
        await running.client.put("/v1/collections/second", headers=running.headers())
        await running.put_item("a", data, "x", subject="s1")
        await running.client.put(
            "/v1/collections/second/items/b",
            json={"image": pictures.encode(data), "caption": "x", "payload": {}},
            headers=running.headers("write"),
        )
        headers = running.headers("read")
        for place in ("default/items/a", "second/items/b"):
            path = f"/v1/collections/{place}/image"
            assert (await running.client.get(f"{path}?scope=pseudonym", headers=headers)).status_code == 200
            assert (await running.client.get(f"{path}?scope=fresh", headers=headers)).status_code == 200
        upload = {"image": pictures.encode(data), "anonymize": {"scope": "pseudonym"}}
        assert (await running.post("/v1/anonymize", upload)).status_code == 200
        asked = running.anonymizer.pictures
        assert {hashlib.sha256(picture.data).digest() for picture in asked} == {hashlib.sha256(data).digest()}
        default, fresh, second, uploaded = (picture.corpus_key for picture in asked)
        assert default is not None
        assert second is not None
        assert default != second
        assert fresh is None
        assert uploaded is None


@pytest.mark.anyio
async def test_without_a_table_no_corpus_is_named(service, pictures):
    await service.put_item("a", pictures.draw(pictures.red))
    headers = service.headers("read")
    await service.client.get("/v1/collections/default/items/a/image?scope=pseudonym", headers=headers)
    assert [picture.corpus_key for picture in service.anonymizer.pictures] == [None]
