"""Job: anonymize photos of labeled people as the service does, attack the result, and report privacy and utility.

Protocol identifiers (P1, P3, A3, A6, U1, U2, ...) are those of docs/privacy.md. The sheets stay in the run directory:
they show real people.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from models.anonymizer.assembly import (
    OWN_ARTIFACTS,
    UPSTREAM_ARTIFACTS,
    Assembly,
    AssemblySettings,
    assemble,
)
from models.anonymizer.pipeline import PictureRequest
from models.anonymizer.policy import Policy
from models.anonymizer.synthesis import Selection, SynthesisSettings
from models.encoder.levels import Level
from models.faces.alignment import align_face, face_mask
from models.faces.compositing import paste_face
from models.faces.detection import MtcnnDetector
from models.oracles.ensemble import AUDITOR_ORACLES, ORACLES, SERVING_ORACLES, load_oracle
from models.pictures import encode_picture
from models.registry.store import ArtifactStore
from training.audit.attackers import PairAttacker, RidgeAttacker
from training.audit.attribute_probe import CodeProbe, attribute_codes
from training.audit.baselines import BASELINES, covered
from training.audit.expression import read_expressions, rotation_angle
from training.audit.faces import FoundFace, changed_region, landmark_error, same_face, treated_boxes
from training.audit.inversion import fit_inversion, reconstruct
from training.audit.linkage import differencing, linkage_error
from training.audit.photos import REPLACED, AuditedPhoto, crop_sheet, photo_sheet, read_photos
from training.audit.recognition import Views, privacy_measures, replaced_measures, self_similarity, similarity_tail
from training.audit.statistics import Estimate, mean, rank_k, rate, top_scored
from training.audit.tables import (
    RECOGNIZERS,
    Table,
    count_table,
    criteria_table,
    estimate_row,
    inversion_table,
    service_table,
    subgroup_table,
)
from training.data.apparent_attributes import apparent_sex_and_age
from training.data.face_crops import to_tensor
from training.jobs.calibrate_oracles import Half, embed_crops, read_suspects
from training.jobs.photo_pairs import labeled_pairs, rendered_pairs
from training.jobs.publishing import write_sheet
from training.objectives.reconstruction import laplacian_energy
from training.runs.config import JobConfig
from training.runs.context import RunContext
from training.runs.job import Job, Source
from training.runs.report import Check, Report

MIN_SAMPLE = 50
"""Photos from which on a share of 2 % can show; the criteria that are such shares are claims of larger runs only."""

DRAWN_BACK = {"A4": "drawn back", "A6 drawn": "drawn back from the context"}
"""What an inversion network is shown, the released face or the covered one, and the name of its drawings."""


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
    attacker_people: int = Field(
        200, ge=0, description="people of the calibration half whose released photos the trained attackers learn from"
    )
    inversion_steps: int = Field(
        300, ge=0, description="training steps of the network that draws the originals back (A4); 0 leaves it out"
    )
    linkage_people: int = Field(100, ge=0, description="people whose two photos are both released and linked (A1)")
    differencing_people: int = Field(20, ge=0, description="people whose photo is released many times (A7)")
    differencing_draws: tuple[int, ...] = Field((1, 5, 20), min_length=1, description="releases that are averaged")
    batch: int = Field(10, ge=1, description="photos per pipeline call")
    level: Level = Field("balanced", description="what the attribute code may tell of a face")
    steps: int = Field(4, ge=1, le=4)
    guidance: float = Field(2.0, ge=1, le=4)
    far: float = Field(1e-3, gt=0, lt=1)
    select: str = Field("first", pattern="^(first|landmarks)$")
    block: int = Field(4, ge=1)
    margin: float = Field(0.75, ge=0, le=3, description="distance of candidates from the thresholds, in deviations")
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
    if config.artifacts is not None:
        context = dataclasses.replace(context, store=ArtifactStore(config.artifacts))
    rng = np.random.default_rng(config.seed)
    synthesis = SynthesisSettings(block=config.block, select=cast(Selection, config.select), margin=config.margin)
    assembly = assemble(context.store, AssemblySettings(far=config.far, synthesis=synthesis))
    detector = MtcnnDetector()
    photos = read_photos(_pairs(config, context, config.identity_half, None, rng), assembly.detector, config.photos)
    _anonymize(photos, assembly, config, context)
    # before the attackers' photos are anonymized too
    source_bits = assembly.meter.source_bits
    for photo in photos:
        _inspect(photo, detector, assembly)
    probes = [photo for photo in photos if photo.pixels is not None]
    write_sheet(context, "pairs", photo_sheet(photos[: config.sheet]))
    write_sheet(context, "crops", crop_sheet(photos[: config.sheet]))

    utility = _utility(probes, assembly, rng)
    pupils: list[AuditedPhoto] = []
    if config.attacker_people:
        half: Half = "calibration" if config.identity_half == "test" else config.identity_half
        pupils = read_photos(
            _pairs(config, context, half, config.attacker_people, rng), assembly.detector, config.attacker_people
        )
        _anonymize(pupils, assembly, config, context)
        for photo in pupils:
            photo.read_release(detector)
        pupils = [photo for photo in pupils if photo.pixels is not None]
        # an attacker needs somebody to be told apart from
        pupils = pupils if len(pupils) > 1 else []
    privacy, tails, elsewhere, similarities = _recognition(photos, probes, pupils, assembly, context, config, rng)
    links = _linkage(probes, detector, assembly, context, config)
    privacy |= _differencing(photos, probes, detector, assembly, context, config)

    faces = [face for photo in photos if photo.release for face in photo.release.verdict.faces]
    released = {
        "main face not replaced": rate(np.array([not photo.is_replaced for photo in photos])),
        "all faces, not replaced": rate(np.array([face.status.value not in REPLACED for face in faces])),
        "U1 found again": rate(np.array([photo.found is not None for photo in probes])),
        "U8 outside equal": rate(np.array([photo.measures.get("outside_equal", 0.0) == 1.0 for photo in probes])),
    }
    labels = apparent_sex_and_age(np.stack([photo.source.crop for photo in photos]), context.store)
    estimates = {**privacy, **utility, **released}
    ratio = utility["U2 landmark error"].value / max(1e-9, utility["U2 landmark error, autoencoder only"].value)
    metrics = {
        "photos": float(len(photos)),
        "landmark_ratio": ratio,
        "leaked_bits_per_face": source_bits / max(1, len(probes)),
        **{name: estimate.value for name, estimate in estimates.items()},
    }
    tables: dict[str, Table] = {
        "measures with 95 % intervals": [estimate_row(name, estimate) for name, estimate in estimates.items()],
        "similarity to the source (P5)": tails,
        "the same faces treated elsewhere": elsewhere,
        "subgroups (U11)": subgroup_table(photos, probes, labels, similarities),
        "drawing the originals back (A4)": inversion_table(privacy),
        "linking two released photos of one person (A1, P9)": links,
        "criteria of WP29": criteria_table(privacy, links, bool(pupils), len(photos)),
        "in the service": service_table(privacy),
        "status of the photos": count_table("status", (p.release.verdict.status.value for p in photos if p.release)),
        "reasons of faces": count_table("reason", (face.reason.value for face in faces if face.reason is not None)),
        "artifacts": [{"artifact": k, "version": v} for k, v in sorted(assembly.versions.items())],
    }
    return Report(metrics=metrics, checks=_checks(privacy, released, ratio, config), tables=tables)


def _checks(
    privacy: Mapping[str, Estimate], released: Mapping[str, Estimate], landmark_ratio: float, config: AuditConfig
) -> tuple[Check, ...]:
    """The release criteria; of a run that was asked for few photos only those that no single photo may miss."""
    serving = max(privacy[f"P1.{name}"].value for name in SERVING_ORACLES)
    auditor = 1 - privacy["P1.faceres"].value
    not_replaced = released["main face not replaced"].value
    without_exception = (
        Check("largest share of released faces at a serving oracle's threshold (P1)", 0.0, serving, relation="at_most"),
        Check(
            "photos whose pixels outside the masks are equal (U8)",
            1.0,
            released["U8 outside equal"].value,
            relation="at_least",
        ),
    )
    if config.photos < MIN_SAMPLE:
        return without_exception
    return (
        *without_exception,
        Check("main faces redacted or withheld", 0.05, not_replaced, relation="at_most"),
        Check("released faces that the auditor calls different (PSR)", 0.98, auditor, relation="at_least"),
        Check("released faces found again (U1)", 0.98, released["U1 found again"].value, relation="at_least"),
        Check("landmark error over the autoencoder's own (U2)", 1.5, landmark_ratio, relation="at_most"),
    )


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


def _anonymize(photos: list[AuditedPhoto], assembly: Assembly, config: AuditConfig, context: RunContext) -> None:
    policy = Policy(level=config.level, steps=config.steps, guidance=config.guidance, media="png")
    for start in range(0, len(photos), config.batch):
        part = photos[start : start + config.batch]
        requests = [PictureRequest(encode_picture(photo.original, "png"), policy) for photo in part]
        for photo, release in zip(part, assembly.anonymizer.anonymize(requests), strict=True):
            photo.release = release
        context.log({"anonymized": start + len(part)})


def _inspect(photo: AuditedPhoto, detector: MtcnnDetector, assembly: Assembly) -> None:
    photo.read_release(detector)
    if photo.pixels is None or photo.release is None or photo.main_face is None:
        return
    region = changed_region([photo.source.face], photo.original.shape[:2])
    region |= treated_boxes([face.box for face in photo.release.verdict.faces], photo.original.shape[:2])
    photo.measures["outside_equal"] = float(np.array_equal(photo.pixels[~region], photo.original[~region]))
    photo.measures["attempts"] = float(photo.main_face.attempts)
    # both sides by one pass of one detector: what another pass would say of the same face is no movement
    before = same_face(detector, photo.original, photo.source)
    if before is not None and photo.found is not None:
        photo.measures["landmark_error"] = landmark_error(before, photo.found)
    if photo.found is not None:
        energies = laplacian_energy(to_tensor(np.stack([photo.source.crop, photo.found.crop])))
        photo.measures["sharpness"] = float(energies[1] / energies[0].clamp_min(1e-8))
    if before is not None:
        photo.measures["autoencoder_landmark_error"] = _autoencoder_error(photo, before, detector, assembly)


@torch.inference_mode()
def _autoencoder_error(photo: AuditedPhoto, before: FoundFace, detector: MtcnnDetector, assembly: Assembly) -> float:
    """Landmark error of the photo whose face went through the autoencoder only: the generator's floor."""
    aligned = align_face(photo.original, photo.source.landmarks)
    autoencoder = assembly.generator.autoencoder
    decoded = autoencoder.decode(autoencoder.encode(to_tensor(aligned.crop[None]))).clamp(-1, 1)
    pixels = ((decoded[0] + 1) * 127.5).round().byte().permute(1, 2, 0).contiguous().numpy()
    pasted = paste_face(photo.original, pixels, aligned.matrix, face_mask())
    found = same_face(detector, pasted.pixels, photo.source)
    return np.nan if found is None else landmark_error(before, found)


