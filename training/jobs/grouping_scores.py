"""How well faces were grouped where it is known who is who: tree steps beside conjugate gradients and plain linking."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from training.jobs.face_groups import Labels, Matrix, group_faces, link_averages, link_nearest
from training.jobs.subject_clusters import conjugate_gradients, pair_scores, tree_solutions

METHOD = "block_coordinate_descent"
PLAIN = "nearest neighbor"


def compare_ways(
    strength: Matrix, pictures: Labels, truth: Labels, named: Labels, effort: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Group in every way and count pairs.

    Args:
        strength: Evidence (n, n).
        pictures: Picture of each face (n,).
        truth: Person of each face (n,), -1 where unknown; unknown faces are grouped and not counted.
        named: Labels that may be used (n,), -1 elsewhere.
        effort: Options of `group_faces`.

    Returns:
        One row for each way: trees, as many steps of conjugate gradients, linking of nearest neighbors, of averages.
    """
    ways: dict[str, Callable[[], Labels]] = {
        "trees": lambda: group_faces(strength, pictures, named=named, solve=tree_solutions, **effort),
        "conjugate gradients": lambda: group_faces(
            strength, pictures, named=named, solve=conjugate_gradients, **effort
        ),
        PLAIN: lambda: link_nearest(strength),
        "average linkage": lambda: link_averages(strength),
    }
    known = truth >= 0
    rows = []
    for way, group in ways.items():
        begin = time.process_time()
        subjects = group()
        seconds = time.process_time() - begin
        precision, recall = pair_scores(truth[known], subjects[known])
        upper = np.triu_indices(int(known.sum()), 1)
        same = (truth[known][:, None] == truth[known])[upper]
        joined = (subjects[known][:, None] == subjects[known])[upper]
        rows.append(
            {
                "way": way,
                "pair precision": precision,
                "pair recall": recall,
                "pairs of one person": int(same.sum()),
                "wrong pairs": int((joined & ~same).sum()),
                "people in one group with somebody else": _mixed(truth[known], subjects[known]),
                "faces": int(known.sum()),
                "seconds": seconds,
            }
        )
    return rows


def label_trial(strength: Matrix, pictures: Labels, truth: Labels, effort: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Label one face of every second person who has several, and see whom the labels reach.

    Args:
        strength: Evidence (n, n).
        pictures: Picture of each face (n,).
        truth: Person of each face (n,), -1 where unknown.
        effort: Options of `group_faces`.

    Returns:
        One row for each way: precision of the labels that were given, and which share of those people's other faces
        got theirs. Empty where nobody has several faces.
    """
    people, counts = np.unique(truth[truth >= 0], return_counts=True)
    chosen = people[counts > 1][::2]
    if len(chosen) == 0:
        return []
    first = np.array([int(np.flatnonzero(truth == person)[0]) for person in chosen])
    named = np.full(len(truth), -1)
    named[first] = chosen
    rows = []
    for way in ("trees", PLAIN):
        begin = time.process_time()
        if way == "trees":
            given = _labels(group_faces(strength, pictures, named=named, **effort), named)
        else:
            best = strength[:, first].argmax(axis=1)
            given = np.where(strength[np.arange(len(truth)), first[best]] >= 0, chosen[best], -1)
        seconds = time.process_time() - begin
        asked = (truth >= 0) & (named < 0)
        right = asked & (given == truth)
        rows.append(
            {
                "way": way,
                "labels that are right": float(right.sum() / max(1, (asked & (given >= 0)).sum())),
                "faces of labeled people found": float(right.sum() / max(1, (asked & np.isin(truth, chosen)).sum())),
                "labeled people": len(chosen),
                "faces": int(asked.sum()),
                "seconds": seconds,
            }
        )
    return rows


def service_rows(ways: Sequence[Mapping[str, Any]], trial: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows of the table of service uses.

    Args:
        ways: What `compare_ways` found.
        trial: What `label_trial` found.

    Returns:
        The rows; the one about time has the trees against conjugate gradients.
    """
    trees, conjugate, plain, average = ways
    job = "one pseudonym for a person in all pictures of a folder, without labels; plain:"
    rows = [
        (f"{job} nearest-neighbor linking", f"{measure}, {unit}", plain[measure], trees[measure], trees["faces"])
        for measure, unit in (("pair precision", "share"), ("pair recall", "share"), ("wrong pairs", "count"))
    ]
    rows += [
        (f"{job} average linkage", f"{measure}, share", average[measure], trees[measure], trees["faces"])
        for measure in ("pair precision", "pair recall")
    ]
    rows += [
        (f"{job} conjugate gradients", f"{measure}, {unit}", conjugate[measure], trees[measure], trees["faces"])
        for measure, unit in (("pair precision", "share"), ("pair recall", "share"), ("seconds", "s of processor time"))
    ]
    if trial:
        with_labels, nearest = trial
        job = "find labeled people in a folder, one label for every second person; plain: nearest labeled face"
        rows += [
            (job, f"{measure}, share", nearest[measure], with_labels[measure], with_labels["faces"])
            for measure in ("labels that are right", "faces of labeled people found")
        ]
    return [
        {"method": METHOD, "job": job, "measure": measure, "without": without, "with": found, "n": n}
        for job, measure, without, found, n in rows
        if np.isfinite(without) and np.isfinite(found)
    ]


def _mixed(truth: Labels, subjects: Labels) -> int:
    """People who share a group with somebody else."""
    mixed: set[int] = set()
    for subject in np.unique(subjects):
        inside = np.unique(truth[subjects == subject])
        if len(inside) > 1:
            mixed |= set(inside.tolist())
    return len(mixed)


def _labels(subjects: Labels, named: Labels) -> Labels:
    """Label of each face: that of the labeled face in its group, -1 where there is none."""
    of_subject = {int(subject): int(label) for subject, label in zip(subjects, named, strict=True) if label >= 0}
    return np.array([of_subject.get(int(subject), -1) for subject in subjects], dtype=np.int64)
