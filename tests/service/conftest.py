"""A service with a fake anonymizer that makes real, sealed releases, and a real library with fake encoders."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from models.anonymizer.verdict import FaceVerdict, Reason, Release, Status, _issue
from models.pictures import decode_picture, encode_picture
from retrieval.library import Library
from service.app import create_app
from service.corpus import LibraryCorpus
from service.logging import make_logger
from service.ports import Engine, ModelInfo, Picture
from service.settings import ApiKey, Settings

KEYS = {"read": "reader-key-0123456789", "write": "writer-key-0123456789", "admin": "admin-key-0123456789"}
CANARY = "canary-7f3a9c"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def draw(color: tuple[int, int, int] = (90, 90, 90), size: tuple[int, int] = (48, 32), media: str = "png") -> bytes:
    """A picture whose color tells the fake what to do: red has a face, blue is withheld, green makes it raise."""
    pixels = np.empty((size[1], size[0], 3), np.uint8)
    pixels[:] = color
    pixels[::4, ::4] = 30
    return encode_picture(pixels, media)  # type: ignore[arg-type]


RED, BLUE, GREEN, GRAY = (230, 20, 20), (20, 20, 230), (20, 230, 20), (90, 90, 90)


class FakeAnonymizer:
    """Judges pictures by their color, with seams to hold, slow down or kill the thread it runs in."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.delay_s = 0.0
        self.lethal = False
        self.batches: list[int] = []
        self.policies: list[Any] = []
        self.scope_keys: list[bytes | None] = []
        self.pictures: list[Picture] = []

    def anonymize(self, pictures: Sequence[Picture]) -> list[Release]:
        self.entered.set()
        self.gate.wait(20)
        if self.lethal:
            raise SystemExit(1)
        time.sleep(self.delay_s)
        self.batches.append(len(pictures))
        self.policies += [picture.policy for picture in pictures]
        self.scope_keys += [picture.scope_key for picture in pictures]
        self.pictures += pictures
        return [self._treat(picture) for picture in pictures]

    def _treat(self, picture: Picture) -> Release:
        pixels = decode_picture(picture.data)
        height, width = pixels.shape[:2]
        red, green, blue = (int(value) for value in np.median(pixels.reshape(-1, 3), axis=0))
        media = f"image/{picture.policy.media}"
        if green > 200 and red < 100:
            raise RuntimeError(f"{CANARY} inside the model")
        if blue > 200 and red < 100:
            return Release(_issue(Status.WITHHELD, Reason.LEFTOVER_FACE, (), None), None, media_type=media)
        data = encode_picture(255 - pixels, picture.policy.media)
        faces: tuple[FaceVerdict, ...] = ()
        status = Status.NO_FACE
        if red > 200:
            status = Status.PSEUDONYMIZED if picture.policy.scope == "pseudonym" else Status.ANONYMIZED
            if picture.policy.mode == "redact":
                status = Status.REDACTED
            faces = (
                FaceVerdict(
                    box=(2.0, 3.0, 20.0, 24.0),
                    status=status,
                    reason=Reason.REQUESTED if status is Status.REDACTED else None,
                    det_score=0.98,
                    attempts=2,
                    steps=picture.policy.steps,
                    max_oracle_similarity=0.15,
                    threshold=0.4,
                    margins={"dlib": 0.25},
                    passed=True,
                    leaked_bits=0.5,
                ),
            )
        reason = Reason.REQUESTED if status is Status.REDACTED else None
        timings = {"detect": 0.002, "verify": 0.001}
        return Release(
            _issue(status, reason, faces, data), data, media_type=media, width=width, height=height, timings_s=timings
        )


