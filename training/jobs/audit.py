"""Job: anonymize photos of labeled people as the service does, attack the result, and report privacy and utility.

Protocol identifiers (P1, P3, A3, A6, U1, U2, ...) are those of docs/privacy.md. The sheets stay in the run directory:
they show real people.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from models.anonymizer.assembly import AssemblySettings
from models.anonymizer.policy import Policy
from models.anonymizer.synthesis import Selection, SynthesisSettings
from models.encoder.levels import Level
from training.audit.criteria import release_criteria
from training.audit.fidelity import read_fidelity
from training.audit.identification import tails
from training.audit.linking import averaged_releases, linkage_table
from training.audit.photos import AuditedPhoto, both_photos, crop_sheet, photo_sheet, read_photos
from training.audit.plots import rank_panels, similarity_panels
from training.audit.probes import Probes
from training.audit.tables import (
    Table,
    count_table,
    criteria_table,
    estimate_row,
    floor_table,
    inversion_table,
    released_rates,
    service_table,
    subgroup_table,
)
from training.data.apparent_attributes import apparent_sex_and_age
from training.data.face_crops import load_crop_set
from training.jobs.audit_attacks import Recognition, as_a_set, near_training_faces, recognition, searches, secrets
from training.jobs.audited_service import NEEDS, Audited, instruments_of
from training.jobs.calibrate_oracles import Half, read_suspects
from training.jobs.photo_pairs import labeled_pairs, rendered_pairs
from training.jobs.publishing import write_sheet
from training.runs.config import JobConfig
from training.runs.context import RunContext
from training.runs.figures import Figure, plot_panels
from training.runs.job import Job, Source
from training.runs.report import Report


class AuditConfig(JobConfig):
    """Settings of the run."""

    folder: Path | None = Field(
        None, description="folder of photos, one main face in each; without it heads are rendered"
    )
    labels: Path | None = Field(None, description="CSV with columns file,identity; else the name without _NNNN")
    weights: Path | None = Field(
        None, description="weights.csv of clean-identities; attackers do not learn from its suspects"
    )
    identity_half: Half = "test"
    photos: int = Field(500, ge=2, description="people whose photo is anonymized; each has a second photo as mate")
    photos_per_person: Literal[1, 2] = Field(
        1, description="with 2 the second photo is anonymized too, with the first as mate; of attackers' people as well"
    )
    attacker_people: int = Field(
        200, ge=0, description="people of the calibration half whose released photos the trained attackers learn from"
    )
    inversion_steps: int = Field(
        300, ge=0, description="training steps of the network that draws the originals back (A4); 0 leaves it out"
    )
    linkage_people: int = Field(
        100,
        ge=0,
        description="people whose two photos are both released and linked (A1); with two photos each, everybody",
    )
    differencing_people: int = Field(20, ge=0, description="people whose photo is released many times (A7)")
    differencing_draws: tuple[int, ...] = Field((1, 5, 20), min_length=1, description="releases that are averaged")
    key_people: int = Field(
        20, ge=0, description="people on whom holders of the keys try themselves (A8, P9); 0 leaves it out"
    )
    index_people: int = Field(
        100, ge=0, description="people whose pictures are indexed and searched, and as many strangers (A9); 0: none"
    )
    kernel_photos: int = Field(500, ge=0, description="released photos in the kernel distance (U7); 0 leaves it out")
    training_faces: Path | None = Field(
        None, description="crop set that the generator learned from, to look for its faces in the releases (P8)"
    )
    batch: int = Field(10, ge=1, description="photos per pipeline call")
    level: Level = Field("balanced", description="what the attribute code may tell of a face")
    steps: int = Field(4, ge=1, le=4)
    guidance: float = Field(2.0, ge=1, le=4)
    far: float = Field(1e-3, gt=0, lt=1)
    select: str = Field("first", pattern="^(first|landmarks)$")
    block: int = Field(4, ge=1)
    margin: float | None = Field(
        None, ge=0, le=3, description="distance of candidates from the thresholds, in deviations; null: the level's"
    )
    sheet: int = Field(48, ge=1, description="first pairs shown in the sheets")
    artifacts: Path | None = Field(None, description="artifact store under audit; the run's own by default")


def run(config: AuditConfig, context: RunContext) -> Report:
    """Anonymize, measure, attack, report.

    Args:
        config: Settings.
        context: Run directory, store and metrics.

    Returns:
        The report; its checks are the release criteria.
    """
    context = context.with_store(config.artifacts)
    learned_from = None if config.training_faces is None else load_crop_set(config.training_faces)
    rng = np.random.default_rng(config.seed)
    synthesis = SynthesisSettings(block=config.block, select=cast(Selection, config.select), margin=config.margin)
    policy = Policy(level=config.level, steps=config.steps, guidance=config.guidance, media="png")
    settings = AssemblySettings(far=config.far, synthesis=synthesis)
    audited = Audited.open(context.store, settings, policy, config.batch, context.log)
    assembly = audited.assembly
    pairs = _pairs(config, context, config.identity_half, None, rng)
    photos = both_photos(read_photos(pairs, assembly.detector, config.photos), config.photos_per_person)
    audited.release(photos)
    # before the attackers' photos are anonymized too
    source_bits = assembly.meter.source_bits
    instruments = instruments_of(assembly, context.store, audited.detector)
    fidelity = read_fidelity(photos, instruments, assembly.generator.autoencoder)
    context.log({"read": len(photos)})
    probes = Probes(
        np.array([place for place, photo in enumerate(photos) if photo.pixels is not None], dtype=np.int64),
        len(photos) // config.photos_per_person,
    )
    write_sheet(context, "pairs", photo_sheet(photos[: config.sheet]))
    write_sheet(context, "crops", crop_sheet(photos[: config.sheet]))

    utility = fidelity.estimates(probes, rng) | as_a_set(photos, probes, fidelity, config.kernel_photos, rng)
    pupils, pupil_people = _pupils(audited, config, context, rng)
    found = recognition(
        audited,
        photos,
        probes,
        pupils,
        pupil_people,
        inversion_steps=config.inversion_steps,
        seed=config.seed,
        rng=rng,
    )
    more = (audited.release, audited.detector, audited.embed)
    links = linkage_table(photos, probes, found.codes, *more, config.linkage_people)
    averaged = averaged_releases(
        photos, probes, found.codes["faceres"]["source"], *more, config.differencing_people, config.differencing_draws
    )
    with_keys, pseudonyms = secrets(audited, photos, probes, config.key_people, config.seed)
    context.log({"keys_tried": len(pseudonyms)})
    privacy = found.estimates | averaged | with_keys
    released = released_rates(photos, probes)
    labels = apparent_sex_and_age(np.stack([photo.source.crop for photo in photos]), context.store)
    estimates = {**privacy, **utility, **released}
    ratio = utility["U2 landmark error"].value / max(1e-9, utility["U2 landmark error, autoencoder only"].value)
    metrics = {
        "photos": float(len(photos)),
        "people": float(probes.gallery),
        "landmark_ratio": ratio,
        "leaked_bits_per_face": source_bits / max(1, len(probes)),
        **{name: estimate.value for name, estimate in estimates.items()},
    }
    faces = [face for photo in photos if photo.release for face in photo.release.verdict.faces]
    tables: dict[str, Table] = {
        "measures with 95 % intervals": [estimate_row(name, estimate) for name, estimate in estimates.items()],
        "similarity to the source (P5)": tails(found.similarities),
        "the same faces treated elsewhere": found.elsewhere,
        "readings and what the instruments do to them (U2 to U9)": floor_table(utility),
        "subgroups (U11)": subgroup_table(photos, probes, labels, found.similarities),
        "drawing the originals back (A4)": inversion_table(privacy),
        "linking two released photos of one person (A1, P9)": links,
        "pseudonyms, with the key and without (P9, A8)": pseudonyms,
        "searching the index with a photo (A9)": searches(audited, photos, probes, pupils, config.index_people),
        "nearest training face (P8, faceres)": near_training_faces(audited, found, probes, learned_from),
        "criteria of WP29": criteria_table(privacy, links, probes.gallery),
        "in the service": service_table(privacy),
        "status of the photos": count_table("status", (p.release.verdict.status.value for p in photos if p.release)),
        "reasons of faces": count_table("reason", (face.reason.value for face in faces if face.reason is not None)),
        "artifacts": [{"artifact": k, "version": v} for k, v in sorted(assembly.versions.items())],
    }
    checks = release_criteria(privacy, released, ratio, config.photos)
    return Report(metrics=metrics, checks=checks, figures=_plots(audited, found, probes, context), tables=tables)


def _plots(audited: Audited, found: Recognition, probes: Probes, context: RunContext) -> list[Figure]:
    """Histograms and rank curves; none where nothing was released."""
    panels = {
        "similarity": (
            similarity_panels(found.codes, found.similarities, probes, audited.threshold),
            "Similarity to the source (P5); what lies right of the threshold is called the same person",
        ),
        "ranks": (
            rank_panels(found.codes, probes),
            "Share of faces whose person is among the k best of the gallery (P3, A6)",
        ),
    }
    return [
        plot_panels(context.directory, name, each, caption=caption) for name, (each, caption) in panels.items() if each
    ]


def _pupils(
    audited: Audited, config: AuditConfig, context: RunContext, rng: np.random.Generator
) -> tuple[list[AuditedPhoto], NDArray[np.int64]]:
    """Released photos that the trained attackers learn from, and the person in each."""
    half: Half = "calibration" if config.identity_half == "test" else config.identity_half
    people = config.attacker_people
    if people == 0:
        return [], np.zeros(0, dtype=np.int64)
    read = read_photos(_pairs(config, context, half, people, rng), audited.assembly.detector, people)
    photos = both_photos(read, config.photos_per_person)
    audited.release(photos)
    for photo in photos:
        photo.read_release(audited.detector)
    places = [place for place, photo in enumerate(photos) if photo.pixels is not None]
    names = np.array([place % len(read) for place in places], dtype=np.int64)
    # an attacker needs somebody to be told apart from
    if len(np.unique(names)) < 2:
        return [], np.zeros(0, dtype=np.int64)
    return [photos[place] for place in places], names


def _pairs(
    config: AuditConfig, context: RunContext, half: Half, people: int | None, rng: np.random.Generator
) -> list[tuple[Path, Path]]:
    """Two photos of each person, in random order; a few people more than wanted, since a face may not be found.

    With a number of people it is attackers who learn from them, and then suspected labels are left out.
    """
    if config.folder is None:
        drawn = config.photos if half == config.identity_half else config.attacker_people
        return rendered_pairs(context.directory / f"rendered-{half}", drawn, config.seed + (half == "calibration"))
    suspects = read_suspects(config.weights) if config.weights and people is not None else frozenset()
    chosen = labeled_pairs(config.folder, config.labels, half, rng, without=suspects)
    return chosen if people is None else chosen[: people + people // 4]


JOB = Job(
    name="audit",
    summary="anonymizes labeled photos, attacks the result, reports privacy and utility",
    source=Source("Identity-Decoupled Anonymization for Visual Evidence in Multi-modal RAG", "arXiv:2604.23584", 2026),
    config=AuditConfig,
    run=run,
    wants_large_malloc_thresholds=True,
    presets={
        "smoke": {
            "artifacts": "artifacts",
            "photos": 2,
            "attacker_people": 2,
            "inversion_steps": 1,
            "linkage_people": 0,
            "differencing_people": 0,
            "key_people": 0,
            "index_people": 0,
            "kernel_photos": 0,
        }
    },
    needs=NEEDS,
)
