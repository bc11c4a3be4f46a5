"""Watches two networks that train against each other: is there a certificate, and what step does it allow?

Every `look` estimates the block bounds of the players' watched layers at the current point and batch, with damping if
asked, and keeps the certified Euler step. `bounded` makes any optimizer's move of one player's layers no longer than
that Euler step along the current gradient would be. The certificate is for plain gradients of both players at once:
with Adam, and with several adversary steps to one of the other player, the bounded move is a trust region of certified
length, not a certified step.

Source: as in `training.optimizers.games.network_bounds`; the bound on the moves of adaptive optimizers is ours.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from training.optimizers.games.network_bounds import certified_step, damping_for_certificate, network_bounds


class StepWatch:
    """Certificates along a training; not part of its checkpoint, so a resumed one is free until the next look.

    Attributes:
        step: The certified step of the last look, or None.
        looks: Number of looks.
        certified: How many of them found a certificate.
    """

    def __init__(
        self, players: Sequence[Sequence[Tensor]], *, damping: float = 0.0, krylov: int = 6, seed: int = 0
    ) -> None:
        """Start without a certificate.

        Args:
            players: Watched parameters of each player, of the last layers as a rule.
            damping: Curvature granted to each player, >= 0; `bounded` adds the pull that provides it.
            krylov: Dimension of the Krylov spaces.
            seed: Of the starting vectors.

        Raises:
            ValueError: A player has no parameters, or the damping is negative.
        """
        if any(not list(player) for player in players):
            raise ValueError("every player needs at least one watched parameter")
        if not damping >= 0:
            raise ValueError(f"damping must be non-negative, got {damping}")
        self._players = [list(player) for player in players]
        self._damping = damping
        self._krylov = krylov
        self._generator = torch.Generator().manual_seed(seed)
        self._anchors: list[list[Tensor]] = []
        self.step: float | None = None
        self.looks = 0
        self.certified = 0

    def look(self, losses: Sequence[Tensor]) -> dict[str, float]:
        """Estimate the bounds at the current parameters.

        Args:
            losses: Loss of each player, with its graph (kept).

        Returns:
            ``certified`` (0 or 1), ``certified_step`` (0 without), ``damping_needed``: the least damping with a
            certificate, and for players i and j ``curvature_i`` and ``coupling_ij``.
        """
        bounds = network_bounds(losses, self._players, krylov=self._krylov, generator=self._generator)
        self.step = certified_step(bounds, damping=self._damping)
        self._anchors = [[part.detach().clone() for part in player] for player in self._players]
        self.looks += 1
        self.certified += self.step is not None
        count = len(self._players)
        return {
            "certified": float(self.step is not None),
            "certified_step": self.step or 0.0,
            "damping_needed": damping_for_certificate(bounds),
            **{f"curvature_{i}": float(bounds.curvature[i]) for i in range(count)},
            **{f"coupling_{i}{j}": float(bounds.coupling[i, j]) for i in range(count) for j in range(count) if i != j},
        }

    @contextmanager
    def bounded(self, player: int) -> Iterator[None]:
        """Bound what one player's optimizer does to its watched layers inside the block.

        Before, the pull ``damping (theta - anchor)`` towards the parameters of the last look is added to the gradients;
        after, the move is shortened to ``step`` times the gradient's length. Without a certificate nothing happens.

        Args:
            player: Index of the player, whose gradients are there.

        Yields:
            None.
        """
        if self.step is None:
            yield
            return
        pairs = [
            (part, anchor)
            for part, anchor in zip(self._players[player], self._anchors[player], strict=True)
            if part.grad is not None
        ]
        parts = [part for part, _ in pairs]
        before = [part.detach().clone() for part in parts]
        with torch.no_grad():
            for part, anchor in pairs:
                part.grad.add_(part - anchor, alpha=self._damping)  # type: ignore[union-attr]  # chosen with gradients
            reach = self.step * _length([part.grad for part in parts if part.grad is not None])
        yield
        with torch.no_grad():
            moves = [part - old for part, old in zip(parts, before, strict=True)]
            length = _length(moves)
            if length > reach:
                for part, old, move in zip(parts, before, moves, strict=True):
                    part.copy_(old + move * (reach / length))


def _length(parts: Sequence[Tensor]) -> float:
    return float(torch.stack([part.square().sum() for part in parts]).sum().sqrt()) if parts else 0.0