class FakeEmbedder:
    """Texts by their letters, pictures by their color; deterministic unit vectors."""

    text_dim = 26
    image_dim = 3
    version = "fake-1"

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        rows = np.full((len(texts), 26), 0.01, np.float32)
        for row, text in zip(rows, texts, strict=True):
            for letter in text.lower():
                if "a" <= letter <= "z":
                    row[ord(letter) - 97] += 1
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def embed_pictures(self, pictures: Sequence[Any]) -> np.ndarray:
        rows = np.stack([pixels.reshape(-1, 3).mean(0) + 1 for pixels, _ in pictures]).astype(np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


class BlindDetector:
    name = "blind"

    def detect(self, pixels: np.ndarray) -> list[Any]:
        return []


@dataclass
class Service:
    """A running application and its seams."""

    client: httpx.AsyncClient
    app: Any
    runtime: Any
    anonymizer: FakeAnonymizer
    log: io.StringIO

    def headers(self, scope: str = "admin", **more: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {KEYS[scope]}", **more}

    async def post(self, path: str, body: Any, scope: str = "admin", **more: str) -> httpx.Response:
        return await self.client.post(path, json=body, headers=self.headers(scope, **more))

    async def put_item(self, item_id: str, data: bytes, caption: str = "", **payload: Any) -> httpx.Response:
        body = {"image": encode(data), "caption": caption, "payload": payload}
        return await self.client.put(
            f"/v1/collections/default/items/{item_id}", json=body, headers=self.headers("write")
        )

    def metric(self, name: str, **labels: str) -> float:
        return self.runtime.metrics.registry.get_sample_value(f"doppel_{name}", labels) or 0.0


def encode(data: bytes) -> str:
    return base64.b64encode(data).decode()


def settings_for(tmp_path: Path, **changes: Any) -> Settings:
    keys = tuple(
        ApiKey(name=f"{scope}er", sha256=hashlib.sha256(key.encode()).hexdigest(), scopes=(scope,))  # type: ignore[arg-type]
        for scope, key in KEYS.items()
    )
    base: dict[str, Any] = {"api_keys": keys, "data_dir": tmp_path / "corpus", "ready_check_timeout_s": 1.0}
    return Settings(_env_file=None, **{**base, **changes})  # type: ignore[call-arg]


def make_engine(settings: Settings, anonymizer: FakeAnonymizer) -> Engine:
    library = Library(settings.data_dir, FakeEmbedder(), BlindDetector())  # type: ignore[arg-type]
    corpus = LibraryCorpus(library)
    corpus.create_collection("default")
    return Engine(
        anonymizer=anonymizer,  # type: ignore[arg-type]
        corpus=corpus,
        models=(
            ModelInfo("generator", "face-generator", "0123456789abcdef", "ab" * 32),
            ModelInfo("thresholds", "oracle-thresholds", "fedcba9876543210", "cd" * 32, {"dlib": 0.4}),
        ),
        check_models=lambda: None,
        check_picture=lambda data: decode_picture(data) is None or None,
        policy_version="policy-1",
    )


@pytest.fixture
def pictures() -> Any:
    """Ways to draw and encode pictures."""

    class Pictures:
        red, blue, green, gray = RED, BLUE, GREEN, GRAY
        draw = staticmethod(draw)
        encode = staticmethod(encode)

    return Pictures


@pytest.fixture
def canary() -> str:
    return CANARY


@pytest.fixture
def key_of() -> dict[str, str]:
    return dict(KEYS)


@pytest.fixture
def new_settings(tmp_path: Path) -> Callable[..., Settings]:
    return lambda **changes: settings_for(tmp_path, **changes)


@pytest.fixture
def fake_anonymizer() -> FakeAnonymizer:
    return FakeAnonymizer()


@pytest.fixture
def new_engine() -> Callable[[Settings, FakeAnonymizer], Engine]:
    return make_engine


@pytest.fixture
def run_service(tmp_path: Path, fake_anonymizer: FakeAnonymizer) -> Callable[..., Any]:
    """Run a service in an `async with` block."""

    @asynccontextmanager
    async def running(
        build: Callable[[Settings], Engine] | None = None, wait: bool = True, **changes: Any
    ) -> AsyncIterator[Service]:
        settings = settings_for(tmp_path, **changes)
        log = io.StringIO()
        app = create_app(
            settings,
            build_engine=build or (lambda given: make_engine(given, fake_anonymizer)),
            log=make_logger("debug", log),
        )
        async with app.router.lifespan_context(app):
            runtime = app.state.runtime
            if wait:
                async with asyncio.timeout(20):
                    await runtime.loaded()
            transport = httpx.ASGITransport(app=app, raise_app_exceptions=True)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                try:
                    yield Service(client, app, runtime, fake_anonymizer, log)
                finally:
                    fake_anonymizer.gate.set()

    return running


@pytest.fixture
async def service(run_service: Callable[..., Any]) -> AsyncIterator[Service]:
    async with run_service() as running:
        yield running
