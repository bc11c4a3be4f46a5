"""Drawn faces, and light stand-ins for the networks, from which a whole pipeline is built and broken.

A drawn face has a skin pattern of its own (coarse: the identity that the stand-in oracles see; fine: a planted canary)
and five colored marks where the landmarks are, which the stand-in detector finds. No photograph is involved.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from models.anonymizer.candidates import RejectionCandidates
from models.anonymizer.gate import Gate, GateBounds
from models.anonymizer.pipeline import Anonymizer, PictureRequest
from models.anonymizer.policy import Policy
from models.anonymizer.randomness import FaceSeeds
from models.anonymizer.realism import RealismBounds, RealismTest, fit_realism
from models.anonymizer.redetection import DetectionPlan
from models.anonymizer.smears import smear
from models.anonymizer.verdict import Release
from models.faces.alignment import align_face, crop_template, face_mask, sample_crop
from models.faces.boxes import Face
from models.faces.compositing import paste_face
from models.identity.leakage import LeakageMeter
from models.identity.rejection import RejectionSampler
from models.identity.sphere import uniform_directions
from models.pictures import decode_picture, encode_picture

EYE, NOSE, MOUTH = (20, 30, 235), (20, 200, 30), (225, 20, 40)
MARKS = (EYE, EYE, NOSE, MOUTH, MOUTH)
SKIN = np.array([196.0, 160.0, 138.0])
INSIDE = face_mask() >= 1.0


def coarse_field(values: NDArray[Any]) -> NDArray[np.float64]:
    """Identity pattern (128, 128) of unit spread from at least 64 numbers."""
    small = np.asarray(values, dtype=np.float64).ravel()[:64].reshape(8, 8)
    grown = cv2.resize(small, (128, 128), interpolation=cv2.INTER_CUBIC)
    return (grown - grown.mean()) / (grown.std() + 1e-9)


def fine_pattern(seed: int) -> NDArray[np.float64]:
    """Texture (128, 128) of 4 px blocks, +1 or -1."""
    signs = np.random.default_rng(seed).integers(0, 2, size=(32, 32)) * 2.0 - 1.0
    return signs.repeat(4, axis=0).repeat(4, axis=1)


def draw_crop(
    identity: NDArray[Any], texture_seed: int, *, jitter_seed: int | None = None, fine: float = 16.0
) -> NDArray[np.uint8]:
    """An aligned face whose skin fills the crop; marks at the template, or a few pixels beside it."""
    relief = 22.0 * coarse_field(identity) + fine * fine_pattern(texture_seed)
    tint = np.random.default_rng([7, texture_seed]).uniform(-10, 10, 3)
    crop = np.clip(SKIN + tint + relief[..., None], 0, 255).astype(np.uint8)
    points = crop_template()
    if jitter_seed is not None:
        angles = np.random.default_rng(jitter_seed).uniform(0, 2 * np.pi, 5)
        points = points + 2.5 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    for (x, y), color in zip(points, MARKS, strict=True):
        cv2.circle(crop, (round(float(x)), round(float(y))), 5, color, -1)
    return crop


@dataclass
class DrawnFace:
    """A face in a picture: where it is and the pattern that must not survive."""

    matrix: NDArray[np.float64]
    canary: NDArray[np.float64]
    crop: NDArray[np.uint8]


@dataclass(eq=False)
class DrawnPicture:
    """A picture with its faces."""

    pixels: NDArray[np.uint8]
    faces: list[DrawnFace]

    def encoded(self) -> bytes:
        return encode_picture(self.pixels, "png")


def draw_background(seed: int, height: int, width: int) -> NDArray[np.uint8]:
    rng = np.random.default_rng(seed)
    coarse = cv2.resize(rng.uniform(70, 150, (6, 8)), (width, height), interpolation=cv2.INTER_CUBIC)
    noisy = coarse + rng.normal(0, 8, (height, width))
    return np.clip(noisy[..., None] + np.array([-8.0, 4.0, -4.0]), 0, 255).astype(np.uint8)


@functools.cache
def draw_picture(
    seed: int,
    corners: Sequence[tuple[int, int]] = ((20, 16),),
    size: tuple[int, int] = (168, 160),
    jitter: bool = False,
) -> DrawnPicture:
    """A picture with faces whose crops start at the given corners (x, y)."""
    pixels = draw_background(seed, size[1], size[0])
    faces = []
    rows, columns = np.mgrid[0:128, 0:128]
    head = np.hypot((columns - 63.5) / 50.0, (rows - 74.0) / 58.0) <= 1.0
    for index, (x, y) in enumerate(corners):
        rng = np.random.default_rng([seed, index])
        crop = draw_crop(rng.normal(size=64), 1000 * seed + index, jitter_seed=seed if jitter else None)
        window = pixels[y : y + 128, x : x + 128]
        window[head] = crop[head]
        matrix = np.array([[1.0, 0.0, -x], [0.0, 1.0, -y]])
        faces.append(DrawnFace(matrix, fine_pattern(1000 * seed + index), window.copy()))
    return DrawnPicture(pixels, faces)


class MarkDetector:
    """Finds the marks: one face per nose."""

    name = "marks"

    def __init__(self) -> None:
        self.calls = 0

    def detect(self, pixels: NDArray[np.uint8]) -> list[Face]:
        self.calls += 1
        eyes, noses, mouths = (self._blobs(pixels, color) for color in (EYE, NOSE, MOUTH))
        faces = []
        for nose in noses:
            pair = self._nearest(eyes, nose)
            lips = self._nearest(mouths, nose)
            if pair is None or lips is None:
                continue
            landmarks = np.array([*pair, nose, *lips])
            eye_distance = float(np.linalg.norm(landmarks[1] - landmarks[0]))
            if not 4.0 < eye_distance < 200.0 or np.abs(landmarks - nose).max() > 1.5 * eye_distance:
                continue
            center = landmarks.mean(axis=0)
            half = 1.25 * eye_distance
            box = (center[0] - half, center[1] - 1.2 * half, center[0] + half, center[1] + 1.2 * half)
            faces.append(Face(tuple(float(value) for value in box), 0.99, landmarks, self.name))  # type: ignore[arg-type]
        return faces

    @staticmethod
    def _blobs(pixels: NDArray[np.uint8], color: tuple[int, int, int]) -> NDArray[np.float64]:
        lower, upper = (tuple(max(0, min(255, value + side)) for value in color) for side in (-70, 70))
        near = cv2.inRange(pixels, lower, upper)
        count, _, stats, centers = cv2.connectedComponentsWithStats(near, connectivity=8)
        return centers[1:][stats[1:, cv2.CC_STAT_AREA] >= 6] if count > 1 else np.empty((0, 2))

    @staticmethod
    def _nearest(points: NDArray[np.float64], nose: NDArray[np.float64]) -> list[NDArray[np.float64]] | None:
        if len(points) < 2:
            return None
        two = points[np.argsort(np.linalg.norm(points - nose, axis=1))[:2]]
        return list(two[np.argsort(two[:, 0])])


@functools.cache
def average_faces() -> Tensor:
    rng = np.random.default_rng(11)
    sample = np.stack([draw_crop(rng.normal(size=64), 5000 + index) for index in range(48)])
    return torch.from_numpy(sample).permute(0, 3, 1, 2).float() / 127.5 - 1.0


class ProjectionOracles:
    """Three random projections of the coarse pattern, centered on the average drawn face."""

    names = ("north", "east", "south")

    def __init__(self) -> None:
        draw = torch.Generator().manual_seed(3)
        self._maps = {name: torch.randn(256, 48, generator=draw) for name in self.names}
        weight = torch.from_numpy(cv2.resize(INSIDE.astype(np.float32), (16, 16), interpolation=cv2.INTER_AREA))
        self._weight = (weight > 0.99).float().reshape(-1)
        self._center = torch.zeros(256)
        self._center = self._pattern(average_faces()).mean(dim=0)

    def __call__(self, crops: Tensor) -> dict[str, Tensor]:
        pattern = self._pattern(crops)
        return {name: functional.normalize(pattern @ weights, dim=1) for name, weights in self._maps.items()}

    def _pattern(self, crops: Tensor) -> Tensor:
        pooled = functional.avg_pool2d(crops.float().mean(dim=1, keepdim=True), 8).flatten(1)  # (n, 256)
        inside = pooled * self._weight
        centered = (inside - inside.sum(dim=1, keepdim=True) / self._weight.sum()) * self._weight
        return centered - self._center


@dataclass
class FixedThreshold:
    """Calibration of a stand-in oracle."""

    privacy_threshold: float = 0.6
    impostor_std: float = 0.12


def template_landmarks(shift: float = 0.0) -> Tensor:
    """Landmarks (68, 2) of which only those count that give the five points; moved along both axes."""
    marks = torch.zeros(68, 2)
    points = torch.from_numpy(crop_template()).float()
    marks[36:42], marks[42:48] = points[0], points[1]
    marks[[30, 48, 54]] = points[2:]
    return marks + shift


class RandomIdentityEncoder:
    def __init__(self) -> None:
        self._map = torch.randn(144, 128, generator=torch.Generator().manual_seed(5))

    def __call__(self, embeddings: Mapping[str, Tensor]) -> Tensor:
        joined = torch.cat([embeddings[name] for name in ProjectionOracles.names], dim=1)
        return functional.normalize(joined @ self._map, dim=1)


class PooledAttributeEncoder:
    def __call__(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        pooled = functional.avg_pool2d(crops, 16)[:, :1].expand(-1, 8, -1, -1)  # (n, 8, 8, 8)
        return 0.1 * pooled, torch.full_like(pooled, 0.3)


class LevelRecorder:
    """Lets every level tell everything, and remembers which were asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, int]] = []

    def __call__(self, level: str, crops: Tensor, mean: Tensor) -> Tensor:
        self.asked.append((level, len(crops)))
        return mean


