"""Derivatives that vanish when identity and attributes are independent mechanisms (anonymizer specification, B4).

Every term is a squared Frobenius norm estimated by random signs: for independent u and v with entries -1 and 1,
`E |J v|^2 = |J|^2` and `E <J_id u, J_a v>^2 = |J_id^T J_a|^2`. Derivatives are exact (forward mode) and can be
differentiated again, so the terms train the networks in them.

What they say is local: small moves of one code and of the other change different things here. That is **no**
statistical independence, and a decoder that is not served can learn it in the encoder's stead.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, jvp

from models.faces.alignment import CROP_SIZE
from models.oracles.ensemble import Oracle
from models.oracles.networks.landmarks68 import LandmarkNet

_SMALLEST = 1e-20


class DerivativeError(ValueError):
    """Derivatives whose shapes do not fit."""


@dataclass(frozen=True, slots=True)
class PictureReader:
    """A frozen network that reads decoded pictures.

    Sampling on a fixed grid has no forward-mode derivative but is affine, so it is kept apart: the difference of two
    views is exact.

    Attributes:
        view: Pictures (n, 3, h, w) to the network's input; affine.
        read: That input to answers (n, m); differentiable.
    """

    view: Callable[[Tensor], Tensor]
    read: Callable[[Tensor], Tensor]


def oracle_reader(oracle: Oracle) -> PictureReader:
    """Unit embeddings, not centered, of pictures of any size; a recognizer."""
    return PictureReader(
        lambda pictures: oracle.chip(_enlarged(pictures)),
        lambda chips: F.normalize(oracle.network(chips).float(), dim=1),
    )


def landmark_reader(network: LandmarkNet) -> PictureReader:
    """Sixty-eight landmarks in crop pixels, flattened to (n, 136), of pictures of any size."""
    return PictureReader(
        lambda pictures: network.window(_enlarged(pictures)), lambda windows: network.locate(windows).flatten(1)
    )


def random_signs(like: Tensor, rng: torch.Generator) -> Tensor:
    """Entries -1 and 1 with equal chance (Rademacher), in the shape and type of a tensor."""
    return (torch.randint(0, 2, like.shape, generator=rng) * 2 - 1).to(like.dtype)


def random_response(function: Callable[[Tensor], Tensor], at: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Value of a function and its derivative along random signs.

    Args:
        function: Acts on each of n rows apart.
        at: Where, (n, ...).
        rng: Draws the signs.

    Returns:
        Value and derivative, both (n, ...) as the function returns them.
    """
    # forward mode refuses tensors whose rows share memory
    moved = jvp(function, (at.contiguous(),), (random_signs(at, rng),))
    return moved[0], moved[1]


def overlap(by_identity: Tensor, by_attributes: Tensor) -> Tensor:
    """G1: how much the answers to random moves of both codes overlap, in [0, 1].

    Sums over the faces, above and below, before the division: one pair of moves has a relative deviation of about 1.4,
    and the quotient of the sums tends to `sum |J_id^T J_a|^2 / sum |J_id|^2 |J_a|^2`. By Cauchy-Schwarz no more than 1.

    Differs: the specification keeps running means of both over steps; here the faces of the batch are enough.

    Args:
        by_identity: J_id u of n faces, (n, ...).
        by_attributes: J_a v, same shape.

    Returns:
        Scalar; 0 where no face answers to both.

    Raises:
        DerivativeError: The shapes differ.
    """
    shared, both = _products(by_identity, by_attributes)
    return shared.sum() / both.sum().clamp_min(_SMALLEST)


def squared_cosines(by_identity: Tensor, by_attributes: Tensor) -> Tensor:
    """Squared cosine between both answers face by face, (n,) in [0, 1]; arguments and error as in `overlap`."""
    shared, both = _products(by_identity, by_attributes)
    return shared / both.clamp_min(_SMALLEST)


def probe_gradient(probe: nn.Module, codes: Tensor, identity: Tensor) -> Tensor:
    """G2: squared gradient, in the code, of the cosine that an identity probe reaches.

    Args:
        probe: Attribute codes to unit identity codes; frozen here, its parameters get no gradient.
        codes: Sampled attribute codes, (n, ...).
        identity: Unit identity codes, (n, d).

    Returns:
        Squared norm by face, (n,). Zero where no small change of the code helps or harms the probe.
    """
    frozen = {name: value.detach() for name, value in (*probe.named_parameters(), *probe.named_buffers())}
    at = codes if codes.requires_grad else codes.detach().requires_grad_()
    cosine = (functional_call(probe, frozen, (at,)) * identity).sum()
    (gradient,) = torch.autograd.grad(cosine, at, create_graph=True)
    return gradient.flatten(1).square().sum(1)


def drift(reader: PictureReader, pictures: Tensor, moves: Tensor) -> Tensor:
    """G3 and G4: how far a reader's answer moves when decoded pictures move.

    With the moves J_a v and a recognizer, the identity that must not change with the attribute code; with J_id u and
    landmarks, the geometry that must not change with the identity code.

    Args:
        reader: Recognizer or landmark network.
        pictures: Decoded pictures, (n, 3, h, w).
        moves: Their derivative along random signs, same shape.

    Returns:
        Squared length of the answer's derivative by face, (n,).

    Raises:
        DerivativeError: The shapes differ.
    """
    if pictures.shape != moves.shape:
        raise DerivativeError(f"pictures {tuple(pictures.shape)} and their moves {tuple(moves.shape)} differ in shape")
    seen = reader.view(pictures)
    answer: Tensor = jvp(reader.read, (seen,), (reader.view(pictures + moves) - seen,))[1]
    return answer.flatten(1).square().sum(1)


def _products(by_identity: Tensor, by_attributes: Tensor) -> tuple[Tensor, Tensor]:
    """Squared inner product of both answers and product of their squared norms, each (n,)."""
    if by_identity.shape != by_attributes.shape:
        raise DerivativeError(
            f"answers to identity {tuple(by_identity.shape)} and to attributes {tuple(by_attributes.shape)} "
            "differ in shape"
        )
    first, second = by_identity.flatten(1), by_attributes.flatten(1)
    return (first * second).sum(1).square(), first.square().sum(1) * second.square().sum(1)


def _enlarged(pictures: Tensor) -> Tensor:
    return F.interpolate(pictures, size=(CROP_SIZE, CROP_SIZE), mode="bilinear", align_corners=False)
