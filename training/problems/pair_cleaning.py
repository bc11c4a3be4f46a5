"""Cleaning of identity labels with a verification head below: one weight per image, learned on verified pairs.

Upper variable x (n,), weights sigmoid(x_i) of the images. Lower variable y (d,), a logistic head on what the oracles
say of a pair of images (their similarities and a constant), with label +1 where both images carry one identity.

    upper    balanced log loss of y over verified pairs
    lower    balanced mean over labeled pairs (i, j) of sigmoid(x_i) sigmoid(x_j) log loss, plus (ridge / 2) |y|^2

Balanced means that either kind of pair has half of the total weight. An image with a wrong identity spoils genuine
pairs, which then look different, and impostor pairs, which then look alike; both teach the head to doubt.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from training.problems.stochastic_bilevel import StochasticBilevel


@dataclass(frozen=True, slots=True)
class LabeledPairs:
    """Pairs of images: features (p, d), labels (p,) of +1 or -1, and the two images of each pair, integers (p, 2)."""

    features: Tensor
    labels: Tensor
    images: Tensor

    def __post_init__(self) -> None:
        """Refuse shapes that disagree, and pairs of one kind only."""
        p = len(self.features)
        if self.features.ndim != 2 or self.labels.shape != (p,) or self.images.shape != (p, 2):
            raise ValueError(
                f"expected shapes (p, d), (p,) and (p, 2), got {tuple(self.features.shape)}, "
                f"{tuple(self.labels.shape)} and {tuple(self.images.shape)}"
            )
        if not bool((self.labels == 1).any() and (self.labels == -1).any()):
            raise ValueError("need pairs of one identity and pairs of two")


def pair_cleaning(
    pairs: LabeledPairs, verified: LabeledPairs, *, num_images: int, batch: int | None = 256, ridge: float = 1e-3
) -> StochasticBilevel:
    """Make the problem, with derivatives written out and batches drawn with replacement, half of either kind.

    Args:
        pairs: Pairs by the labels in doubt.
        verified: Pairs by verified labels; their images play no part.
        num_images: n; pairs name images below it.
        batch: Pairs per oracle call, at least 2; None takes all of them, and then the oracles are exact.
        ridge: Positive weight of |y|^2 / 2, the modulus of strong convexity.

    Returns:
        The problem.

    Raises:
        ValueError: The ridge is not positive, or a pair names no image.
    """
    if not ridge > 0:
        raise ValueError(f"ridge must be positive, got {ridge}")
    if not 0 <= int(pairs.images.min()) <= int(pairs.images.max()) < num_images:
        raise ValueError(f"images must lie in [0, {num_images}), got up to {int(pairs.images.max())}")
    kinds = [tuple((level.labels == sign).nonzero().flatten() for sign in (1, -1)) for level in (pairs, verified)]

    def draw(level: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Rows, and weights that sum to one."""
        if batch is None:
            chosen = kinds[level]
        else:
            chosen = tuple(rows[torch.randint(len(rows), (batch // 2,), generator=rng)] for rows in kinds[level])
        weights = [torch.full((len(rows),), 0.5 / len(rows), dtype=pairs.features.dtype) for rows in chosen]
        return torch.cat(chosen), torch.cat(weights)

    def pull(level: LabeledPairs, rows: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features, derivative of the loss along the logit, and second derivative."""
        features, labels = level.features[rows], level.labels[rows]
        wrong = torch.sigmoid(-labels * (features @ y))
        return features, -labels * wrong, wrong * (1 - wrong)

    def upper_gradients(x: Tensor, y: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        rows, weights = draw(1, rng)
        features, along, _ = pull(verified, rows, y)
        return torch.zeros_like(x), features.mT @ (weights * along)

    def lower_gradient(x: Tensor, y: Tensor, rng: torch.Generator) -> Tensor:
        rows, weights = draw(0, rng)
        features, along, _ = pull(pairs, rows, y)
        return features.mT @ (weights * trust(x, rows) * along) + ridge * y

    def hessian_vector(x: Tensor, y: Tensor, v: Tensor, rng: torch.Generator) -> Tensor:
        rows, weights = draw(0, rng)
        features, _, bend = pull(pairs, rows, y)
        return features.mT @ (weights * trust(x, rows) * bend * (features @ v)) + ridge * v

    def cross_vector(x: Tensor, y: Tensor, v: Tensor, rng: torch.Generator) -> Tensor:
        rows, weights = draw(0, rng)
        features, along, _ = pull(pairs, rows, y)
        slope = weights * trust(x, rows) * along * (features @ v)
        images = pairs.images[rows]
        # of log(sigmoid(x_i) sigmoid(x_j)); images repeat, so the parts are summed
        parts = slope[:, None] * torch.sigmoid(-x[images])
        return torch.zeros_like(x).index_add(0, images.flatten(), parts.flatten())

    def trust(x: Tensor, rows: Tensor) -> Tensor:
        return torch.sigmoid(x[pairs.images[rows]]).prod(dim=1)

    return StochasticBilevel(upper_gradients, lower_gradient, hessian_vector, cross_vector, num_images)
