"""Job: what released faces keep when the photo was noisy or strongly compressed, with and without the crop restorer.

Every photo goes through the whole service several times, with the same keys and seeds, so the ways differ in the
restorer alone. Read is against the clean photo (U1 to U6 of docs/privacy.md), paired photo by photo. For noise the
restorer is the one that the service has; its grades for compression, which the service leaves out, are tried as well.
"""

from __future__ import annotations

import itertools
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from models.anonymizer.assembly import OWN_ARTIFACTS, UPSTREAM_ARTIFACTS
from models.anonymizer.policy import Policy
from models.faces.alignment import align_face
from models.faces.detection import MtcnnDetector
from models.faces.restoration import ARTIFACT_NAME as RESTORER_ARTIFACT
from models.faces.restoration import CropRestorer, load_crop_restorer
from models.oracles.ensemble import ORACLES
from training.audit.paired import Paired, paired
from training.audit.photos import AuditedPhoto
from training.audit.tables import Table, estimate_row
from training.audit.utility import MEASURES, Values, estimate, read_clean, read_utility
from training.data.drawn_faces import draw_photos, drawn_crop_set
from training.data.face_crops import load_crop_set
from training.jobs.audited_service import instruments_of
from training.jobs.calibrate_oracles import Half, pick_photos
from training.jobs.released_ways import WaysService, read_sources
from training.jobs.restored_photos import DAMAGES
from training.jobs.restorer_peers import WayRestorer, tuned_ways
from training.runs.config import JobConfig
from training.runs.context import RunContext
from training.runs.job import Job, Source
from training.runs.methods_table import SERVICE_TABLE
from training.runs.report import Check, Report

Damage = Literal["noise 10", "noise 25", "JPEG 20", "JPEG 10"]
Comparisons = Mapping[tuple[str, str, str], Paired]
"""Damage, plain way and measure to the comparison of the plain way with the restorer."""

MIN_SAMPLE = 50
"""Photos from which on a difference of means is claimed; smaller runs claim what no photo may miss."""
BARE = "no restorer"
RESTORER = "restorer"

_SERVICE_MEASURES = (
    "main face replaced",
    "U1 found again",
    "U2 landmark error",
    "U3 pose error, rad",
    "U4 gaze error, eye widths",
    "U5 expression agrees in all three",
    "U6 light error",
    "U6 age group agrees",
)


class AuditRestorerConfig(JobConfig):
    """Settings of the run."""

    folder: Path | None = Field(
        None, description="folder of photos, one main face in each; without it heads are rendered"
    )
    identity_half: Half = "test"
    photos: int = Field(60, ge=1)
    damages: tuple[Damage, ...] = Field(("noise 25", "noise 10", "JPEG 10"), min_length=1)
    peers_on: tuple[Damage, ...] = Field(("noise 25",), description="damages on which the plain ways run too")
    faces: Path | None = Field(None, description="crop set on which the plain ways are tuned; else heads are rendered")
    tuning: int = Field(4, ge=1, description="crops on which the plain ways are tuned")
    qualities: tuple[int, ...] = Field((20, 10), description="JPEG qualities that the restorer learned")
    batch: int = Field(10, ge=1, description="photos per pipeline call")
    minutes: float = Field(60.0, gt=0, description="time after which no further batch is begun")
    steps: int = Field(4, ge=1, le=4)
    artifacts: Path | None = Field(None, description="artifact store; the run's own by default")