def _utility(probes: list[AuditedPhoto], assembly: Assembly, rng: np.random.Generator) -> dict[str, Estimate]:
    """U2 to U6 of the released faces."""

    def measured(name: str) -> Estimate:
        return mean(np.array([photo.measures.get(name, np.nan) for photo in probes]), rng)

    result = {
        "U2 landmark error": measured("landmark_error"),
        "U2 landmark error, autoencoder only": measured("autoencoder_landmark_error"),
        "sharpness over the source's": measured("sharpness"),
        "identities tried": measured("attempts"),
    }
    if probes:
        # cut at the same place, so that the comparison sees the face move and not the cut
        before = read_expressions(assembly.attributes.landmark_net, np.stack([p.source.crop for p in probes]))
        after = read_expressions(assembly.attributes.landmark_net, np.stack([p.source_aligned() for p in probes]))
        result["U3 pose error, rad"] = mean(rotation_angle(before.rotations, after.rotations), rng)
        same = before.classes() == after.classes()
        for index, name in enumerate(("mouth open", "eyes open", "mouth stretched")):
            result[f"U5 {name} agrees"] = rate(same[:, index])
        result["U5 expression agrees in all three"] = rate(same.all(1))
    return result


def _recognition(
    photos: list[AuditedPhoto],
    probes: list[AuditedPhoto],
    pupils: list[AuditedPhoto],
    assembly: Assembly,
    context: RunContext,
    config: AuditConfig,
    rng: np.random.Generator,
) -> tuple[dict[str, Estimate], Table, Table, dict[str, NDArray[np.float64]]]:
    """Estimates by `measure.recognizer`, similarity tails, other treatments, and each probe's similarities."""
    rows = np.array([index for index, photo in enumerate(photos) if photo.pixels is not None], dtype=np.int64)
    crops = {
        "own": _stack([photo.own_aligned() for photo in probes]),
        "shared": _stack([photo.source_aligned() for photo in probes]),
        "source": _stack([photo.source.crop for photo in photos]),
        "mate": _stack([photo.mate for photo in photos]),
        "pupils": _stack([photo.own_aligned() for photo in pupils]),
        "pupil mates": _stack([photo.mate for photo in pupils]),
        "pupil sources": _stack([photo.source.crop for photo in pupils]),
        "pupil masks": _stack([covered(photo.source.crop) for photo in pupils]),
        **_drawn_back(probes, pupils, assembly, config),
        **{name: _stack([change(p.source.crop) for p in probes]) for name, change in BASELINES.items()},
    }
    estimates: dict[str, Estimate] = {}
    similarities: dict[str, NDArray[np.float64]] = {}
    tails: Table = []
    elsewhere: Table = []
    joined: dict[str, list[NDArray[np.float32]]] = {
        key: [] for key in ("own", "source", "mate", "mask", "pupils", "pupil mates", "pupil sources", "pupil masks")
    }
    for name in RECOGNIZERS:
        oracle = load_oracle(context.store, name, center=assembly.thresholds.centers.get(name))
        codes = {key: embed_crops(oracle, value, 32) for key, value in crops.items()}
        # the attacker's operating point: the empirical threshold over all impostor pairs
        threshold = assembly.thresholds.get(name, config.far).point_estimate
        views = Views(codes["own"], codes["shared"], codes["source"], codes["mate"], rows)
        estimates |= {f"{measure}.{name}": value for measure, value in privacy_measures(views, threshold).items()}
        similarities[name] = self_similarity(views)
        tails.append({"recognizer": name, **{k: round(v, 3) for k, v in similarity_tail(similarities[name]).items()}})
        for treatment in BASELINES:
            measures = replaced_measures(codes[treatment], codes["source"], rows, threshold)
            elsewhere.append(
                {"treatment": treatment, "recognizer": name} | {k: round(v.value, 4) for k, v in measures.items()}
            )
            if treatment == "mask":
                estimates[f"A6 rank-1 source.{name}"] = measures["P3 rank-1 source"]
                estimates[f"A6 rank-1 mate.{name}"] = rate(rank_k(codes[treatment], codes["mate"], rows))
        for measure, key in DRAWN_BACK.items():
            if len(crops[key]):
                for gallery in ("mate", "source"):
                    estimates[f"{measure} rank-1 {gallery}.{name}"] = rate(rank_k(codes[key], codes[gallery], rows))
        for key, parts in joined.items():
            parts.append(codes[key])
        context.log({"audited_recognizers": len(tails)})
    if pupils:
        splits = np.cumsum([0, *(part.shape[1] for part in joined["own"])]).tolist()
        eyes = {key: np.concatenate(parts, axis=1) for key, parts in joined.items()}
        # the same attackers learn from covered faces too: what training makes of the context alone
        for measure, learned_from, shown in (("A3", "pupils", "own"), ("A6 trained", "pupil masks", "mask")):
            ridge = RidgeAttacker.fit(eyes[learned_from], eyes["pupil mates"])
            pairs = PairAttacker.fit(eyes[learned_from], eyes["pupil mates"], splits, rng)
            for name, attacker in (("ridge", ridge), ("pairs", pairs)):
                for gallery in ("mate", "source"):
                    hits = top_scored(attacker.scores(eyes[shown], eyes[gallery]), rows)
                    estimates[f"{measure} rank-1 {gallery}.{name} attacker"] = rate(hits)
        # the code that the generator is told, and what stays in view around the face, by one and the same probe
        told = attribute_codes(assembly.attributes, assembly.levels, config.level, crops["source"][rows], config.seed)
        learned = attribute_codes(
            assembly.attributes, assembly.levels, config.level, crops["pupil sources"], config.seed + 1
        )
        inputs = {"attribute code": (learned, told), "context alone": (eyes["pupil masks"], eyes["mask"])}
        for name, (theirs, ours) in inputs.items():
            for gallery in ("mate", "source"):
                probe = CodeProbe.fit(theirs, eyes[f"pupil {gallery}s"])
                hits = top_scored(probe.scores(ours, eyes[gallery]), rows)
                estimates[f"A5 rank-1 {gallery}.{name}"] = rate(hits)
    return estimates, tails, elsewhere, similarities


