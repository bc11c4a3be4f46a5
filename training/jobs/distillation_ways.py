"""Several short distillations from one start on the same rows and noise, which differ in their settings alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

import torch

from models.diffusion.generator import FaceGenerator
from training.jobs.distill_generator import DistillGeneratorConfig, distill
from training.jobs.distillation_task import DistillationTask
from training.runs.checkpoint import CHECKPOINT_NAME
from training.runs.context import RunContext

Name = TypeVar("Name", bound=str)


@dataclass(frozen=True, slots=True)
class Distilled:
    """What came out of one way.

    Attributes:
        student: Generator of the averaged student.
        last: Values that were logged last; empty where a checkpoint of the last step was found.
        next_draw: Next number of the source of rows and noise, equal in ways that drew as many numbers.
    """

    student: FaceGenerator
    last: Mapping[str, float]
    next_draw: float


def distill_ways(
    ways: Mapping[Name, DistillGeneratorConfig], context: RunContext, task: DistillationTask
) -> Iterator[tuple[Name, Distilled]]:
    """Distill in each way, one after another; a stopped run goes on where it was.

    Args:
        ways: Settings of each way. Rows and noise are alike where seed, steps, batch and drawn rows are.
        context: Run directory (each way gets a folder in it) and metrics, to which the number of the way is added.
        task: What all start from.

    Yields:
        Name of the way and its student, as soon as it is done.

    Raises:
        RunInterruptedError: The run was told to stop; checkpoints are there.
    """
    folders = {way: context.directory / f"way-{number:02d}" for number, way in enumerate(ways)}
    for number, (way, config) in enumerate(ways.items()):
        folder = folders[way]
        folder.mkdir(exist_ok=True)
        last: dict[str, float] = {}

        def log(values: Mapping[str, float], number: int = number, last: dict[str, float] = last) -> None:
            last.update(values)
            context.log({"way": float(number), **values})

        torch.manual_seed(config.seed)
        rng = torch.Generator().manual_seed(config.seed)
        within = replace(context, directory=folder, log=log)
        average = distill(config, within, task, rng, lambda step, student: None)
        student = FaceGenerator(task.teacher.autoencoder, average).eval()
        yield way, Distilled(student, last, float(torch.rand((), generator=rng)))
    # kept until here, so that a run that is stopped in a later way does not distill the earlier ones again
    for folder in folders.values():
        (folder / CHECKPOINT_NAME).unlink(missing_ok=True)
