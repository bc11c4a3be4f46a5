"""Losses on drawn faces whose identity was swapped: away from the source, toward the wanted person, pose kept.

The hinge is the penalty of the anonymizer specification (C1): zero value and zero gradient as soon as every oracle is
below its threshold. Used alone it is answered by smears, so it belongs beside a generator that is sharp already.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor


def oracle_excess(
    drawn: Mapping[str, Tensor], source: Mapping[str, Tensor], limits: Mapping[str, float]
) -> dict[str, Tensor]:
    """Excess of the similarity over the limit for each oracle, (n,), not negative: the parts of the privacy hinge."""
    return {name: F.relu((drawn[name] * source[name]).sum(1) - limit) for name, limit in limits.items()}


def privacy_hinge(
    drawn: Mapping[str, Tensor],
    source: Mapping[str, Tensor],
    limits: Mapping[str, float],
    weights: Mapping[str, float] | None = None,
) -> Tensor:
    """Excess of the similarity over the limit, summed over the oracles.

    Args:
        drawn: Unit embeddings of drawn faces, oracle to (n, d_k).
        source: Unit embeddings of the source faces, oracle to (n, d_k).
        limits: Largest allowed cosine similarity of each oracle.
        weights: Weight of each oracle, see `training.objectives.oracle_weights`; without, each counts once.

    Returns:
        Penalties, (n,), not negative; zero with zero gradient where every similarity is below its limit.

    Raises:
        ValueError: There are weights, but not for each oracle with a limit.
    """
    excess = oracle_excess(drawn, source, limits)
    if weights is not None:
        if missing := sorted(excess.keys() - weights.keys()):
            raise ValueError(f"no weight of {', '.join(missing)}")
        excess = {name: weights[name] * value for name, value in excess.items()}
    return torch.stack(list(excess.values())).sum(0)


def identity_transfer(code: Tensor, wanted: Tensor) -> Tensor:
    """One minus the cosine between the code read from a drawn face and the wanted one; (n, d) unit codes to (n,)."""
    return 1 - (code * wanted).sum(1)


def landmark_distance(found: Tensor, wanted: Tensor) -> Tensor:
    """Mean distance of landmarks (n, k, 2), in units of the coordinates; (n,)."""
    return (found - wanted).square().sum(2).add(1e-6).sqrt().mean(1)
