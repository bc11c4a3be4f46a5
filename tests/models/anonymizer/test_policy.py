from __future__ import annotations

import math
from typing import Any

import pytest

from models.anonymizer.errors import PolicyError
from models.anonymizer.policy import Policy
from models.encoder.levels import LEVELS


@pytest.mark.parametrize(
    "fields",
    [
        {"mode": "none"},
        {"mode": "blur"},
        {"level": "none"},
        {"level": "Strict"},
        {"level": None},
        {"scope": "global"},
        {"on_failure": "release"},
        {"media": "gif"},
        {"steps": 0},
        {"steps": 5},
        {"steps": True},
        {"guidance": 0.5},
        {"guidance": math.nan},
        {"max_tries": 0},
        {"max_tries": 10**6},
        {"max_resyntheses": -1},
        {"max_side": 10},
        {"max_side": 10**5},
        {"max_similarity": 1.5},
        {"max_similarity": math.nan},
        {"seed": -1},
    ],
)
def test_refuses_values_outside_their_range(fields: dict[str, Any]) -> None:
    with pytest.raises(PolicyError, match=next(iter(fields))):
        Policy(**fields)


def test_max_similarity_only_tightens() -> None:
    assert Policy().threshold(0.4) == 0.4
    assert Policy(max_similarity=0.3).threshold(0.4) == 0.3
    assert Policy(max_similarity=0.9).threshold(0.4) == 0.4


def test_digest_tells_policies_apart_and_hides_the_seed() -> None:
    assert Policy(seed=1).digest() == Policy(seed=2).digest()
    assert Policy(steps=2).digest() != Policy(steps=4).digest()
    assert len({Policy(level=level).digest() for level in LEVELS}) == len(LEVELS) == 3
    assert Policy().level == "balanced"
