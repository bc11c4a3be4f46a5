"""Factorial sets: every combination once, and nothing differs but the factor that does."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from training.data.rendered_heads.expression import MIXTURES
from training.data.rendered_heads.factorial import EXPRESSIONS, FACTORS, Design, FactorialSample, sample_factorial
from training.data.rendered_heads.sampling import SamplingOptions, sample_faces

FAST = SamplingOptions(size=48, supersampling=1)
GROUPS = {
    "identity": ("identity.", "phenotype.", "skin.", "eyes.", "hair.", "beard.", "brows.", "lips.", "makeup."),
    "expression": ("expression.",),
    "pose": ("pose.",),
    "light": ("light.",),
}


@pytest.fixture(scope="module")
def samples() -> list[FactorialSample]:
    return list(sample_factorial(Design(2, 2, 2, 2), 3, FAST))


def test_each_combination_is_there_once_with_the_identity_outside(samples: list[FactorialSample]) -> None:
    found = [tuple(sample.levels[name] for name in FACTORS) for sample in samples]
    assert found == list(itertools.product(range(2), repeat=4))


@pytest.mark.parametrize("factor", FACTORS[1:])
def test_two_pictures_that_differ_in_one_factor_differ_in_its_labels_alone(
    samples: list[FactorialSample], factor: str
) -> None:
    for first, second in itertools.combinations(samples, 2):
        differing = [name for name in FACTORS if first.levels[name] != second.levels[name]]
        if differing != [factor]:
            continue
        labels = {name for name, value in first.face.labels.items() if second.face.labels[name] != value}
        assert labels
        assert all(name.startswith(GROUPS[factor]) for name in labels)
        assert not np.array_equal(first.face.pixels, second.face.pixels)


def test_its_people_are_nobody_of_a_sampled_set_of_the_same_seed(samples: list[FactorialSample]) -> None:
    known = {sample.face.labels["identity.seed"] for sample in sample_faces(2, 1, 3, FAST)}
    people = {sample.face.labels["identity.seed"] for sample in samples}
    assert len(people) == 2
    assert not people & known


def test_all_expressions_are_mixtures_and_designs_that_tell_nothing_are_refused() -> None:
    assert set(EXPRESSIONS) <= set(MIXTURES)
    with pytest.raises(ValueError, match="at least two levels"):
        Design(poses=1)
    with pytest.raises(ValueError, match=f"there are {len(EXPRESSIONS)}"):
        Design(expressions=len(EXPRESSIONS) + 1)
