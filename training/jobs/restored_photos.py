"""What the crop restorer does for the service: degraded photos of people nobody trained on, seen by its networks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from models.encoder.landmark_code import INNER_LANDMARKS
from models.faces.alignment import crop_template, sample_crop, similarity_transform
from models.faces.degradation import estimate_degradation
from models.faces.detection import MtcnnDetector
from models.faces.restoration import CropRestorer, restore_crop
from models.oracles.ensemble import load_ensemble
from models.oracles.networks.landmarks68 import load_landmarks
from models.oracles.thresholds import load_thresholds
from models.pictures import decode_picture
from models.registry.store import ArtifactStore
from training.audit.faces import central_face
from training.data.degraded_faces import add_noise, compress, psnr
from training.data.face_crops import to_tensor
from training.jobs.calibrate_oracles import Half, pick_photos, read_landmarks
from training.jobs.restorer_peers import Way

Crops = list[NDArray[np.uint8]]

DAMAGES: Final[Mapping[str, Callable[[NDArray[np.uint8], np.random.Generator], NDArray[np.uint8]]]] = {
    "noise 10": lambda photo, rng: add_noise(photo, 10, rng),
    "noise 25": lambda photo, rng: add_noise(photo, 25, rng),
    "JPEG 20": lambda photo, _: compress(photo, 20),
    "JPEG 10": lambda photo, _: compress(photo, 10),
}
"""Ways to damage a photo (h, w, 3) uint8: noise by its deviation in gray levels, JPEG by its quality."""

_BARE: Final = "no restorer"
_RESTORER: Final = "restorer"
_EYES: Final = (slice(19, 25), slice(25, 31))  # of the 51 inner landmarks


@dataclass(frozen=True, slots=True)
class MeasuredPhotos:
    """Rows for the page of all methods, every way on every damage, and the share of clean photos left alone."""

    rows: list[dict[str, Any]]
    details: list[dict[str, Any]]
    left_alone: float


def measure_photos(
    folder: Path,
    landmarks: Path | None,
    half: Half,
    count: int,
    restorer: CropRestorer,
    peers: Mapping[str, Way],
    store: ArtifactStore,
    rng: np.random.Generator,
) -> MeasuredPhotos:
    """Degrade photos, cut the faces out where they lie in the clean photo, restore, and compare with the clean crops.

    Every way runs behind the same gate. Compared are the pixels, the landmarks that the attribute code is made of, and
    the embeddings from which identity code and oracles decide.

    Args:
        folder: Photos of labeled people.
        landmarks: CSV of five landmarks per file; None detects them.
        half: Which people.
        count: Photos.
        restorer: The restorer.
        peers: Other ways by name.
        store: Store with the oracles, their calibration and the landmark network.
        rng: Picks photos and draws noise.

    Returns:
        What was measured.
    """
    clean, photos, matrices = _read(folder, landmarks, half, count, rng)
    ensemble = load_ensemble(store, centers=load_thresholds(store).centers)
    landmark_net = load_landmarks(store)

    @torch.inference_mode()
    def seen(crops: Crops) -> tuple[NDArray[np.float64], dict[str, torch.Tensor]]:
        tensor = to_tensor(np.stack(crops))
        return landmark_net(tensor)[:, INNER_LANDMARKS].double().numpy(), ensemble(tensor)

    points, embeddings = seen(clean)
    centers = [points[:, eye].mean(axis=1) for eye in _EYES]
    eye_distance = np.linalg.norm(centers[1] - centers[0], axis=1)  # (n,)

    def measured(crops: Crops) -> dict[str, float]:
        found, answers = seen(crops)
        distance = np.linalg.norm(found - points, axis=2).mean(axis=1) / eye_distance
        likeness = torch.stack([(answers[name] * embeddings[name]).sum(1) for name in embeddings])
        return {
            "PSNR, dB": float(np.mean([psnr(a, b) for a, b in zip(crops, clean, strict=True)])),
            "landmark error, % of eye distance": 100 * float(distance.mean()),
            "similarity of embeddings to clean": float(likeness.mean()),
        }

    ways: dict[str, Way] = {
        _BARE: lambda crop, _: crop,
        **peers,
        _RESTORER: lambda crop, grade: restore_crop(crop, grade).crop,
    }
    details: list[dict[str, Any]] = []
    for damage, apply in DAMAGES.items():
        damaged = [apply(photo, rng) for photo in photos]
        crops = [sample_crop(photo, matrix) for photo, matrix in zip(damaged, matrices, strict=True)]
        grades = [
            restorer.grade_for(estimate_degradation(photo, matrix))
            for photo, matrix in zip(damaged, matrices, strict=True)
        ]
        for name, way in ways.items():
            restored = [c if grade is None else way(c, grade) for c, grade in zip(crops, grades, strict=True)]
            ran = float(np.mean([grade is not None for grade in grades]))
            details.append({"damage": damage, "way": name, **measured(restored), "restored": ran, "n": len(crops)})
    alone = [
        restorer.grade_for(estimate_degradation(photo, matrix)) is None
        for photo, matrix in zip(photos, matrices, strict=True)
    ]
    return MeasuredPhotos(_service_rows(details, list(peers)), details, float(np.mean(alone)))


def _service_rows(details: list[dict[str, Any]], peers: list[str]) -> list[dict[str, Any]]:
    """Against no restorer damage by damage, and against every other way on average over the damages."""
    measures = ("PSNR, dB", "landmark error, % of eye distance", "similarity of embeddings to clean")
    table = {(row["damage"], row["way"]): row for row in details}

    def row(job: str, measure: str, plain: str, damages: list[str]) -> dict[str, Any]:
        without, with_ = (
            float(np.mean([table[damage, way][measure] for damage in damages])) for way in (plain, _RESTORER)
        )
        photos = table[damages[0], plain]["n"]
        return {"method": "maid", "job": job, "measure": measure, "without": without, "with": with_, "n": photos}

    bare = [
        row(f"restores crops, {damage}, against none", measure, _BARE, [damage])
        for damage in DAMAGES
        for measure in measures
    ]
    tuned = [
        row(f"restores crops, mean of 4 damages, against tuned {peer}", measure, peer, list(DAMAGES))
        for peer in peers
        for measure in measures
    ]
    return bare + tuned


def _read(
    folder: Path, landmarks: Path | None, half: Half, count: int, rng: np.random.Generator
) -> tuple[Crops, Crops, list[NDArray[np.float64]]]:
    """Clean crops, their photos, and the matrices photo -> crop."""
    known = None if landmarks is None else read_landmarks(landmarks)
    detector = MtcnnDetector() if known is None else None
    clean, photos, matrices = [], [], []
    for path in pick_photos(folder, None, half, 2 * count, rng).first:
        photo = decode_picture(path.read_bytes())
        if known is not None:
            points = known.get(path.name)
        else:
            assert detector is not None
            face = central_face(detector.detect(photo), photo)
            points = None if face is None else face.landmarks
        if points is None:
            continue
        matrix = similarity_transform(points, crop_template())
        clean.append(sample_crop(photo, matrix))
        photos.append(photo)
        matrices.append(matrix)
        if len(photos) == count:
            break
    if not photos:
        raise ValueError("no face was found in any photo of the folder")
    return clean, photos, matrices
