"""Job: thresholds, centers and accuracy of the face-recognition oracles on a folder of labeled faces."""

from __future__ import annotations

import csv
import hashlib
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from models.faces.alignment import align_face
from models.faces.detection import MtcnnDetector
from models.oracles.ensemble import AUDITOR_ORACLES, CENTERED_ORACLES, ORACLES, SERVING_ORACLES, Oracle, load_oracle
from models.oracles.thresholds import (
    ARTIFACT,
    CONFIDENCE,
    FALSE_ACCEPT_RATES,
    CalibrationError,
    Thresholds,
    accuracy_gates,
    calibrate,
    thresholds_files,
)
from models.pictures import decode_picture
from models.registry.promotion import promote
from models.registry.store import ArtifactStore
from training.runs.config import JobConfig
from training.runs.context import RunContext
from training.runs.job import Job, Source
from training.runs.report import Check, Report

Half = Literal["calibration", "test", "all"]

_NUMBERED = re.compile(r"(.+)_\d{4}")
_LANDMARK_COLUMNS = ("lex", "ley", "rex", "rey", "nx", "ny", "lmx", "lmy", "rmx", "rmy")


class CalibrateOraclesConfig(JobConfig):
    """Settings of the run."""

    folder: Path = Field(description="folder of photos, one main face in each")
    labels: Path | None = Field(None, description="CSV with columns file,identity; else the name without _NNNN")
    landmarks: Path | None = Field(None, description="CSV of five landmarks per file; else faces are detected")
    weights: Path | None = Field(None, description="weights.csv of clean-identities; its suspects are left out")
    domain: str = Field("photo", min_length=1, description="what sort of pictures the thresholds are for")
    identity_half: Half = Field(
        "calibration", description="people by SHA-256 of the name, even last digit: calibration"
    )
    oracles: tuple[str, ...] = Field((*SERVING_ORACLES, *AUDITOR_ORACLES), min_length=1)
    max_people: int | None = Field(None, ge=4, description="use only so many people")
    confidence: float = Field(CONFIDENCE, gt=0.5, lt=1)
    min_true_accept_rate: float = Field(
        0.5, ge=0, le=1, description="gate of the serving oracles at FAR 1e-3; a misaligned port falls to about 0.3"
    )
    batch: int = Field(32, ge=1)
    promote: bool = True


@dataclass(frozen=True, slots=True)
class LabeledPhotos:
    """At most two photos of each person: one for impostor pairs, a second for genuine pairs where there is one."""

    first: tuple[Path, ...]
    second: tuple[Path | None, ...]


def run(config: CalibrateOraclesConfig, context: RunContext) -> Report:
    """Calibrate, publish, and promote when the gates hold.

    Args:
        config: Settings.
        context: Run directory, store and metrics.

    Returns:
        The report with one row per oracle and rate.
    """
    rng = np.random.default_rng(config.seed)
    suspects = read_suspects(config.weights) if config.weights else frozenset()
    photos = pick_photos(config.folder, config.labels, config.identity_half, config.max_people, rng, without=suspects)
    thresholds = calibrate_folder(photos, config, context.store, rng, log=context.log, device=context.device)
    gates = accuracy_gates(
        thresholds, [name for name in SERVING_ORACLES if name in config.oracles], config.min_true_accept_rate
    )
    reference = context.publish(
        ARTIFACT,
        "thresholds",
        dict(thresholds_files(thresholds)),
        config={"domain": config.domain, "identity_half": config.identity_half, "confidence": config.confidence},
        parents={ORACLES[name].artifact: version for name, version in thresholds.oracle_versions.items()},
        metrics=dict(thresholds.true_accept_rates),
        gates=gates,
        license="Apache-2.0",
        provenance={
            "data": f"{len(photos.first)} people, {config.identity_half} half"
            + (f", without {len(suspects)} photos with suspected labels" if config.weights else ""),
            "holds": "numbers and means only",
        },
    )
    if config.promote:
        promote(context.store, ARTIFACT, reference.partition("@")[2])
    rows = [
        {
            "oracle": entry.oracle,
            "FAR": entry.far,
            "point estimate": round(entry.point_estimate, 4),
            "privacy threshold": round(entry.privacy_threshold, 4),
            "FMR at most": round(entry.leakage_threshold, 5),
            "rank": f"{entry.rank} of {entry.num_pairs}",
            "impostors": f"{entry.impostor_mean:.3f} +- {entry.impostor_std:.3f}",
            "TAR": round(thresholds.true_accept_rates.get(f"{entry.oracle}@{entry.far:g}", float("nan")), 4),
        }
        for entry in thresholds.entries
    ]
    return Report(
        metrics={"people": float(len(photos.first)), **thresholds.true_accept_rates},
        checks=tuple(
            Check(f"{gate.name} at FAR 1e-3", gate.threshold, gate.value or 0.0, relation="at_least") for gate in gates
        ),
        artifacts=(reference,),
        tables={
            "thresholds": rows,
            "correlation of impostor scores": [
                {"oracles": pair, "correlation": round(value, 3)} for pair, value in thresholds.correlations.items()
            ],
        },
    )


