"""Job: consistency-distill the flow denoiser to a few steps with the guidance folded in (specification, B8)."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn

from models.diffusion.denoiser import FaceDenoiser
from models.diffusion.generator import FaceGenerator
from models.encoder.landmark_code import LANDMARK_SCALE
from models.faces.alignment import CROP_SIZE
from training.data.face_crops import CropSize
from training.jobs.distillation_task import DistillationTask, drawn_distillation_task, load_distillation_task
from training.jobs.generator_inputs import sized_name
from training.jobs.publishing import publish_module, write_sheet
from training.jobs.student_comparison import compare_students, draw_students
from training.objectives.consistency import consistency_loss
from training.objectives.oracle_weights import OracleWeights
from training.objectives.patch_adversary import discriminator_hinge, generator_hinge
from training.runs.checkpoint import load_training_state, save_training_state
from training.runs.config import JobConfig
from training.runs.context import RunContext
from training.runs.job import Job, Source
from training.runs.report import Check, Report
from training.runs.stopping import RunInterruptedError
from training.schedules import set_cosine_learning_rate, update_average


class DistillGeneratorConfig(JobConfig):
    """Settings of the run."""

    faces: Path | None = Field(
        Path("data/faces"), description="crop set written by prepare-faces; None draws heads for untrained networks"
    )
    drawn_faces: int = Field(12, ge=10, description="heads that are drawn where no crop set is given")
    size: CropSize = Field(CROP_SIZE, description="side of the crops, pixels; the service reads 128")
    teacher: str | None = Field(None, description="version of face-generator to distill; the promoted one by default")
    steps: int = Field(400, ge=1)
    batch_size: int = Field(24, ge=2)
    learning_rate: float = Field(2e-4, gt=0)
    views: int = Field(2, ge=0)
    grid: int = Field(20, ge=2, description="teacher steps from noise to data")
    min_guidance: float = Field(1.0, ge=1)
    max_guidance: float = Field(3.0, ge=1)
    swap_share: float = Field(0.5, ge=0, le=1, description="share of faces conditioned on another person's code")
    start_from: str | None = Field(None, description="version of an earlier student to start from, not the teacher")
    drawn_rows: int = Field(8, ge=0, description="swapped faces of a batch that are drawn in a few steps and judged")
    hinge_margin: float = Field(1.0, ge=0, description="distance of the hinge from the thresholds, in deviations")
    landmark_weight: float = Field(0.6, ge=0, description="weight of the landmark distance in crop pixels over 4")
    detector_weight: float = Field(0.6, ge=0, description="the same for the landmarks that the detector reads")
    hinge_weight: float = Field(0.7, ge=0)
    hinge_oracles: tuple[str, ...] | None = Field(None, description="oracles in the hinge; null: every one that judges")
    oracle_weights: Literal["equal", "worst_case"] = Field(
        "equal", description="oracles in the hinge: each counts once, or weights move towards the one with most excess"
    )
    oracle_step_size: float = Field(0.5, gt=0, description="of moving weights, per excess of 0.1")
    spread_weight: float = Field(1.0, ge=0, description="weight of the hinge among the judged faces of a batch")
    transfer_weight: float = Field(0.3, ge=0)
    adversary_weight: float = Field(0.05, ge=0, description="weight of the patch adversary on judged faces")
    adversary_rate: float = Field(1e-3, gt=0, description="learning rate of the patch adversary")
    autocast: bool = Field(True, description="bfloat16 where it pays; the weights stay float32")
    ema_decay: float = Field(0.97, ge=0, lt=1)
    evaluate_every: int = Field(100, ge=1)
    max_alikeness: float = Field(0.02, description="similarity among the faces over the teacher's that is checked")
    min_sharpness: float = Field(0.7, ge=0, description="sharpness over the teacher's that is checked")
    max_landmarks: float = Field(1.1, gt=0, description="landmark distance over the teacher's that is checked")
    max_distance: float = Field(1.0, gt=0, description="distance of one step over the teacher's that is checked")
    publish: bool = True

    @field_validator("drawn_rows")
    @classmethod
    def _not_one(cls, value: int) -> int:
        if value == 1:
            raise ValueError("drawn_rows must be 0 or at least 2: each face is drawn with its neighbor's code")
        return value

    @model_validator(mode="after")
    def _trained_on_faces(self) -> DistillGeneratorConfig:
        if self.faces is None and (self.teacher is not None or self.start_from is not None or self.publish):
            raise ValueError(
                "drawn heads have an untrained teacher: leave teacher and start_from out and set no publish"
            )
        return self

    @model_validator(mode="after")
    def _moved_by_something(self) -> DistillGeneratorConfig:
        if self.oracle_weights == "worst_case" and not self.drawn_rows:
            raise ValueError("oracle_weights=worst_case needs drawn_rows: judged faces move the weights")
        if self.oracle_weights == "worst_case" and self.hinge_oracles is not None:
            raise ValueError("oracle_weights=worst_case moves the weight of every oracle: leave hinge_oracles out")
        return self


def run(config: DistillGeneratorConfig, context: RunContext) -> Report:
    """Distill, compare with the teacher on held-out people, publish `face-generator`.

    Args:
        config: Settings.
        context: Run directory, metrics and publishing.

    Returns:
        The report; its checks compare the 4-step student with the 20-step teacher.
    """
    torch.manual_seed(config.seed)
    rng = torch.Generator().manual_seed(config.seed)
    artifact_name, device = sized_name("face-generator", config.size), context.device
    teacher_version = config.teacher or str(context.store.promoted(artifact_name))
    if config.faces is None:
        task = drawn_distillation_task(
            config.drawn_faces,
            config.size,
            config.seed,
            rng,
            views=config.views,
            hinge_margin=config.hinge_margin,
            autocast=config.autocast,
            device=device,
        )
    else:
        task = load_distillation_task(
            context.store,
            config.faces,
            rng,
            teacher=config.teacher,
            start_from=config.start_from,
            views=config.views,
            hinge_margin=config.hinge_margin,
            autocast=config.autocast,
            size=config.size,
            device=device,
        )
    crops, codes = task.held_crops[::3][:48].to(device), task.held_codes[::3][:48].to(device)
    metrics: dict[str, float] = {}

    def evaluate(step: int, average: FaceDenoiser) -> None:
        drawn = FaceGenerator(task.teacher.autoencoder, average).eval().to(device)
        metrics.update(compare_students(task.teacher, drawn, task.judge, crops, codes))
        context.log({"step": step, **metrics})
        sheet = draw_students(task.teacher, drawn, task.judge.attributes, crops[:16], codes[:16])
        write_sheet(context, f"students-{step:05d}", sheet)

    average = distill(config, context, task, rng, evaluate)
    if not metrics:  # resumed from a checkpoint of the last step
        evaluate(config.steps, average)
    checks = (
        Check(
            "mean similarity among the faces of 4 student steps, less that of 20 teacher steps",
            config.max_alikeness,
            metrics["alikeness_student_4"] - metrics["alikeness_teacher_20"],
            relation="at_most",
        ),
        Check(
            "sharpness of 4 student steps over 20 teacher steps",
            config.min_sharpness,
            metrics["sharpness_student_4"],
            relation="at_least",
        ),
        Check(
            "landmark distance of 4 student steps over 4 teacher steps",
            config.max_landmarks,
            metrics["landmarks_student_4"] / metrics["landmarks_teacher_4"],
            relation="at_most",
        ),
        Check(
            "one student step is nearer to the 20-step picture than one teacher step (ratio)",
            config.max_distance,
            metrics["distance_ratio_1"],
            relation="at_most",
        ),
    )
    artifact = None
    if config.publish:
        artifact = publish_module(
            context,
            artifact_name,
            average,
            metrics={**metrics, "distilled": 1.0},
            config=config.model_copy(update={"teacher": teacher_version}),
            parents=(sized_name("face-autoencoder", config.size), "face-encoder"),
        )
    return Report(metrics=metrics, checks=checks, artifacts=(artifact,) if artifact else ())


def distill(
    config: DistillGeneratorConfig,
    context: RunContext,
    task: DistillationTask,
    rng: torch.Generator,
    evaluate: Callable[[int, FaceDenoiser], None],
) -> FaceDenoiser:
    """Train a student, or go on with the one that the run directory holds.

    Args:
        config: Settings.
        context: Run directory, metrics, and whether to stop.
        task: What to start from; not changed.
        rng: Source of rows, levels, noise and guidance weights.
        evaluate: Called with step and averaged student every `evaluate_every` steps and after the last one.

    Returns:
        The moving average of the student.

    Raises:
        ValueError: An oracle of the hinge is none of the judge's.
        RunInterruptedError: The run was told to stop; a checkpoint is there.
    """
    fixed = _fixed_weights(config, task)
    guide, cache, autoencoder = task.teacher, task.cache, task.teacher.autoencoder
    device = guide.mask.device
    student, adversary = copy.deepcopy(task.student), copy.deepcopy(task.adversary)
    average = copy.deepcopy(student).requires_grad_(False)
    optimizer = torch.optim.AdamW(student.parameters(), config.learning_rate, betas=(0.9, 0.99))
    adversary_optimizer = torch.optim.Adam(adversary.parameters(), config.adversary_rate, betas=(0.0, 0.99))
    # other names than those of the modules: a checkpoint could not tell their entries apart
    optimizers = {"optimizer": optimizer, "adversary_optimizer": adversary_optimizer}
    state: dict[str, nn.Module] = {"student": student, "average": average, "adversary": adversary}
    weights: OracleWeights | None = None
    if config.oracle_weights == "worst_case":
        weights = OracleWeights(task.judge.oracles, step_size=config.oracle_step_size)
        state["oracle_weights"] = weights
    step = load_training_state(context.directory, state, optimizers, rng)

    while step < config.steps:
        if context.should_stop():
            save_training_state(context.directory, step, state, optimizers, rng)
            raise RunInterruptedError(f"distillation was stopped after {step} steps")
        set_cosine_learning_rate(optimizer, config.learning_rate, step, config.steps, warmup=30)
        index = torch.randint(len(cache), (config.batch_size,), generator=rng)
        latents, contexts, attribute_codes = (part.to(device) for part in cache.batch(index, rng))
        codes_now = task.codes[cache.sources[index]]
        swap = torch.rand(len(index), 1, generator=rng) < config.swap_share
        codes_now = torch.where(swap, codes_now.roll(1, 0), codes_now).to(device)
        span = config.max_guidance - config.min_guidance
        guidance = (config.min_guidance + span * torch.rand(len(index), generator=rng)).to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=config.autocast):
            loss = consistency_loss(
                student, average, guide, latents, contexts, attribute_codes, codes_now, guidance, config.grid, rng
            )
        terms = {"consistency": loss}
        if config.drawn_rows:
            rows = slice(config.drawn_rows)
            sources = cache.sources[index[rows]]
            wanted = task.codes[sources].roll(1, 0).to(device)
            conditions = (contexts[rows], guide.latent_mask, attribute_codes[rows], wanted, guidance[rows])
            with torch.autocast(device.type, torch.bfloat16, enabled=config.autocast):
                faces = autoencoder.decode(few_step_estimate(student, latents[rows].shape, conditions, rng)).float()
                with torch.no_grad():
                    real = autoencoder.decode(latents[rows].float()).float()
            # as released: the adversary and the oracles see the photo about the mask
            faces = faces * guide.mask + real * (1 - guide.mask)
            shares = weights.weights if weights is not None else fixed
            told = cache.attribute_mean[index[rows]].float().to(device)
            terms |= task.judge(faces, sources, wanted, told, shares)
            terms["detector"] = task.detector_landmarks(faces, real, rng).mean() / LANDMARK_SCALE
            terms["adversary"] = generator_hinge(adversary(faces)[0])
            loss = (
                loss
                + config.landmark_weight * terms["landmarks"]
                + config.detector_weight * terms["detector"]
                + config.hinge_weight * terms["hinge"]
                + config.spread_weight * terms["spread"]
                + config.transfer_weight * terms["transfer"]
                + config.adversary_weight * terms["adversary"]
            )
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        if config.drawn_rows and config.adversary_weight:
            terms["discriminator"] = discriminator_hinge(adversary(real)[0], adversary(faces.detach())[0])
            adversary_optimizer.zero_grad()
            terms["discriminator"].backward()
            adversary_optimizer.step()
        if weights is not None:
            weights.update({name: terms[f"hinge_{name}"] for name in task.judge.oracles})
        update_average(average, student, config.ema_decay, step)
        step += 1
        if step % 20 == 0:
            shown = {name: float(value.detach()) for name, value in terms.items()}
            if weights is not None:
                shown |= {f"weight_{name}": value for name, value in weights.weights.items()}
            context.log({"step": step, **shown})
        if step % config.evaluate_every == 0 or step == config.steps:
            evaluate(step, average)
            save_training_state(context.directory, step, state, optimizers, rng)
    return average


def _fixed_weights(config: DistillGeneratorConfig, task: DistillationTask) -> dict[str, float] | None:
    """Weight 1 of each oracle that the hinge asks and 0 of the others; None where it asks all."""
    if config.hinge_oracles is None:
        return None
    if unknown := sorted(set(config.hinge_oracles) - set(task.judge.oracles)):
        raise ValueError(f"unknown oracles {unknown} in the hinge; there are {sorted(task.judge.oracles)}")
    return {name: float(name in config.hinge_oracles) for name in task.judge.oracles}


def few_step_estimate(
    student: FaceDenoiser, shape: torch.Size, conditions: tuple[Tensor, ...], rng: torch.Generator
) -> Tensor:
    """Latents as the student draws them in 1, 2 or 4 steps, at a random one of those steps.

    The steps before it are the student's own and carry no gradient, so what is judged is what it will be asked for.

    Args:
        student: Guided denoiser.
        shape: (n, 8, 16, 16) for crops of 128 px.
        conditions: Context latents, latent mask, attribute codes, identity codes and guidance weights.
        rng: Source of the noise and of the step, on the CPU.

    Returns:
        Estimates of the clean latents, of that shape.
    """
    steps = (1, 2, 4)[int(torch.randint(3, (1,), generator=rng))]
    last = int(torch.randint(steps, (1,), generator=rng))
    device = next(student.parameters()).device
    estimate = torch.zeros(shape, device=device)
    for k in range(last + 1):
        sigma = 1 - k / steps
        noisy = (1 - sigma) * estimate + sigma * torch.randn(shape, generator=rng).to(device)
        with torch.set_grad_enabled(k == last):
            estimate = noisy - sigma * student(noisy, torch.full((shape[0],), sigma, device=device), *conditions)
    return estimate


JOB = Job(
    name="distill-generator",
    summary="consistency distillation of the denoiser to 1-4 steps, guidance folded in",
    source=Source(
        "Latent Consistency Models: Synthesizing High-Resolution Images with Few-Step Inference",
        "arXiv:2310.04378",
        2023,
    ),
    config=DistillGeneratorConfig,
    run=run,
    wants_large_malloc_thresholds=True,
    presets={
        # The large column of the specification (B11), for one GPU of 80 GB: smoke-run, never trained to the end.
        "gpu": {
            "faces": "data/faces-256",
            "size": 256,
            "steps": 20_000,
            "batch_size": 128,
            "drawn_rows": 32,
            "learning_rate": 1e-4,
            "ema_decay": 0.999,
            "views": 8,
            "evaluate_every": 1000,
        },
        "smoke": {
            "faces": None,
            "size": 256,
            "steps": 2,
            "batch_size": 3,
            "drawn_rows": 2,
            "views": 0,
            "grid": 4,
            "oracle_weights": "worst_case",
            "evaluate_every": 2,
            "max_alikeness": 1.0,
            "min_sharpness": 0.0,
            "max_landmarks": 10.0,
            "max_distance": 10.0,
            "publish": False,
        },
    },
)