class UniformProposal:
    dim = 128

    def propose(self, rng: np.random.Generator) -> NDArray[np.float32]:
        return uniform_directions(rng, 1, self.dim)[0].astype(np.float32)

    def contains(self, codes: NDArray[np.float32], *, strict: bool = False) -> NDArray[np.bool_]:
        return np.ones(len(codes), dtype=bool)


class DrawingGenerator:
    """Draws a new face per row from its identity code and its random stream."""

    def __init__(self) -> None:
        self.rows: list[int] = []
        self.attribute_codes: list[Tensor] = []

    def generate(
        self,
        crops: Tensor,
        attribute_code: Tensor,
        identity_code: Tensor,
        *,
        steps: int,
        guidance: float,
        generator: Sequence[torch.Generator],
    ) -> Tensor:
        self.rows.append(len(crops))
        self.attribute_codes.extend(attribute_code)
        drawn = []
        for code, stream in zip(identity_code, generator, strict=True):
            seed = int(torch.randint(0, 2**31, (1,), generator=stream))
            drawn.append(draw_crop(code.numpy(), 10**6 + seed, jitter_seed=seed))
        fresh = torch.from_numpy(np.stack(drawn)).permute(0, 3, 1, 2).float() / 127.5 - 1.0
        mask = torch.from_numpy(face_mask())
        return fresh * mask + crops * (1.0 - mask)