def calibrate_folder(
    photos: LabeledPhotos,
    config: CalibrateOraclesConfig,
    store: ArtifactStore,
    rng: np.random.Generator,
    *,
    log: Any = None,
    device: torch.device | None = None,
) -> Thresholds:
    """Align every photo, embed it with every oracle, and compute the thresholds.

    Photos in which no face is found are left out, with the person when it was the first photo.

    Args:
        photos: Photos by person.
        config: Settings.
        store: Artifact store with the oracles.
        rng: Draws the disjoint pairs.
        log: Takes progress as a mapping of numbers; None for silence.
        device: Where the oracles run; None for the CPU.

    Returns:
        The calibration.

    Raises:
        CalibrationError: There are too few people.
    """
    known = read_landmarks(config.landmarks) if config.landmarks else None
    detector = MtcnnDetector() if known is None else None
    crops_first: list[NDArray[np.uint8]] = []
    pairs: list[tuple[int, NDArray[np.uint8]]] = []
    for first, second in zip(photos.first, photos.second, strict=True):
        crop = crop_main_face(first, known, detector)
        if crop is None:
            continue
        crops_first.append(crop)
        other = None if second is None else crop_main_face(second, known, detector)
        if other is not None:
            pairs.append((len(crops_first) - 1, other))
    if len(crops_first) < 4:
        raise CalibrationError(f"need at least four people with a face, got {len(crops_first)}")
    people = np.stack(crops_first)
    others = np.stack([crop for _, crop in pairs]) if pairs else np.zeros((0, *people.shape[1:]), np.uint8)
    rows = np.array([index for index, _ in pairs], dtype=np.int64)
    embeddings: dict[str, NDArray[np.float32]] = {}
    genuine: dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]] = {}
    for number, name in enumerate(config.oracles, start=1):
        oracle = load_oracle(store, name).to(device or torch.device("cpu"))
        together = embed_crops(oracle, np.concatenate([people, others]), config.batch)
        embeddings[name] = together[: len(people)]
        genuine[name] = (embeddings[name][rows], together[len(people) :])
        if log is not None:
            log({"oracles_done": number, "people": len(people), "genuine_pairs": len(rows)})
    return calibrate(
        embeddings,
        domain=config.domain,
        rng=rng,
        centered=CENTERED_ORACLES,
        genuine=genuine,
        fars=FALSE_ACCEPT_RATES,
        confidence=config.confidence,
        oracle_versions={name: str(store.promoted(ORACLES[name].artifact)) for name in config.oracles},
    )


@torch.inference_mode()
def embed_crops(oracle: Oracle, crops: NDArray[np.uint8], batch: int) -> NDArray[np.float32]:
    """Embed aligned crops.

    Args:
        oracle: The oracle.
        crops: (n, 128, 128, 3) RGB.
        batch: Crops per pass.

    Returns:
        Unit-norm embeddings (n, dim).
    """
    device = next(oracle.buffers()).device
    parts = []
    for start in range(0, len(crops), batch):
        block = torch.from_numpy(crops[start : start + batch]).to(device).permute(0, 3, 1, 2)
        parts.append(oracle(block.float() / 127.5 - 1.0).cpu())
    return torch.cat(parts).numpy() if parts else np.zeros((0, oracle.dim), np.float32)


