"""Filters in and out of the upper variable of the learned denoiser."""

from __future__ import annotations

import torch

from training.problems.denoising import fields_of_experts, pack_filters, plain_filters, unpack_filters


def test_packed_filters_come_back_without_their_means() -> None:
    generator = torch.Generator().manual_seed(0)
    kernels = torch.randn(4, 3, 3, generator=generator, dtype=torch.float64)
    weights = torch.rand(4, generator=generator, dtype=torch.float64) + 0.1
    read_weights, read_kernels = unpack_filters(pack_filters(weights, kernels), filters=4, size=3)
    torch.testing.assert_close(read_weights, weights)
    torch.testing.assert_close(read_kernels, kernels - kernels.mean(dim=(1, 2), keepdim=True))


def test_the_plain_start_is_read_as_unit_filters_with_its_weight() -> None:
    weights, kernels = unpack_filters(plain_filters(3, 5, log_weight=-2.0), filters=3, size=5)
    torch.testing.assert_close(weights, torch.full((3,), -2.0, dtype=torch.float64).exp())
    torch.testing.assert_close(kernels.flatten(1) @ kernels.flatten(1).mT, torch.eye(3, dtype=torch.float64))


def test_packed_differences_give_the_gradient_of_total_variation() -> None:
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(2, 9, 9, generator=generator, dtype=torch.float64)
    kernels = torch.zeros(2, 3, 3, dtype=torch.float64)
    kernels[0, 1, 1:], kernels[1, 1:, 1] = (torch.tensor([-1.0, 1.0]).double() for _ in range(2))
    x = pack_filters(torch.tensor([0.3, 0.3], dtype=torch.float64), kernels)
    problem = fields_of_experts(images, images, filters=2, size=3, nu=0.1)
    y = images.clone().requires_grad_()
    # a filter of three sees the inner pixels only
    steps = (y[:, 1:-1, 2:] - y[:, 1:-1, 1:-1], y[:, 2:, 1:-1] - y[:, 1:-1, 1:-1])
    (expected,) = torch.autograd.grad(0.3 * sum((t.square() + 0.01).sqrt().sum() for t in steps), y)
    torch.testing.assert_close(problem.lower_gradient(x, images.flatten()), expected.flatten())
