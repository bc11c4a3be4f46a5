"""Job: consistency-distill the flow denoiser to a few steps with the guidance folded in (specification, B8)."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field, field_validator
from torch import Tensor, nn

from models.anonymizer.assembly import load_attributes, load_network
from models.diffusion.autoencoder import LatentAutoencoder
from models.diffusion.denoiser import FaceDenoiser
from models.diffusion.generator import FaceGenerator
from models.encoder.attributes import FaceAttributes
from models.encoder.landmark_code import INNER_LANDMARKS, LANDMARK_CHANNELS, LANDMARK_SCALE, from_sheets
from models.encoder.variational import IdentityEncoder
from models.faces.detection import MtcnnDetector
from models.oracles.ensemble import SERVING_ORACLES, load_ensemble
from models.oracles.thresholds import load_thresholds
from models.registry.store import ArtifactStore
from training.data.face_crops import contact_sheet, load_crop_set, to_tensor
from training.data.face_embeddings import cached_embeddings
from training.data.latent_cache import build_latent_cache
from training.jobs.publishing import publish_module, write_sheet
from training.objectives.consistency import consistency_loss, student_of
from training.objectives.detector_landmarks import DetectorLandmarks
from training.objectives.patch_adversary import PatchDiscriminator, discriminator_hinge, generator_hinge
from training.objectives.privacy import identity_transfer, landmark_distance, privacy_hinge
from training.objectives.reconstruction import laplacian_energy
from training.runs.checkpoint import load_training_state, save_training_state
from training.runs.config import JobConfig
from training.runs.context import RunContext
from training.runs.job import Job, Source
from training.runs.report import Check, Report
from training.schedules import set_cosine_learning_rate, update_average

_SPREAD_MARGIN = 2.0  # deviations below the threshold that two drawn faces of different identities should keep


class DistillGeneratorConfig(JobConfig):
    """Settings of the run."""

    faces: Path = Field(Path("data/faces"), description="crop set written by prepare-faces")
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
    spread_weight: float = Field(1.0, ge=0, description="weight of the hinge among the judged faces of a batch")
    transfer_weight: float = Field(0.3, ge=0)
    adversary_weight: float = Field(0.05, ge=0, description="weight of the patch adversary on judged faces")
    adversary_rate: float = Field(1e-3, gt=0, description="learning rate of the patch adversary")
    autocast: bool = Field(True, description="bfloat16 where it pays; the weights stay float32")
    ema_decay: float = Field(0.97, ge=0, lt=1)
    evaluate_every: int = Field(100, ge=1)
    publish: bool = True

    @field_validator("drawn_rows")
    @classmethod
    def _not_one(cls, value: int) -> int:
        if value == 1:
            raise ValueError("drawn_rows must be 0 or at least 2: each face is drawn with its neighbor's code")
        return value


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
    store = context.store
    autoencoder = load_network(store, "face-autoencoder", LatentAutoencoder)
    identity = load_network(store, "face-encoder", IdentityEncoder, "identity")
    attributes = load_attributes(store)
    teacher = load_network(store, "face-generator", FaceDenoiser, version=config.teacher)
    teacher_version = config.teacher or str(store.promoted("face-generator"))
    guide = FaceGenerator(autoencoder, teacher).eval()
    student = student_of(teacher)
    if config.start_from is not None:
        student.load_state_dict(
            load_network(store, "face-generator", FaceDenoiser, version=config.start_from).state_dict()
        )
    student = student.to(memory_format=torch.channels_last)
    average = copy.deepcopy(student).requires_grad_(False)
    drawn = FaceGenerator(autoencoder, average).eval()

    people = load_crop_set(config.faces)
    embeddings = cached_embeddings(config.faces, people, store)
    codes = identity(embeddings)
    held = people.held_out()
    seen = {name: table[torch.from_numpy(~held)] for name, table in embeddings.items()}
    judge = SwapJudge(store, attributes, identity, seen, margin=config.hinge_margin, autocast=config.autocast)
    cache = build_latent_cache(people.where(~held), guide, attributes, rng, views=config.views)
    train_codes, held_codes = codes[torch.from_numpy(~held)], codes[torch.from_numpy(held)]
    adversary = PatchDiscriminator()
    detector_landmarks = DetectorLandmarks(MtcnnDetector().landmark_network)
    optimizer = torch.optim.AdamW(student.parameters(), config.learning_rate, betas=(0.9, 0.99))
    adversary_optimizer = torch.optim.Adam(adversary.parameters(), config.adversary_rate, betas=(0.0, 0.99))
    optimizers = {"optimizer": optimizer, "adversary": adversary_optimizer}
    state: dict[str, nn.Module] = {"student": student, "average": average, "adversary": adversary}
    step = load_training_state(context.directory, state, optimizers, rng)

    crops = to_tensor(people.where(held).crops[::3][:48])
    own = held_codes[::3][:48]
    while step < config.steps and not context.should_stop():
        set_cosine_learning_rate(optimizer, config.learning_rate, step, config.steps, warmup=30)
        index = torch.randint(len(cache), (config.batch_size,), generator=rng)
        latents, contexts, attribute_codes = cache.batch(index, rng)
        codes_now = train_codes[cache.sources[index]]
        swap = torch.rand(len(index), 1, generator=rng) < config.swap_share
        codes_now = torch.where(swap, codes_now.roll(1, 0), codes_now)
        span = config.max_guidance - config.min_guidance
        guidance = config.min_guidance + span * torch.rand(len(index), generator=rng)
        with torch.autocast("cpu", torch.bfloat16, enabled=config.autocast):
            loss = consistency_loss(
                student, average, guide, latents, contexts, attribute_codes, codes_now, guidance, config.grid, rng
            )
        terms = {"consistency": loss}
        if config.drawn_rows:
            rows = slice(config.drawn_rows)
            sources = cache.sources[index[rows]]
            wanted = train_codes[sources].roll(1, 0)
            conditions = (contexts[rows], guide.latent_mask, attribute_codes[rows], wanted, guidance[rows])
            with torch.autocast("cpu", torch.bfloat16, enabled=config.autocast):
                faces = autoencoder.decode(few_step_estimate(student, latents[rows].shape, conditions, rng)).float()
                with torch.no_grad():
                    real = autoencoder.decode(latents[rows].float()).float()
            # as released: the adversary and the oracles see the photo about the mask
            faces = faces * guide.mask + real * (1 - guide.mask)
            terms |= judge(faces, sources, wanted, cache.attribute_mean[index[rows]].float())
            terms["detector"] = detector_landmarks(faces, real, rng).mean() / LANDMARK_SCALE
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
        update_average(average, student, config.ema_decay, step)
        step += 1
        if step % 20 == 0:
            context.log({"step": step, **{name: float(value.detach()) for name, value in terms.items()}})
        if step % config.evaluate_every == 0 or step == config.steps:
            context.log({"step": step, **compare(guide, drawn, judge, crops, own)})
            write_sheet(context, f"students-{step:05d}", _sheet(guide, drawn, attributes, crops[:16], own[:16]))
            save_training_state(context.directory, step, state, optimizers, rng)

    metrics = compare(guide, drawn, judge, crops, own)
    checks = (
        Check(
            "mean similarity among the faces of 4 student steps, less that of 20 teacher steps",
            0.02,
            metrics["alikeness_student_4"] - metrics["alikeness_teacher_20"],
            relation="at_most",
        ),
        Check(
            "sharpness of 4 student steps over 20 teacher steps",
            0.7,
            metrics["sharpness_student_4"],
            relation="at_least",
        ),
        Check(
            "landmark distance of 4 student steps over 4 teacher steps",
            1.1,
            metrics["landmarks_student_4"] / metrics["landmarks_teacher_4"],
            relation="at_most",
        ),
        Check(
            "one student step is nearer to the 20-step picture than one teacher step (ratio)",
            1.0,
            metrics["distance_ratio_1"],
            relation="at_most",
        ),
    )
    artifact = None
    if config.publish and step == config.steps:
        artifact = publish_module(
            context,
            "face-generator",
            average,
            metrics={**metrics, "distilled": 1.0},
            config=config.model_copy(update={"teacher": teacher_version}),
            parents=("face-autoencoder", "face-encoder"),
        )
    return Report(metrics=metrics, checks=checks, artifacts=(artifact,) if artifact else ())


def few_step_estimate(
    student: FaceDenoiser, shape: torch.Size, conditions: tuple[Tensor, ...], rng: torch.Generator
) -> Tensor:
    """Latents as the student draws them in 1, 2 or 4 steps, at a random one of those steps.

    The steps before it are the student's own and carry no gradient, so what is judged is what it will be asked for.

    Args:
        student: Guided denoiser.
        shape: (n, 8, 16, 16).
        conditions: Context latents, latent mask, attribute codes, identity codes and guidance weights.
        rng: Source of the noise and of the step.

    Returns:
        Estimates of the clean latents, (n, 8, 16, 16).
    """
    steps = (1, 2, 4)[int(torch.randint(3, (1,), generator=rng))]
    last = int(torch.randint(steps, (1,), generator=rng))
    estimate = torch.zeros(shape)
    for k in range(last + 1):
        sigma = 1 - k / steps
        noisy = (1 - sigma) * estimate + sigma * torch.randn(shape, generator=rng)
        with torch.set_grad_enabled(k == last):
            estimate = noisy - sigma * student(noisy, torch.full((shape[0],), sigma), *conditions)
    return estimate


class SwapJudge:
    """Reads drawn faces with the oracles and the landmark network.

    Attributes:
        attributes: The attribute code, with the landmark network.
    """

    def __init__(
        self,
        store: ArtifactStore,
        attributes: FaceAttributes,
        identity: IdentityEncoder,
        embeddings: Mapping[str, Tensor],
        *,
        margin: float,
        autocast: bool,
    ) -> None:
        """Load the oracles.

        Args:
            store: Store with the oracles and their calibration.
            attributes: Holds the landmark network.
            identity: Turns embeddings into codes.
            embeddings: Embeddings of the training faces, oracle to (n, d_k).
            margin: Distance of the hinge from the thresholds, in deviations of different people's similarity.
            autocast: Run the oracles in bfloat16.
        """
        thresholds = load_thresholds(store)
        self.attributes = attributes
        self._ensemble = load_ensemble(store, centers=thresholds.centers)
        at_far = thresholds.at(1e-3, SERVING_ORACLES)
        self._limits = {name: t.privacy_threshold - margin * t.impostor_std for name, t in at_far.items()}
        self._spread_limits = {
            name: t.privacy_threshold - _SPREAD_MARGIN * t.impostor_std for name, t in at_far.items()
        }
        self._identity = identity
        self._embeddings = embeddings
        self._autocast = autocast

    def __call__(self, faces: Tensor, sources: Tensor, wanted: Tensor, attribute_mean: Tensor) -> dict[str, Tensor]:
        """Judge drawn faces.

        Args:
            faces: Crops, (n, 3, 128, 128).
            sources: Index of the source of each face, (n,).
            wanted: Identity code each face was drawn with, (n, d).
            attribute_mean: Mean attribute codes of the sources, (n, c, 8, 8).

        Returns:
            Means of the hinge, of the same hinge between each two drawn faces (one face for all is no answer), of the
            identity distance, and of the landmark distance over `LANDMARK_SCALE`.
        """
        drawn = self._embed(faces)
        source = {name: table[sources] for name, table in self._embeddings.items()}
        points = self.attributes.landmark_net(faces)[:, INNER_LANDMARKS]
        pairs = torch.triu_indices(len(faces), len(faces), offset=1)
        offsets = (points - self.attributes.encoder.landmark_mean) / LANDMARK_SCALE
        return {
            "hinge": privacy_hinge(drawn, source, self._limits).mean(),
            "spread": privacy_hinge(
                {name: table[pairs[0]] for name, table in drawn.items()},
                {name: table[pairs[1]] for name, table in drawn.items()},
                self._spread_limits,
            ).mean(),
            "transfer": identity_transfer(self._identity(drawn), wanted).mean(),
            "landmarks": landmark_distance(offsets, from_sheets(attribute_mean[:, -LANDMARK_CHANNELS:])).mean(),
        }

    @torch.no_grad()
    def accepted(self, faces: Tensor, crops: Tensor) -> float:
        """Share of drawn faces that every oracle keeps below its limit to the source crop; both (n, 3, 128, 128)."""
        drawn, source = self._embed(faces), self._embed(crops)
        below = [(drawn[name] * source[name]).sum(1) < limit for name, limit in self._limits.items()]
        return float(torch.stack(below).all(0).float().mean())

    @torch.no_grad()
    def alikeness(self, faces: Tensor) -> float:
        """Mean cosine similarity between each two faces of a batch, over all oracles; 0 for unrelated people."""
        pairs = torch.triu_indices(len(faces), len(faces), offset=1)
        means = [(table[pairs[0]] * table[pairs[1]]).sum(1).mean() for table in self._embed(faces).values()]
        return float(torch.stack(means).mean())

    @torch.no_grad()
    def read(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        """Identity codes (n, d) and inner landmarks (n, 51, 2) in crop pixels of crops (n, 3, 128, 128)."""
        return self._identity(self._embed(crops)), self.attributes.landmark_net(crops)[:, INNER_LANDMARKS]

    def _embed(self, crops: Tensor) -> dict[str, Tensor]:
        # recognizers keep their answer in half precision, landmarks would not
        with torch.autocast("cpu", torch.bfloat16, enabled=self._autocast):
            return {name: F.normalize(codes.float(), dim=1) for name, codes in self._ensemble(crops).items()}


@torch.no_grad()
def compare(
    teacher: FaceGenerator, student: FaceGenerator, judge: SwapJudge, crops: Tensor, codes: Tensor
) -> dict[str, float]:
    """Teacher and students on the same unseen faces with swapped identities and the same first noise.

    Args:
        teacher: Undistilled generator.
        student: Distilled generator.
        judge: Reads identity and landmarks.
        crops: Unseen crops, (n, 3, 128, 128).
        codes: Their identity codes; each face is drawn with its neighbor's.

    Returns:
        For the teacher at 20 and 4 steps and the student at 4, 2 and 1: Laplacian energy over that of 20 teacher
        steps, landmark distance to the source in crop pixels, cosine of the code read back to the wanted one, share of
        the faces that every oracle keeps below its limit, and mean similarity among the faces (`source`: of the crops).
        And the distance of one student step to the 20-step picture, over that of one teacher step.
    """
    attribute_codes = judge.attributes.sample(crops, torch.Generator().manual_seed(3))
    other = codes.roll(1, 0)

    def draw(model: FaceGenerator, steps: int) -> Tensor:
        noise = torch.Generator().manual_seed(4)
        return model.generate(crops, attribute_codes, other, steps=steps, guidance=2.0, generator=noise)

    best = draw(teacher, 20)
    pictures = {"teacher_20": best, "teacher_4": draw(teacher, 4)}
    pictures |= {f"student_{steps}": draw(student, steps) for steps in (4, 2, 1)}
    energy = laplacian_energy(best).mean()
    wanted_points = judge.read(crops)[1]
    result = {"alikeness_source": judge.alikeness(crops)}
    for name, faces in pictures.items():
        found_codes, points = judge.read(faces)
        result[f"sharpness_{name}"] = float(laplacian_energy(faces).mean() / energy)
        result[f"landmarks_{name}"] = float(landmark_distance(points, wanted_points).mean())
        result[f"accepted_{name}"] = judge.accepted(faces, crops)
        result[f"alikeness_{name}"] = judge.alikeness(faces)
        result[f"identity_{name}"] = float((found_codes * other).sum(1).mean())
    one_step = (pictures["student_1"] - best).abs().mean()
    result["distance_ratio_1"] = float(one_step / (draw(teacher, 1) - best).abs().mean())
    return result


def _sheet(
    teacher: FaceGenerator, student: FaceGenerator, attributes: FaceAttributes, crops: Tensor, codes: Tensor
) -> NDArray[np.uint8]:
    rng = torch.Generator().manual_seed(3)
    with torch.no_grad():
        attribute_codes = attributes.sample(crops, rng)
    rows = [crops]
    for model, steps in ((teacher, 20), (teacher, 4), (student, 4), (student, 2), (student, 1)):
        noise = torch.Generator().manual_seed(4)
        rows.append(
            model.generate(crops, attribute_codes, codes.roll(1, 0), steps=steps, guidance=2.0, generator=noise)
        )
    return contact_sheet(rows)


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
    presets={},
)
