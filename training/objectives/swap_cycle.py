"""Swap-cycle: the attributes of a face that was drawn with another identity are the attributes it was drawn from."""

from __future__ import annotations

from torch import Tensor


def swap_cycle(again: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Squared distance, in the noise's unit, between attributes read from a swapped face and those it was drawn from.

    Differs: the wanted mean and the unit get no gradient. With one, a code that says nothing would be the cheapest way
    to come back unchanged, and the term would be a second rate.

    Args:
        again: Mean of E_a(x~) for x~ = D(z_id', z_a), (n, c, 8, 8).
        mean: Mean of the code z_a was drawn from, same shape.
        std: Its standard deviation, same shape.

    Returns:
        Scalar: mean over faces and elements; 0 where the code survives the swap.
    """
    return ((again - mean.detach()) / std.detach()).square().mean()
