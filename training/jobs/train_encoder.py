"""Job: fit the identity code in closed form and train the attribute code against an identity adversary."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from models.encoder.attributes import DEGRADED_SIZE, AttributeEncoder, FaceAttributes, degrade
from models.encoder.landmark_code import INNER_LANDMARKS, LANDMARK_CHANNELS, from_sheets
from models.encoder.variational import IdentityEncoder
from models.faces.alignment import face_mask
from models.oracles.ensemble import SERVING_ORACLES, load_oracle
from models.oracles.networks.landmarks68 import load_landmarks
from training.data.face_crops import CropSet, augment, contact_sheet, load_crop_set, to_tensor
from training.data.face_embeddings import cached_embeddings
from training.jobs.certificates import summarize_looks
from training.jobs.publishing import publish_modules, write_sheet
from training.objectives.disentanglement import IdentityProbe, LowResolutionDecoder, attribute_rate
from training.objectives.disentangling_terms import DisentanglingTerms, EncodedFaces, TermWeights
from training.objectives.encoder_loss import LossWeights, encoder_terms, load_loss_weights
from training.objectives.gradient_independence import landmark_reader, oracle_reader
from training.optimizers.first_order.muon_for_networks import NetworkMuon
from training.optimizers.games.step_watch import StepWatch
from training.runs.checkpoint import load_training_state, save_training_state
from training.runs.config import JobConfig
from training.runs.context import RunContext
from training.runs.job import Job, Source
from training.runs.report import Check, Report
from training.schedules import set_cosine_learning_rate, update_average


class TrainEncoderConfig(JobConfig):
    """Settings of the run."""

    faces: Path = Field(Path("data/faces"), description="crop set written by prepare-faces")
    steps: int = Field(700, ge=1)
    batch_size: int = Field(40, ge=2)
    learning_rate: float = Field(1e-3, gt=0)
    optimizer: Literal["adam", "muon"] = Field("adam", description="muon takes the hidden matrices, AdamW the rest")
    matrix_ratio: float = Field(10.0, gt=0, description="learning rate of muon's matrices over that of AdamW")
    noise_floor: float = Field(1.0, gt=0, description="smallest standard deviation of the learned part")
    landmark_noise: float = Field(0.6, gt=0, description="standard deviation of the landmarks in crop pixels")
    rate_weight: float = Field(1e-4, ge=0, description="weight of the rate of the learned part, per nat")
    adversary_weight: float = Field(0.2, ge=0)
    loss_weights: str | None = Field(None, description="version of loss-weights to use instead of the two weights")
    adversary_start: float = Field(0.2, ge=0, le=1)
    mutual_information_weight: float = Field(0.0, ge=0, description="weight of the vCLUB penalty, per nat")
    overlap_weight: float = Field(0.0, ge=0, description="weight of G1, the overlap of the decoder's derivatives")
    probe_gradient_weight: float = Field(0.0, ge=0, description="weight of G2, the squared gradient of the probe")
    identity_drift_weight: float = Field(0.0, ge=0, description="weight of G3, moves of an embedding with attributes")
    landmark_drift_weight: float = Field(0.0, ge=0, description="weight of G4, moves of landmarks with the identity")
    cycle_weight: float = Field(0.0, ge=0, description="weight of the swap-cycle of the attribute code")
    adversary_steps: int = Field(2, ge=1, description="probe steps per encoder step")
    restart_every: int = Field(250, ge=1, description="steps after which the probe starts anew")
    certify_every: int = Field(100, ge=0, description="steps between certificates of encoder against probe; 0: none")
    certificate_damping: float = Field(0.0, ge=0, description="curvature granted to both players' last layers")
    clamp_steps: bool = Field(False, description="bound the moves of both last layers by the certified step")
    ema_decay: float = Field(0.99, ge=0, lt=1)
    evaluate_every: int = Field(100, ge=1)
    publish: bool = True

    @model_validator(mode="after")
    def _can_certify(self) -> Self:
        # without damping the probe, whose cosine ignores the scale of its last layer, leaves no certificate to go by
        if self.clamp_steps and not (self.certify_every and self.certificate_damping):
            raise ValueError(
                "clamp_steps needs certify_every and certificate_damping above 0: there is no step to keep"
            )
        return self

    @property
    def term_weights(self) -> TermWeights:
        """Weights of the optional terms."""
        return TermWeights(
            mutual_information=self.mutual_information_weight,
            overlap=self.overlap_weight,
            probe_gradient=self.probe_gradient_weight,
            identity_drift=self.identity_drift_weight,
            landmark_drift=self.landmark_drift_weight,
            cycle=self.cycle_weight,
        )


def run(config: TrainEncoderConfig, context: RunContext) -> Report:
    """Train, evaluate on held-out people, publish `face-encoder` (identity and attribute encoder).

    Args:
        config: Settings.
        context: Run directory, metrics and publishing.

    Returns:
        The report; its checks compare the identity probe with chance and the noise of the landmarks with their spread.
        Its table of certificates, like its metrics about them, holds the looks since the run was last resumed.
    """
    torch.manual_seed(config.seed)
    rng = torch.Generator().manual_seed(config.seed)
    store = context.store
    crop_set = load_crop_set(config.faces)
    embeddings = cached_embeddings(config.faces, crop_set, store)
    identity = IdentityEncoder()
    kept = identity.fit(embeddings)
    codes = identity(embeddings)
    training = torch.from_numpy(~crop_set.held_out())
    train_set, held_out = crop_set.split()
    train_codes, held_codes = codes[training], codes[~training]

    model = AttributeEncoder(noise_floor=config.noise_floor, landmark_noise=config.landmark_noise)
    model = model.to(memory_format=torch.channels_last)
    landmark_net = load_landmarks(store)
    with torch.no_grad():
        model.landmark_mean.copy_(landmark_net(to_tensor(train_set.crops[::8]))[:, INNER_LANDMARKS].mean(0))
    attributes = FaceAttributes(model, landmark_net)
    average = copy.deepcopy(model).requires_grad_(False)
    averaged = FaceAttributes(average, landmark_net)
    decoder, probe = LowResolutionDecoder(), IdentityProbe()
    decoder.landmark_mean.copy_(model.landmark_mean)
    weights = LossWeights(config.rate_weight, config.adversary_weight)
    if config.loss_weights is not None:
        weights = load_loss_weights(store, config.loss_weights)
    optimizer = encoder_optimizer(
        config.optimizer, [*model.parameters(), *decoder.parameters()], config.learning_rate, config.matrix_ratio
    )
    watch = StepWatch(last_layers(model, probe), damping=config.certificate_damping, seed=config.seed)
    looks: list[dict[str, float]] = []
    probe_optimizer = torch.optim.AdamW(probe.parameters(), 2e-3)
    state: dict[str, nn.Module] = {"model": model, "average": average, "decoder": decoder, "probe": probe}
    drifting = config.identity_drift_weight > 0
    extra = DisentanglingTerms(
        config.term_weights,
        seed=config.seed,
        recognizer=oracle_reader(load_oracle(store, SERVING_ORACLES[-1])) if drifting else None,
        landmarks=landmark_reader(landmark_net),
    )
    state |= extra.modules
    optimizers = {"optimizer": optimizer, "probe_optimizer": probe_optimizer, **extra.optimizers}
    step = load_training_state(context.directory, state, optimizers, rng)
    mask = F.avg_pool2d(torch.from_numpy(face_mask())[None, None], 128 // DEGRADED_SIZE)
    weight = 0.2 + mask
    weight = weight / weight.mean()

    while step < config.steps and not context.should_stop():
        set_cosine_learning_rate(optimizer, config.learning_rate, step, config.steps)
        indices = torch.randint(len(train_set), (config.batch_size,), generator=rng)
        crops = augment(to_tensor(train_set.crops[indices.numpy()]), rng, soften=False)
        target, wanted = degrade(crops), train_codes[indices]
        learned, landmarks = model(jitter_color(target, rng)), attributes.landmark_part(crops)
        mean, std = (torch.cat(parts, dim=1) for parts in zip(learned, landmarks, strict=True))
        code = mean + std * torch.randn(mean.shape, generator=rng)
        around = target * (1 - mask)
        decoded = decoder(code, wanted, around, mask)
        playing = step >= config.adversary_start * config.steps
        terms = encoder_terms(decoded, target, weight, learned, code, wanted, probe if playing else None)
        loss = weights.total(terms)
        encoded, extra_terms = EncodedFaces(code, mean, std, wanted, around, mask), dict[str, Tensor]()
        if playing and not extra.weights.is_zero:
            extra_terms = extra(step, model, decoder, probe, encoded)
            loss = loss + extra.total(extra_terms)
        if config.certify_every and playing and step % config.certify_every == 0:
            looks.append({"step": step, **watch.look([loss, 1 - (probe(code) * wanted).sum(1).mean()])})
            context.log(looks[-1])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        with watch.bounded(0) if config.clamp_steps else nullcontext():
            optimizer.step()
        update_average(average, model, config.ema_decay, step)
        extra.fit(step, encoded)
        if step and step % config.restart_every == 0:
            probe.load_state_dict(IdentityProbe().state_dict())  # so the encoder cannot hide from one probe
        for _ in range(config.adversary_steps):
            noisy = (mean + std * torch.randn(mean.shape, generator=rng)).detach()
            guess = 1 - (probe(noisy) * wanted).sum(1).mean()
            probe_optimizer.zero_grad()
            guess.backward()
            with watch.bounded(1) if config.clamp_steps else nullcontext():
                probe_optimizer.step()
        step += 1
        if step % 20 == 0:
            shown_terms = {name: float(term.detach()) for name, term in (terms.as_dict() | extra_terms).items()}
            context.log({"step": step, "probe": 1 - float(guess.detach()), **shown_terms})
        if step % config.evaluate_every == 0 or step == config.steps:
            context.log({"step": step, **_evaluate(averaged, decoder, held_out, held_codes, mask)})
            shown = to_tensor(held_out.crops[:: max(1, len(held_out) // 16)][:16])
            with torch.no_grad():
                codes_shown = held_codes[:: max(1, len(held_out) // 16)][:16]
                small, code = degrade(shown), averaged.sample(shown, torch.Generator().manual_seed(1))
                drawn = decoder(code, codes_shown, small * (1 - mask), mask)
                other = decoder(code, codes_shown.roll(1, 0), small * (1 - mask), mask)
            write_sheet(
                context,
                f"attributes-{step:05d}",
                contact_sheet([F.interpolate(x, scale_factor=3) for x in (small, drawn, other)]),
            )
            save_training_state(context.directory, step, state, optimizers, rng)

    metrics = _evaluate(averaged, decoder, held_out, held_codes, mask)
    metrics["identity_variance_kept"] = kept
    metrics |= {name: value for name, value in summarize_looks(looks).items() if math.isfinite(value)}
    metrics["probe_cosine"] = fresh_probe_cosine(averaged, train_set, train_codes, held_out, held_codes, rng)
    checks = (
        Check("noise of a landmark over the spread of landmarks", 0.8, metrics["landmark_ratio"], relation="at_most"),
        Check("cosine a fresh probe reaches on held-out people", 0.35, metrics["probe_cosine"], relation="at_most"),
    )
    artifact = None
    if config.publish and step == config.steps:
        parts = {"identity": identity, "attributes": average}
        artifact = publish_modules(context, "face-encoder", parts, metrics=metrics, config=config)
    artifacts = (artifact,) if artifact else ()
    return Report(metrics=metrics, checks=checks, artifacts=artifacts, tables={"certificates": looks} if looks else {})


def encoder_optimizer(
    name: Literal["adam", "muon"], parameters: Sequence[nn.Parameter], learning_rate: float, matrix_ratio: float
) -> torch.optim.Optimizer:
    """The optimizer of encoder and decoder.

    Args:
        name: ``adam`` for AdamW on everything, ``muon`` for Muon on the hidden matrices and AdamW on the rest.
        parameters: What to train.
        learning_rate: Of AdamW.
        matrix_ratio: Muon's learning rate over that of AdamW.

    Returns:
        The optimizer.
    """
    if name == "muon":
        return NetworkMuon(parameters, learning_rate, matrix_ratio=matrix_ratio)
    return torch.optim.AdamW(parameters, learning_rate, betas=(0.9, 0.99))


def last_layers(model: AttributeEncoder, probe: IdentityProbe) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Parameters of the layers with which encoder and probe meet: the encoder's last, and the probe's last two."""
    return list(model.net[-1].parameters()), [*probe.net[-1].parameters(), *probe.cells[-1].parameters()]


