"""Who is who among the faces of a folder: seeds, and their labels spread over a strict graph by tree block steps.

An edge joins two faces of different pictures that the recognizers on the average take for one person. Labeled faces
are seeds; then, by falling weight of its edges, every face without an edge to a seed becomes one, of a subject that
nobody named. One harmonic system (D - W + eps I + S) x = S y for each seed, as in `training.jobs.subject_clusters`, is
solved by exact block steps on greedy forests. A face joins the seed with the largest x if that is the larger part of
what reaches it; else, or where a picture would show one subject twice, it stays a subject of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.sparse.csgraph import connected_components
from scipy.spatial.distance import squareform
from torch import Tensor

from training.jobs.subject_clusters import tree_solutions

Matrix = NDArray[np.float64]
Labels = NDArray[np.int64]
Solve = Callable[[Tensor, Tensor, int], Tensor]

_ANCHOR = 10.0
_FLOOR = 1e-3
_APART = 30.0  # deviations below the least evidence of two pictures: faces of one picture, for average linkage


@dataclass(frozen=True, slots=True)
class Limit:
    """From which cosine a recognizer takes two faces for one person, and the deviation of two people's cosines."""

    threshold: float
    deviation: float


def evidence(
    embeddings: Mapping[str, Matrix], limits: Mapping[str, Limit], pictures: Labels, *, margin: float = 0.0
) -> Matrix:
    """How far every pair is above the thresholds of the recognizers, in their deviations, on the average.

    Args:
        embeddings: Unit rows (n, d_k) for each recognizer.
        limits: Its threshold.
        pictures: Picture of each face (n,); two faces of one picture are two people.
        margin: Subtracted, in deviations.

    Returns:
        Symmetric (n, n); minus infinity on the diagonal and between faces of one picture.

    Raises:
        ValueError: There is no recognizer, or one has no limit.
    """
    if not embeddings or set(embeddings) != set(limits):
        raise ValueError(f"need limits of exactly the recognizers, got {sorted(limits)} for {sorted(embeddings)}")
    each = [(rows @ rows.T - limits[name].threshold) / limits[name].deviation for name, rows in embeddings.items()]
    found: Matrix = np.mean(each, axis=0) - margin
    found[pictures[:, None] == pictures] = -np.inf
    return found


def edge_weights(strength: Matrix, neighbors: int) -> Matrix:
    """Weights (n, n) of the graph: 1 + evidence where it is not negative and one is among the nearest of the other."""
    count = min(neighbors, len(strength) - 1)
    chosen = np.zeros(strength.shape, dtype=bool)
    if count > 0:
        nearest = np.argpartition(-strength, count - 1, axis=1)[:, :count]
        np.put_along_axis(chosen, nearest, values=True, axis=1)
    chosen |= chosen.T
    return np.where(chosen & (strength >= 0), 1.0 + np.maximum(strength, 0.0), 0.0)


def link_nearest(strength: Matrix) -> Labels:
    """The plain way: subjects (n,) when every face is joined to its nearest one where the evidence allows it."""
    nearest = strength.argmax(axis=1)
    rows = np.arange(len(strength))
    links = np.zeros(strength.shape, dtype=bool)
    links[rows, nearest] = strength[rows, nearest] >= 0
    return np.asarray(connected_components(links, directed=False)[1], dtype=np.int64)


def link_averages(strength: Matrix) -> Labels:
    """Subjects (n,) by average linkage: two groups become one while the mean evidence of their pairs allows it."""
    if len(strength) < 2:
        return np.zeros(len(strength), dtype=np.int64)
    finite = np.where(np.isfinite(strength), strength, strength[np.isfinite(strength)].min(initial=0.0) - _APART)
    top = float(finite.max())
    distance = top - finite
    np.fill_diagonal(distance, 0.0)
    tree = linkage(squareform(distance, checks=False), "average")
    return np.asarray(fcluster(tree, top if top >= 0 else -1.0, "distance"), dtype=np.int64) - 1


def group_faces(
    strength: Matrix,
    pictures: Labels,
    *,
    named: Labels | None = None,
    neighbors: int = 10,
    steps: int = 40,
    share: float = 0.5,
    solve: Solve = tree_solutions,
) -> Labels:
    """Give every face a subject.

    Args:
        strength: Evidence (n, n) of `evidence`.
        pictures: Picture of each face (n,).
        named: Label of each face (n,), -1 where it has none; faces of one label are one subject.
        neighbors: Of each face in the graph.
        steps: Block steps for each seed.
        share: Of what reaches a face that has to come from one seed.
        solve: Solves the systems of all seeds of a component.

    Returns:
        Subjects (n,), numbered from zero.
    """
    count = len(strength)
    if count == 0:
        return np.zeros(0, dtype=np.int64)
    weights = edge_weights(strength, neighbors)
    seeds = _seeds(weights, named if named is not None else np.full(count, -1))
    subjects = seeds.copy()
    parts = connected_components(weights > 0, directed=False)[1]
    for part in range(parts.max() + 1):
        members = np.flatnonzero(parts == part)
        if len(members) > 1:
            subjects[members] = _spread(weights, seeds, members, steps, share, solve)
    alone = subjects < 0
    subjects[alone] = count + np.flatnonzero(alone)
    subjects = _once_a_picture(subjects, pictures, weights)
    return np.asarray(np.unique(subjects, return_inverse=True)[1], dtype=np.int64)


def _seeds(weights: Matrix, named: Labels) -> Labels:
    """Subject of each seed (n,), -1 elsewhere: one for each label, and one for each face that no seed is next to."""
    seeds = np.where(named >= 0, np.unique(named, return_inverse=True)[1], -1).astype(np.int64)
    covered = (seeds >= 0) | (weights[:, seeds >= 0] > 0).any(axis=1)
    subject = int(seeds.max()) + 1
    for face in np.argsort(-weights.sum(axis=1), kind="stable"):
        if not covered[face]:
            seeds[face], subject = subject, subject + 1
            covered |= weights[face] > 0
            covered[face] = True
    return seeds


def _spread(weights: Matrix, seeds: Labels, members: Labels, steps: int, share: float, solve: Solve) -> Labels:
    """Subject of each member of a component (m,), -1 where no seed holds enough of it."""
    part = torch.from_numpy(weights[np.ix_(members, members)])
    is_seed = torch.from_numpy(seeds[members] >= 0)
    names = np.unique(seeds[members][seeds[members] >= 0])
    anchors = _ANCHOR * is_seed.double()
    matrix = torch.diag(part.sum(1) + _FLOOR + anchors) - part
    right = anchors[:, None] * torch.from_numpy(seeds[members][:, None] == names).double()
    held = solve(matrix, right, steps).numpy()
    best = held.argmax(axis=1)
    enough = held[np.arange(len(members)), best] >= share
    return np.where(seeds[members] >= 0, seeds[members], np.where(enough, names[best], -1)).astype(np.int64)


def _once_a_picture(subjects: Labels, pictures: Labels, weights: Matrix) -> Labels:
    """Leave a subject that a picture shows twice to the face with more weight to the subject's other faces."""
    kept = subjects.copy()
    for subject in np.unique(subjects):
        faces = np.flatnonzero(subjects == subject)
        inside = weights[np.ix_(faces, faces)].sum(axis=1)
        seen: set[int] = set()
        for face in faces[np.argsort(-inside, kind="stable")]:
            if int(pictures[face]) in seen:
                kept[face] = len(subjects) + int(face)
            seen.add(int(pictures[face]))
    return kept
