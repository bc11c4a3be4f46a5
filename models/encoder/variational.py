"""Identity code: a linear variational autoencoder on the embeddings that the verifier computes anyway.

The embeddings of the oracles, each centered and normalized, are joined, and a Gaussian latent of 128 dimensions is
fitted to them. For a linear decoder the optimal variational posterior is that of probabilistic PCA and has a closed
form (Tipping and Bishop, 1999; Lucas et al., 2019), so nothing is trained by gradients. The posterior mean whitens
large directions and shrinks the ones that hold noise; it is then placed on the unit sphere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor


class IdentityEncoder(ModelMixin, ConfigMixin):
    """Identity code on the unit sphere from oracle embeddings.

    Args:
        oracles: Names of the oracles, in the order in which their embeddings are joined.
        dims: Length of each oracle's embedding.
        code_dim: Length of the identity code.
    """

    @register_to_config
    def __init__(
        self,
        oracles: Sequence[str] = ("fr_feature", "mfn", "dlib"),
        dims: Sequence[int] = (512, 192, 128),
        code_dim: int = 128,
    ) -> None:
        super().__init__()
        if len(oracles) != len(dims):
            raise ValueError(f"{len(oracles)} oracles but {len(dims)} dimensions")
        self.oracles, self.dims = tuple(oracles), tuple(dims)
        self.register_buffer("centers", torch.zeros(sum(dims)))
        self.register_buffer("offset", torch.zeros(sum(dims)))
        self.register_buffer("projection", torch.zeros(code_dim, sum(dims)))
        self.register_buffer("noise", torch.ones(code_dim))

    def forward(self, embeddings: Mapping[str, Tensor]) -> Tensor:
        """Mean identity codes.

        Args:
            embeddings: Unit embeddings of each oracle, (n, dim).

        Returns:
            Unit codes, (n, code_dim).

        Raises:
            KeyError: An oracle's embedding is missing.
        """
        return F.normalize(self._posterior_mean(embeddings), dim=1)

    def sample(self, embeddings: Mapping[str, Tensor], rng: torch.Generator) -> Tensor:
        """Draw identity codes from the posterior, renormalized to the sphere; (n, code_dim)."""
        mean = self._posterior_mean(embeddings)
        return F.normalize(mean + self.noise * torch.randn(mean.shape, generator=rng).to(mean.device), dim=1)

    @torch.no_grad()
    def fit(self, embeddings: Mapping[str, Tensor]) -> float:
        """Fit centers, projection and noise in closed form.

        Args:
            embeddings: Unit embeddings of each oracle over the training faces, (n, dim) with n > code_dim.

        Returns:
            Share of the variance that the code keeps, in (0, 1].

        Raises:
            ValueError: There are not more faces than code dimensions.
        """
        code_dim = self.projection.shape[0]
        n = len(embeddings[self.oracles[0]])
        if n <= code_dim:
            raise ValueError(f"fitting a {code_dim}-dimensional code needs more than {code_dim} faces, got {n}")
        self.centers.copy_(torch.cat([embeddings[name].mean(0) for name in self.oracles]))
        joined = self._join(embeddings)
        self.offset.copy_(joined.mean(0))
        _, singular, rows = torch.linalg.svd(joined - self.offset, full_matrices=False)
        variance = singular.square() / n
        kept, rest = variance[:code_dim], variance[code_dim:]
        missing = max(1, joined.shape[1] - code_dim)
        residual = (rest.sum() / missing).clamp_min(1e-8)  # maximum-likelihood noise of the linear decoder
        scale = (1 - residual / kept).clamp_min(0).sqrt() / kept.sqrt()
        self.projection.copy_(scale[:, None] * rows[:code_dim])
        self.noise.copy_((residual / kept).sqrt())
        return float(kept.sum() / variance.sum())

    def _posterior_mean(self, embeddings: Mapping[str, Tensor]) -> Tensor:
        return (self._join(embeddings) - self.offset) @ self.projection.T

    def _join(self, embeddings: Mapping[str, Tensor]) -> Tensor:
        missing = [name for name in self.oracles if name not in embeddings]
        if missing:
            raise KeyError(f"no embedding of oracle {missing[0]}")
        centers = self.centers.split(list(self.dims))
        parts = [F.normalize(embeddings[name] - c, dim=1) for name, c in zip(self.oracles, centers, strict=True)]
        return torch.cat(parts, dim=1)
