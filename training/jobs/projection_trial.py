"""Projections of one kind of features, and what each does to the search for people and for scenes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from training.audit.statistics import mean, rank_k, rate
from training.jobs.index_features import (
    NEAREST,
    Features,
    Matrix,
    discriminant_directions,
    found_people,
    principal_basis,
    unit_rows,
    within_whitener,
)
from training.jobs.projection_solvers import Effort, slide
from training.jobs.scene_search import Scenes, by_kind, found_scenes
from training.problems.identity_leak import IdentityLeak, contraction, removed_directions

PEOPLE_MEASURES = ("identity rank-1", "identity top-10", "identity top-10, whitened")
"""What a projection is to lower."""

SCENE_MEASURES = ("scene recall@10", "place recall@10", "caption cosine of 10")
"""What it is to keep."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of all the ways; `FitFeatureProjectionConfig` says what they are."""

    directions: int
    temperature: float
    ridge: float
    weights: Sequence[float]
    dropped: Sequence[int]
    effort: Effort


class Way(NamedTuple):
    """A projection: what is subtracted before (d,), directions it removes altogether, and the map (d, d)."""

    center: Matrix
    removed: int
    matrix: Matrix


@dataclass(frozen=True, slots=True)
class Trial:
    """Ways by name, the names that were chosen of each kind, and what every query found with them.

    The values found are per person (n,), 0 or 1, or per scene (m,).
    """

    ways: Mapping[str, Way]
    chosen: Mapping[str, str]
    found: Mapping[str, Mapping[str, Matrix]]
    scenes: Scenes

    def means(self, name: str) -> dict[str, float]:
        """What is found with a way, or with the chosen one of a kind, as shares and a mean cosine."""
        return {measure: float(np.mean(each)) for measure, each in self.found[self.chosen.get(name, name)].items()}

    def leak(self, name: str) -> float:
        """The larger share of people in the top 10, of the plain and of the whitening attacker."""
        means = self.means(name)
        return max(means[measure] for measure in PEOPLE_MEASURES[1:])

    def rows(self, seed: int) -> Iterator[dict[str, Any]]:
        """A row for every way, with 95 % intervals of the two main measures."""
        for name, way in self.ways.items():
            found = self.found[name]
            people = rate(found["identity rank-1"].astype(np.bool_))
            scenes = mean(by_kind(self.scenes, found["scene recall@10"]), np.random.default_rng(seed))
            yield {
                "projection": name,
                "removed": way.removed,
                **self.means(name),
                "rank-1 from": people.lower,
                "rank-1 to": people.upper,
                "scene from": scenes.lower,
                "scene to": scenes.upper,
            }

    def differences(self, seed: int) -> Iterator[dict[str, Any]]:
        """Rows of sliding less each plain way, with 95 % intervals over people, or over kinds of scenes."""
        for plain in ("as indexed", "centered", "LDA", "PCA"):
            for measure in (*PEOPLE_MEASURES, *SCENE_MEASURES):
                with_it, without = (self.found[self.chosen.get(name, name)][measure] for name in ("sliding", plain))
                change = with_it - without
                shared = change if measure in PEOPLE_MEASURES else by_kind(self.scenes, change)
                estimate = mean(shared, np.random.default_rng(seed))
                yield {
                    "plain": self.chosen.get(plain, plain),
                    "measure": measure,
                    "sliding less plain": estimate.value,
                    "from": estimate.lower,
                    "to": estimate.upper,
                    "n": len(change),
                }

    def at_equal_leak(self, kind: str) -> str | None:
        """The setting of a plain kind that finds most scenes of those that leak no more than sliding, None if all do.

        The limit is a standard error above the leak of sliding, and the choice is made on the people and scenes of
        the comparison: both favor the plain kind.
        """
        leak = self.leak("sliding")
        people = len(self.found[self.chosen["sliding"]]["identity rank-1"])
        limit = leak + (leak * (1 - leak) / people) ** 0.5
        fitting = [name for name in self.ways if name.startswith(f"{kind},") and self.leak(name) <= limit]
        return max(fitting, key=lambda name: self.means(name)["scene recall@10"], default=None)


