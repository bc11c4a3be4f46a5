"""Whoever holds the keys draws the released faces again, and older keys help nobody."""

from __future__ import annotations

import hashlib
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from models.anonymizer.policy import Policy
from models.faces.alignment import align_face, crop_template, face_mask
from models.faces.boxes import Face
from models.pictures import decode_picture, encode_picture
from training.audit.faces import FoundFace
from training.audit.keys import Keys, key_attacks
from training.audit.photos import AuditedPhoto
from training.audit.released import Service

BOX = (20.0, 20.0, 108.0, 120.0)
LANDMARKS = crop_template()
CURRENT, OTHER = Keys(b"a" * 32, b"p" * 32, 5, "2"), Keys(b"b" * 32, b"q" * 32, 6, "1")


class Detector:
    """Finds the one face."""

    name = "drawn"

    def detect(self, pixels: np.ndarray) -> list[Face]:
        return [Face(BOX, 0.9, LANDMARKS, "drawn")]


class Anonymizer:
    """Fills the face with noise that keys and picture decide, or keys and subject."""

    def __init__(self, keys: Keys) -> None:
        self.keys = keys

    def anonymize(self, requests: Any) -> list[Any]:
        return [self._one(request) for request in requests]

    def _one(self, request: Any) -> Any:
        is_named = request.policy.scope == "pseudonym"
        if is_named:
            secret = self.keys.pseudonym + request.scope_key
        else:
            secret = self.keys.attribute + bytes([request.policy.seed]) + request.data
        draw = np.random.default_rng(int.from_bytes(hashlib.sha256(secret).digest()[:8], "big"))
        drawn = draw.integers(0, 256, (128, 128, 3)).astype(np.uint8)
        pixels = np.where(face_mask()[..., None] > 0, drawn, decode_picture(request.data)).astype(np.uint8)
        status = SimpleNamespace(value="pseudonymized" if is_named else "anonymized")
        verdict = SimpleNamespace(status=status, faces=(SimpleNamespace(box=BOX, status=status),))
        return SimpleNamespace(verdict=verdict, image_bytes=lambda: encode_picture(pixels, "png"))


def open_service(keys: Keys) -> tuple[Service, Service]:
    anonymizer = cast(Any, Anonymizer(keys))
    policies = Policy(seed=keys.seed), Policy(scope="pseudonym")
    fresh, named = (Service(anonymizer, policy, 2, lambda values: None) for policy in policies)
    return fresh, named


def embed(name: str, crops: np.ndarray) -> np.ndarray:
    rows = crops[:, ::4, ::4].reshape(len(crops), -1).astype(np.float32) - 127.0
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture
def photos(rng: np.random.Generator) -> list[AuditedPhoto]:
    """Six people; nothing in a photo says which other photo is of the same person."""
    pictures = [rng.integers(0, 256, (128, 128, 3)).astype(np.uint8) for _ in range(12)]
    faces = [FoundFace(Detector().detect(p)[0], align_face(p, LANDMARKS).crop) for p in pictures]
    return [AuditedPhoto(pictures[i], faces[i], pictures[i + 6], faces[i + 6]) for i in range(6)]


def test_keys_redraw_and_older_keys_do_not(photos: list[AuditedPhoto]) -> None:
    estimates, table = key_attacks(photos, CURRENT, OTHER, open_service, Detector(), embed)
    assert estimates["A8 rank-1 source, known key and seed.pixels"].value == 1.0
    assert estimates["A8 same pixels, known key and seed.pixels"].value == 1.0
    assert estimates["A8 same pixels, old key and seed.pixels"].value == 0.0
    for row in table:
        assert row["people"] == 6
        assert row["EER, one epoch"] == 0.0
        assert 0.1 < float(str(row["EER, two epochs"])) < 0.9
        assert str(row["rank-1, known key"]).startswith("1.000")
        assert float(str(row["rank-1, old key"])[:5]) <= 0.5


def test_keys_do_not_show_their_secrets_and_one_person_is_nobody_to_be_told_from(photos: list[AuditedPhoto]) -> None:
    assert repr(CURRENT) == "Keys(***)"
    assert key_attacks(photos[:1], CURRENT, OTHER, open_service, Detector(), embed) == ({}, [])
