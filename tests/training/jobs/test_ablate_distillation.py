"""Arms of the distillation differ in their term alone, and are compared face by face."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models.diffusion.generator import FaceGenerator
from models.oracles.ensemble import AUDITOR_ORACLES, SERVING_ORACLES
from training.audit.paired import Paired, paired
from training.audit.statistics import Estimate
from training.jobs.ablate_distillation import JOB, AblateDistillationConfig, run
from training.jobs.distill_generator import DistillGeneratorConfig
from training.jobs.distillation_arms import ARMS, FULL, RESEEDED, differences_table, sentence, within
from training.jobs.distillation_task import DistillationTask
from training.jobs.distillation_ways import Distilled, distill_ways
from training.jobs.drawn_distillation import drawn_task
from training.jobs.swap_readings import ACCEPTED_BY_ALL, MEASURES, Instruments, SwappedFaces
from training.runs.config import resolve_config
from training.runs.context import RunContext
from training.runs.stopping import RunInterruptedError

SETTINGS = DistillGeneratorConfig(
    steps=3, batch_size=2, drawn_rows=2, grid=4, ema_decay=0.5, learning_rate=1e-2, autocast=False, evaluate_every=3
)
MakeContext = Callable[[Path], RunContext]


@pytest.fixture(scope="module")
def drawn() -> tuple[DistillationTask, Instruments]:
    return drawn_task(7, held_out=4)


@pytest.fixture
def faces(drawn: tuple[DistillationTask, Instruments]) -> SwappedFaces:
    task, instruments = drawn
    return SwappedFaces(*task.one_per_person(4), instruments)


def _distill(
    task: DistillationTask, context: RunContext, ways: Mapping[str, Mapping[str, Any]]
) -> dict[str, Distilled]:
    settings = {name: SETTINGS.model_copy(update=dict(changes)) for name, changes in ways.items()}
    return dict(distill_ways(settings, context, task))


def _same(first: Distilled, second: Distilled) -> bool:
    both = zip(first.student.denoiser.parameters(), second.student.denoiser.parameters(), strict=True)
    return all(torch.equal(a, b) for a, b in both)


def test_an_unknown_arm_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    config = AblateDistillationConfig(arms=(FULL, "no teacher"))
    with pytest.raises(ValueError, match="no teacher"):
        run(config, cast(RunContext, SimpleNamespace(store=None, directory=tmp_path)))


def test_every_arm_but_the_first_changes_the_settings_in_its_own_way() -> None:
    assert not ARMS[FULL].without
    settings = [DistillGeneratorConfig(**arm.without) for arm in ARMS.values()]
    assert all(a != b for row, a in enumerate(settings) for b in settings[:row])


def test_every_arm_draws_the_same_rows_and_noise_but_the_one_of_another_seed(
    drawn: tuple[DistillationTask, Instruments], tmp_path: Path, make_run_context: MakeContext
) -> None:
    found = _distill(drawn[0], make_run_context(tmp_path), {name: arm.without for name, arm in ARMS.items()})
    alike = {name: way.next_draw == found[FULL].next_draw for name, way in found.items()}
    assert alike == {name: name != RESEEDED for name in ARMS}
    assert not any(_same(way, found[FULL]) for name, way in found.items() if name != FULL)


def test_a_hinge_of_every_oracle_by_name_is_the_plain_hinge_to_the_bit(
    drawn: tuple[DistillationTask, Instruments], tmp_path: Path, make_run_context: MakeContext
) -> None:
    ways = {"plain": {}, "all": {"hinge_oracles": SERVING_ORACLES}, "none": {"hinge_oracles": ()}}
    ways["zero"] = {"hinge_weight": 0.0}
    found = _distill(drawn[0], make_run_context(tmp_path), ways)
    assert _same(found["plain"], found["all"])
    assert _same(found["none"], found["zero"])
    assert not _same(found["plain"], found["none"])


def test_the_consistency_arm_learns_nothing_from_the_judges(
    drawn: tuple[DistillationTask, Instruments], tmp_path: Path, make_run_context: MakeContext
) -> None:
    class Other(nn.Module):
        def forward(self, crops: Tensor, others: Tensor, rng: torch.Generator) -> Tensor:
            torch.rand(1, generator=rng)
            return (crops * others).mean((1, 2, 3))

    task, stranger = drawn[0], replace(drawn[0], detector_landmarks=Other())
    ways = {name: ARMS[name].without for name in (FULL, "consistency only")}
    found = _distill(task, make_run_context(tmp_path), ways)
    misled = _distill(stranger, make_run_context(tmp_path), ways)
    assert _same(found["consistency only"], misled["consistency only"])
    assert not _same(found[FULL], misled[FULL])


def test_an_oracle_that_does_not_judge_is_refused_in_the_hinge(
    drawn: tuple[DistillationTask, Instruments], tmp_path: Path, make_run_context: MakeContext
) -> None:
    with pytest.raises(ValueError, match=r"unknown oracles .'faceres'. in the hinge"):
        _distill(drawn[0], make_run_context(tmp_path), {"auditor": {"hinge_oracles": ("faceres",)}})
    with pytest.raises(ValueError, match="leave hinge_oracles out"):
        DistillGeneratorConfig(oracle_weights="worst_case", hinge_oracles=("mfn",))


def test_a_stopped_run_goes_on_with_the_arms_that_are_left(
    drawn: tuple[DistillationTask, Instruments], tmp_path: Path, make_run_context: MakeContext
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    ways = {name: ARMS[name].without for name in (FULL, "no spread")}
    wanted = _distill(drawn[0], make_run_context(whole), ways)
    steps: list[int] = []

    def after_four() -> bool:
        steps.append(1)
        return len(steps) > 4

    with pytest.raises(RunInterruptedError):
        _distill(drawn[0], replace(make_run_context(parts), should_stop=after_four), ways)
    steps.clear()
    found = _distill(drawn[0], replace(make_run_context(parts), should_stop=lambda: bool(steps.append(1))), ways)
    assert len(steps) == 2  # one of six steps was asked twice: four were done
    assert all(_same(found[name], wanted[name]) and found[name].next_draw == wanted[name].next_draw for name in ways)
    assert not list(tmp_path.rglob("checkpoint.safetensors"))


def test_no_person_is_drawn_with_the_own_code(drawn: tuple[DistillationTask, Instruments]) -> None:
    task = replace(drawn[0], held_groups=np.array(["b", "a", "b", "a"]))
    crops, codes = task.one_per_person(9)
    assert torch.equal(crops, task.held_crops[:2])
    assert torch.equal(codes, task.held_codes[:2])
    assert len(task.one_per_person(1)[0]) == 1


def test_a_face_that_was_not_replaced_is_known_by_every_recognizer_and_keeps_its_landmarks(faces: SwappedFaces) -> None:
    found = faces.read(faces.crops)
    assert list(found) == list(MEASURES)
    for name in (*SERVING_ORACLES, *AUDITOR_ORACLES):
        np.testing.assert_allclose(found[f"similarity to the source, {name}"], 1.0, atol=1e-5)
    assert found[ACCEPTED_BY_ALL].sum() == 0
    assert found["landmark distance, 68-point network (px)"].max() < 2e-3
    assert found["landmark distance, detector (px)"].max() == 0.0


def test_similarity_among_the_faces_is_the_mean_over_all_pairs(
    drawn: tuple[DistillationTask, Instruments], faces: SwappedFaces
) -> None:
    with torch.no_grad():
        codes = drawn[1].recognizers(faces.crops)
    tables = [codes[name] @ codes[name].T for name in SERVING_ORACLES]
    pairs = torch.triu_indices(4, 4, offset=1)
    mean = float(torch.stack([table[pairs[0], pairs[1]].mean() for table in tables]).mean())
    assert faces.read(faces.crops)["similarity among the drawn faces"].mean() == pytest.approx(mean, abs=1e-5)


def test_the_same_generator_draws_the_same_faces_again_and_another_one_from_the_same_noise(
    drawn: tuple[DistillationTask, Instruments], faces: SwappedFaces
) -> None:
    task = drawn[0]
    student = FaceGenerator(task.teacher.autoencoder, task.student).eval()
    assert torch.equal(faces.draw(task.teacher, 2), faces.draw(task.teacher, 2))
    # one step from one noise: an untrained student is its teacher, but for the guidance
    unguided = FaceGenerator(task.teacher.autoencoder, task.teacher.denoiser).eval()
    apart = (faces.draw(student, 1) - faces.draw(unguided, 1)).abs().max()
    assert float(apart) < 0.1 * float((faces.draw(student, 1) - faces.crops).abs().max())


def test_as_many_faces_as_crops_are_read_and_two_at_least(
    drawn: tuple[DistillationTask, Instruments], faces: SwappedFaces
) -> None:
    with pytest.raises(ValueError, match="expected a face for each of 4 crops"):
        faces.read(faces.crops[:3])
    with pytest.raises(ValueError, match="at least two crops"):
        SwappedFaces(faces.crops[:1], drawn[0].held_codes[:1], drawn[1])


def _compared(changes: Mapping[str, float], *, count: int = 100) -> dict[str, Paired]:
    noise = np.random.default_rng(1).normal(0, 0.01, count)
    without = np.full(count, 0.5)
    return {
        key: paired(without, without + changes.get(key, 0.0) + noise - noise.mean(), np.random.default_rng(0))
        for key in MEASURES
    }


def test_what_is_worse_without_a_term_was_bought_and_what_is_better_was_paid() -> None:
    text = sentence(
        "the hinge", _compared({ACCEPTED_BY_ALL: -0.3, "landmark distance, detector (px)": -0.2}), chance=None
    )
    assert text == (
        f"the hinge: buys {ACCEPTED_BY_ALL} 0.200 -> 0.500, costs landmark distance, detector (px) 0.300 -> 0.500 "
        f"(without -> with; {len(MEASURES) - 2} of {len(MEASURES)} measures open)."
    )
    assert "nothing beyond the interval in" in sentence("the hinge", _compared({}), chance=None)


def test_what_another_seed_changes_as_much_is_marked_and_few_faces_claim_nothing() -> None:
    change = {ACCEPTED_BY_ALL: -0.3}
    assert "0.500*" in sentence("the hinge", _compared(change), _compared({ACCEPTED_BY_ALL: 0.4}))
    assert "*" not in sentence("the hinge", _compared(change), _compared({ACCEPTED_BY_ALL: 0.1}))
    assert sentence("the hinge", _compared(change, count=95)) == "the hinge: 95 faces are too few to claim anything."


@pytest.mark.parametrize(
    ("lower", "upper", "verdict"),
    [
        (-0.05, 0.05, "yes"),
        (0.11, 0.2, "better"),
        (-0.2, -0.11, "no"),
        (-0.05, 0.2, "not worse"),
        (-0.2, 0.05, "open"),
    ],
)
def test_a_student_is_within_a_tenth_where_the_whole_interval_is(lower: float, upper: float, verdict: str) -> None:
    rising = Paired(1.0, 1.0, Estimate((lower + upper) / 2, lower, upper, 100))
    falling = Paired(1.0, 1.0, Estimate(-(lower + upper) / 2, -upper, -lower, 100))
    assert within(rising, 1) == within(falling, -1) == verdict


def test_the_first_way_is_not_compared_with_itself(faces: SwappedFaces) -> None:
    reading = faces.read(faces.crops)
    rows, compared = differences_table({"first": reading, "again": reading}, "first", np.random.default_rng(0))
    assert list(compared) == ["again"]
    assert {row["this way is"] for row in rows} == {"open"}
    assert len(rows) == len(MEASURES)


def test_a_run_compares_every_arm_and_every_student_and_keeps_the_value_of_every_face(
    tmp_path: Path, make_run_context: MakeContext
) -> None:
    config = resolve_config(JOB.config, preset=JOB.preset("smoke"))
    report = run(config, make_run_context(tmp_path))
    assert report.holds
    assert [row["arm"] for row in report.tables["what each term buys"]] == list(config.arms[1:])
    assert [row["way"] for row in report.tables["arms"]] == ["before", *config.arms]
    students = ["teacher, 4 steps", "student, 1 step"]
    paired_rows = report.tables["students against the teacher, paired"]
    assert list(dict.fromkeys(row["student"] for row in paired_rows)) == students
    kept = json.loads((tmp_path / "readings.json").read_text())
    assert list(kept) == ["before", *config.arms, "teacher, 20 steps", *students]
    assert all(len(values) == config.held_out for found in kept.values() for values in found.values())
    assert all((tmp_path / figure.path).is_file() for figure in report.figures)
