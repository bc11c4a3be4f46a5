"""Attackers trained on released faces of other people, with the recognizers' embeddings as their eyes (A3).

Both see pairs (released face, another photo of the same person) of people who are not in the test. They then rank a
gallery of people they have never seen.

Differs: the pairing is learned on frozen embeddings, not by a network on pixels.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from training.algorithm import iterate
from training.optimizers.first_order.large_step_logistic import large_step_logistic

Codes = NDArray[np.float32]
Scores = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class RidgeAttacker:
    """Maps embeddings of released faces to those of clean photos by ridge regression, and compares cosines.

    Attributes:
        weights: (d, d).
    """

    weights: NDArray[np.float64]

    @classmethod
    def fit(cls, released: Codes, clean: Codes, penalty: float = 1.0) -> RidgeAttacker:
        """Fit on pairs.

        Args:
            released: Embeddings of released faces, (n, d).
            clean: Embeddings of other photos of the same people, (n, d).
            penalty: Ridge penalty relative to the mean squared singular value.

        Returns:
            The attacker.
        """
        x, y = released.astype(np.float64), clean.astype(np.float64)
        strength = penalty * np.square(x).sum() / min(x.shape)
        return cls(x.T @ np.linalg.solve(x @ x.T + strength * np.eye(len(x)), y))

    def scores(self, released: Codes, gallery: Codes) -> Scores:
        """Score every probe against every gallery entry: (n, d) and (m, d) to (n, m)."""
        mapped = released @ self.weights
        return np.asarray(mapped @ gallery.T)


@dataclass(frozen=True, slots=True)
class PairAttacker:
    """Linear classifier of pairs by the cosines and the products of leading directions of every recognizer.

    Attributes:
        bases: For each recognizer its leading directions, (d_k, q).
        splits: Column at which each recognizer's embedding starts, and the end.
        weights: (K + K q + 1,).
    """

    bases: Sequence[NDArray[np.float64]]
    splits: Sequence[int]
    weights: NDArray[np.float64]

    @classmethod
    def fit(
        cls,
        released: Codes,
        clean: Codes,
        splits: Sequence[int],
        rng: np.random.Generator,
        *,
        people: NDArray[np.int64] | None = None,
        directions: int = 32,
        negatives: int = 5,
        steps: int = 300,
    ) -> PairAttacker:
        """Fit by normalized logistic gradient descent with large steps.

        Args:
            released: Joined embeddings of released faces, (n, d).
            clean: Joined embeddings of other photos of the same people, (n, d).
            splits: Column at which each recognizer's embedding starts, and the end.
            rng: Draws the wrong pairs.
            people: Person of each row, (n,), at least two; None where each shows somebody else.
            directions: q.
            negatives: Wrong pairs for each right one.
            steps: Steps of the optimizer.

        Returns:
            The attacker.
        """
        bases = []
        for start, end in itertools.pairwise(splits):
            rows = np.linalg.svd(clean[:, start:end] - clean[:, start:end].mean(0), full_matrices=False)[2]
            bases.append(rows[:directions].T.astype(np.float64))
        empty = cls(bases, splits, np.zeros(0))
        n = len(released)
        others = [_strangers(np.arange(n) if people is None else people, rng) for _ in range(negatives)]
        features = np.concatenate(
            [empty.features(released, clean), *(empty.features(released, clean[index]) for index in others)]
        )
        labels = np.repeat([1.0, *[-1.0] * negatives], n)
        scale = features[:, :-1].std(0) + 1e-9
        features[:, :-1] /= scale
        method = large_step_logistic(torch.from_numpy(features), torch.from_numpy(labels), step_size=10.0)
        start_point = torch.zeros(features.shape[1], dtype=torch.float64)
        average = np.zeros(features.shape[1])
        for step, (state, info) in enumerate(iterate(method, start_point, seed=0), start=1):
            average += state.x.numpy()
            if step == steps or info.stationarity == 0.0:
                break
        average[:-1] /= scale
        return cls(bases, splits, average / np.linalg.norm(average))

    def features(self, first: Codes, second: Codes) -> NDArray[np.float64]:
        """Features of row-wise pairs, (n, K + K q + 1); the last is constant."""
        columns = []
        for basis, start, end in zip(self.bases, self.splits[:-1], self.splits[1:], strict=True):
            a, b = first[:, start:end].astype(np.float64), second[:, start:end].astype(np.float64)
            columns += [(a * b).sum(1, keepdims=True), (a @ basis) * (b @ basis)]
        return np.concatenate([*columns, np.ones((len(first), 1))], axis=1)

    def scores(self, released: Codes, gallery: Codes) -> Scores:
        """Score every probe against every gallery entry: (n, d) and (m, d) to (n, m).

        The score is a bilinear form of both embeddings, one block for each recognizer, and so takes one product.
        """
        total = np.full((len(released), len(gallery)), self.weights[-1])
        place = 0
        for basis, start, end in zip(self.bases, self.splits[:-1], self.splits[1:], strict=True):
            cosine, directions = self.weights[place], self.weights[place + 1 : place + 1 + basis.shape[1]]
            a, b = released[:, start:end].astype(np.float64), gallery[:, start:end].astype(np.float64)
            total += cosine * (a @ b.T) + (a @ basis * directions) @ (b @ basis).T
            place += 1 + basis.shape[1]
        return total


def _strangers(people: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """For every row some row that shows another person, (n,)."""
    drawn = rng.integers(0, len(people), len(people))
    while (same := people[drawn] == people).any():
        drawn[same] = rng.integers(0, len(people), int(same.sum()))
    return drawn
