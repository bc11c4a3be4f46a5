"""Strata of people and their pairs: draws, folds, pooled curves, and scores of curves on held-out pairs."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from training.jobs.match_curves import Pairs, binned_error, fit_newton
from training.problems.block_calibration import BlockPairs, block_calibration
from training.problems.multi_block import MultiBlockBilevel

RIDGE = 1e-4
"""Of curves that are fitted alone or pooled."""


@dataclass(frozen=True, slots=True)
class Stratum:
    """Similarities of people of one stratum, of one oracle: (n,) to their own second photo, (n, n) to each other."""

    own: NDArray[np.float64]
    across: NDArray[np.float64]

    def pairs(self, rows: NDArray[np.bool_] | None = None) -> Pairs:
        """Pairs among some people (n,), or all."""
        inside = np.ones(len(self.own), dtype=np.bool_) if rows is None else rows
        block = self.across[np.ix_(inside, inside)]
        return Pairs(self.own[inside], block[np.triu_indices(len(block), 1)])


@dataclass(frozen=True, slots=True)
class Strata:
    """Strata to fit and held out, in the same order; their names, and the oracle of each, (s,)."""

    fitting: list[Stratum]
    held_out: list[Stratum]
    names: list[str]
    oracles: Tensor


@dataclass(frozen=True, slots=True)
class Score:
    """Means over blocks of the held-out log loss and calibration error, and both by block (m,)."""

    losses: NDArray[np.float64]
    errors: NDArray[np.float64]

    @property
    def loss(self) -> float:
        """Mean log loss in nats."""
        return float(self.losses.mean())

    @property
    def error(self) -> float:
        """Mean expected calibration error."""
        return float(self.errors.mean())


def draw_strata(blocks: int, *, seed: int, spread: float = 0.06) -> Strata:
    """Draw similarities of made-up strata whose means differ by a known spread.

    Args:
        blocks: Number of strata, of one oracle.
        seed: Of everything.
        spread: Standard deviation of the strata's means.

    Returns:
        The strata; half of them have 16 people, half 80, and 400 are held out.
    """
    rng = np.random.default_rng(seed)
    means = rng.normal((0.45, 0.08), spread, (blocks, 2))

    def draw(people: Callable[[int], int]) -> list[Stratum]:
        return [
            Stratum(rng.normal(same, 0.13, people(i)), rng.normal(other, 0.11, (people(i), people(i))))
            for i, (same, other) in enumerate(means)
        ]

    names = [f"drawn {index}" for index in range(blocks)]
    few = draw(lambda i: 16 if i % 2 else 80)
    return Strata(few, draw(lambda _: 400), names, torch.zeros(blocks, dtype=torch.long))


def thin(strata: Strata, share: float, rng: np.random.Generator) -> Strata:
    """Draw a share of the people of every stratum, the same ones for all oracles.

    Args:
        strata: The strata.
        share: Of the people, in (0, 1).
        rng: Source of the draw.

    Returns:
        The smaller strata.
    """
    count = len(strata.names) // (int(strata.oracles.max()) + 1)

    def draw(part: list[Stratum]) -> list[Stratum]:
        chosen = []
        for stratum in part[:count]:
            people = len(stratum.own)
            chosen.append(np.sort(rng.choice(people, round(share * people), replace=False)))
        return [
            Stratum(stratum.own[rows], stratum.across[np.ix_(rows, rows)])
            for stratum, rows in zip(part, itertools.cycle(chosen), strict=False)
        ]

    return Strata(draw(strata.fitting), draw(strata.held_out), strata.names, strata.oracles)


def fold(strata: Strata, folds: int, spread: Tensor, rng: np.random.Generator) -> MultiBlockBilevel:
    """Make the problem of choosing the stiffness by setting every part of every stratum aside once.

    Args:
        strata: The strata.
        folds: Parts of every stratum.
        spread: Mean and deviation of every oracle's similarities, (oracles, 2).
        rng: Deals people out to the parts.

    Returns:
        The problem, one block for each stratum and fold; the pooled curve of a block has not seen what is set aside.
    """
    parts = [rng.permutation(len(stratum.own)) % folds for stratum in strata.fitting]
    fitting, aside = (
        [
            standardize(
                [
                    stratum.pairs((part == number) == is_aside)
                    for stratum, part in zip(strata.fitting, parts, strict=True)
                ],
                strata.oracles,
                spread,
            )
            for number in range(folds)
        ]
        for is_aside in (False, True)
    )
    count = int(strata.oracles.max()) + 1
    pooled = torch.cat([pool(blocks, strata.oracles) for blocks in fitting])
    groups = torch.cat([strata.oracles + count * number for number in range(folds)])
    return block_calibration([*itertools.chain(*fitting)], [*itertools.chain(*aside)], pooled, groups)


def pool(blocks: Sequence[BlockPairs], oracles: Tensor) -> Tensor:
    """Fit one curve per oracle on the pairs of all its strata.

    Args:
        blocks: Standardized pairs of every stratum.
        oracles: Oracle of each, (s,).

    Returns:
        Slope and intercept of the standardized similarity, (oracles, 2).
    """
    curves = []
    for oracle in range(int(oracles.max()) + 1):
        own = [block for block, owner in zip(blocks, oracles.tolist(), strict=True) if owner == oracle]
        pairs = Pairs(
            np.concatenate([block.genuine.numpy() for block in own]),
            np.concatenate([block.impostor.numpy() for block in own]),
        )
        fit = fit_newton(pairs, RIDGE)
        curves.append([fit.slope, fit.intercept])
    return torch.tensor(curves, dtype=torch.float64)


def measure_spread(parts: Sequence[Pairs], oracles: Tensor) -> Tensor:
    """Mean and deviation of every oracle's similarities, (oracles, 2), half of the weight on genuine pairs."""
    found = []
    for oracle in range(int(oracles.max()) + 1):
        own = [part for part, owner in zip(parts, oracles.tolist(), strict=True) if owner == oracle]
        pairs = Pairs(np.concatenate([p.genuine for p in own]), np.concatenate([p.impostor for p in own]))
        mean = float(pairs.weights @ pairs.similarities)
        found.append([mean, float((pairs.weights @ (pairs.similarities - mean).square()).sqrt())])
    return torch.tensor(found, dtype=torch.float64)


