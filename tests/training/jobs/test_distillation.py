"""Distillation of a tiny student: weights of the oracles, stopping and resuming, and when it is evaluated."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models.diffusion.denoiser import FaceDenoiser
from models.oracles.ensemble import SERVING_ORACLES
from training.jobs.distill_generator import DistillGeneratorConfig, distill
from training.jobs.distillation_task import DistillationTask
from training.jobs.distillation_trial import distill_both, paired_differences, service_rows
from training.jobs.drawn_distillation import drawn_task
from training.runs.checkpoint import read_checkpoint
from training.runs.context import RunContext
from training.runs.methods_table import SERVICE_COLUMNS
from training.runs.stopping import RunInterruptedError

SETTINGS = DistillGeneratorConfig(
    steps=4, batch_size=2, drawn_rows=2, grid=4, ema_decay=0.5, learning_rate=1e-2, autocast=False, evaluate_every=2
)


@pytest.fixture(scope="module")
def task() -> DistillationTask:
    return drawn_task(7)[0]


Train = Callable[..., tuple[FaceDenoiser, list[int]]]


@pytest.fixture
def train(task: DistillationTask, tmp_path: Path, make_run_context: Callable[[Path], RunContext]) -> Train:
    """Train in a folder under the temporary one; gives the average and the steps at which it was evaluated."""

    def run(
        folder: str, *, stop_after: int | None = None, log: list[Mapping[str, float]] | None = None, **settings: Any
    ) -> tuple[FaceDenoiser, list[int]]:
        directory = tmp_path / folder
        directory.mkdir(exist_ok=True)
        asked: list[int] = []
        evaluated: list[int] = []

        def should_stop() -> bool:
            asked.append(1)
            return stop_after is not None and len(asked) > stop_after

        context = replace(
            make_run_context(directory), should_stop=should_stop, log=log.append if log is not None else lambda _: None
        )
        config = SETTINGS.model_copy(update=settings)
        torch.manual_seed(0)
        rng = torch.Generator().manual_seed(0)
        average = distill(config, context, task, rng, lambda step, _: evaluated.append(step))
        return average, evaluated

    return run


def _same(first: nn.Module, second: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def _weights(folder: Path) -> Tensor:
    return read_checkpoint(folder / "checkpoint.safetensors").tensors["oracle_weights.shares"]


def test_weights_that_do_not_move_train_the_student_of_equal_weights_to_the_bit(train: Train) -> None:
    equal, _ = train("equal")
    still, _ = train("still", oracle_weights="worst_case", oracle_step_size=1e-12)
    moving, _ = train("moving", oracle_weights="worst_case", oracle_step_size=5.0)
    assert _same(equal, still)
    assert not _same(equal, moving)


def test_worst_case_weights_move_to_the_oracle_with_the_largest_hinge_and_are_logged(train: Train) -> None:
    log: list[Mapping[str, float]] = []
    train("moving", oracle_weights="worst_case", steps=20, evaluate_every=20, log=log)
    (last,) = log
    hinges = {name: last[f"hinge_{name}"] for name in SERVING_ORACLES}
    weights = {name: last[f"weight_{name}"] for name in SERVING_ORACLES}
    assert max(hinges, key=hinges.__getitem__) == max(weights, key=weights.__getitem__) == "mfn"
    assert weights["mfn"] > 2
    assert sum(weights.values()) == pytest.approx(len(SERVING_ORACLES))


def test_equal_weights_leave_nothing_of_themselves_in_the_checkpoint(train: Train, tmp_path: Path) -> None:
    train("equal", steps=1)
    stored = read_checkpoint(tmp_path / "equal" / "checkpoint.safetensors").tensors
    assert not [name for name in stored if name.startswith("oracle_weights")]


@pytest.mark.parametrize("ways", ["equal", "worst_case"])
def test_a_stopped_distillation_goes_on_to_the_same_student_and_the_same_weights(
    train: Train, tmp_path: Path, ways: str
) -> None:
    whole, _ = train("whole", oracle_weights=ways)
    with pytest.raises(RunInterruptedError, match="after 3 steps"):
        train("parts", oracle_weights=ways, stop_after=3)
    resumed, _ = train("parts", oracle_weights=ways)
    assert _same(whole, resumed)
    if ways == "worst_case":
        assert torch.equal(_weights(tmp_path / "whole"), _weights(tmp_path / "parts"))
        assert float(_weights(tmp_path / "parts").min()) < 1


def test_each_step_that_is_due_is_evaluated_once_and_the_last_one_always(train: Train) -> None:
    assert train("even")[1] == [2, 4]
    assert train("odd", steps=3)[1] == [2, 3]
    assert train("odd", steps=3)[1] == []


def test_a_distillation_does_not_change_what_it_starts_from(train: Train, task: DistillationTask) -> None:
    before = [parameter.clone() for parameter in (*task.student.parameters(), *task.adversary.parameters())]
    trained, _ = train("once")
    assert not _same(trained, task.student)
    after = (*task.student.parameters(), *task.adversary.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_moving_weights_without_judged_faces_are_refused() -> None:
    with pytest.raises(ValueError, match="needs drawn_rows"):
        DistillGeneratorConfig(drawn_rows=0, oracle_weights="worst_case")


def test_both_ways_start_alike_and_differ_in_nothing_but_the_weights(
    task: DistillationTask, tmp_path: Path, make_run_context: Callable[[Path], RunContext]
) -> None:
    context = make_run_context(tmp_path)
    scores, _ = distill_both(SETTINGS.model_copy(update={"oracle_step_size": 1e-12}), context, task, 4)
    assert [row["difference"] for row in paired_differences(scores)] == [0.0, 0.0, 0.0]
    assert scores["equal"].row() == scores["worst_case"].row() != scores["before"].row()


def test_the_trial_reports_finite_rows_of_every_face_and_its_last_weights(
    task: DistillationTask, tmp_path: Path, make_run_context: Callable[[Path], RunContext]
) -> None:
    context = make_run_context(tmp_path)
    scores, weights = distill_both(SETTINGS.model_copy(update={"steps": 20}), context, task, 4)
    assert sum(weights.values()) == pytest.approx(len(SERVING_ORACLES))
    assert max(weights, key=weights.__getitem__) == "mfn"
    rows = service_rows(SETTINGS, scores)
    assert all(tuple(row) == SERVICE_COLUMNS and row["n"] == 4 for row in rows)
    assert "NaN" not in json.dumps(rows)
    assert not list(tmp_path.rglob("checkpoint.safetensors"))
