"""The shares of a stored factorial set do not depend on its order, and other sets are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from training.data.face_crops import CropSet, load_crop_set, save_crop_set
from training.jobs.factor_variance import FactorVarianceConfig, run
from training.jobs.render_faces import RenderFacesConfig
from training.jobs.render_faces import run as render
from training.runs.context import RunContext

Make = Callable[[Path], RunContext]


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory, make_run_context: Make) -> Path:
    folder = tmp_path_factory.mktemp("factorial")
    config = RenderFacesConfig(output=folder / "set", factorial=(2, 2, 2, 2), supersampling=1)
    assert render(config, make_run_context(folder)).metrics == {"crops": 16.0, "identities": 2.0}
    return folder / "set"


def shares(folder: Path, context: RunContext) -> dict[str, float]:
    return dict(run(FactorVarianceConfig(rendered=folder, untrained=True), context).metrics)


def test_a_shuffled_set_gives_the_same_shares(rendered: Path, tmp_path: Path, make_run_context: Make) -> None:
    people = load_crop_set(rendered)
    lines = (rendered / "labels.jsonl").read_text().splitlines()
    order = np.random.default_rng(2).permutation(len(people))
    save_crop_set(tmp_path / "set", CropSet(people.crops[order], people.groups[order]))
    (tmp_path / "set" / "labels.jsonl").write_text("\n".join(lines[row] for row in order))
    context = make_run_context(tmp_path)
    assert shares(tmp_path / "set", context) == pytest.approx(shares(rendered, context), abs=1e-4)


def test_a_set_that_is_not_factorial_or_lacks_a_combination_is_refused(
    rendered: Path, tmp_path: Path, make_run_context: Make
) -> None:
    people, context = load_crop_set(rendered), make_run_context(tmp_path)
    labels = [json.loads(line) for line in (rendered / "labels.jsonl").read_text().splitlines()]
    save_crop_set(tmp_path / "set", people)
    file = tmp_path / "set" / "labels.jsonl"
    file.write_text("\n".join(json.dumps({"pose.yaw": 1.0}) for _ in labels))
    with pytest.raises(ValueError, match="no factorial set"):
        shares(tmp_path / "set", context)
    file.write_text("\n".join(json.dumps(label) for label in [*labels[:-1], labels[0]]))
    with pytest.raises(ValueError, match="must be there once"):
        shares(tmp_path / "set", context)
