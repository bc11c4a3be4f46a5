"""Calibration curves of many blocks that share a stiffness: how far may a block depart from what all have in common?

A block is an oracle on a stratum of people, with some of them set aside. Its curve is logit = (p + y) . (s, 1), with s
the standardized similarity, p the pooled curve of the block's group, and y what is the block's own.

    lower    balanced log loss of block i over its fitting pairs + sum_k l_k y_k^2 / 2            (y_i, one per block)
    upper    balanced log loss of block i over the pairs set aside                               (x, shared by all)

The stiffness l_k = low (high / low)^sigmoid(x_k) of slope and intercept is shared by all blocks. Stiff is one pooled
curve, soft are fits that know nothing of each other; the pairs set aside decide.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from training.problems.multi_block import Batch, MultiBlockBilevel

STIFFNESS = (1e-3, 1.0)
"""Least and largest penalty of a block's own part."""


@dataclass(frozen=True, slots=True)
class BlockPairs:
    """Standardized similarities of one block: (m,) of the same person, (n,) of different people of the stratum."""

    genuine: Tensor
    impostor: Tensor

    def joined(self, other: BlockPairs) -> BlockPairs:
        """The pairs of both."""
        return BlockPairs(torch.cat([self.genuine, other.genuine]), torch.cat([self.impostor, other.impostor]))


def stiffness(x: Tensor) -> Tensor:
    """Penalties (2,) of slope and intercept that the upper variable stands for."""
    low, high = STIFFNESS
    return low * (high / low) ** torch.sigmoid(x)


