"""Weights over the oracles of the privacy hinge, moved by exponentiated gradient towards the worst of them.

The plain hinge adds the oracles' excesses, so a face that one oracle still recognizes is paid for by the others. The
worst case is a game instead: the generator minimizes, and weights on the simplex maximize, sum_k w_k excess_k, whose
value is the largest excess. After each step

    w_k <- w_k exp(eta excess_k),   then scaled to the sum K of the plain hinge,

with the excess in units in which 1 is large. With excesses in [0, 1], against any oracle k and for T steps,

    sum_t excess_k,t  <=  sum_t (w_t / K) . excess_t + log(K) / eta + eta T / 8

(exponential weights, Y. Freund, R. Schapire, "A decision-theoretic generalization of on-line learning", 1997): what the
weighted hinge drives down, the worst oracle follows. The update is that of
`training.optimizers.first_order.exponentiated_gradient` with minus the excess for a gradient.

Differs: weights keep a floor, so that an oracle that was harmless for long is heard within a few steps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from training.algorithm import require_positive


class OracleWeights:
    """Weights of the oracles, positive and of sum K; all 1 at the start, which is the plain hinge."""

    def __init__(self, names: Sequence[str], *, step_size: float = 0.5, unit: float = 0.1, floor: float = 0.05) -> None:
        """Start with equal weights.

        Args:
            names: Oracles, at least one, each once.
            step_size: eta > 0.
            unit: Excess of the similarity that counts as 1, > 0.
            floor: Smallest weight, in [0, 1).

        Raises:
            ValueError: A setting is out of range, or the names are not distinct.
        """
        require_positive(step_size=step_size, unit=unit)
        if not 0 <= floor < 1:
            raise ValueError(f"floor must lie in [0, 1), got {floor}")
        if not names or len(set(names)) != len(names):
            raise ValueError(f"names must be distinct and at least one, got {list(names)}")
        self._names = tuple(names)
        self._rate = step_size / unit
        self._floor = floor
        self._logits = [0.0] * len(names)

    @property
    def weights(self) -> dict[str, float]:
        """Weight of each oracle."""
        top = max(self._logits)
        raw = [math.exp(logit - top) for logit in self._logits]
        count, total = len(raw), sum(raw)
        return {
            name: self._floor + (1 - self._floor) * count * value / total
            for name, value in zip(self._names, raw, strict=True)
        }

    @property
    def worst(self) -> str:
        """The oracle with the largest weight."""
        return max(self.weights.items(), key=lambda item: item[1])[0]

    def update(self, excess: Mapping[str, Tensor | float]) -> None:
        """Move the weights towards the oracles with the largest excess.

        Args:
            excess: Excess of each oracle over its limit, scalars or (n,) (their mean counts); values below zero count
                as zero.

        Raises:
            ValueError: An oracle is missing, or its excess is not finite.
        """
        steps: list[float] = []
        for name in self._names:
            if name not in excess:
                raise ValueError(f"no excess of oracle {name!r}")
            value = float(torch.as_tensor(excess[name]).detach().float().clamp_min(0).mean())
            if not math.isfinite(value):
                raise ValueError(f"the excess of oracle {name!r} must be finite, got {value}")
            steps.append(self._rate * value)
        moved = [logit + step for logit, step in zip(self._logits, steps, strict=True)]
        top = max(moved)
        # Beyond the floor a logit says nothing but keeps an oracle from coming back.
        lowest = math.log(self._floor / len(moved)) if self._floor > 0 else -math.inf
        self._logits = [max(logit - top, lowest) for logit in moved]

    def hinge(self, drawn: Mapping[str, Tensor], source: Mapping[str, Tensor], limits: Mapping[str, float]) -> Tensor:
        """Weighted form of `training.objectives.privacy.privacy_hinge`, equal to it at equal weights.

        Args:
            drawn: Unit embeddings of drawn faces, oracle to (n, d_k).
            source: Unit embeddings of the source faces, oracle to (n, d_k).
            limits: Largest allowed cosine similarity of each oracle.

        Returns:
            Penalties, (n,), not negative.
        """
        weights = self.weights
        excess = oracle_excess(drawn, source, limits)
        return torch.stack([weights[name] * value for name, value in excess.items()]).sum(0)


def oracle_excess(
    drawn: Mapping[str, Tensor], source: Mapping[str, Tensor], limits: Mapping[str, float]
) -> dict[str, Tensor]:
    """Excess of the similarity over the limit for each oracle, (n,), not negative: the parts of the privacy hinge."""
    return {name: F.relu((drawn[name] * source[name]).sum(1) - limit) for name, limit in limits.items()}
