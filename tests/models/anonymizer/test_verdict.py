from __future__ import annotations

import ast
import copy
import dataclasses
import pickle
from pathlib import Path

import pytest

import models.anonymizer.verdict as verdict_module
from models.anonymizer.errors import VerdictForgedError
from models.anonymizer.verdict import FaceVerdict, Reason, Release, Status, Verdict, _issue

DATA = b"encoded picture"
BOX = (1.0, 2.0, 30.0, 40.0)
SEALING = {"_issue", "_seal", "_process_key"}


def passed(status: Status = Status.ANONYMIZED) -> FaceVerdict:
    return FaceVerdict(BOX, status, passed=True)


def test_only_the_seal_of_this_process_makes_a_verdict() -> None:
    for seal in (b"", b"0" * 32, "text"):
        with pytest.raises(VerdictForgedError):
            Verdict(Status.NO_FACE, None, (), "0" * 64, seal)  # type: ignore[arg-type]


def test_a_seal_does_not_fit_other_fields() -> None:
    genuine = _issue(Status.WITHHELD, Reason.DEADLINE, (), None)
    with pytest.raises(VerdictForgedError):
        dataclasses.replace(genuine, status=Status.NO_FACE, digest="0" * 64)
    with pytest.raises(VerdictForgedError):
        Verdict(Status.ANONYMIZED, None, (passed(),), "0" * 64, genuine.seal)


@pytest.mark.parametrize("name", ["status", "digest", "faces", "reason"])
def test_a_field_changed_behind_the_back_is_noticed_before_bytes_leave(name: str) -> None:
    release = Release(_issue(Status.ANONYMIZED, None, (passed(),), DATA), DATA, media_type="image/png")
    changed = {"status": Status.NO_FACE, "digest": "0" * 64, "faces": (), "reason": Reason.REQUESTED}
    object.__setattr__(release.verdict, name, changed[name])
    with pytest.raises(VerdictForgedError):
        release.image_bytes()


def test_bytes_swapped_after_the_verdict_do_not_leave() -> None:
    release = Release(_issue(Status.NO_FACE, None, (), DATA), DATA, media_type="image/png")
    assert release.image_bytes() == DATA
    release._data = b"the original picture"
    with pytest.raises(VerdictForgedError):
        release.image_bytes()
    with pytest.raises(VerdictForgedError):
        Release(release.verdict, b"other", media_type="image/png")


def test_a_withheld_picture_has_no_bytes() -> None:
    withheld = _issue(Status.WITHHELD, Reason.DETECTOR_FAILED, (), None)
    assert Release(withheld, None, media_type="image/png").image_bytes() is None
    with pytest.raises(VerdictForgedError):
        Release(withheld, DATA, media_type="image/png")
    with pytest.raises(VerdictForgedError):
        withheld.verify(DATA)


@pytest.mark.parametrize(
    ("status", "faces", "data"),
    [
        (Status.WITHHELD, (), DATA),
        (Status.ANONYMIZED, (passed(),), None),
        (Status.ANONYMIZED, (FaceVerdict(BOX, Status.ANONYMIZED, passed=False),), DATA),
        (Status.NO_FACE, (passed(),), DATA),
        (Status.ANONYMIZED, (passed(), passed(Status.REDACTED)), DATA),
        (Status.ANONYMIZED, (), DATA),
    ],
)
def test_a_verdict_that_contradicts_itself_cannot_even_be_sealed(
    status: Status, faces: tuple[FaceVerdict, ...], data: bytes | None
) -> None:
    with pytest.raises(VerdictForgedError):
        _issue(status, None, faces, data)


def test_releases_and_verdicts_are_not_pickled_or_copied_and_show_no_bytes() -> None:
    release = Release(_issue(Status.NO_FACE, None, (), DATA), DATA, media_type="image/png", width=3, height=2)
    for thing in (release, release.verdict):
        with pytest.raises(TypeError):
            pickle.dumps(thing)
        with pytest.raises(TypeError):
            copy.deepcopy(thing)
        shown = repr(thing)
        assert "encoded" not in shown
        assert release.verdict.seal.hex() not in shown
        assert repr(release.verdict.seal) not in shown


def test_probabilities_are_frozen_sorted_and_finite() -> None:
    face = FaceVerdict(BOX, Status.ANONYMIZED, match_probability={"south": 0.05, "north": 0.1})
    assert list(face.as_dict()["match_probability"].items()) == [("north", 0.1), ("south", 0.05)]
    assert FaceVerdict(BOX, Status.ANONYMIZED).as_dict()["match_probability"] is None
    with pytest.raises(TypeError):
        face.match_probability["north"] = 1.0  # type: ignore[index]
    with pytest.raises(ValueError, match="finite"):
        FaceVerdict(BOX, Status.ANONYMIZED, match_probability={"north": float("nan")})


def test_margins_cannot_be_edited() -> None:
    face = FaceVerdict(BOX, Status.ANONYMIZED, margins={"north": 0.1})
    with pytest.raises(TypeError):
        face.margins["north"] = 1.0  # type: ignore[index]


def test_face_verdicts_hold_finite_numbers_only() -> None:
    with pytest.raises(ValueError, match="finite"):
        FaceVerdict(BOX, Status.ANONYMIZED, margins={"north": float("nan")})


def test_only_the_gate_reaches_for_the_seal() -> None:
    root = Path(verdict_module.__file__).parents[2]
    users = set()
    for package in ("models", "service", "retrieval", "training"):
        for path in (root / package).rglob("*.py"):
            text = path.read_text()
            if "verdict" not in text or not any(name in text for name in SEALING):
                continue
            for node in ast.walk(ast.parse(text)):
                names = {alias.name for alias in node.names} if isinstance(node, ast.ImportFrom) else set()
                names |= {node.attr} if isinstance(node, ast.Attribute) else set()
                names |= {node.id} if isinstance(node, ast.Name) else set()
                if names & SEALING:
                    users.add(path.relative_to(root).as_posix())
    assert users == {"models/anonymizer/gate.py", "models/anonymizer/verdict.py"}
