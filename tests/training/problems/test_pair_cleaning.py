"""Cleaning of identity labels by pairs: derivatives, balance of the samples, and what the weights come to mean."""

import itertools

import pytest
import torch

from training.algorithm import iterate
from training.optimizers.bilevel.bo_rep import bo_rep
from training.problems.pair_cleaning import LabeledPairs, pair_cleaning

N, D = 9, 3


def draw_pairs(seed, genuine=14, impostor=25):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.cat([torch.ones(genuine), -torch.ones(impostor)]).double()
    features = torch.randn(len(labels), D, generator=generator, dtype=torch.float64)
    features[:, 0] += labels
    first = torch.randint(N, (len(labels),), generator=generator)
    other = (first + 1 + torch.randint(N - 1, (len(labels),), generator=generator)) % N
    return LabeledPairs(features, labels, torch.stack([first, other], dim=1))


@pytest.fixture
def problem():
    return pair_cleaning(draw_pairs(0), draw_pairs(1), num_images=N, batch=None, ridge=0.05)


def loss(pairs, x, y, ridge):
    """The lower level written as a plain sum."""
    total = torch.zeros((), dtype=torch.float64)
    for feature, label, (i, j) in zip(pairs.features, pairs.labels, pairs.images, strict=True):
        share = 0.5 / (pairs.labels == label).sum()
        trust = torch.sigmoid(x[i]) * torch.sigmoid(x[j])
        total = total + share * trust * torch.nn.functional.softplus(-label * (feature @ y))
    return total + ridge / 2 * y.square().sum()


def test_every_oracle_is_the_derivative_that_it_names(problem):
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(N, generator=generator, dtype=torch.float64, requires_grad=True)
    y = torch.randn(D, generator=generator, dtype=torch.float64, requires_grad=True)
    v = torch.randn(D, generator=generator, dtype=torch.float64)
    (gradient,) = torch.autograd.grad(loss(draw_pairs(0), x, y, 0.05), y, create_graph=True)
    hessian_vector, cross_vector = torch.autograd.grad(gradient @ v, (y, x))
    here = x.detach(), y.detach()
    torch.testing.assert_close(problem.lower_gradient(*here, generator), gradient.detach())
    torch.testing.assert_close(problem.hessian_vector(*here, v, generator), hessian_vector)
    torch.testing.assert_close(problem.cross_vector(*here, v, generator), cross_vector)
    trusted = loss(draw_pairs(1), torch.full((N,), 50.0, dtype=torch.float64), y, 0.0)
    along_x, along_y = problem.upper_gradients(*here, generator)
    torch.testing.assert_close(along_y, torch.autograd.grad(trusted, y)[0])
    assert not along_x.any()


def test_batches_are_unbiased_and_hold_both_kinds_alike():
    batched = pair_cleaning(draw_pairs(0), draw_pairs(1), num_images=N, batch=10, ridge=0.05)
    exact = pair_cleaning(draw_pairs(0), draw_pairs(1), num_images=N, batch=None, ridge=0.05)
    generator = torch.Generator().manual_seed(3)
    x, y = torch.zeros(N, dtype=torch.float64), torch.full((D,), 0.4, dtype=torch.float64)
    draws = torch.stack([batched.lower_gradient(x, y, generator) for _ in range(3000)])
    error = (draws.mean(dim=0) - exact.lower_gradient(x, y, generator)).abs()
    assert bool((error < 4.5 * draws.std(dim=0) / 3000**0.5).all())


def test_images_with_wrong_labels_come_to_weigh_least():
    # nine images, three of each person by their labels; the last one belongs to the first person
    labels, truth = torch.tensor([0, 0, 0, 1, 1, 1, 2, 2, 2]), torch.tensor([0, 0, 0, 1, 1, 1, 2, 2, 0])
    images = torch.tensor(list(itertools.combinations(range(N), 2)))

    def described(names):
        alike = truth[images[:, 0]] == truth[images[:, 1]]
        features = torch.stack([torch.where(alike, 1.0, -1.0), torch.ones(len(images))], dim=1).double()
        same = torch.where(names[images[:, 0]] == names[images[:, 1]], 1.0, -1.0).double()
        return LabeledPairs(features, same, images)

    problem = pair_cleaning(described(labels), described(truth), num_images=N, batch=None)
    method = bo_rep(problem, step_size=0.05, system_step_size=1.0, lower_step_size=1.0)
    start = torch.zeros(N + 2, dtype=torch.float64)
    state, _ = next(itertools.islice(iterate(method, start, seed=0), 60, None))
    weights = state.x[:N]
    assert int(weights.argmin()) == 8
    assert float(weights[8]) < 0 < float(weights[3:6].min())


def test_pairs_that_say_nothing_are_refused():
    pairs = draw_pairs(0)
    with pytest.raises(ValueError, match="of one identity"):
        LabeledPairs(pairs.features, torch.ones_like(pairs.labels), pairs.images)
    with pytest.raises(ValueError, match="expected shapes"):
        LabeledPairs(pairs.features, pairs.labels[:-1], pairs.images)
    with pytest.raises(ValueError, match=r"\[0, 3\)"):
        pair_cleaning(pairs, pairs, num_images=3)
    with pytest.raises(ValueError, match="ridge"):
        pair_cleaning(pairs, pairs, num_images=N, ridge=0.0)
