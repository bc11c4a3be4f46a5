"""Three numbers about mutual information of codes, in nats: a penalty, a bound from above and a bound from below.

None stands for another (anonymizer specification, B3). vCLUB is a **penalty, no evidence**: it exceeds the mutual
information only where the fitted posterior is closer to the joint law than to the product of the marginals, and a lazy
posterior reports 0 whatever the truth. What may be claimed lies between the other two, side by side: leave-one-out from
above, because the encoder's own law q(z_a | x) is known, and InfoNCE from below.

Sources: P. Cheng et al., "CLUB: A Contrastive Log-ratio Upper Bound of Mutual Information", 2020, arXiv:2006.12013;
B. Poole et al., "On Variational Bounds of Mutual Information", 2019, arXiv:1905.06922, section 2.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

_LARGEST_LOG_VARIANCE = 4.0
_ROWS = 16  # of the pairwise densities held at once


class InformationError(ValueError):
    """Samples from which no mutual information can be estimated: too few, or of shapes that do not fit."""


class IdentityPosterior(nn.Module):
    """Diagonal Gaussian q(z_id | z_a), the fitted law of vCLUB.

    Identity codes are unit vectors, so they are multiplied by the root of their length first; a constant factor moves
    no difference of log densities.

    Args:
        attribute_dim: Elements of an attribute code.
        identity_dim: Length of the identity code.
        width: Hidden units.
    """

    def __init__(self, attribute_dim: int = 640, identity_dim: int = 128, width: int = 256) -> None:
        super().__init__()
        self.scale = math.sqrt(identity_dim)
        self.net = nn.Sequential(
            nn.Flatten(), nn.Linear(attribute_dim, width), nn.SiLU(), nn.Linear(width, 2 * identity_dim)
        )

    def forward(self, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of the scaled identity code, each (n, d), from attribute codes (n, c, 8, 8)."""
        mean, raw = self.net(codes).chunk(2, dim=1)
        # one face seen often must not be fitted by an ever sharper density
        return mean, _LARGEST_LOG_VARIANCE * torch.tanh(raw / _LARGEST_LOG_VARIANCE)

    def negative_log_likelihood(self, codes: Tensor, identity: Tensor) -> Tensor:
        """What the posterior is fitted by: nats per face without the constant, from (n, c, 8, 8) and unit (n, d)."""
        mean, log_variance = self(codes)
        return -gaussian_log_density(identity * self.scale, mean, log_variance).mean()

    def penalty(self, codes: Tensor, identity: Tensor) -> Tensor:
        """vCLUB of attribute codes (n, c, 8, 8) and unit identity codes (n, d); nats, of either sign."""
        mean, log_variance = self(codes)
        return vclub(mean, log_variance, identity * self.scale)


def gaussian_log_density(values: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """Log density of diagonal Gaussians without the constant -d log(2 pi) / 2, summed over the last dimension."""
    return -0.5 * ((values - mean).square() * (-log_variance).exp() + log_variance).sum(-1)


def vclub(mean: Tensor, log_variance: Tensor, values: Tensor) -> Tensor:
    """Variational contrastive log-ratio: mean log q(u_i | a_i) less the mean of log q(u_j | a_i) over all i and j.

    Its expectation over n independent pairs is (n - 1) / n of `E log q(u|a) - E E log q(u'|a)`, and that quantity obeys
    `I_vclub - I = KL(p(a) p(u) || q(u|a) p(a)) - KL(p(a, u) || q(u|a) p(a))`.

    Args:
        mean: Means of q(u | a_i), (n, d).
        log_variance: Their log variances, (n, d).
        values: u_i, (n, d).

    Returns:
        Scalar in nats, of either sign. The average over all pairs takes n d operations, not n n d.

    Raises:
        InformationError: The shapes differ, or there are fewer than two pairs.
    """
    if not (mean.shape == log_variance.shape == values.shape) or values.ndim != 2 or len(values) < 2:
        raise InformationError(
            f"vCLUB needs at least two pairs of one shape (n, d), got {tuple(mean.shape)}, "
            f"{tuple(log_variance.shape)} and {tuple(values.shape)}"
        )
    center = values.mean(0)
    spread = (values - center).square().mean(0)
    apart = spread + (center - mean).square()  # mean over j of (u_j - m_i)^2
    return 0.5 * ((apart - (values - mean).square()) * (-log_variance).exp()).sum(1).mean()


@torch.no_grad()
def leave_one_out_bound(mean: Tensor, std: Tensor, codes: Tensor) -> Tensor:
    """Upper bound of I(X; Z_a): log of q(a_i | x_i) over the mean of q(a_i | x_j) for j other than i.

    Its mean over independent faces is at least I(X; Z_a) in expectation, whatever the number of faces, and I(X; Z_a) is
    at least I(Y; Z_a) for anything Y that is computed from the face. At useful rates it says nothing about identity.

    Args:
        mean: Means of q(z_a | x_i), (n, ...).
        std: Their standard deviations, same shape.
        codes: One sample a_i of each, same shape.

    Returns:
        Nats by face, (n,) float64; the bound is their mean.

    Raises:
        InformationError: The shapes differ, or there are fewer than two faces.
    """
    if not (mean.shape == std.shape == codes.shape) or len(codes) < 2:
        raise InformationError(
            f"the bound needs at least two faces of one shape, got {tuple(mean.shape)}, {tuple(std.shape)} "
            f"and {tuple(codes.shape)}"
        )
    means, log_variances = mean.flatten(1).double(), 2 * std.flatten(1).double().log()
    rows = [
        gaussian_log_density(part[:, None], means, log_variances) for part in codes.flatten(1).double().split(_ROWS)
    ]
    densities = torch.cat(rows)  # (n, n), row i: log q(a_i | x_j)
    own = densities.diagonal().clone()
    others = densities.fill_diagonal_(-math.inf).logsumexp(1) - math.log(len(codes) - 1)
    return own - others


def contrastive_bound(scores: Tensor) -> Tensor:
    """InfoNCE: lower bound of the mutual information of two codes from a critic fitted on **other** data.

    Args:
        scores: Critic f(a_i, u_j) of n held-out pairs, (n, n); the pairs that belong together are on the diagonal.

    Returns:
        Nats by pair, (n,) float64: f(a_i, u_i) less the log mean exp of row i. The bound is their mean; it never
        exceeds log n, and a critic that says nothing gives 0.

    Raises:
        InformationError: The scores are no square of at least two pairs.
    """
    if scores.ndim != 2 or scores.shape[0] != scores.shape[1] or len(scores) < 2:
        raise InformationError(f"scores must be a square of at least two pairs, got {tuple(scores.shape)}")
    scores = scores.double()
    return scores.diagonal() - (scores.logsumexp(1) - math.log(len(scores)))
