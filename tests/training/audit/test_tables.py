"""Rows that other pages read off an audit."""

from __future__ import annotations

from training.audit.statistics import Estimate
from training.audit.tables import service_table


def test_the_pair_attacker_stands_beside_the_plain_one_and_not_without_it() -> None:
    found = {
        f"A3 rank-1 source.{way} attacker": Estimate(value, 0.0, 1.0, 40)
        for way, value in (("ridge", 0.1), ("pairs", 0.2))
    }
    (row,) = service_table(found)
    assert (row["method"], row["without"], row["with"], row["n"]) == ("large_step_logistic", 0.1, 0.2, 40)
    assert service_table({}) == []