def run(config: AuditRestorerConfig, context: RunContext) -> Report:
    """Release every photo in every way and compare.

    Args:
        config: Settings.
        context: Run directory, store and metrics.

    Returns:
        The report.

    Raises:
        ValueError: No photo shows a face.
    """
    context = context.with_store(config.artifacts)
    begin = time.monotonic()
    rng = np.random.default_rng(config.seed)
    learned = load_crop_restorer(context.store)
    noise = learned.of_kind("noise")
    restorers = {BARE: None, RESTORER: learned, **_peers(config, learned, rng)}
    service = WaysService(context.store, Policy(steps=config.steps, media="png", seed=config.seed))
    instruments = instruments_of(service.assembly, context.store, MtcnnDetector())
    sources = read_sources(_paths(config, context, rng), service.assembly.detector)
    readings: dict[tuple[str, str], list[dict[str, Values]]] = defaultdict(list)
    reasons: Counter[tuple[str, str, str]] = Counter()
    left_alone: list[bool] = []
    agrees = True
    while len(left_alone) < config.photos and (not left_alone or time.monotonic() - begin < 60 * config.minutes):
        photos = list(itertools.islice(sources, min(config.batch, config.photos - len(left_alone))))
        if not photos:
            break
        clean = read_clean(photos, instruments)
        for damage in config.damages:
            service.forget()
            pictures = [DAMAGES[damage](photo.original, rng) for photo in photos]
            if not left_alone and damage.startswith("noise"):
                agrees &= service.agrees_with_the_assembled(pictures[:1], noise)
            for way, restorer in restorers.items():
                if way in (BARE, RESTORER) or damage in config.peers_on:
                    released = service.release(photos, pictures, _for_damage(restorer, damage))
                    readings[damage, way].append(read_utility(clean, released, instruments))
                    reasons.update((damage, way, _reason(photo)) for photo in released if not photo.is_replaced)
        left_alone += [_is_left_alone(photo, noise) for photo in photos]
        context.log({"photos": len(left_alone)})
    if not left_alone:
        raise ValueError("no face was found in any photo")
    joined = {
        key: {name: np.concatenate([part[name] for part in parts]) for name in MEASURES}
        for key, parts in readings.items()
    }
    comparisons = compare(joined, rng)
    metrics = {
        "photos": float(len(left_alone)),
        "clean_left_alone": float(np.mean(left_alone)),
        **{f"noisy_measures_{kind}": float(n) for kind, n in _outcomes(comparisons, "noise").items()},
        **{f"compressed_measures_{kind}": float(n) for kind, n in _outcomes(comparisons, "JPEG").items()},
    }
    tables: dict[str, Table] = {
        "measures with 95 % intervals": [
            {"damage": damage, "way": way, **estimate_row(name, estimate(name, values, rng))}
            for (damage, way), reading in joined.items()
            for name, values in reading.items()
        ],
        "the restorer against each plain way": comparison_table(comparisons),
        "main faces not replaced": [
            {"damage": damage, "way": way, "reason": reason, "faces": count}
            for (damage, way, reason), count in reasons.items()
        ],
        SERVICE_TABLE: service_rows(comparisons),
        "artifacts": [{"artifact": k, "version": v} for k, v in sorted(service.assembly.versions.items())],
    }
    checks = [
        Check("photos that the assembled service releases as the one with the same restorer", 1.0, float(agrees)),
        Check("share of clean photos left alone", 1.0, metrics["clean_left_alone"]),
    ]
    strongest = comparisons.get(("noise 25", BARE, "U2 landmark error"))
    if strongest is not None and strongest.difference.count >= MIN_SAMPLE:
        claim = "noise 25: change of the landmark error (U2) by the restorer"
        checks.append(Check(claim, 0.0, strongest.difference.value, relation="at_most"))
    return Report(metrics=metrics, checks=checks, tables=tables)


def compare(readings: Mapping[tuple[str, str], Mapping[str, Values]], rng: np.random.Generator) -> Comparisons:
    """Set the restorer beside every other way on the same damaged photos.

    Args:
        readings: Damage and way to measures, each (n,) in the same order of photos.
        rng: Draws the resamples.

    Returns:
        The comparisons, in the order of the readings and of `MEASURES`.
    """
    return {
        (damage, way, name): paired(reading[name], readings[damage, RESTORER][name], rng)
        for (damage, way), reading in readings.items()
        if way != RESTORER
        for name in MEASURES
    }


def comparison_table(comparisons: Comparisons) -> Table:
    """One row per comparison with the interval of the mean difference and what it says."""
    return [
        {
            "damage": damage,
            "against": way,
            "measure": name,
            "without": round(found.without, 4),
            "with": round(found.with_, 4),
            "difference": round(found.difference.value, 4),
            "95 % interval": f"{found.difference.lower:.4f} .. {found.difference.upper:.4f}",
            "n": found.difference.count,
            "the restorer is": found.outcome(MEASURES[name]),
        }
        for (damage, way, name), found in comparisons.items()
    ]


