"""Weights over the oracles of the privacy hinge, moved by exponentiated gradient towards the worst of them.

The plain hinge adds the oracles' excesses, so a face that one oracle still recognizes is paid for by the others. The
worst case is a game instead: the generator minimizes, and weights on the simplex maximize, sum_k w_k excess_k, whose
value is the largest excess. After each step

    w_k <- w_k exp(eta excess_k),   then scaled to the sum K of the plain hinge,

with the excess in units in which 1 is large. With excesses in [0, 1], against any oracle k and for T steps,

    sum_t excess_k,t  <=  sum_t (w_t / K) . excess_t + log(K) / eta + eta T / 8

(exponential weights, Y. Freund, R. Schapire, "A decision-theoretic generalization of on-line learning", 1997): what the
weighted hinge drives down, the worst oracle follows. The step is
`training.optimizers.first_order.exponentiated_gradient` with minus the excess for a gradient, up to a constant.

Differs: weights keep a floor, so that an oracle that was harmless for long is heard within a few steps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from training.algorithm import require_positive
from training.objectives.privacy import privacy_hinge
from training.optimizers.first_order.exponentiated_gradient import exponentiated_gradient
from training.problems import StochasticObjective


class OracleWeights(nn.Module):
    """Weights of the oracles, positive and of sum K; all 1 at the start, which is the plain hinge.

    A module only so that its shares are saved with a training and restored: `training.runs.checkpoint`.
    """

    shares: Tensor

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
        super().__init__()
        require_positive(step_size=step_size, unit=unit)
        if not 0 <= floor < 1:
            raise ValueError(f"floor must lie in [0, 1), got {floor}")
        if not names or len(set(names)) != len(names):
            raise ValueError(f"names must be distinct and at least one, got {list(names)}")
        self._names = tuple(names)
        self._step_size = step_size
        self._unit = unit
        self._floor = floor
        self._rng = torch.Generator()  # asked for by the algorithm; its gradient here draws nothing
        self.register_buffer("shares", torch.ones(len(names), dtype=torch.float64))

    @property
    def weights(self) -> dict[str, float]:
        """Weight of each oracle."""
        raw = self.shares.tolist()
        count, total = len(raw), sum(raw)
        return {
            name: self._floor + (1 - self._floor) * (count * value / total)
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
        means: list[float] = []
        for name in self._names:
            if name not in excess:
                raise ValueError(f"no excess of oracle {name!r}")
            value = float(torch.as_tensor(excess[name]).detach().double().clamp_min(0).mean())
            if not math.isfinite(value):
                raise ValueError(f"the excess of oracle {name!r} must be finite, got {value}")
            means.append(value)
        # Only ratios of shares count: the worst oracle stays and the others shrink, so that clipping bounds a ratio.
        gradient = (max(means) - torch.tensor(means, dtype=torch.float64)) / self._unit
        ascent = exponentiated_gradient(StochasticObjective(lambda x, _: gradient), step_size=self._step_size)
        state, _ = ascent.step(ascent.init(self.shares, self._rng), self._rng)
        # Beyond the floor a share says nothing but keeps an oracle from coming back.
        lowest = max(self._floor / len(means), torch.finfo(torch.float64).tiny)
        self.shares.copy_((state.x / state.x.max()).clamp(min=lowest))

    def hinge(self, drawn: Mapping[str, Tensor], source: Mapping[str, Tensor], limits: Mapping[str, float]) -> Tensor:
        """Weighted form of `training.objectives.privacy.privacy_hinge`, equal to it at equal weights.

        Args:
            drawn: Unit embeddings of drawn faces, oracle to (n, d_k).
            source: Unit embeddings of the source faces, oracle to (n, d_k).
            limits: Largest allowed cosine similarity of each oracle.

        Returns:
            Penalties, (n,), not negative.
        """
        return privacy_hinge(drawn, source, limits, self.weights)