def standardize(parts: Sequence[Pairs], oracles: Tensor, spread: Tensor) -> list[BlockPairs]:
    """Standardize the similarities of every stratum by those of its oracle."""
    return [
        BlockPairs(*((torch.from_numpy(kind) - mean) / deviation for kind in (part.genuine, part.impostor)))
        for part, (mean, deviation) in zip(parts, spread[oracles], strict=True)
    ]


def score(curves: Tensor, held_out: Sequence[BlockPairs]) -> Score:
    """Score curves on held-out pairs.

    Args:
        curves: Slope and intercept of the standardized similarity, (m, 2).
        held_out: Pairs of every block.

    Returns:
        The scores, both kinds of pairs weighing alike.
    """
    losses, errors = [], []
    for curve, block in zip(curves, held_out, strict=True):
        both = torch.cat([block.genuine, block.impostor])
        genuine = torch.cat([torch.ones_like(block.genuine), torch.zeros_like(block.impostor)])
        weights = torch.where(genuine > 0, 0.5 / len(block.genuine), 0.5 / len(block.impostor)).double()
        logits = curve[0] * both + curve[1]
        losses.append(float(weights @ functional.softplus(-(2 * genuine - 1) * logits)))
        errors.append(binned_error(torch.sigmoid(logits), genuine, weights))
    return Score(np.array(losses), np.array(errors))


def is_clearly_less(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> bool:
    """Whether losses by block (m,) are less by two standard errors of their paired differences."""
    gain = theirs - ours
    return float(gain.mean()) > 2 * float(gain.std(ddof=1)) / len(gain) ** 0.5
