"""The subject table: what it finds, for whom, what it shows to whoever lacks the key, and every way to be broken."""

from __future__ import annotations

import hashlib
import json
import secrets
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from models.faces.boxes import Box, iou
from models.identity.errors import SubjectTableError
from models.identity.subjects import MATCH_IOU, MAX_FACES, SubjectFace, SubjectTable, new_token

KEY, OTHER_KEY = bytes(range(40)), bytes(range(1, 41))
ANN, BOB = b"a" * 16, b"b" * 16
LEFT, RIGHT = (0.1, 0.2, 0.3, 0.6), (0.55, 0.25, 0.75, 0.65)
FIRST, SECOND = (hashlib.sha256(name).digest() for name in (b"first", b"second"))


def table(key: bytes = KEY) -> SubjectTable:
    return SubjectTable.sealed(
        key, {FIRST: [SubjectFace(LEFT, ANN), SubjectFace(RIGHT, BOB)], SECOND: [SubjectFace(LEFT, BOB)]}
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "subjects.json"


def test_faces_of_one_subject_are_found_with_one_token_in_every_picture(path: Path) -> None:
    table().save(path)
    found = SubjectTable.load(path, KEY)
    assert len(found) == 2
    assert (found(FIRST, LEFT), found(FIRST, RIGHT), found(SECOND, LEFT)) == (ANN, BOB, BOB)


def test_a_picture_or_place_that_is_not_known_has_no_subject() -> None:
    assert table()(hashlib.sha256(b"third").digest(), LEFT) is None
    assert table()(SECOND, RIGHT) is None


@pytest.mark.parametrize("shift", [0.05, 0.13, 0.14, 0.3])
def test_a_box_counts_from_an_overlap_of_one_half(shift: float) -> None:
    box: Box = (LEFT[0], LEFT[1] + shift, LEFT[2], LEFT[3] + shift)
    overlap = iou(box, LEFT)
    assert MATCH_IOU == 0.5
    assert (table()(SECOND, box) is not None) == (overlap >= 0.5)
    assert overlap == pytest.approx((0.4 - shift) / (0.4 + shift))


def test_the_face_that_overlaps_most_is_meant_and_what_lies_outside_the_picture_does_not_count() -> None:
    near, nearer = (0.0, 0.0, 0.5, 0.5), (0.0, 0.0, 0.4, 0.5)
    faces = SubjectTable.sealed(KEY, {FIRST: [SubjectFace(near, ANN), SubjectFace(nearer, BOB)]})
    assert faces(FIRST, (-0.3, -0.4, 0.41, 0.5)) == BOB
    assert faces(FIRST, (-0.3, -0.4, 0.49, 0.5)) == ANN


def test_another_key_finds_nothing_and_opens_nothing(path: Path) -> None:
    original = table()
    assert SubjectTable(OTHER_KEY, original._salt, original._records)(FIRST, LEFT) is None
    original.save(path)
    with pytest.raises(SubjectTableError, match="another key"):
        SubjectTable.load(path, OTHER_KEY)


def test_a_file_shows_neither_digest_nor_box_nor_token_nor_who_is_on_two_pictures(path: Path) -> None:
    digests = [hashlib.sha256(bytes([index])).digest() for index in range(40)]
    SubjectTable.sealed(KEY, {digest: [SubjectFace(LEFT, ANN)] for digest in digests}).save(path)
    text = path.read_text()
    assert not any(secret.hex() in text for secret in (*digests, ANN, KEY))
    records = [bytes.fromhex(record) for record in json.loads(text)["pictures"].values()]
    # the same face of the same subject in forty pictures: its bytes are as different as random ones
    agreeing = sum(a == b for record in records[1:] for a, b in zip(records[0], record, strict=True))
    assert agreeing <= 15  # of 39 * 24 bytes; 3.7 expected, 15 is six deviations above
    assert list(json.loads(text)["pictures"]) == sorted(json.loads(text)["pictures"])


def test_two_tables_of_one_folder_cannot_be_laid_over_each_other() -> None:
    first, second = table(), table()
    assert not set(first._records) & set(second._records)
    assert not set(first._records.values()) & set(second._records.values())


def test_a_table_is_written_whole_for_its_owner_only_and_shows_nothing_of_itself(path: Path) -> None:
    table().save(path)
    table().save(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    assert repr(SubjectTable.load(path, KEY)) == "SubjectTable(pictures=2)"
    assert "token" not in repr(SubjectFace(LEFT, ANN))


def test_many_faces_and_tokens_survive_the_file(path: Path) -> None:
    faces = [SubjectFace((0.0, k / 300, 1.0, (k + 1) / 300), new_token()) for k in range(MAX_FACES)]
    SubjectTable.sealed(KEY, {FIRST: faces, SECOND: []}).save(path)
    found = SubjectTable.load(path, KEY)
    assert len(found) == 1
    assert {face.token for face in found.faces(FIRST)} == {face.token for face in faces}
    for face in faces:
        assert found(FIRST, face.box) == face.token


def _change(field: str, value: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda payload: {**payload, field: value}


def _record(change: Callable[[str, str], tuple[str, str]]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    def apply(payload: dict[str, Any]) -> dict[str, Any]:
        pictures = dict(payload["pictures"])
        locator = next(iter(pictures))
        changed, record = change(locator, pictures.pop(locator))
        return {**payload, "pictures": {**pictures, changed: record}}

    return apply


def _flipped(text: str) -> str:
    return ("1" if text[0] == "0" else "0") + text[1:]


BROKEN: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "a flipped bit of a record": (_record(lambda key, value: (key, _flipped(value))), "changed since"),
    "a flipped bit of a locator": (_record(lambda key, value: (_flipped(key), value)), "changed since"),
    "a missing picture": (lambda p: {**p, "pictures": dict(list(p["pictures"].items())[1:])}, "changed since"),
    "another salt": (_change("salt", "00" * 16), "changed since"),
    "another version": (_change("version", 2), "version 1"),
    "true for a version": (_change("version", True), "version 1"),
    "another format": (_change("format", "doppel-pseudonym-book"), "format"),
    "a field too many": (_change("names", {}), "object of"),
    "a field too few": (lambda p: {k: v for k, v in p.items() if k != "seal"}, "object of"),
    "a short seal": (_change("seal", "00"), "32 bytes"),
    "a salt that is no text": (_change("salt", 16), "16 bytes"),
    "pictures in a list": (_change("pictures", []), "records"),
    "half a face": (_record(lambda key, value: (key, value[:-2])), "24 bytes"),
    "an empty record": (_record(lambda key, value: (key, "")), "hexadecimal"),
    "too many faces": (_record(lambda key, value: (key, "00" * 24 * (MAX_FACES + 1))), "1 to 256"),
    "upper-case digits": (_record(lambda key, value: (key, "AB" * 24)), "lower-case"),
    "a list": (lambda p: [p], "object of"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_refused_with_a_reason(name: str, path: Path) -> None:
    change, reason = BROKEN[name]
    table().save(path)
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(SubjectTableError, match=reason) as caught:
        SubjectTable.load(path, KEY)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "data", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"format": 1, "format": 2}', b'{"version": NaN}', b"null"]
)
def test_what_is_no_such_document_is_refused(data: bytes, path: Path) -> None:
    path.write_bytes(data)
    with pytest.raises(SubjectTableError, match="not a whole subject table"):
        SubjectTable.load(path, KEY)


def test_a_name_that_occurs_twice_is_refused_even_where_both_say_the_same(path: Path) -> None:
    table().save(path)
    path.write_text(path.read_text().replace('"version": 1', '"version": 1, "version": 1'))
    with pytest.raises(SubjectTableError, match="twice"):
        SubjectTable.load(path, KEY)


def test_a_torn_file_and_a_missing_one_and_a_folder_are_refused(path: Path) -> None:
    with pytest.raises(SubjectTableError, match="cannot be read"):
        SubjectTable.load(path, KEY)
    with pytest.raises(SubjectTableError, match="cannot be read"):
        SubjectTable.load(path.parent, KEY)
    table().save(path)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(SubjectTableError, match="not a whole subject table"):
        SubjectTable.load(path, KEY)


def test_limits_on_size_hold_for_reading_and_writing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table().save(path)
    monkeypatch.setattr("models.identity.subjects.MAX_PICTURES", 1)
    with pytest.raises(SubjectTableError, match="at most 1"):
        SubjectTable.load(path, KEY)
    with pytest.raises(SubjectTableError, match="at most 1"):
        table()
    monkeypatch.setattr("models.identity.subjects.MAX_FILE_BYTES", 100)
    with pytest.raises(SubjectTableError, match="100 bytes"):
        SubjectTable.load(path, KEY)


@pytest.mark.parametrize(
    ("face", "reason"),
    [
        (SubjectFace(LEFT, b"short"), "16 bytes"),
        (SubjectFace((0.3, 0.2, 0.1, 0.6), ANN), "corners"),
        (SubjectFace((0.1, 0.2, 1.3, 0.6), ANN), "corners"),
        (SubjectFace((float("nan"), 0.2, 0.3, 0.6), ANN), "corners"),
    ],
)
def test_what_is_no_face_is_not_written(face: SubjectFace, reason: str) -> None:
    with pytest.raises(SubjectTableError, match=reason):
        SubjectTable.sealed(KEY, {FIRST: [face]})


def test_a_weak_key_or_a_digest_of_another_length_is_refused() -> None:
    with pytest.raises(SubjectTableError, match="32 bytes"):
        table(b"short")
    with pytest.raises(SubjectTableError, match="distinct"):
        table(b"a" * 40)
    with pytest.raises(SubjectTableError, match="digest"):
        table()(b"name.jpg", LEFT)
    with pytest.raises(SubjectTableError, match="at most 256"):
        SubjectTable.sealed(KEY, {FIRST: [SubjectFace(LEFT, secrets.token_bytes(16))] * (MAX_FACES + 1)})
