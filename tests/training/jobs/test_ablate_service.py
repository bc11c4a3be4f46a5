"""Ways of running the service that leave a part out are compared photo by photo."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from models.oracles.ensemble import SERVING_ORACLES
from training.jobs.ablate_service import DIRECTIONS, AblateServiceConfig, _difference, _estimate, run
from training.jobs.service_ablations import SERVED, WAYS, Way
from training.runs.context import RunContext

NAN = float("nan")


def test_an_unknown_way_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    config = AblateServiceConfig(ways=("as served", "no gate at all"))

    with pytest.raises(ValueError, match="no gate at all"):
        run(config, cast(RunContext, SimpleNamespace(store=None, directory=tmp_path)))


def test_every_way_but_the_first_changes_something() -> None:
    changed = [way for name, way in WAYS.items() if name != SERVED]

    assert WAYS[SERVED] == Way(oracles=SERVING_ORACLES)
    assert all(way != WAYS[SERVED] for way in changed)
    assert len(set(changed)) == len(changed)


@pytest.mark.parametrize("key", ["P1.faceres", "U2 landmark error", "U6 light error"])
def test_fewer_errors_and_fewer_matches_are_better(key: str) -> None:
    rng = np.random.default_rng(0)
    first, other = np.full(40, 1.0), np.tile([0.0, 0.5], 20)

    assert _difference("way", key, first, other, rng)["this way is"] == "better"
    assert _difference("way", key, other, first, rng)["this way is"] == "worse"
    assert DIRECTIONS[key] == -1


def test_photos_that_one_way_did_not_release_are_left_out_of_the_difference() -> None:
    first, other = np.array([1.0, NAN, 0.0, 1.0]), np.array([1.0, 0.0, 0.0, NAN])

    row: dict[str, Any] = _difference("way", "P1.faceres", first, other, np.random.default_rng(0))

    assert row["n"] == 2
    assert (row["as served"], row["this way"], row["this way is"]) == (0.5, 0.5, "open")


def test_shares_have_an_interval_that_does_not_collapse_at_zero() -> None:
    share = _estimate("P1.faceres", np.array([0.0] * 30 + [NAN] * 5), np.random.default_rng(0))
    error = _estimate("U2 landmark error", np.zeros(30), np.random.default_rng(0))

    assert (share.value, share.count) == (0.0, 30)
    assert share.upper > 0.05
    assert error.upper == 0.0
