"""Two short distillations from one start on the same rows and noise: oracles of equal and of moving weight."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import torch
from torch import Tensor

from models.diffusion.generator import FaceGenerator
from training.data.face_crops import reduce_crops
from training.jobs.distill_generator import DistillGeneratorConfig
from training.jobs.distillation_task import DistillationTask
from training.jobs.distillation_ways import distill_ways
from training.objectives.privacy import landmark_distance
from training.objectives.swap_judge import SwapJudge
from training.runs.context import RunContext

Way = Literal["equal", "worst_case"]
WAYS: Final[tuple[Way, Way]] = ("equal", "worst_case")

_BATCH = 24  # faces drawn at a time


@dataclass(frozen=True, slots=True)
class StudentScore:
    """What a student of 4 steps does to held-out faces with swapped identities.

    Attributes:
        margins: Similarity to the source less the limit, oracle to (n,).
        landmarks: Mean landmark distance to the source in crop pixels.
        alikeness: Mean cosine similarity between each two drawn faces.
    """

    margins: Mapping[str, Tensor]
    landmarks: float
    alikeness: float

    @property
    def accepted(self) -> dict[str, float]:
        """Share of the faces that each oracle keeps below its limit."""
        return {name: float((values < 0).float().mean()) for name, values in self.margins.items()}

    @property
    def accepted_by_all(self) -> float:
        """Share of the faces that every oracle keeps below its limit."""
        return float((torch.stack(list(self.margins.values())) < 0).all(0).float().mean())

    @property
    def excess(self) -> dict[str, float]:
        """Mean excess over the limit of each oracle."""
        return {name: float(values.clamp_min(0).mean()) for name, values in self.margins.items()}

    def row(self) -> dict[str, float]:
        """Everything as columns of a table."""
        return {
            **{f"accepted {name}": value for name, value in self.accepted.items()},
            **{f"excess {name}": value for name, value in self.excess.items()},
            "accepted by all": self.accepted_by_all,
            "landmarks": self.landmarks,
            "alikeness": self.alikeness,
        }


@torch.no_grad()
def score_student(student: FaceGenerator, judge: SwapJudge, crops: Tensor, codes: Tensor) -> StudentScore:
    """Draw held-out faces in 4 steps, each with its neighbor's code, and read them.

    Args:
        student: Distilled generator.
        judge: Reads identity and landmarks.
        crops: Unseen crops, (n, 3, s, s).
        codes: Their identity codes, (n, d).

    Returns:
        The score; the same noise is drawn for every student.
    """
    rng, noise = torch.Generator().manual_seed(3), torch.Generator().manual_seed(4)
    faces: list[Tensor] = []
    for shown, wanted in zip(crops.split(_BATCH), codes.roll(1, 0).split(_BATCH), strict=True):
        attributes = judge.attributes.sample(reduce_crops(shown), rng)
        faces.append(student.generate(shown, attributes, wanted, steps=4, guidance=2.0, generator=noise))
    pairs = list(zip(faces, crops.split(_BATCH), strict=True))
    margins = [judge.margins(drawn, shown) for drawn, shown in pairs]
    distances = [landmark_distance(judge.read(drawn)[1], judge.read(shown)[1]) for drawn, shown in pairs]
    return StudentScore(
        {name: torch.cat([part[name] for part in margins]) for name in judge.oracles},
        float(torch.cat(distances).mean()),
        judge.alikeness(torch.cat(faces)),
    )


def distill_both(
    config: DistillGeneratorConfig, context: RunContext, task: DistillationTask, num_faces: int
) -> tuple[dict[str, StudentScore], dict[str, float]]:
    """Distill with equal and with moving weights, and score the averaged students on the same faces.

    Args:
        config: Settings of either distillation, but for `oracle_weights`.
        context: Run directory (each distillation gets a folder in it) and metrics.
        task: What both start from.
        num_faces: Held-out faces that are drawn and read.

    Returns:
        Scores of the start (`before`) and of both ways, and the last weights of the moving one.
    """
    every = max(1, len(task.held_crops) // num_faces)
    crops, codes = task.held_crops[::every][:num_faces], task.held_codes[::every][:num_faces]
    start = FaceGenerator(task.teacher.autoencoder, copy.deepcopy(task.student)).eval()
    scores = {"before": score_student(start, task.judge, crops, codes)}
    ways = {way: config.model_copy(update={"oracle_weights": way}) for way in WAYS}
    last: dict[str, float] = {}
    for way, distilled in distill_ways(ways, context, task):
        scores[way] = score_student(distilled.student, task.judge, crops, codes)
        context.log({"way": float(WAYS.index(way)), **scores[way].row()})
        last = {name: value for name, value in distilled.last.items() if name.startswith("weight_")}
    return scores, {name.removeprefix("weight_"): value for name, value in last.items()}


def service_rows(config: DistillGeneratorConfig, scores: Mapping[str, StudentScore]) -> list[dict[str, Any]]:
    """Rows of the service table: moving weights against equal ones.

    Args:
        config: Settings of the distillations.
        scores: What `distill_both` found.

    Returns:
        The rows.
    """
    equal, moving = scores["equal"], scores["worst_case"]
    measures = {
        "faces accepted by the oracle that accepts least (share)": [min(s.accepted.values()) for s in (equal, moving)],
        "faces accepted by all oracles (share)": [s.accepted_by_all for s in (equal, moving)],
        "largest mean excess over the oracles (cosine)": [max(s.excess.values()) for s in (equal, moving)],
        "landmark distance (crop pixels)": [s.landmarks for s in (equal, moving)],
        "mean similarity among the drawn faces (cosine)": [s.alikeness for s in (equal, moving)],
    }
    return [
        {
            "method": "exponentiated_gradient",
            "job": f"distill-generator with worst-case oracle weights, {config.steps} steps, against equal weights",
            "measure": measure,
            "without": values[0],
            "with": values[1],
            "n": len(next(iter(equal.margins.values()))),
        }
        for measure, values in measures.items()
    ]


def paired_differences(scores: Mapping[str, StudentScore]) -> list[dict[str, Any]]:
    """Excess with moving weights less that with equal ones on the same faces, and its standard error, by oracle."""
    rows: list[dict[str, Any]] = []
    for name, values in scores["worst_case"].margins.items():
        difference = values.clamp_min(0) - scores["equal"].margins[name].clamp_min(0)
        error = difference.std() / len(difference) ** 0.5
        rows.append({"oracle": name, "difference": float(difference.mean()), "standard error": float(error)})
    return rows
