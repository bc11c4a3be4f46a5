"""What `training.jobs.group_subjects` groups: the faces of a folder, or of rendered groups, embedded in memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from models.faces.detection import load_detector
from models.oracles.ensemble import load_ensemble
from models.oracles.thresholds import load_thresholds
from models.registry.store import ArtifactStore
from training.data.face_crops import to_tensor
from training.data.folder_faces import SUFFIXES, FolderFaces, find_folder_faces
from training.data.group_pictures import GroupPicture
from training.jobs.calibrate_oracles import Half, identity_in_half, read_labels
from training.jobs.face_groups import Labels, Limit, Matrix

_DRAWN_DIM = 64
_DRAWN_SPREAD = 0.08  # of a drawn embedding's coordinates around the person's


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class FacesOfPeople:
    """Faces with what says who they are; never shown.

    Attributes:
        faces: n faces of pictures.
        embeddings: unit rows (n, d_k) of each recognizer.
        limits: its threshold.
        named: label of each face (n,) that a list gives, -1 elsewhere; the grouping may use it.
        truth: person of each face (n,), -1 where nobody knows; only the measurement may.
    """

    faces: FolderFaces
    embeddings: Mapping[str, Matrix]
    limits: Mapping[str, Limit]
    named: Labels
    truth: Labels


def list_pictures(folder: Path) -> list[Path]:
    """List the pictures of a folder at every depth, by name; links are not followed."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES and path.is_file() and not path.is_symlink()
    )


def choose_named(folder: Path, half: Half, max_pictures: int | None, per_person: int, seed: int) -> list[Path]:
    """Choose pictures by the people that their file names, without a trailing _NNNN, name.

    Args:
        folder: Folder of the pictures.
        half: Which people.
        max_pictures: About how many; whole people are drawn at random until it is reached. None takes all.
        per_person: At most so many of one person, where the number is bounded.
        seed: Of the draw.

    Returns:
        The pictures.
    """
    by_person: dict[str, list[Path]] = {}
    for file, person in read_labels(folder, None).items():
        if identity_in_half(person, half):
            by_person.setdefault(person, []).append(folder / file)
    names = sorted(by_person)
    if max_pictures is None:
        return [path for name in names for path in by_person[name]]
    chosen: list[Path] = []
    for index in np.random.default_rng(seed).permutation(len(names)):
        if len(chosen) >= max_pictures:
            break
        chosen += by_person[names[index]][:per_person]
    return chosen


def folder_people(
    paths: Sequence[Path],
    store: ArtifactStore,
    *,
    far: float,
    min_eye_distance: float,
    labels: Mapping[str, str],
    is_named: bool,
    checkpoint: Callable[[], None],
) -> FacesOfPeople:
    """Find and embed the faces of files.

    Args:
        paths: The files.
        store: Store with detector, recognizers and their calibration.
        far: False-accept rate of each recognizer's threshold.
        min_eye_distance: In pixels.
        labels: File name -> who its largest face is.
        is_named: Whether the file name without _NNNN says so too, for measurements.
        checkpoint: Called before each picture.

    Returns:
        The faces.
    """
    faces = find_folder_faces(
        [path.read_bytes for path in paths],
        load_detector(store),
        min_eye_distance=min_eye_distance,
        checkpoint=checkpoint,
    )
    named = _numbers([labels.get(path.name) for path in paths], faces)
    people = {path.name: path.stem.rpartition("_")[0] or path.stem for path in paths}
    truth = _numbers([people[path.name] if is_named else None for path in paths], faces)
    return FacesOfPeople(faces, *embed_faces(faces, store, far), named, truth)


def rendered_people(
    pictures: Sequence[GroupPicture], store: ArtifactStore | None, *, far: float, min_eye_distance: float, seed: int
) -> FacesOfPeople:
    """Take the faces of rendered groups at their true places.

    Args:
        pictures: The groups.
        store: Store with the recognizers; None draws embeddings around one direction for each person.
        far: False-accept rate of each recognizer's threshold.
        min_eye_distance: In pixels.
        seed: Of drawn embeddings.

    Returns:
        The faces, all of them known.
    """
    faces = FolderFaces()
    truth: list[int] = []
    for number, picture in enumerate(pictures):
        faces.add(number, picture.data, picture.faces, picture.pixels, min_eye_distance)
        truth += picture.people
    people = np.array(truth)
    embedded = embed_faces(faces, store, far) if store is not None else _drawn(people, far, seed)
    return FacesOfPeople(faces, *embedded, np.full(len(people), -1), people)


@torch.inference_mode()
def embed_faces(faces: FolderFaces, store: ArtifactStore, far: float) -> tuple[dict[str, Matrix], dict[str, Limit]]:
    """Embed faces with the recognizers of the service, and give their thresholds.

    Args:
        faces: Aligned faces.
        store: Store with recognizers and calibration.
        far: False-accept rate.

    Returns:
        Unit rows (n, d_k) and the threshold of each recognizer.
    """
    thresholds = load_thresholds(store)
    ensemble = load_ensemble(store, centers=thresholds.centers)
    parts = [ensemble(to_tensor(np.stack(faces.crops[start : start + 32]))) for start in range(0, len(faces), 32)]
    entries = thresholds.at(far, ensemble.names)
    limits = {name: Limit(entry.point_estimate, entry.impostor_std) for name, entry in entries.items()}
    return {name: torch.cat([part[name] for part in parts]).double().numpy() for name in limits if parts}, limits


def _drawn(people: Labels, far: float, seed: int) -> tuple[dict[str, Matrix], dict[str, Limit]]:
    rng = np.random.default_rng([seed, _DRAWN_DIM])
    centers = rng.normal(size=(int(people.max()) + 1, _DRAWN_DIM))
    centers /= np.linalg.norm(centers, axis=1, keepdims=True)
    rows = centers[people] + _DRAWN_SPREAD * rng.normal(size=(len(people), _DRAWN_DIM))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    # cosines of independent directions are about normal with the deviation dim ** -0.5
    deviation = _DRAWN_DIM**-0.5
    threshold = deviation * float(np.sqrt(-2.0 * np.log(far)))
    return {"drawn": rows}, {"drawn": Limit(threshold, deviation)}


def _numbers(names: Sequence[str | None], faces: FolderFaces) -> Labels:
    """Number the people of main faces; -1 for other faces and where there is no name."""
    known = sorted({name for name in names if name is not None})
    number = {name: index for index, name in enumerate(known)}
    found = []
    for picture, is_main in zip(faces.pictures, faces.is_main, strict=True):
        name = names[faces.sources[picture]]
        found.append(number[name] if is_main and name is not None else -1)
    return np.array(found, dtype=np.int64)