def pick_photos(
    folder: Path,
    labels: Path | None,
    half: Half,
    max_people: int | None,
    rng: np.random.Generator,
    *,
    without: Collection[str] = (),
) -> LabeledPhotos:
    """Choose people and photos.

    Args:
        folder: Folder of photos.
        labels: CSV with columns file,identity; None takes the file name without a trailing _NNNN.
        half: Which people.
        max_people: Use only so many people.
        rng: Draws the photos of each person, and the people when there are too many.
        without: Names of files that are passed over.

    Returns:
        The photos, people in the order of their names.

    Raises:
        CalibrationError: No photo is left.
    """
    by_person: dict[str, list[Path]] = {}
    for file, person in read_labels(folder, labels).items():
        if identity_in_half(person, half) and file not in without:
            by_person.setdefault(person, []).append(folder / file)
    names = sorted(by_person)
    if max_people is not None and len(names) > max_people:
        names = sorted(rng.choice(names, max_people, replace=False).tolist())
    if not names:
        raise CalibrationError(f"no labeled photos of the {half} half in {folder}")
    first: list[Path] = []
    second: list[Path | None] = []
    for name in names:
        shuffled = [by_person[name][index] for index in rng.permutation(len(by_person[name]))]
        first.append(shuffled[0])
        second.append(shuffled[1] if len(shuffled) > 1 else None)
    return LabeledPhotos(tuple(first), tuple(second))


def identity_in_half(person: str, half: Half) -> bool:
    """Whether a person belongs to a half: the last hex digit of the SHA-256 of the name, even for calibration."""
    even = int(hashlib.sha256(person.encode()).hexdigest()[-1], 16) % 2 == 0
    return half == "all" or even == (half == "calibration")


def read_landmarks(path: Path) -> dict[str, NDArray[np.float64]]:
    """Read five landmarks (5, 2) per file from a CSV with columns file, lex, ley, rex, rey, nx, ny, lmx, ...."""
    with path.open(newline="", encoding="utf-8") as stream:
        return {
            row["file"]: np.array([float(row[column]) for column in _LANDMARK_COLUMNS]).reshape(5, 2)
            for row in csv.DictReader(stream)
        }


def read_suspects(path: Path) -> frozenset[str]:
    """Read the files that `clean-identities` suspects of a wrong label from a CSV with columns file, weight, suspect.

    Args:
        path: The CSV.

    Returns:
        Names of files.

    Raises:
        CalibrationError: A column is missing, or a value of suspect is neither 0 nor 1.
    """
    with path.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    if any(row.get("file") is None or row.get("suspect") not in ("0", "1") for row in rows):
        raise CalibrationError(f"{path.name} needs columns file and suspect, the latter 0 or 1")
    return frozenset(row["file"] for row in rows if row["suspect"] == "1")


def read_labels(folder: Path, labels: Path | None) -> dict[str, str]:
    """Read file name -> person from a CSV with columns file,identity, or off file names without a trailing _NNNN."""
    if labels is not None:
        with labels.open(newline="", encoding="utf-8") as stream:
            return {row["file"]: row["identity"] for row in csv.DictReader(stream)}
    found: dict[str, str] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp"):
            match = _NUMBERED.fullmatch(path.stem)
            found[path.name] = match.group(1) if match else path.stem
    return found


def crop_main_face(
    path: Path, known: Mapping[str, NDArray[np.float64]] | None, detector: MtcnnDetector | None
) -> NDArray[np.uint8] | None:
    """Align the face that stands for a labeled photo: at the known landmarks, else the most certain detection.

    Args:
        path: The photo.
        known: Landmarks (5, 2) by file name; None to detect.
        detector: Finds faces when no landmarks are known.

    Returns:
        The crop (128, 128, 3), or None when the photo has no face.
    """
    pixels = decode_picture(path.read_bytes())
    landmarks = known.get(path.name) if known is not None else _detect(pixels, detector)
    return None if landmarks is None else align_face(pixels, landmarks).crop


def _detect(pixels: NDArray[np.uint8], detector: MtcnnDetector | None) -> NDArray[np.float64] | None:
    found: Sequence[Any] = [] if detector is None else detector.detect(pixels)
    faces = [face for face in found if face.landmarks is not None]
    return max(faces, key=lambda face: float(face.score)).landmarks if faces else None


JOB = Job(
    name="calibrate-oracles",
    summary="impostor thresholds, centers and accuracy of the face-recognition oracles",
    source=Source(
        "The use of confidence or fiducial limits illustrated in the case of the binomial",
        "https://doi.org/10.1093/biomet/26.4.404",
        1934,
    ),
    config=CalibrateOraclesConfig,
    run=run,
    wants_large_malloc_thresholds=True,
    presets={},
)
