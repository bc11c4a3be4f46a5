"""Job: a team's folder of pictures becomes a subject table, from which the service gives every person one pseudonym.

Faces are found, aligned and embedded as the service does it and grouped by `training.jobs.face_groups`; only boxes and
random tokens are kept, under a key (`models.identity.subjects`). No embedding, no crop and no name is written anywhere.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from models.identity.errors import SubjectTableError
from models.identity.subjects import MAX_FACES, SubjectFace, SubjectTable, new_token
from training.data.folder_faces import FolderFaces
from training.data.group_pictures import draw_group_pictures
from training.jobs.calibrate_oracles import Half, read_labels
from training.jobs.face_groups import Labels, evidence, group_faces
from training.jobs.grouped_folders import FacesOfPeople, choose_named, folder_people, list_pictures, rendered_people
from training.jobs.grouping_scores import compare_ways, label_trial, service_rows
from training.runs.config import ConfigError, JobConfig
from training.runs.context import RunContext
from training.runs.job import Job, Source
from training.runs.report import Check, Report
from training.runs.stopping import RunInterruptedError

TABLE_FILE = "subjects.json"


class GroupSubjectsConfig(JobConfig):
    """Settings of the run."""

    folder: Path | None = Field(None, description="pictures, at every depth; None renders groups of people")
    key_file: Path | None = Field(
        None, description="file with the table's key, 32 characters or more; None: a trial whose table nobody can open"
    )
    labels: Path | None = Field(None, description="CSV with columns file,identity: the largest face of some pictures")
    is_named: bool = Field(False, description="names of files without _NNNN say whose the largest face is; to measure")
    half: Half = Field("all", description="people of named files, by SHA-256 of the name")
    max_pictures: int | None = Field(None, ge=2, description="use so many named files, whole people drawn at random")
    per_person: int = Field(6, ge=1, description="named files of one person, at most, where max_pictures is given")
    far: float = Field(1e-4, gt=0, lt=1, description="false-accept rate of the recognizers' thresholds")
    margin: float = Field(0.25, description="that an edge has to lie above them on the average, in deviations")
    neighbors: int = Field(10, ge=1, description="of each face in the graph")
    steps: int = Field(40, ge=1, description="tree solves for each seed")
    share: float = Field(0.5, gt=0, le=1, description="of what reaches a face that has to come from one subject")
    min_eye_distance: float = Field(8.0, gt=0, description="in pixels; smaller faces are left out")
    stand_in: bool = Field(False, description="rendered groups with true boxes and drawn embeddings, no networks")
    people: int = Field(12, ge=2, description="of rendered groups")
    groups: int = Field(24, ge=2, description="rendered pictures")
    per_picture: int = Field(3, ge=1, description="people in a rendered picture")


def run(config: GroupSubjectsConfig, context: RunContext) -> Report:
    """Find, embed, group and write the table; measure where it is known who is who.

    Args:
        config: Settings.
        context: Run directory, store and metrics.

    Returns:
        The report; it holds counts and shares, no face and no name.

    Raises:
        ConfigError: There is no face, the key cannot be read, or a folder is needed and missing.
    """
    key = _key(config.key_file)
    people = _people(config, context)
    faces, count = people.faces, len(people.faces)
    if count == 0:
        raise ConfigError("no picture shows a face that could be recognized")
    pictures = np.array(faces.pictures)
    strength = evidence(people.embeddings, people.limits, pictures, margin=config.margin)
    effort: Mapping[str, Any] = {"neighbors": config.neighbors, "steps": config.steps, "share": config.share}
    subjects = group_faces(strength, pictures, named=people.named, **effort)
    table = _write(context.directory / TABLE_FILE, key, faces, subjects)

    again = sum(
        table(faces.digests[picture], box) is not None for picture, box in zip(pictures, faces.boxes, strict=True)
    )
    sizes = np.bincount(subjects)
    metrics = {
        "pictures": float(len(faces.digests)),
        "unusable pictures": float(faces.num_unusable),
        "faces": float(count),
        "subjects": float(len(sizes)),
        "subjects in several pictures": float((sizes > 1).sum()),
        "labeled faces": float((people.named >= 0).sum()),
    }
    checks = [Check("faces that the table finds again by digest and box", float(count), float(again))]
    tables: dict[str, Any] = {}
    if (people.truth >= 0).sum() > 1:
        ways = compare_ways(strength, pictures, people.truth, people.named, effort)
        trial = label_trial(strength, pictures, people.truth, effort)
        tables = {"Who is who, without labels": ways, "Who is who, one label for every second person": trial}
        tables["in the service"] = service_rows(ways, trial)
        metrics |= {f"pair {key}": float(ways[0][f"pair {key}"]) for key in ("precision", "recall")}
        if config.stand_in:
            checks.append(Check("pair precision on drawn embeddings", 0.98, metrics["pair precision"], 0.0, "at_least"))
    return Report(metrics, checks, tables=tables)


def _people(config: GroupSubjectsConfig, context: RunContext) -> FacesOfPeople:
    def checkpoint() -> None:
        if context.should_stop():
            raise RunInterruptedError("the run was stopped; nothing of the faces was written")

    if config.folder is None:
        drawn = draw_group_pictures(config.people, config.groups, per_picture=config.per_picture, seed=config.seed)
        return rendered_people(
            drawn,
            None if config.stand_in else context.store,
            far=config.far,
            min_eye_distance=config.min_eye_distance,
            seed=config.seed,
        )
    if not config.folder.is_dir():
        raise ConfigError(f"no such folder: {config.folder}")
    if config.is_named:
        paths = choose_named(config.folder, config.half, config.max_pictures, config.per_person, config.seed)
    else:
        paths = list_pictures(config.folder)
    return folder_people(
        paths,
        context.store,
        far=config.far,
        min_eye_distance=config.min_eye_distance,
        labels=read_labels(config.folder, config.labels) if config.labels else {},
        is_named=config.is_named,
        checkpoint=checkpoint,
    )


def _key(path: Path | None) -> bytes:
    if path is None:
        return secrets.token_bytes(32)
    try:
        key = path.read_text(encoding="utf-8").strip().encode()
        SubjectTable.sealed(key, {})
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the key file cannot be read: {type(error).__name__}") from error
    except SubjectTableError as error:
        raise ConfigError(f"the key file holds no key: {error}") from error
    return key


def _write(path: Path, key: bytes, faces: FolderFaces, subjects: Labels) -> SubjectTable:
    """Write the table, and give it as it is read back."""
    tokens = [new_token() for _ in range(int(subjects.max()) + 1)]
    pictures: dict[bytes, list[SubjectFace]] = {}
    for picture, box, subject in zip(faces.pictures, faces.boxes, subjects, strict=True):
        pictures.setdefault(faces.digests[picture], []).append(SubjectFace(box, tokens[subject]))
    # faces come with the largest first; no picture that the service takes has more
    SubjectTable.sealed(key, {digest: found[:MAX_FACES] for digest, found in pictures.items()}).save(path)
    return SubjectTable.load(path, key)


JOB = Job(
    name="group-subjects",
    summary="a folder's pictures become a table of who is on which, for pseudonyms in group pictures",
    source=Source("Let's Make Block Coordinate Descent Converge Faster", "https://arxiv.org/abs/1712.08859", 2022),
    config=GroupSubjectsConfig,
    run=run,
    presets={"smoke": {"stand_in": True, "people": 6, "groups": 8}},
)