class HandClock:
    """A clock that moves when a test moves it."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Altered:
    """Wraps a callable; `change(answer, *arguments)` decides what comes back from call number `start` on."""

    def __init__(self, inner: Any, change: Callable[..., Any], start: int = 0, stop: int | None = None) -> None:
        self._inner, self._change, self._start, self._stop = inner, change, start, stop
        self.count = 0

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        self.count += 1
        answer = self._inner(*arguments, **options)
        active = self.count > self._start and (self._stop is None or self.count <= self._stop)
        return self._change(answer, *arguments) if active else answer


class AlteredMethod:
    """An object whose one method is `Altered`; everything else is the inner object's."""

    def __init__(
        self, inner: Any, method: str, change: Callable[..., Any], start: int = 0, stop: int | None = None
    ) -> None:
        self._inner = inner
        setattr(self, method, Altered(getattr(inner, method), change, start, stop))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


# source: three scales and one mirror image
SOURCE_PASSES = 4


@dataclass
class Rig:
    """All parts of a pipeline; a test replaces some and builds."""

    realism: RealismTest
    detector: Any = field(default_factory=MarkDetector)
    ensemble: Any = field(default_factory=ProjectionOracles)
    thresholds: dict[str, Any] = field(
        default_factory=lambda: {name: FixedThreshold() for name in ProjectionOracles.names}
    )
    identity_encoder: Any = field(default_factory=RandomIdentityEncoder)
    attribute_encoder: Any = field(default_factory=PooledAttributeEncoder)
    levels: Any = field(default_factory=LevelRecorder)
    sampler: Any = field(default_factory=lambda: RejectionCandidates(RejectionSampler(UniformProposal(), 0.4)))
    generator: Any = field(default_factory=DrawingGenerator)
    meter: Any = field(default_factory=LeakageMeter)
    clock: Any = field(default_factory=HandClock)
    bounds: GateBounds = field(default_factory=GateBounds)
    plan: DetectionPlan = field(default_factory=DetectionPlan)
    policy: dict[str, Any] = field(default_factory=lambda: {"seed": 7, "media": "png"})
    options: dict[str, Any] = field(default_factory=dict)
    faults: list[tuple[str, str]] = field(default_factory=list)
    wrap_gate: Callable[[Gate], Any] = lambda gate: gate
    deadline_s: float | None = None

    def gate(self) -> Gate:
        return Gate(
            self.detector,
            self.ensemble,
            self.thresholds,
            self.realism,
            bounds=self.bounds,
            plan=self.plan,
            observer=self.observe,
        )

    def build(self) -> Anonymizer:
        options = {"seeds": FaceSeeds(bytes(range(32))), **self.options}
        return Anonymizer(
            self.detector,
            self.ensemble,
            self.thresholds,
            self.identity_encoder,
            self.attribute_encoder,
            self.levels,
            self.sampler,
            self.generator,
            self.wrap_gate(self.gate()),
            self.meter,
            clock=self.clock,
            observer=self.observe,
            **options,
        )

    def request(self, data: bytes, **policy: Any) -> PictureRequest:
        return PictureRequest(data, Policy(**{**self.policy, **policy}), deadline_s=self.deadline_s)

    def run(self, *pictures: DrawnPicture | bytes, **policy: Any) -> list[Release]:
        datas = [picture if isinstance(picture, bytes) else picture.encoded() for picture in pictures]
        return self.build().anonymize([self.request(data, **policy) for data in datas])

    def observe(self, reason: str, kind: str) -> None:
        self.faults.append((reason, kind))