def _drawn_back(
    probes: list[AuditedPhoto], pupils: list[AuditedPhoto], assembly: Assembly, config: AuditConfig
) -> dict[str, NDArray[np.uint8]]:
    """The probes' originals as inversion networks draw them that learned from the pupils, by `DRAWN_BACK`'s values."""
    if not pupils or not probes or config.inversion_steps == 0:
        return {key: _stack([]) for key in DRAWN_BACK.values()}
    originals = _stack([photo.source.crop for photo in pupils])
    shown = {
        "A4": [_stack([photo.own_aligned() for photo in people]) for people in (pupils, probes)],
        "A6 drawn": [_stack([covered(photo.source.crop) for photo in people]) for people in (pupils, probes)],
    }
    recognizers = list(assembly.ensemble.oracles.values())
    return {
        DRAWN_BACK[measure]: reconstruct(
            fit_inversion(theirs, originals, recognizers, steps=config.inversion_steps, seed=config.seed), ours
        )
        for measure, (theirs, ours) in shown.items()
    }


def _linkage(
    probes: list[AuditedPhoto], detector: MtcnnDetector, assembly: Assembly, context: RunContext, config: AuditConfig
) -> Table:
    """Equal error rate of linking the fresh releases of two photos of one person, with the context alone beside it."""
    chosen = probes[: config.linkage_people]
    mates = [photo.mate_as_source() for photo in chosen]
    _anonymize(mates, assembly, config, context)
    for mate in mates:
        mate.read_release(detector)
    pairs = [(photo, mate) for photo, mate in zip(chosen, mates, strict=True) if mate.pixels is not None]
    if len(pairs) < 2:
        return []
    table: Table = []
    for name in RECOGNIZERS:
        oracle = load_oracle(context.store, name, center=assembly.thresholds.centers.get(name))
        sides = {
            "released": ([a.own_aligned() for a, _ in pairs], [b.own_aligned() for _, b in pairs]),
            "context alone": ([covered(a.source.crop) for a, _ in pairs], [covered(b.source.crop) for _, b in pairs]),
            "clean": ([a.source.crop for a, _ in pairs], [b.source.crop for _, b in pairs]),
        }
        row: dict[str, object] = {"recognizer": name, "people": len(pairs)}
        for label, (first, second) in sides.items():
            codes = [embed_crops(oracle, np.stack(crops), 32) for crops in (first, second)]
            row[f"EER, {label}"] = round(linkage_error(*codes), 3)
        table.append(row)
    return table


