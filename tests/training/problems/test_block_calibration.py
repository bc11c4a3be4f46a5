"""Calibration in blocks: derivatives against differences of the exact objective, its two limits, and its sampling."""

import pytest
import torch

from training.problems.block_calibration import STIFFNESS, BlockPairs, block_calibration, solve_blocks, stiffness
from training.problems.multi_block import Batch

GROUPS = torch.tensor([0, 0, 0, 1, 1])
POOLED = torch.tensor([[2.0, -0.5], [1.5, 0.2]], dtype=torch.float64)


def draw_blocks(seed, genuine=12, impostor=30):
    generator = torch.Generator().manual_seed(seed)
    return [
        BlockPairs(
            1.0 + 0.2 * block + torch.randn(genuine + block, generator=generator, dtype=torch.float64),
            -1.0 + torch.randn(impostor + 2 * block, generator=generator, dtype=torch.float64),
        )
        for block in range(len(GROUPS))
    ]


@pytest.fixture
def problem():
    return block_calibration(draw_blocks(0), draw_blocks(1), POOLED, GROUPS)


def everything(problem):
    """The batch of all pairs: the exact oracles are those of this batch."""
    fitting, validation = draw_blocks(0), draw_blocks(1)
    widths = [max(len(b.genuine) + len(b.impostor) for b in level) for level in (fitting, validation)]
    m = problem.num_blocks
    return Batch(torch.arange(m), *(torch.arange(width).expand(m, width) for width in widths))


def test_the_hypergradient_is_the_derivative_of_the_exact_objective(problem):
    x = torch.tensor([-0.5, 0.8], dtype=torch.float64)
    _, gradient = problem.exact(x)
    for index in range(len(x)):
        step = torch.zeros_like(x)
        step[index] = 1e-4
        slope = (problem.exact(x + step)[0] - problem.exact(x - step)[0]) / 2e-4
        assert float(gradient[index]) == pytest.approx(float(slope), rel=1e-4, abs=1e-8)


def test_lower_derivatives_agree_with_each_other(problem):
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(2, generator=generator, dtype=torch.float64)
    y, v = torch.randn(2, 5, 2, generator=generator, dtype=torch.float64)
    batch = everything(problem)
    ahead, behind = (problem.lower_gradient(x, y + size * v, batch) for size in (1e-6, -1e-6))
    torch.testing.assert_close(problem.hessian_product(x, y, v, batch), (ahead - behind) / 2e-6, rtol=1e-5, atol=1e-8)
    eigenvalues = torch.linalg.eigvalsh(problem.lower_hessian(x, y, batch))
    assert problem.strong_convexity <= float(eigenvalues.min())
    assert float(eigenvalues.max()) <= problem.smoothness


def test_samples_are_unbiased(problem):
    x, y = torch.zeros(2, dtype=torch.float64), torch.full((5, 2), 0.3, dtype=torch.float64)
    generator, blocks = torch.Generator().manual_seed(3), torch.arange(5)
    truth = problem.lower_gradient(x, y, everything(problem))
    draws = torch.stack([problem.lower_gradient(x, y, problem.sample(blocks, 8, generator)) for _ in range(2000)])
    error = (draws.mean(dim=0) - truth).abs()
    assert bool((error < 4.5 * draws.std(dim=0) / 2000**0.5).all())


def test_stiff_blocks_are_the_pooled_curve_and_soft_ones_forget_it():
    fitting = draw_blocks(4)
    stiff = solve_blocks(fitting, POOLED, GROUPS, torch.full((2,), 1e6, dtype=torch.float64))
    assert float(stiff.abs().max()) < 1e-5
    soft = torch.full((2,), 1e-9, dtype=torch.float64)
    here, there = (shared[GROUPS] + solve_blocks(fitting, shared, GROUPS, soft) for shared in (POOLED, POOLED + 0.5))
    torch.testing.assert_close(here, there, rtol=0, atol=1e-6)


def test_the_stiffness_stays_between_its_bounds_and_bad_blocks_are_refused():
    x = torch.tensor([-800.0, 800.0], dtype=torch.float64)
    assert stiffness(x).tolist() == pytest.approx(STIFFNESS)
    empty = BlockPairs(torch.zeros(0, dtype=torch.float64), torch.ones(3, dtype=torch.float64))
    with pytest.raises(ValueError, match="genuine and impostor"):
        block_calibration([empty], [empty], POOLED, GROUPS[:1])
    with pytest.raises(ValueError, match="got 5, 5 and 4"):
        block_calibration(draw_blocks(0), draw_blocks(1), POOLED, GROUPS[:4])
