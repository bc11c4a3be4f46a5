"""Whose pictures are these? Labels of a few spread over a neighbor graph, by trees or by conjugate gradients.

For each labeled person one harmonic system (D - W + eps I + S) x = S y is solved: W the symmetric k-nearest-neighbor
graph of embeddings, S a weight on labeled pictures, y one for that person's and zero for the others'. Every picture
goes to the person with the largest x. `training.jobs.face_groups` spreads subjects over the faces of a folder so.
"""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.algorithm import iterate
from training.optimizers.block_coordinate.block_coordinate_descent import block_coordinate_descent
from training.optimizers.block_coordinate.message_passing import greedy_forest, message_passing_update
from training.optimizers.block_coordinate.objectives import QuadraticForm

_ANCHOR = 10.0
_FLOOR = 1e-3


@dataclass(frozen=True, slots=True)
class SpreadLabels:
    """Persons named by each way (n,), relative residuals, and processor seconds."""

    named: dict[str, NDArray[np.int64]]
    residuals: dict[str, float]
    seconds: dict[str, float]


def neighbor_graph(embeddings: NDArray[np.float64], neighbors: int) -> Tensor:
    """Symmetric weights (n, n) of a graph of nearest neighbors: positive cosines, zero elsewhere.

    Args:
        embeddings: Unit rows (n, e).
        neighbors: k, below n.

    Returns:
        Weights; an edge where either picture is among the k nearest of the other.

    Raises:
        ValueError: There are not more pictures than neighbors.
    """
    if not 1 <= neighbors < len(embeddings):
        raise ValueError(f"neighbors must lie in [1, {len(embeddings)}), got {neighbors}")
    cosine = torch.from_numpy(embeddings @ embeddings.T).fill_diagonal_(-1)
    nearest = torch.topk(cosine, neighbors).indices
    chosen = torch.zeros_like(cosine, dtype=torch.bool).scatter_(1, nearest, value=True)
    return torch.where(chosen | chosen.mT, cosine.clamp(min=1e-6), torch.zeros_like(cosine))


def spread_labels(
    embeddings: NDArray[np.float64],
    people: NDArray[np.int64],
    labeled: NDArray[np.bool_],
    *,
    neighbors: int,
    steps: int,
) -> SpreadLabels:
    """Spread labels in three ways; trees and conjugate gradients get as many steps a person.

    Args:
        embeddings: Unit rows (n, e).
        people: Person of each picture (n,), used where it is labeled.
        labeled: Which pictures (n,).
        neighbors: Of the graph.
        steps: Block solves, or products with the matrix, for each person.

    Returns:
        What was named; the residual is that of all systems together, relative to the right-hand sides.
    """
    weights = neighbor_graph(embeddings, neighbors)
    anchors = _ANCHOR * torch.from_numpy(labeled).double()
    matrix = torch.diag(weights.sum(1) + _FLOOR + anchors) - weights
    names = np.unique(people[labeled])
    right = anchors[:, None] * torch.from_numpy(people[:, None] == names).double()

    named, residuals, seconds = {}, {}, {}
    for way, solve in (
        ("trees", tree_solutions),
        ("conjugate gradients", conjugate_gradients),
    ):
        begin = time.process_time()
        found = solve(matrix, right, steps)
        seconds[way] = time.process_time() - begin
        residuals[way] = float(torch.linalg.norm(matrix @ found - right) / torch.linalg.norm(right))
        named[way] = names[found.argmax(1).numpy()]
    begin = time.process_time()
    named["nearest neighbor"] = people[labeled][(embeddings @ embeddings[labeled].T).argmax(1)]
    seconds["nearest neighbor"] = time.process_time() - begin
    return SpreadLabels(named, residuals, seconds)


def tree_solutions(matrix: Tensor, right: Tensor, steps: int) -> Tensor:
    """Solve for each column from zero by exact block steps on greedy forests.

    Args:
        matrix: Symmetric positive definite (n, n).
        right: Right-hand sides (n, m).
        steps: Of each column.

    Returns:
        The solutions (n, m).
    """
    columns = []
    for column in right.unbind(1):
        quadratic = QuadraticForm(matrix, column)
        method = block_coordinate_descent(
            quadratic, selection=greedy_forest(quadratic), update=message_passing_update(quadratic)
        )
        state, _ = next(itertools.islice(iterate(method, torch.zeros_like(column), seed=0), steps - 1, None))
        columns.append(state.x)
    return torch.stack(columns, dim=1)


def pair_scores(people: NDArray[np.int64], named: NDArray[np.int64]) -> tuple[float, float]:
    """Of pairs of pictures: precision and recall of being put together, against being of one person.

    Args:
        people: Person of each picture (n,).
        named: Person it was put to (n,).

    Returns:
        Precision and recall; not a number where there is no such pair.
    """
    upper = np.triu_indices(len(people), 1)
    truth = (people[:, None] == people)[upper]
    together = (named[:, None] == named)[upper]
    hits = float((truth & together).sum())
    return (
        hits / together.sum() if together.any() else float("nan"),
        hits / truth.sum() if truth.any() else float("nan"),
    )


def cluster_rows(found: SpreadLabels, people: NDArray[np.int64], labeled: NDArray[np.bool_]) -> list[dict[str, Any]]:
    """One row for each way, with the pair scores of the pictures that were not labeled."""
    rows = []
    for way, named in found.named.items():
        precision, recall = pair_scores(people[~labeled], named[~labeled])
        rows.append(
            {
                "way": way,
                "pair precision": precision,
                "pair recall": recall,
                "right person": float((named == people)[~labeled].mean()),
                "residual": found.residuals.get(way, float("nan")),
                "seconds": found.seconds[way],
            }
        )
    return rows


def conjugate_gradients(matrix: Tensor, right: Tensor, steps: int) -> Tensor:
    """Solve for all columns at once, with the diagonal as preconditioner the matrix sparse; as `tree_solutions`."""
    sparse, scale = matrix.to_sparse(), matrix.diagonal()[:, None]
    x, residual = torch.zeros_like(right), right.clone()
    scaled = residual / scale
    direction, energy = scaled, (residual * scaled).sum(0)
    for _ in range(steps):
        product = sparse @ direction
        size = energy / (direction * product).sum(0).clamp(min=1e-300)
        x, residual = x + size * direction, residual - size * product
        scaled = residual / scale
        new = (residual * scaled).sum(0)
        direction, energy = scaled + new / energy.clamp(min=1e-300) * direction, new
    return x
