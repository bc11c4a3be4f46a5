"""Learn a convex denoiser from pairs of clean and noisy images: a bilevel problem.

The lower level restores y from an image b by minimizing |y - b|^2 / 2 + regularizer(x, y), 1-strongly convex; the upper
level is |y - clean|^2 / 2 over all pairs. Images are stacked, flat in y: n = pairs * height * width.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from training.problems.smooth_bilevel import CurvatureBounds, SmoothBilevel, differentiate


def total_variation(clean: Tensor, noisy: Tensor, *, bounds: bool = True) -> SmoothBilevel:
    """Learn weight and smoothing of anisotropic total variation: x = (log a, log nu).

    The regularizer is a * sum phi(D y), phi(t) = sqrt(t^2 + nu^2), D the differences along both axes, |D|^2 <= 8. Its
    stated bounds use |phi''| <= 1 / nu, |phi'''| <= 0.8587 / nu^2 and rows of D of length sqrt(2).

    Args:
        clean: Shape (pairs, height, width).
        noisy: The same shape.
        bounds: State the bounds on the second derivatives.

    Returns:
        The problem; the restoration starts from the noisy images.

    Raises:
        ValueError: The shapes differ.
    """
    shape = _checked(clean, noisy)

    def differences(y: Tensor) -> tuple[Tensor, Tensor]:
        images = y.reshape(shape)
        return images.diff(dim=1), images.diff(dim=2)

    def regularizer(x: Tensor, y: Tensor) -> Tensor:
        nu = x[1].exp()
        return x[0].exp() * sum(((t / nu).square() + 1).sqrt().sum() * nu for t in differences(y))

    def mixed_norm(x: Tensor, y: Tensor) -> float:
        # The Frobenius norm of the two columns a D^T phi'(Dy) and a D^T d phi'(Dy) / d log nu.
        a, nu = x.exp()
        columns: list[Tensor] = []
        for derivative in (
            lambda t: t / (t.square() + nu**2).sqrt(),
            lambda t: -t * nu**2 / (t.square() + nu**2) ** 1.5,
        ):
            along, across = (derivative(t) for t in differences(y))
            columns.append(a * _adjoint_differences(along, across, shape))
        return float(torch.linalg.vector_norm(torch.stack(columns)))

    def mixed_lipschitz(x: Tensor) -> float:
        a, nu = (float(value) for value in x.exp())
        return 8 * math.sqrt(2) * a / nu

    def hessian_lipschitz(x: Tensor) -> float:
        a, nu = (float(value) for value in x.exp())
        return 8 * math.sqrt(2) * 0.8587 * a / nu**2

    return _denoiser(
        clean,
        noisy,
        regularizer,
        smoothness=lambda x: 1 + 8 * math.exp(float(x[0] - x[1])),
        bounds=CurvatureBounds(mixed_norm, mixed_lipschitz, hessian_lipschitz) if bounds else None,
    )


def fields_of_experts(clean: Tensor, noisy: Tensor, *, filters: int, size: int, nu: float = 0.02) -> SmoothBilevel:
    """Learn filters and their weights: x holds K log weights w, then K rows of size^2 - 1 cosine coefficients.

    The regularizer is sum_k exp(w_k) sum phi(c_k * y), phi(t) = sqrt(t^2 + nu^2), over positions where the filter
    fits. Filters c_k combine cosine patterns without the constant one, so a uniform grey costs nothing. The smoothness
    bound is the largest value of 1 + sum_k exp(w_k) |c_k^(frequency)|^2 / nu on a torus that holds image and filter, of
    which the convolution is a part.

    Args:
        clean: Shape (pairs, height, width).
        noisy: The same shape.
        filters: K, at least 1.
        size: Side of the square filters, between 2 and the images'.
        nu: Smoothing > 0 of the absolute value, in grey levels.

    Returns:
        The problem without bounds on the second derivatives; `plain_filters` is a start.

    Raises:
        ValueError: The shapes differ, the filters do not fit, or the smoothing is not positive.
    """
    shape = _checked(clean, noisy)
    if filters < 1 or not 2 <= size <= min(shape[1:]):
        raise ValueError(f"need a filter of size between 2 and {min(shape[1:])}, got {filters} of size {size}")
    if not nu > 0:
        raise ValueError(f"nu must be positive, got {nu}")
    patterns = _cosine_patterns(size, clean.dtype)

    def split(x: Tensor) -> tuple[Tensor, Tensor]:
        kernels = x[filters:].reshape(filters, -1) @ patterns
        return x[:filters].exp(), kernels.reshape(filters, 1, size, size)

    def regularizer(x: Tensor, y: Tensor) -> Tensor:
        weights, kernels = split(x)
        responses = functional.conv2d(y.reshape(shape)[:, None], kernels)  # (pairs, K, h, w)
        return weights @ ((responses / nu).square() + 1).sqrt().sum(dim=(0, 2, 3)) * nu

    def smoothness(x: Tensor) -> float:
        weights, kernels = split(x)
        torus = (shape[1] + size - 1, shape[2] + size - 1)
        spectrum = torch.fft.rfft2(kernels[:, 0], s=torus).abs().square()
        return 1 + float((weights[:, None, None] * spectrum).sum(dim=0).max()) / nu

    return _denoiser(clean, noisy, regularizer, smoothness=smoothness, bounds=None)


def plain_filters(filters: int, size: int, *, log_weight: float, dtype: torch.dtype = torch.float64) -> Tensor:
    """Start `fields_of_experts` from the lowest cosine patterns, one per filter.

    Args:
        filters: K, at most size^2 - 1.
        size: Side of the filters.
        log_weight: Every log weight.
        dtype: Floating-point type.

    Returns:
        x of shape (K size^2,).

    Raises:
        ValueError: There are more filters than patterns.
    """
    if not 1 <= filters < size**2:
        raise ValueError(f"filters must be between 1 and {size**2 - 1}, got {filters}")
    coefficients = torch.eye(filters, size**2 - 1, dtype=dtype)
    return torch.cat([torch.full((filters,), log_weight, dtype=dtype), coefficients.flatten()])


def pack_filters(weights: Tensor, kernels: Tensor) -> Tensor:
    """Start `fields_of_experts` from filters of one's own.

    Args:
        weights: Positive weights, shape (K,).
        kernels: Filters, shape (K, size, size); their means are dropped.

    Returns:
        x of shape (K size^2,).
    """
    coefficients = kernels.flatten(1) @ _cosine_patterns(kernels.shape[-1], kernels.dtype).mT
    return torch.cat([weights.log(), coefficients.flatten()])


def unpack_filters(x: Tensor, *, filters: int, size: int) -> tuple[Tensor, Tensor]:
    """Read what `fields_of_experts` learned.

    Args:
        x: Upper variable, shape (K size^2,).
        filters: K.
        size: Side of the filters.

    Returns:
        Weights (K,) and filters (K, size, size).
    """
    kernels = x[filters:].reshape(filters, -1) @ _cosine_patterns(size, x.dtype)
    return x[:filters].exp(), kernels.reshape(filters, size, size)


def _cosine_patterns(size: int, dtype: torch.dtype) -> Tensor:
    """The two-dimensional cosine basis without the constant, lowest first: orthonormal rows (size^2 - 1, size^2)."""
    grid = torch.arange(size, dtype=dtype)
    waves = torch.cos(torch.pi * grid[:, None] * (2 * grid[None, :] + 1) / (2 * size))  # (frequency, position)
    waves = functional.normalize(waves, dim=1)
    pairs = sorted(((i, j) for i in range(size) for j in range(size)), key=lambda pair: (sum(pair), pair))
    return torch.stack([torch.outer(waves[i], waves[j]).flatten() for i, j in pairs[1:]])


def _denoiser(
    clean: Tensor,
    noisy: Tensor,
    regularizer: Callable[[Tensor, Tensor], Tensor],
    *,
    smoothness: Callable[[Tensor], float],
    bounds: CurvatureBounds | None,
) -> SmoothBilevel:
    target, data = clean.flatten(), noisy.flatten()
    return differentiate(
        upper=lambda y: 0.5 * (y - target).square().sum(),
        lower=lambda x, y: 0.5 * (y - data).square().sum() + regularizer(x, y),
        strong_convexity=lambda _: 1.0,
        smoothness=smoothness,
        upper_smoothness=1.0,
        lower_start=data,
        bounds=bounds,
    )


def _adjoint_differences(along: Tensor, across: Tensor, shape: torch.Size) -> Tensor:
    result = along.new_zeros(shape)
    result[:, :-1] -= along
    result[:, 1:] += along
    result[:, :, :-1] -= across
    result[:, :, 1:] += across
    return result


def _checked(clean: Tensor, noisy: Tensor) -> torch.Size:
    if clean.ndim != 3 or clean.shape != noisy.shape:
        raise ValueError(f"expected two stacks of images, got shapes {tuple(clean.shape)} and {tuple(noisy.shape)}")
    return clean.shape
