"""Job: Langevin chains on the density of the identity manifold as proposals of replacement codes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from models.anonymizer.assembly import AssemblySettings, load_network
from models.encoder.variational import IdentityEncoder
from models.identity.manifold import IdentityManifold, fit_manifold, load_manifold
from models.identity.mixture import VonMisesFisherMixture
from models.identity.sphere import Codes, normalize
from training.algorithm import iterate
from training.data.face_crops import load_crop_set
from training.data.face_embeddings import cached_embeddings
from training.optimizers.first_order.langevin_averaging import LangevinAveragingState, langevin_averaging
from training.problems import Objective
from training.runs.config import JobConfig
from training.runs.context import RunContext
from training.runs.job import Job, Source
from training.runs.report import Check, Report


class LangevinProposalConfig(JobConfig):
    """Settings of the run."""

    faces: Path | None = Field(Path("data/faces"), description="crop set with held-out sources; null draws codes")
    proposals: int = Field(200, ge=2, description="codes of each kind")
    inverse_temperature: float = Field(1.0, ge=0, description="1 samples the density, more goes towards its modes")
    scaled_step_size: float = Field(0.3, gt=0)
    burn_in: int = Field(60, ge=0)
    window: int = Field(60, ge=1, description="steps that are averaged")
    drawn_people: int = Field(240, ge=60, description="bank of the drawn manifold, where there is no crop set")


def run(config: LangevinProposalConfig, context: RunContext) -> Report:
    """Propose by both, and measure acceptance, closeness to the bank, diversity and time.

    Every proposal is a chain of its own from a uniform start, so proposals are independent of each other and of the
    source, as the leakage law asks. One long chain would be cheaper, but its successive codes are dependent.

    Args:
        config: Settings.
        context: Run directory, store and metrics.

    Returns:
        The report; the check on independence compares sources' cosines to the proposals with those of the plain way.
    """
    rng = np.random.default_rng(config.seed)
    manifold, sources = _manifold(config, context, rng)
    makers: dict[str, Callable[[], Codes]] = {"independent draws": lambda: manifold.propose(rng)}
    chains = _chains(config, manifold.mixture)
    makers["Langevin, last point"] = lambda: _as_code(next(chains).chains[0])
    makers["Langevin, averaged"] = lambda: _as_code(next(chains).x)
    rows: dict[str, dict[str, float]] = {}
    for name, make in makers.items():
        begin = time.process_time()
        codes = np.stack([make() for _ in range(config.proposals)]).astype(np.float32)
        seconds = time.process_time() - begin
        rows[name] = {**_measure(manifold, sources, codes), "milliseconds": 1e3 * seconds / config.proposals}
        context.log(rows[name])
    plain, averaged = rows["independent draws"], rows["Langevin, averaged"]
    words = {
        "accepted": "share of proposals on the manifold and distinct from the source",
        "nearest_bank": "mean cosine to the nearest bank code",
        "pair_cosine": "mean cosine between proposals (diversity: less is more)",
        "milliseconds": "processor time of a proposal (ms)",
    }
    service: list[dict[str, Any]] = [
        {
            "method": "langevin_averaging",
            "job": "proposal of identity codes, averaged chains against independent draws",
            "measure": text,
            "without": plain[key],
            "with": averaged[key],
            "n": config.proposals,
        }
        for key, text in words.items()
    ]
    checks = (
        Check("independent draws on the manifold", 0.9, plain["on_manifold"], relation="at_least"),
        Check("mean cosine of averaged chains to sources they do not know", 0.0, averaged["source_cosine"], 0.25),
    )
    metrics = {f"{name}: {key}": value for name, row in rows.items() for key, value in row.items()}
    table = [{"proposal": name, **row} for name, row in rows.items()]
    return Report(metrics, checks, tables={"Proposals": table, "in the service": service})


def log_density_objective(mixture: VonMisesFisherMixture) -> Objective:
    """Minus the log density of a mixture on the sphere, in float64, with its gradient in the ambient space.

    Args:
        mixture: The density.

    Returns:
        The objective; points are (d,).
    """
    means = torch.from_numpy(mixture.means * mixture.concentrations[:, None])  # (k, d)
    offset = torch.from_numpy(mixture.component_log_density(np.zeros((1, mixture.dim)))[0])  # at cosine 0: the scale

    def gradient(x: Tensor) -> Tensor:
        return -torch.softmax(offset + means @ x, dim=0) @ means

    return Objective(lambda x: -torch.logsumexp(offset + means @ x, dim=0), gradient)


def _chains(config: LangevinProposalConfig, mixture: VonMisesFisherMixture) -> Iterator[LangevinAveragingState]:
    """The last state of one chain after another; the averages leave out the burn-in."""
    method = langevin_averaging(
        log_density_objective(mixture),
        scaled_inverse_temperature=config.inverse_temperature / mixture.dim,
        scaled_step_size=config.scaled_step_size,
        chains=1,
        burn_in=config.burn_in,
    )
    starts = torch.Generator().manual_seed(config.seed)
    seed = 0
    while True:
        x0 = torch.randn(mixture.dim, generator=starts, dtype=torch.float64)
        path = iterate(method, x0, seed=seed)
        for _ in range(config.burn_in + config.window):
            state, _ = next(path)
        yield state
        seed += 1


def _as_code(x: Tensor) -> Codes:
    return normalize(x.numpy()).astype(np.float32)


def _measure(manifold: IdentityManifold, sources: Codes, codes: Codes) -> dict[str, float]:
    on_manifold = manifold.contains(codes)
    cosines = codes @ sources.T  # (proposals, sources)
    settings = AssemblySettings()
    distinct = cosines < settings.identity_threshold
    pairs = (codes @ codes.T)[np.triu_indices(len(codes), 1)]
    return {
        "on_manifold": float(on_manifold.mean()),
        "on_manifold_strictly": float(manifold.contains(codes, strict=True).mean()),
        "accepted": float((on_manifold[:, None] & distinct).mean()),
        "nearest_bank": float((codes @ manifold.bank.T).max(axis=1).mean()),
        "pair_cosine": float(pairs.mean()),
        "alike_pairs": float((pairs >= settings.gallery_threshold).mean()),
        "source_cosine": float(cosines.mean()),
    }


def _manifold(
    config: LangevinProposalConfig, context: RunContext, rng: np.random.Generator
) -> tuple[IdentityManifold, Codes]:
    """The promoted manifold and codes of people it does not know, or both from drawn codes."""
    if config.faces is None:
        centers = rng.standard_normal((4, 16))
        drawn = normalize(centers[rng.integers(4, size=config.drawn_people + 80)] + 2 * _noise(config, rng)).astype(
            np.float32
        )
        manifold = fit_manifold(drawn[:-80], drawn[-80:-40], rng=rng, components=(1, 4))
        return manifold, drawn[-40:]
    people = load_crop_set(config.faces)
    identity = load_network(context.store, "face-encoder", IdentityEncoder, "identity")
    codes = identity(cached_embeddings(config.faces, people, context.store)).numpy()
    held: NDArray[np.bool_] = people.held_out()
    return load_manifold(context.store), codes[held].astype(np.float32)


def _noise(config: LangevinProposalConfig, rng: np.random.Generator) -> NDArray[np.float64]:
    return rng.standard_normal((config.drawn_people + 80, 16))


JOB = Job(
    name="langevin-proposal",
    summary="averaged Langevin chains against independent draws as proposals of identity codes",
    source=Source(
        "Improved high-dimensional estimation with Langevin dynamics and stochastic weight averaging",
        "https://arxiv.org/abs/2603.06028",
        2026,
    ),
    config=LangevinProposalConfig,
    run=run,
    presets={"smoke": {"faces": None, "proposals": 30, "burn_in": 30, "window": 30}},
)
