"""Job: what each part of the service buys, by leaving it out on the same photos with the same seeds.

One table has every way of running the service and the usual treatments (blur, pixels, a mask) on equal photos. A part
whose removal changes nothing beyond the interval of the paired difference is said to buy nothing here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from models.faces.detection import MtcnnDetector
from models.oracles.ensemble import AUDITOR_ORACLES, SERVING_ORACLES, load_oracle
from training.audit.baselines import BASELINES
from training.audit.paired import paired
from training.audit.photos import AuditedPhoto, read_photos
from training.audit.statistics import Estimate, mean, rank_k, rate
from training.audit.tables import RECOGNIZERS, Table
from training.audit.utility import MEASURES, Values, estimate, read_clean, read_utility
from training.jobs.audited_service import NEEDS, instruments_of
from training.jobs.calibrate_oracles import Half, embed_crops
from training.jobs.photo_pairs import labeled_or_rendered
from training.jobs.service_ablations import SERVED, WAYS, AblatedService
from training.runs.config import JobConfig
from training.runs.context import RunContext
from training.runs.job import Job
from training.runs.report import Check, Report

MIN_SAMPLE = 50
"""Photos from which on differences are claimed."""

PRIVACY: Final[Mapping[str, int]] = {
    **{f"P1.{name}": -1 for name in RECOGNIZERS},
    **{f"similarity to the source.{name}": -1 for name in RECOGNIZERS},
    **{f"P3 rank-1 source.{name}": -1 for name in AUDITOR_ORACLES},
    **{f"P3 rank-1 mate.{name}": -1 for name in AUDITOR_ORACLES},
}
"""Privacy measures read of every released face, and the direction in which they are better."""
DIRECTIONS: Final = {**PRIVACY, **MEASURES}


class AblateServiceConfig(JobConfig):
    """Settings of the run."""

    folder: Path | None = Field(
        None, description="folder of photos, one main face in each; without it heads are rendered"
    )
    labels: Path | None = Field(None, description="CSV with columns file,identity; else the name without _NNNN")
    identity_half: Half = "test"
    photos: int = Field(200, ge=2, description="people; each has a second photo as mate")
    ways: tuple[str, ...] = Field(
        tuple(name for name, way in WAYS.items() if way.is_taught),
        min_length=1,
        description="ways to run; the first is compared with",
    )
    teacher: str | None = Field(None, description="version of an undistilled face-generator, for the way it draws in")
    batch: int = Field(10, ge=1, description="photos per pipeline call")
    far: float = Field(1e-3, gt=0, lt=1)
    artifacts: Path | None = Field(None, description="artifact store; the run's own by default")


def run(config: AblateServiceConfig, context: RunContext) -> Report:
    """Release every photo in every way, read privacy and utility, compare with the first way.

    Args:
        config: Settings.
        context: Run directory, store and metrics.

    Returns:
        The report; its checks are that the whole service keeps every serving oracle's threshold and that without
        recognizers the auditor knows more faces.

    Raises:
        ValueError: A way is unknown, or it is the teacher's and its version is not given.
    """
    if unknown := sorted(set(config.ways) - set(WAYS)):
        raise ValueError(f"unknown ways {unknown}; there are {sorted(WAYS)}")
    if config.teacher is None and not all(WAYS[name].is_taught for name in config.ways):
        raise ValueError("set teacher=VERSION, an undistilled face-generator, for the way in which it draws")
    context = context.with_store(config.artifacts)
    rng = np.random.default_rng(config.seed)
    service = AblatedService(context.store, config.far, config.seed, config.teacher)
    instruments = instruments_of(service.assembly, context.store, MtcnnDetector())
    pairs = labeled_or_rendered(
        config.folder,
        config.labels,
        config.identity_half,
        config.photos,
        config.seed,
        rng,
        context.directory / "rendered",
    )
    photos = read_photos(pairs, service.assembly.detector, config.photos)
    utility: dict[str, list[dict[str, Values]]] = defaultdict(list)
    crops: dict[str, list[NDArray[np.uint8]]] = defaultdict(list)
    places: dict[str, list[int]] = defaultdict(list)
    bits: dict[str, float] = defaultdict(float)
    tries: dict[str, list[int]] = defaultdict(list)
    for start in range(0, len(photos), config.batch):
        part = photos[start : start + config.batch]
        clean = read_clean(part, instruments)
        for name in config.ways:
            released, counted = service.release(part, start, WAYS[name])
            utility[name].append(read_utility(clean, released, instruments))
            bits[name] += counted
            for index, photo in enumerate(released, start=start):
                if photo.pixels is not None and photo.main_face is not None:
                    crops[name].append(photo.own_aligned())
                    places[name].append(index)
                    tries[name].append(photo.main_face.attempts)
        service.forget()
        context.log({"photos": start + len(part)})
    readings = {
        name: {key: np.concatenate([reading[key] for reading in utility[name]]) for key in MEASURES}
        for name in config.ways
    }
    treated = {name: np.stack([change(photo.source.crop) for photo in photos]) for name, change in BASELINES.items()}
    shown = {name: (_stack(crops[name]), np.array(places[name], dtype=np.int64)) for name in config.ways}
    shown |= {name: (stack, np.arange(len(photos))) for name, stack in treated.items()}
    for name, values in _privacy(shown, photos, service, context, config).items():
        readings.setdefault(name, {}).update(values)

    first = config.ways[0]
    table: Table = []
    for name, values in readings.items():
        row: dict[str, object] = {"way": name}
        row |= {key: _shown(_estimate(key, values[key], rng)) for key in DIRECTIONS if key in values}
        if name in tries:
            row["identities tried"] = round(float(np.mean(tries[name])), 2) if tries[name] else None
            row["leak, bits per released face"] = round(bits[name] / max(1, len(places[name])), 3)
        table.append(row)
    differences: Table = [
        _difference(name, key, readings[first][key], readings[name][key], rng)
        for name in config.ways[1:]
        for key in DIRECTIONS
    ]
    metrics = {"photos": float(len(photos))}
    worst = max(float(np.nanmean(readings[first][f"P1.{name}"])) for name in SERVING_ORACLES)
    checks = [Check(f"{first}: largest share at a serving oracle's threshold (P1)", 0.0, worst, relation="at_most")]
    swapped = next((name for name in config.ways if not WAYS[name].oracles), None)
    if first == SERVED and swapped is not None and len(photos) >= MIN_SAMPLE:
        gained = paired(readings[first]["P1.faceres"], readings[swapped]["P1.faceres"], rng).difference.value
        checks.append(
            Check("faces more that the auditor knows without rejection (P1)", 0.0, gained, relation="at_least")
        )
    return Report(
        metrics=metrics,
        checks=checks,
        tables={
            "what each part buys": table,
            "paired differences": differences,
            "artifacts": [{"artifact": k, "version": v} for k, v in sorted(service.assembly.versions.items())],
        },
    )


def _privacy(
    shown: Mapping[str, tuple[NDArray[np.uint8], NDArray[np.int64]]],
    photos: list[AuditedPhoto],
    service: AblatedService,
    context: RunContext,
    config: AblateServiceConfig,
) -> dict[str, dict[str, Values]]:
    """For every way the measures of `PRIVACY`, one value per photo; NaN where its face was not replaced."""
    thresholds = service.assembly.thresholds
    read: dict[str, dict[str, Values]] = {name: {} for name in shown}
    for recognizer in RECOGNIZERS:
        oracle = load_oracle(context.store, recognizer, center=thresholds.centers.get(recognizer))
        source = embed_crops(oracle, np.stack([photo.source.crop for photo in photos]), 32)
        mate = embed_crops(oracle, np.stack([photo.mate for photo in photos]), 32)
        # the attacker's operating point: the empirical threshold over all impostor pairs
        limit = thresholds.get(recognizer, config.far).point_estimate
        for name, (stack, rows) in shown.items():
            codes = embed_crops(oracle, stack, 32)
            similarity = (codes * source[rows]).sum(1)
            found = {f"P1.{recognizer}": similarity >= limit, f"similarity to the source.{recognizer}": similarity}
            if recognizer in AUDITOR_ORACLES:
                found[f"P3 rank-1 source.{recognizer}"] = rank_k(codes, source, rows)
                found[f"P3 rank-1 mate.{recognizer}"] = rank_k(codes, mate, rows)
            for key, values in found.items():
                read[name][key] = np.full(len(photos), np.nan)
                read[name][key][rows] = values
    return read


def _estimate(key: str, values: Values, rng: np.random.Generator) -> Estimate:
    """Over the photos that were measured: a share with Wilson's interval, any other mean with the bootstrap's."""
    if key in MEASURES:
        return estimate(key, values, rng)
    return rate(values[np.isfinite(values)] > 0) if key.startswith(("P1.", "P3 ")) else mean(values, rng)


def _shown(found: Estimate) -> str:
    return f"{found.value:.3f} ({found.lower:.3f} .. {found.upper:.3f})"


def _difference(name: str, key: str, first: Values, other: Values, rng: np.random.Generator) -> dict[str, object]:
    compared = paired(first, other, rng)
    change = compared.difference
    return {
        "way": name,
        "measure": key,
        "as served": round(compared.without, 4),
        "this way": round(compared.with_, 4),
        "95 % interval of the difference": f"{change.lower:.4f} .. {change.upper:.4f}",
        "n": change.count,
        "this way is": compared.outcome(DIRECTIONS[key]),
    }


def _stack(crops: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    return np.stack(crops) if crops else np.zeros((0, 128, 128, 3), dtype=np.uint8)


JOB = Job(
    name="ablate-service",
    summary="what each part of the service buys: privacy and utility with one part left out",
    config=AblateServiceConfig,
    run=run,
    wants_large_malloc_thresholds=True,
    presets={
        "smoke": {
            "artifacts": "artifacts",
            "photos": 2,
            "ways": (SERVED, "swapped only: no recognizer refuses"),
        }
    },
    needs=NEEDS,
)