def fresh_probe_cosine(
    model: FaceAttributes,
    train_set: CropSet,
    train_codes: Tensor,
    held_out: CropSet,
    held_codes: Tensor,
    rng: torch.Generator,
    steps: int = 300,
) -> float:
    """Train a new probe on the finished code and measure it on people it has not seen.

    Args:
        model: Attribute code.
        train_set: Crops the probe learns from.
        train_codes: Their identity codes.
        held_out: Crops it is measured on.
        held_codes: Their identity codes.
        rng: Source of the code's noise.
        steps: Probe steps of 64 faces.

    Returns:
        Mean cosine between guessed and true identity codes; chance is about the cosine of the mean code.
    """
    probe = IdentityProbe()
    optimizer = torch.optim.AdamW(probe.parameters(), 2e-3, weight_decay=1e-2)
    with torch.no_grad():
        mean, std = _codes(model, train_set)
        held_mean, held_std = _codes(model, held_out)
    for _ in range(steps):
        index = torch.randint(len(mean), (64,), generator=rng)
        noisy = mean[index] + std[index] * torch.randn(mean[index].shape, generator=rng)
        loss = 1 - (probe(noisy) * train_codes[index]).sum(1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        noisy = held_mean + held_std * torch.randn(held_mean.shape, generator=rng)
        return float((probe(noisy) * held_codes).sum(1).mean())


@torch.no_grad()
def _codes(model: FaceAttributes, crop_set: CropSet) -> tuple[Tensor, Tensor]:
    parts = [model(to_tensor(crop_set.crops[i : i + 64])) for i in range(0, len(crop_set), 64)]
    return torch.cat([m for m, _ in parts]), torch.cat([s for _, s in parts])


def jitter_color(small: Tensor, rng: torch.Generator) -> Tensor:
    """Strong color jitter of degraded crops (n, 3, 32, 32): the code must not carry absolute color."""
    n = len(small)
    gain = 1 + 0.3 * (torch.rand(n, 1, 1, 1, generator=rng) * 2 - 1)
    tint = 1 + 0.2 * (torch.rand(n, 3, 1, 1, generator=rng) * 2 - 1)
    shift = 0.2 * (torch.rand(n, 1, 1, 1, generator=rng) * 2 - 1)
    gray = small.mean(1, keepdim=True)
    saturation = torch.rand(n, 1, 1, 1, generator=rng)
    return (((gray + (small - gray) * saturation) * gain) * tint + shift).clamp(-1, 1)


@torch.no_grad()
def _evaluate(
    model: FaceAttributes, decoder: LowResolutionDecoder, held_out: CropSet, held_codes: Tensor, mask: Tensor
) -> dict[str, float]:
    crops = to_tensor(held_out.crops)
    small = degrade(crops)
    mean, std = model(crops)
    code = mean + std * torch.randn(mean.shape, generator=torch.Generator().manual_seed(0))
    decoded = decoder(code, held_codes, small * (1 - mask), mask)
    offsets, noise = from_sheets(mean[:, -LANDMARK_CHANNELS:]), from_sheets(std[:, -LANDMARK_CHANNELS:])
    return {
        "held_out_reconstruction": float(((decoded - small).abs() * mask).sum() / (mask.sum() * 3 * len(small))),
        "landmark_ratio": float(noise.mean() / offsets.std(0).mean()),
        "rate_nats": float(attribute_rate(mean[:, :-LANDMARK_CHANNELS], std[:, :-LANDMARK_CHANNELS])),
    }


JOB = Job(
    name="train-encoder",
    summary="identity code in closed form, attribute code against an identity adversary",
    source=Source("Identity-Decoupled Anonymization for Visual Evidence in Multi-modal RAG", "arXiv:2604.23584", 2026),
    config=TrainEncoderConfig,
    run=run,
    wants_large_malloc_thresholds=True,
    presets={},
)