def try_ways(features: Features, scenes: Scenes, of_scenes: Matrix, settings: Settings) -> Trial:
    """Fit every way on people of one half, and search for people of the other half and for scenes.

    Args:
        features: Of people.
        scenes: Scenes.
        of_scenes: Their features of the same kind (m, d).
        settings: Settings.

    Returns:
        Everything that was found.
    """
    fit = features.fit
    center = fit.reshape(-1, fit.shape[-1]).mean(0)
    eye = np.eye(len(center))
    ways = {"as indexed": Way(np.zeros_like(center), 0, eye), "centered": Way(center, 0, eye)}
    ways |= _ways(fit, center, settings)
    found: dict[str, dict[str, Matrix]] = {}
    for name, way in ways.items():
        people = found_people(features.held, way.center, way.matrix, within_whitener(fit, way.matrix), center)
        hits = {measure: each.astype(np.float64) for measure, each in people.items()}
        found[name] = {**hits, **found_scenes(scenes, of_scenes, way.center, way.matrix)}
    return Trial(ways, _choose(fit, settings), found, scenes)


def leak_problem(fit: Matrix, settings: Settings, weight: float) -> tuple[IdentityLeak, Matrix]:
    """The problem on people (n, 2, d), and the principal directions (d, k) that it is about."""
    center = fit.reshape(-1, fit.shape[-1]).mean(0)
    basis = principal_basis(fit - center, settings.directions)
    scores = (fit - center) @ basis
    codes = torch.from_numpy(scores / np.sqrt((scores**2).sum(-1).mean()))
    return IdentityLeak(codes[:, 1], codes[:, 0], settings.temperature, weight, settings.ridge), basis


def _ways(fit: Matrix, center: Matrix, settings: Settings) -> dict[str, Way]:
    eye = np.eye(len(center))
    ways: dict[str, Way] = {}
    for weight in settings.weights:
        problem, basis = leak_problem(fit, settings, weight)
        removed = problem.matrix(slide(problem, settings.effort)[0])
        dropped = basis @ removed_directions(removed).numpy()
        soft = contraction(removed).numpy() - np.eye(problem.dim)
        ways[f"sliding, weight {weight:g}"] = Way(center, dropped.shape[1], eye - dropped @ dropped.T)
        ways[f"not dropped but damped, weight {weight:g}"] = Way(center, 0, eye + basis @ soft @ basis.T)
    leading = principal_basis(fit - center, max(settings.dropped))
    for count in settings.dropped:
        lda = discriminant_directions(fit, center, min(count, len(fit) - 1))
        pca = leading[:, :count]
        ways[f"LDA, {count}"] = Way(center, lda.shape[1], eye - lda @ lda.T)
        ways[f"PCA, {count}"] = Way(center, pca.shape[1], eye - pca @ pca.T)
    return ways


def _choose(fit: Matrix, settings: Settings) -> dict[str, str]:
    """The setting of each kind that protects best those of the fitted half who are left out of a fit for this."""
    cut = len(fit) * 2 // 3
    center = fit[:cut].reshape(-1, fit.shape[-1]).mean(0)
    ways = _ways(fit[:cut], center, settings)
    truth = np.arange(len(fit) - cut)
    hits: dict[str, float] = {}
    for name, way in ways.items():
        views = unit_rows((fit[cut:] - center) @ way.matrix)
        hits[name] = float(rank_k(views[:, 1], views[:, 0], truth, k=NEAREST).mean())
    return {
        kind: min((name for name in ways if name.startswith(kind)), key=hits.__getitem__)
        for kind in ("sliding", "LDA", "PCA")
    }