def service_rows(comparisons: Comparisons) -> Table:
    """Rows for the page of all methods: one measure for each of U1 to U6 and the share of replaced faces."""
    return [
        {
            "method": "maid",
            "job": f"restores crops before encoding, {damage}, against {'none' if way == BARE else f'tuned {way}'}",
            "measure": f"released faces: {name}",
            "without": found.without,
            "with": found.with_,
            "n": found.difference.count,
        }
        for (damage, way, name), found in comparisons.items()
        if name in _SERVICE_MEASURES and found.difference.count
    ]


def _outcomes(comparisons: Comparisons, kind: str) -> dict[str, int]:
    """How many measures the restorer makes better or worse than no restorer, beyond their intervals."""
    found = [
        comparison.outcome(MEASURES[name])
        for (damage, way, name), comparison in comparisons.items()
        if way == BARE and damage.startswith(kind)
    ]
    return {outcome: found.count(outcome) for outcome in ("better", "worse", "open")}


def _reason(photo: AuditedPhoto) -> str:
    """Why the main face of a photo was covered or its picture withheld."""
    reason = photo.main_face.reason if photo.main_face else None
    if reason is None and photo.release is not None:
        reason = photo.release.reason
    return "its face was not found" if reason is None else reason.value


def _for_damage(restorer: CropRestorer | None, damage: str) -> CropRestorer | None:
    """For noise, the restorer as the service has it: without its grades for compression."""
    if restorer is None or damage.startswith("JPEG"):
        return restorer
    return restorer.of_kind("noise")


def _is_left_alone(photo: AuditedPhoto, restorer: CropRestorer) -> bool:
    aligned = align_face(photo.original, photo.source.landmarks)
    return restorer.restore_face(photo.original, aligned) is aligned


def _peers(config: AuditRestorerConfig, learned: CropRestorer, rng: np.random.Generator) -> dict[str, CropRestorer]:
    if not config.peers_on:
        return {}
    people = drawn_crop_set(config.tuning, 1, config.seed) if config.faces is None else load_crop_set(config.faces)
    learning = people if config.faces is None else people.split()[0]
    crops = learning.crops[rng.choice(len(learning), min(config.tuning, len(learning)), replace=False)]
    if any(damage.startswith("JPEG") for damage in config.peers_on):
        ways = tuned_ways(learned.grades, crops, config.qualities, rng)
    else:
        ways = tuned_ways(learned.of_kind("noise").grades, crops, (), rng)
    return {name: WayRestorer(learned, way) for name, way in ways.items()}


def _paths(config: AuditRestorerConfig, context: RunContext, rng: np.random.Generator) -> Sequence[Path]:
    """Photos of different people, some more than wanted, since a face may not be found."""
    if config.folder is not None:
        people = pick_photos(config.folder, None, config.identity_half, None, rng).first
        return [people[index] for index in rng.permutation(len(people))[: config.photos + config.photos // 4 + 1]]
    return draw_photos(context.directory / "rendered", config.photos, 1, config.seed)


JOB = Job(
    name="audit-restorer",
    summary="utility of faces released from noisy and compressed photos, with and without the restorer",
    source=Source(
        "An adaptively inexact first-order method for bilevel optimization with application to hyperparameter learning",
        "https://arxiv.org/abs/2308.10098",
        2023,
    ),
    config=AuditRestorerConfig,
    run=run,
    wants_large_malloc_thresholds=True,
    presets={
        "smoke": {
            "artifacts": "artifacts",
            "photos": 2,
            "damages": ("noise 10",),
            "peers_on": (),
        },
        "full": {"faces": "data/faces"},
    },
    needs=tuple(
        f"artifacts/{name}"
        for name in (*OWN_ARTIFACTS, RESTORER_ARTIFACT, *UPSTREAM_ARTIFACTS, ORACLES["faceres"].artifact)
    ),
)