def canary_correlation(pixels: NDArray[np.uint8], face: DrawnFace) -> float:
    """Correlation of released pixels with the planted pattern inside the face mask."""
    luma = sample_crop(pixels, face.matrix).astype(np.float64).mean(axis=2)
    high = (luma - cv2.GaussianBlur(luma, (0, 0), 3.0))[INSIDE]
    pattern = face.canary[INSIDE] - face.canary[INSIDE].mean()
    high = high - high.mean()
    return float(high @ pattern / (np.linalg.norm(high) * np.linalg.norm(pattern) + 1e-9))


def equal_blocks(pixels: NDArray[np.uint8], face: DrawnFace) -> int:
    """Blocks of 8 px inside the face mask that are the source's, bit for bit."""
    released = sample_crop(pixels, face.matrix)
    corners = itertools.product(range(0, 121, 8), repeat=2)
    inside = [(row, column) for row, column in corners if INSIDE[row : row + 8, column : column + 8].all()]
    return sum(np.array_equal(released[r : r + 8, c : c + 8], face.crop[r : r + 8, c : c + 8]) for r, c in inside)


def assert_no_source_face(release: Release, picture: DrawnPicture) -> None:
    """The released bytes, if any, show nothing of the planted pattern."""
    data = release.image_bytes()
    if data is None:
        return
    pixels = decode_picture(data)
    for face in picture.faces:
        assert equal_blocks(pixels, face) == 0
        assert abs(canary_correlation(pixels, face)) < 0.2


@pytest.fixture(scope="session")
def realism() -> RealismTest:
    """Fitted to drawn faces as the gate sees accepted ones: found, aligned, pasted, encoded, cut out again."""
    photographs, crops, smeared = [], [], []
    rng = np.random.default_rng(17)
    for seed in range(160):
        pixels = draw_picture(9000 + seed, jitter=True).pixels
        landmarks = MarkDetector().detect(pixels)[0].landmarks
        aligned = align_face(pixels, landmarks)
        if seed % 4 > 1:
            pixels = paste_face(pixels, aligned.crop, aligned.matrix, face_mask()).pixels
        pixels = decode_picture(encode_picture(pixels, "jpeg")) if seed % 2 else pixels
        photographs.append(aligned.crop)
        crops.append(sample_crop(pixels, aligned.matrix))
        smeared.append(smear(aligned.crop, rng))
    bounds = RealismBounds(min_sharpness=0.4, max_sharpness=2.5, min_det_score=0.7)
    return fit_realism(np.stack(photographs), np.stack(crops), np.stack(smeared), bounds)


@pytest.fixture
def rig(realism: RealismTest) -> Rig:
    return Rig(realism)


@pytest.fixture(scope="session")
def studio() -> Any:
    """The drawing kit and the checks, for test modules."""
    import sys

    return sys.modules[__name__]
