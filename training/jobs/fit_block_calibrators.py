"""Job: one calibrator per oracle and stratum of people, tied together as stiffly as pairs set aside ask for."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from models.oracles.ensemble import ORACLES, load_oracle
from models.oracles.thresholds import ARTIFACT as THRESHOLDS_ARTIFACT
from models.oracles.thresholds import CalibrationError, load_thresholds
from training.data.apparent_attributes import apparent_sex_and_age
from training.jobs.calibrate_oracles import Half, embed_crops
from training.jobs.calibration_halves import CalibrationHalvesConfig
from training.jobs.fit_match_calibrators import paired_crops
from training.jobs.strata import Score, Strata, Stratum, draw_strata, is_clearly_less, thin
from training.jobs.strata_ways import ALONE, EXACT, POOLED, TIED, Comparison, WaySettings, compare
from training.problems.block_calibration import stiffness
from training.runs.context import RunContext
from training.runs.job import Job, Source
from training.runs.report import Check, Report

ARTIFACT = "block-calibrators"


class FitBlockCalibratorsConfig(CalibrationHalvesConfig):
    """Settings of the run."""

    folder: Path | None = Field(None, description="folder of photos, one main face in each; None draws similarities")
    max_people: int = Field(400, ge=16, description="people with two photos, in each half")
    age_edges: tuple[float, ...] = Field((45.0,), description="apparent years at which strata of either sex part")
    folds: int = Field(4, ge=2, description="parts of every stratum, set aside in turn to choose the stiffness")
    min_people: int = Field(4, ge=2, description="strata with fewer in a fold, or of the held-out people, are left out")
    draws: int = Field(3, ge=1, description="draws of people that the ways are compared on; one takes everybody")
    share: float = Field(0.75, gt=0.5, lt=1, description="of every stratum's people in one of several draws")
    drawn_blocks: int = Field(24, ge=2, description="strata when similarities are drawn")
    steps: int = Field(1500, ge=1)
    blocks_per_step: int = Field(8, ge=1, description="of all strata times folds times oracles")
    pairs_per_block: int = Field(64, ge=2)
    step_size: float = Field(3.0, gt=0, description="eta of the stiffness")
    lower_step_size: float = Field(1.0, gt=0)


def run(config: FitBlockCalibratorsConfig, context: RunContext) -> Report:
    """Fit the blocks tied, alone and pooled, compare on held-out people, publish the tied ones when clearly best.

    Args:
        config: Settings.
        context: Run directory and store.

    Returns:
        The report with one row per way and one per block.

    Raises:
        CalibrationError: Fewer than two strata have enough people.
    """
    strata = draw_strata(config.drawn_blocks, seed=config.seed) if config.folder is None else _measure(config, context)
    settings = WaySettings(
        folds=config.folds,
        steps=config.steps,
        blocks=config.blocks_per_step,
        batch_size=config.pairs_per_block,
        step_size=config.step_size,
        lower_step_size=config.lower_step_size,
        seed=config.seed,
    )
    found = []
    for draw in range(config.draws):
        rng = np.random.default_rng((config.seed, draw))
        found.append(compare(strata if config.draws == 1 else thin(strata, config.share, rng), settings, rng))
        context.log({"draw": draw, "loss": found[-1].scores[TIED].loss, "alone": found[-1].scores[ALONE].loss})
    scores = {
        name: Score(
            np.mean([one.scores[name].losses for one in found], axis=0),
            np.mean([one.scores[name].errors for one in found], axis=0),
        )
        for name in found[0].scores
    }
    values, seconds = (
        {name: float(np.mean([getattr(one, field)[name] for one in found])) for name in getattr(found[0], field)}
        for field in ("values", "seconds")
    )
    best_plain = min(scores[POOLED].loss, scores[ALONE].loss)
    is_better = all(is_clearly_less(scores[TIED].losses, scores[plain].losses) for plain in (POOLED, ALONE))
    references: tuple[str, ...] = ()
    if is_better and config.folder is not None:
        final = compare(strata, settings, np.random.default_rng(config.seed))
        references = (_publish(context, config, strata, final),)
    checks = [
        Check("loss set aside after the steps, against the start", values["start"], values[TIED], 0.0, "at_most"),
        Check("held-out log loss of tied blocks and of the better plain way", best_plain, scores[TIED].loss, 2e-3,
              "at_most"),
    ]  # fmt: skip
    rows = [
        {
            "way": name,
            "held-out log loss": round(mean.loss, 5),
            "in each draw": ", ".join(f"{one.scores[name].loss:.4f}" for one in found),
            "calibration error": round(mean.error, 4),
            "worst block's log loss": round(float(mean.losses.max()), 4),
            "loss set aside": round(values[name], 5) if name in values else "",
            "stiffness, first draw": _listed(found[0].chosen.get(name)),
            "seconds": round(seconds[name], 2) if name in seconds else "",
        }
        for name, mean in scores.items()
    ]
    tables = {
        "ways": rows,
        "blocks: held-out log loss and calibration error": _by_block(strata, scores),
        "in the service": _in_the_service(strata, scores, seconds),
    }
    metrics = {"blocks": float(len(strata.names)), "log_loss": scores[TIED].loss, "published": float(bool(references))}
    metrics |= {"log_loss_pooled": scores[POOLED].loss, "log_loss_alone": scores[ALONE].loss}
    return Report(metrics, checks, artifacts=references, tables=tables)


def _measure(config: FitBlockCalibratorsConfig, context: RunContext) -> Strata:
    assert config.folder is not None
    store, rng = context.store, np.random.default_rng(config.seed)
    crops = {
        half: paired_crops(config.folder, config.labels, config.landmarks, half, config.max_people, rng)
        for half in (config.fit_half, config.held_out_half)
    }
    strata = {
        half: _stratum(apparent_sex_and_age(first, store), config.age_edges) for half, (first, _) in crops.items()
    }
    least = {config.fit_half: config.folds * config.min_people, config.held_out_half: config.min_people}
    kept = [
        name
        for name in sorted(set(strata[config.fit_half].tolist()))
        if all((strata[half] == name).sum() >= count for half, count in least.items())
    ]
    if len(kept) < 2:
        raise CalibrationError(f"need at least two strata of {config.min_people} people in every part, got {len(kept)}")
    centers = load_thresholds(store).centers
    found: dict[Half, list[Stratum]] = {config.fit_half: [], config.held_out_half: []}
    for oracle in config.oracles:
        network = load_oracle(store, oracle, center=centers.get(oracle)).to(context.device)
        for half, sides in crops.items():
            left, right = (embed_crops(network, side, config.batch).astype(np.float64) for side in sides)
            for name in kept:
                rows = strata[half] == name
                first, second = left[rows], right[rows]
                found[half].append(Stratum((first * second).sum(axis=1), first @ first.T))
    names = [f"{oracle}, {name}" for oracle, name in itertools.product(config.oracles, kept)]
    oracles = torch.arange(len(config.oracles)).repeat_interleave(len(kept))
    return Strata(found[config.fit_half], found[config.held_out_half], names, oracles)


def _stratum(labels: NDArray[np.float64], edges: tuple[float, ...]) -> NDArray[np.str_]:
    """Name the stratum of everybody from apparent sex in [-1, 1] and age in decades (n, 2)."""
    bounds = (0.0, *edges, np.inf)
    ages = [
        f"{low:g} and older" if np.isinf(high) else f"{low:g} to {high:g}" for low, high in itertools.pairwise(bounds)
    ]
    sexes = np.where(labels[:, 0] < 0, "apparent women", "apparent men")
    return np.array([f"{sex} {ages[k]}" for sex, k in zip(sexes, np.digitize(labels[:, 1] * 10, edges), strict=True)])


def _publish(context: RunContext, config: FitBlockCalibratorsConfig, strata: Strata, final: Comparison) -> str:
    """Publish slope and intercept of the plain similarity for every block; nothing is promoted."""
    curves, scores = final.curves[TIED], final.scores
    mean, deviation = final.spread[strata.oracles].T
    slopes = curves[:, 0] / deviation
    intercepts = curves[:, 1] - slopes * mean
    payload = {
        "domain": config.domain,
        "calibrators": [
            {"block": name, "slope": slope, "intercept": intercept, "held_out_log_loss": loss}
            for name, slope, intercept, loss in zip(
                strata.names, slopes.tolist(), intercepts.tolist(), scores[TIED].losses.tolist(), strict=True
            )
        ],
    }
    oracles = [ORACLES[name].artifact for name in config.oracles]
    parents = {name: str(context.store.promoted(name)) for name in (THRESHOLDS_ARTIFACT, *oracles)}
    return context.publish(
        ARTIFACT,
        "calibrators",
        {"calibrators.json": (json.dumps(payload, indent=2, allow_nan=False) + "\n").encode()},
        config={"domain": config.domain, "fit_half": config.fit_half},
        inputs={"similarity": "cosine in [-1, 1] of centered embeddings"},
        outputs={"probability": "of the same person, in [0, 1], at equal priors, within a stratum"},
        parents=parents,
        metrics={"log_loss": scores[TIED].loss, "log_loss_pooled": scores[POOLED].loss},
        license="Apache-2.0",
        provenance={"data": f"strata of people of the {config.fit_half} half", "holds": "numbers only"},
    )


def _listed(x: Tensor | None) -> str:
    return "" if x is None else ", ".join(f"{value:.2g}" for value in stiffness(x).tolist())


def _by_block(strata: Strata, scores: Mapping[str, Score]) -> list[dict[str, Any]]:
    return [
        {
            "block": name,
            "people to fit": len(strata.fitting[index].own),
            "held-out people": len(strata.held_out[index].own),
        }
        | {f"{way}: log loss": round(float(scores[way].losses[index]), 4) for way in (POOLED, ALONE, TIED)}
        | {f"{way}: error": round(float(scores[way].errors[index]), 4) for way in (POOLED, ALONE, TIED)}
        for index, name in enumerate(strata.names)
    ]


def _in_the_service(
    strata: Strata, scores: Mapping[str, Score], seconds: Mapping[str, float]
) -> list[dict[str, object]]:
    """Rows of the table of service uses: against one pooled curve, against blocks alone, against exact gradients."""
    people = [len(stratum.own) for stratum in strata.held_out]
    pairs = sum(n * (n + 1) // 2 for n in people)
    tied = scores[TIED]
    rows = [
        ("one pooled curve per oracle", "log loss per block, nats", scores[POOLED].loss, tied.loss),
        ("one pooled curve per oracle", "calibration error per block", scores[POOLED].error, tied.error),
        ("every block fitted alone", "log loss per block, nats", scores[ALONE].loss, tied.loss),
        ("every block fitted alone", "calibration error per block", scores[ALONE].error, tied.error),
        ("exact implicit gradients, L-BFGS-B", "log loss per block, nats", scores[EXACT].loss, tied.loss),
        ("exact implicit gradients, L-BFGS-B", "processor seconds", seconds[EXACT], seconds[TIED]),
    ]
    return [
        {
            "method": "bsvrb",
            "job": f"calibrate oracles by stratum; plain: {plain}",
            "measure": f"held-out {measure}" if measure != "processor seconds" else measure,
            "without": without,
            "with": with_,
            "n": pairs,
        }
        for plain, measure, without, with_ in rows
    ]


JOB = Job(
    name="fit-block-calibrators",
    summary="match calibrators per oracle and stratum of people, tied by a shared stiffness",
    source=Source(
        "Blockwise Stochastic Variance-Reduced Methods with Parallel Speedup for Multi-Block Bilevel Optimization",
        "https://arxiv.org/abs/2305.18730",
        2023,
    ),
    config=FitBlockCalibratorsConfig,
    run=run,
    wants_large_malloc_thresholds=True,
    presets={"smoke": {"steps": 1200, "draws": 1}},
)
