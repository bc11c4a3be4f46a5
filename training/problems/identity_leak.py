"""What a linear map must take out of features so that a person's other picture is not among the nearest.

The variable R (k, k) is what is removed: pictures with features q and g are compared by q.(I - R) g. Row i of the
queries and row i of the gallery show one person, rows i and j two. Three terms, with the groups of h the columns of R:

    f(R)    mean over i and j != i of softplus((s_ii - s_ij) / T), s_ij = q_i.(I - R) g_j       all n (n - 1) pairs
    h(R)    weight * sum over directions j of |R_:j|                                              few directions
    chi(R)  (ridge / 2)|R|^2, with R symmetric and its eigenvalues in [0, 1]                      near the identity map

f is convex because the scores are linear in R. I - R is then the square of a contraction `contraction`, so that the
comparison is an inner product of mapped features. h and chi have easy proximal maps, their sum has none.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from training.algorithm import require_positive
from training.problems import Objective


@dataclass(frozen=True, slots=True)
class IdentityLeak:
    """Queries (n, k) and gallery (n, k) of the same n people, temperature T, weight of h, ridge of chi."""

    queries: Tensor
    gallery: Tensor
    temperature: float
    weight: float
    ridge: float

    def __post_init__(self) -> None:
        """Refuse shapes that disagree, fewer than two people, and constants that are not positive."""
        if self.queries.ndim != 2 or self.queries.shape != self.gallery.shape or len(self.queries) < 2:
            raise ValueError(
                f"expected two shapes (n, k) with n >= 2, got {tuple(self.queries.shape)}, {tuple(self.gallery.shape)}"
            )
        require_positive(temperature=self.temperature, weight=self.weight, ridge=self.ridge)

    @property
    def dim(self) -> int:
        """k."""
        return self.queries.shape[1]

    @property
    def smooth(self) -> Objective:
        """f, of flat points (k * k,); its gradient looks at every pair."""

        def value(x: Tensor) -> Tensor:
            return functional.softplus(self._margins(x) / self.temperature).sum() / self._pairs - self._diagonal

        def gradient(x: Tensor) -> Tensor:
            wrong = torch.sigmoid(self._margins(x) / self.temperature)
            return -self._pull_back(wrong) / (self.temperature * self._pairs)

        return Objective(value, gradient)

    @property
    def cheap(self) -> Objective:
        """h, with a subgradient that is zero on columns of zeros."""

        def gradient(x: Tensor) -> Tensor:
            removed = self.matrix(x)
            return (self.weight * functional.normalize(removed, dim=0)).flatten()

        return Objective(lambda x: self.weight * torch.linalg.vector_norm(self.matrix(x), dim=0).sum(), gradient)

    def shrink(self, x: Tensor, step: float) -> Tensor:
        """The proximal map of step * h: columns of R are shortened by step * weight."""
        removed = self.matrix(x)
        length = torch.linalg.vector_norm(removed, dim=0).clamp(min=torch.finfo(x.dtype).tiny)
        return (removed * (1 - step * self.weight / length).clamp(min=0)).flatten()

    def clip(self, x: Tensor, step: float) -> Tensor:
        """The proximal map of step * chi: shrink, make symmetric, clip the eigenvalues to [0, 1]."""
        removed = self.matrix(x) / (1 + step * self.ridge)
        values, vectors = torch.linalg.eigh((removed + removed.mT) / 2)
        return ((vectors * values.clamp(0, 1)) @ vectors.mT).flatten()

    def value(self, x: Tensor) -> float:
        """The whole sum, for a point in the domain of chi."""
        return float(self.smooth.value(x) + self.cheap.value(x) + 0.5 * self.ridge * x @ x)

    def smoothness(self, *, steps: int = 50, seed: int = 0) -> float:
        """A Lipschitz constant of the gradient of f: the power iteration's estimate and a tenth more.

        Args:
            steps: Of the iteration, each as expensive as a gradient.
            seed: Of its start.

        Returns:
            1.1 lambda / (4 T^2), lambda the largest eigenvalue of the mean outer product of the margins' slopes.
        """
        generator = torch.Generator().manual_seed(seed)
        direction = torch.randn(self.dim**2, generator=generator, dtype=self.queries.dtype)
        found = 0.0
        for _ in range(steps):
            direction = direction / torch.linalg.vector_norm(direction)
            scores = self.queries @ self.matrix(direction) @ self.gallery.mT
            direction = self._pull_back(scores.diagonal()[:, None] - scores) / self._pairs
            found = float(torch.linalg.vector_norm(direction))
        return 1.1 * found / (4 * self.temperature**2)

    def matrix(self, x: Tensor) -> Tensor:
        """The flat point as R (k, k)."""
        return x.reshape(self.dim, self.dim)

    @property
    def _pairs(self) -> int:
        return len(self.queries) * (len(self.queries) - 1)

    @property
    def _diagonal(self) -> float:
        """What the n margins of a picture with itself, all zero, add to the mean."""
        return len(self.queries) * float(torch.log(torch.tensor(2.0, dtype=torch.float64))) / self._pairs

    def _margins(self, x: Tensor) -> Tensor:
        """s_ii - s_ij, (n, n)."""
        scores = (self.queries - self.queries @ self.matrix(x)) @ self.gallery.mT
        return scores.diagonal()[:, None] - scores

    def _pull_back(self, weights: Tensor) -> Tensor:
        """Sum of weights_ij times the slope of q_i.R (g_i - g_j) in R; the diagonal cancels. Flat, (k * k,)."""
        spread = torch.diag(weights.sum(1)) - weights
        return (self.queries.mT @ spread @ self.gallery).flatten()


def contraction(removed: Tensor) -> Tensor:
    """The symmetric square root of I - R: features mapped by it have the inner products q.(I - R) g.

    Args:
        removed: R (k, k), symmetric with eigenvalues in [0, 1].

    Returns:
        The map (k, k).
    """
    values, vectors = torch.linalg.eigh(removed)
    return (vectors * (1 - values).clamp(0, 1).sqrt()) @ vectors.mT


def removed_directions(removed: Tensor, *, at_least: float = 0.5) -> Tensor:
    """Directions of which R removes at least a share; dropping them altogether cannot be undone by any later map.

    Args:
        removed: R (k, k), symmetric with eigenvalues in [0, 1].
        at_least: The share.

    Returns:
        Orthonormal columns (k, r).
    """
    values, vectors = torch.linalg.eigh(removed)
    return vectors[:, values >= at_least]


def alternating_prox(
    problem: IdentityLeak, z: Tensor, step: float, corrections: tuple[Tensor, Tensor], *, rounds: int
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """The proximal map of step * (h + chi) by alternating the maps of h and of chi, with corrections.

    Args:
        problem: The problem.
        z: Where, (k * k,).
        step: Of the map.
        corrections: Two points (k * k,): zeros, or those of an earlier call with the same step as a warm start.
        rounds: Rounds, each one `IdentityLeak.shrink` and one `IdentityLeak.clip`; exact in the limit.

    Returns:
        A point in the domain of chi, and its corrections.

    Source: H. H. Bauschke and P. L. Combettes, "A Dykstra-like algorithm for two monotone operators", Pacific Journal
    of Optimization 4, 2008.
    """
    require_positive(rounds=rounds)
    first, second = corrections
    x = z - first - second
    for _ in range(rounds):
        y = problem.shrink(x + first, step)
        first = x + first - y
        x = problem.clip(y + second, step)
        second = y + second - x
    return x, (first, second)