def block_calibration(
    fitting: Sequence[BlockPairs], validation: Sequence[BlockPairs], pooled: Tensor, groups: Tensor
) -> MultiBlockBilevel:
    """Make the problem; its upper variable (2,) stands for the stiffness of slope and of intercept.

    Args:
        fitting: Pairs of every block for the lower level.
        validation: Pairs of every block for the upper level.
        pooled: p, slope and intercept of every group, (groups, 2).
        groups: Group of every block, integers (m,).

    Returns:
        The problem, with the curve's own part y in R^2.

    Raises:
        ValueError: The blocks disagree in number, or one lacks pairs of a kind.
    """
    if not len(fitting) == len(validation) == len(groups):
        raise ValueError(f"need one group per block, got {len(fitting)}, {len(validation)} and {len(groups)}")
    if any(not len(kind) for block in (*fitting, *validation) for kind in (block.genuine, block.impostor)):
        raise ValueError("every block needs genuine and impostor pairs at both levels")
    m = len(groups)
    levels = _Padded(fitting), _Padded(validation)

    def slopes(level: _Padded, y: Tensor, blocks: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features (I, B, 2), derivative of the weighted losses along the logits (I, B), and second derivative."""
        features, labels, weights = level.rows(blocks, rows)
        logits = (features @ (pooled[groups[blocks]] + y)[:, :, None])[:, :, 0]
        wrong = torch.sigmoid(-labels * logits)
        return features, -labels * weights * wrong, weights * wrong * (1 - wrong)

    def sample(blocks: Tensor, size: int, generator: torch.Generator) -> Batch:
        return Batch(blocks, *(level.sample(blocks, size, generator) for level in levels))

    def everything() -> Batch:
        return Batch(torch.arange(m), *(level.everything() for level in levels))

    def lower_gradient(x: Tensor, y: Tensor, batch: Batch) -> Tensor:
        features, along, _ = slopes(levels[0], y, batch.blocks, batch.lower)
        return (features.mT @ along[:, :, None])[:, :, 0] + stiffness(x) * y

    def lower_hessian(x: Tensor, y: Tensor, batch: Batch) -> Tensor:
        features, _, bend = slopes(levels[0], y, batch.blocks, batch.lower)
        return features.mT @ (bend[:, :, None] * features) + torch.diag(stiffness(x))

    def hessian_product(x: Tensor, y: Tensor, v: Tensor, batch: Batch) -> Tensor:
        return (lower_hessian(x, y, batch) @ v[:, :, None])[:, :, 0]

    def upper_gradients(x: Tensor, y: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        features, along, _ = slopes(levels[1], y, batch.blocks, batch.upper)
        return torch.zeros_like(x), (features.mT @ along[:, :, None])[:, :, 0]

    def cross_product(x: Tensor, y: Tensor, v: Tensor, batch: Batch) -> Tensor:
        share = torch.sigmoid(x)
        return stiffness(x) * share * (1 - share) * math.log(STIFFNESS[1] / STIFFNESS[0]) * (y * v).mean(dim=0)

    def exact(x: Tensor) -> tuple[Tensor, Tensor]:
        batch = everything()
        y = solve_blocks(fitting, pooled, groups, stiffness(x))
        features, labels, weights = levels[1].rows(batch.blocks, batch.upper)
        logits = (features @ (pooled[groups] + y)[:, :, None])[:, :, 0]
        value = (weights * functional.softplus(-labels * logits)).sum() / m
        _, along_y = upper_gradients(x, y, batch)
        adjoint = torch.linalg.solve(lower_hessian(x, y, batch), along_y)
        return value, -cross_product(x, y, adjoint, batch)

    largest = float(levels[0].features.square().sum(dim=-1).max()) / 4
    return MultiBlockBilevel(
        num_blocks=m,
        lower_dim=2,
        strong_convexity=STIFFNESS[0],
        smoothness=largest + STIFFNESS[1],
        sample=sample,
        lower_gradient=lower_gradient,
        lower_hessian=lower_hessian,
        hessian_product=hessian_product,
        upper_gradients=upper_gradients,
        cross_product=cross_product,
        exact=exact,
    )


def solve_blocks(fitting: Sequence[BlockPairs], shared: Tensor, groups: Tensor, penalties: Tensor) -> Tensor:
    """Fit the own part of every block exactly, by damped Newton steps on all blocks at once.

    Args:
        fitting: Pairs of every block.
        shared: Slope and intercept that a group's blocks have in common, (groups, 2).
        groups: Group of every block, (m,).
        penalties: Of slope and intercept, (2,), positive.

    Returns:
        y, (m, 2); gradients end below 1e-12, or after 100 steps.
    """
    level, blocks = _Padded(fitting), torch.arange(len(groups))
    features, labels, weights = level.rows(blocks, level.everything())
    base = shared[groups]

    def value(y: Tensor) -> Tensor:
        logits = (features @ (base + y)[:, :, None])[:, :, 0]
        return (weights * functional.softplus(-labels * logits)).sum(dim=1) + 0.5 * (penalties * y.square()).sum(dim=1)

    y = torch.zeros_like(base)
    for _ in range(100):
        wrong = torch.sigmoid(-labels * (features @ (base + y)[:, :, None])[:, :, 0])
        gradient = (features.mT @ (-labels * weights * wrong)[:, :, None])[:, :, 0] + penalties * y
        if float(gradient.abs().max()) < 1e-12:
            break
        hessian = features.mT @ ((weights * wrong * (1 - wrong))[:, :, None] * features) + torch.diag(penalties)
        step, size, before = torch.linalg.solve(hessian, gradient), torch.ones(len(y), 1, dtype=y.dtype), value(y)
        for _ in range(30):
            worse = value(y - size * step) > before + 1e-14  # below is rounding
            if not bool(worse.any()):
                break
            size = torch.where(worse[:, None], size / 2, size)
        y = y - size * step
    return y


class _Padded:
    """Pairs of all blocks in one tensor, genuine first, with how many there are of either kind."""

    def __init__(self, blocks: Sequence[BlockPairs]) -> None:
        self.counts = torch.tensor([[len(block.genuine), len(block.impostor)] for block in blocks])
        width = int(self.counts.sum(dim=1).max())
        self.features = torch.zeros(len(blocks), width, 2, dtype=torch.float64)
        self.features[:, :, 1] = 1.0
        for row, block in zip(self.features, blocks, strict=True):
            both = torch.cat([block.genuine, block.impostor])
            row[: len(both), 0] = both

    def sample(self, blocks: Tensor, size: int, generator: torch.Generator) -> Tensor:
        """Positions (I, size) of as many genuine as impostor pairs; size is rounded up to an even number."""
        half = (size + 1) // 2
        draws = torch.rand(len(blocks), 2, half, generator=generator, dtype=torch.float64)
        counts = self.counts[blocks]
        positions = (draws * counts[:, :, None]).long()
        positions[:, 1] += counts[:, :1]
        return positions.flatten(1)

    def everything(self) -> Tensor:
        """Positions (m, width) of all pairs, padding included."""
        return torch.arange(self.features.shape[1]).expand(len(self.features), -1)

    def rows(self, blocks: Tensor, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features (I, B, 2), labels (I, B), and weights (I, B) of sum one, half on either kind; zero on padding."""
        counts = self.counts[blocks]
        genuine = positions < counts[:, :1]
        impostor = ~genuine & (positions < counts.sum(dim=1, keepdim=True))
        shares = [kind.double() / kind.sum(dim=1, keepdim=True).clamp(min=1) / 2 for kind in (genuine, impostor)]
        labels = torch.where(genuine, 1.0, -1.0).double()
        return self.features[blocks[:, None], positions], labels, shares[0] + shares[1]