def _differencing(
    photos: list[AuditedPhoto],
    probes: list[AuditedPhoto],
    detector: MtcnnDetector,
    assembly: Assembly,
    context: RunContext,
    config: AuditConfig,
) -> dict[str, Estimate]:
    """Rank-1 with the source enrolled after averaging k fresh releases of the same photo (A7)."""
    chosen = probes[: config.differencing_people]
    crops: list[NDArray[np.uint8]] = []
    places = {id(photo): index for index, photo in enumerate(photos)}
    kept: list[int] = []
    for photo in chosen:
        copies = [photo.again() for _ in range(max(config.differencing_draws))]
        _anonymize(copies, assembly, config, context)
        for copy in copies:
            copy.read_release(detector)
        if all(copy.pixels is not None for copy in copies):
            crops += [copy.own_aligned() for copy in copies]
            kept.append(places[id(photo)])
    if not kept:
        return {}
    oracle = load_oracle(context.store, "faceres", center=assembly.thresholds.centers.get("faceres"))
    codes = embed_crops(oracle, np.stack(crops), 32).reshape(len(kept), max(config.differencing_draws), -1)
    gallery = embed_crops(oracle, np.stack([photo.source.crop for photo in photos]), 32)
    found = differencing(codes, gallery, np.array(kept, dtype=np.int64), config.differencing_draws)
    return {f"A7 rank-1 source, {k} releases.faceres": rate(hits) for k, hits in found.items()}


def _stack(crops: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    return np.stack(crops) if crops else np.zeros((0, 128, 128, 3), dtype=np.uint8)


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
        }
    },
    needs=tuple(
        f"artifacts/{name}"
        for name in (*OWN_ARTIFACTS, *UPSTREAM_ARTIFACTS, *(ORACLES[name].artifact for name in AUDITOR_ORACLES))
    ),
)
