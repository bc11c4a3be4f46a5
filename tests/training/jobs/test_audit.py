"""The audit chooses whose photos are released and whose the attackers learn from."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

from training.jobs.audit import AuditConfig, _pairs
from training.runs.context import RunContext


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two files of each of forty people; nobody opens them."""
    for person in range(40):
        for number in (1, 2):
            (tmp_path / f"person{person:02}_{number:04}.jpg").touch()
    return tmp_path


def chosen(config: AuditConfig, half: str, people: int | None) -> set[str]:
    pairs = _pairs(config, cast(RunContext, SimpleNamespace()), half, people, np.random.default_rng(0))  # type: ignore[arg-type]
    return {path.name for pair in pairs for path in pair}


def test_attackers_do_not_learn_from_suspected_labels(folder: Path) -> None:
    everyone = chosen(AuditConfig(folder=folder), "calibration", 40)
    suspect = min(everyone)
    weights = folder / "weights.csv"
    weights.write_text(f"file,weight,suspect\n{suspect},0.1,1\n")

    cleaned = chosen(AuditConfig(folder=folder, weights=weights), "calibration", 40)

    assert cleaned < everyone
    assert everyone - cleaned == {name for name in everyone if name.startswith(suspect.split("_")[0])}


def test_the_audited_people_are_the_same_with_and_without_suspects(folder: Path) -> None:
    weights = folder / "weights.csv"
    audited = chosen(AuditConfig(folder=folder), "test", None)
    weights.write_text("file,weight,suspect\n" + "".join(f"{name},0.1,1\n" for name in audited))

    assert chosen(AuditConfig(folder=folder, weights=weights), "test", None) == audited


def test_nobody_is_audited_and_learned_from(folder: Path) -> None:
    audited, learned = (chosen(AuditConfig(folder=folder), half, None) for half in ("test", "calibration"))

    assert audited
    assert learned
    assert not audited & learned
