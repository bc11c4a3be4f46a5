"""Job: how much of the variance of each code people, expression, pose and light explain, on rendered factorial sets."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from models.anonymizer.assembly import load_attributes, load_network
from models.encoder.attribute_levels import AttributeLevels, load_attribute_levels
from models.encoder.attributes import FaceAttributes
from models.encoder.landmark_code import LANDMARK_CHANNELS, from_sheets
from models.encoder.variational import IdentityEncoder
from models.oracles.ensemble import load_ensemble
from models.oracles.thresholds import load_thresholds
from training.audit.factor_shares import FactorShares, factor_shares
from training.data.face_crops import load_crop_set, to_tensor
from training.data.rendered_heads.factorial import FACTORS, Design, sample_factorial
from training.data.rendered_heads.sampling import SamplingOptions
from training.jobs.untrained_networks import untrained_inputs
from training.runs.config import JobConfig
from training.runs.context import RunContext
from training.runs.job import Job, Source
from training.runs.report import Check, Report
from training.runs.stopping import RunInterruptedError

_BATCH = 32
_COARSE = 16  # px, side of the pictures whose own shares are the yardstick


class FactorVarianceConfig(JobConfig):
    """Settings of the run."""

    rendered: Path | None = Field(None, description="factorial set written by render-faces; without it one is rendered")
    factorial: tuple[int, int, int, int] = Field(
        (20, 4, 3, 3), description="levels of identity, expression, pose and light where none is given"
    )
    supersampling: int = Field(2, ge=1, le=4)
    untrained: bool = Field(False, description="networks that have learned nothing, for a run without a store")
    min_identity: float = Field(0.4, description="share of identity in the identity code that the report checks")
    max_identity: float = Field(0.3, description="the same in the landmarks of the level strict")


def run(config: FactorVarianceConfig, context: RunContext) -> Report:
    """Encode every face of the set and divide the variance of the codes.

    Args:
        config: Settings.
        context: Run directory, store and metrics.

    Returns:
        The report; its checks say that the identity code tells people apart and the strict landmarks hardly do.

    Raises:
        RunInterruptedError: The run was told to stop; rendering starts anew.
    """
    torch.manual_seed(config.seed)
    crops, shape = _rendered(config, context) if config.rendered is None else _stored(config.rendered)
    codes = _untrained_codes(crops, config.seed) if config.untrained else _codes(crops, context)
    shares = {name: factor_shares(_by_factor(table, shape)) for name, table in codes.items()}
    metrics = {
        f"{factor} in {name}": share
        for name, found in shares.items()
        for factor, share in zip(FACTORS, found.main, strict=True)
    }
    lowest = min(found.rest for found in shares.values())
    strict = "landmarks" if config.untrained else "landmarks, strict"
    checks = (
        Check("share of identity in the identity code", config.min_identity, metrics["identity in identity code"],
              relation="at_least"),
        Check("share of identity in the landmarks that are told strictly", config.max_identity,
              metrics[f"identity in {strict}"], relation="at_most"),
        Check("smallest share of the highest interactions", 0.0, lowest, 1e-9, "at_least"),
    )  # fmt: skip
    rows = [_row(name, found) for name, found in shares.items()]
    chance = dict(zip(FACTORS, next(iter(shares.values())).chance, strict=True))
    return Report(
        metrics, checks, tables={"Shares of the variance": rows, "Shares of a code without factors": [chance]}
    )


def _row(name: str, found: FactorShares) -> dict[str, Any]:
    shown = zip(FACTORS, found.main, found.standard_errors, strict=True)
    return {
        "code": name,
        **{factor: f"{share:.3f} ± {error:.3f}" for factor, share, error in shown},
        "pairs": found.pairs,
        "rest": found.rest,
        "disentanglement": found.disentanglement,
        "completeness": found.completeness,
    }


def _rendered(config: FactorVarianceConfig, context: RunContext) -> tuple[NDArray[np.uint8], tuple[int, ...]]:
    design = Design(*config.factorial)
    crops = []
    for sample in sample_factorial(design, config.seed, SamplingOptions(supersampling=config.supersampling)):
        if context.should_stop():
            raise RunInterruptedError("rendering was stopped")
        crops.append(sample.face.pixels)
    return np.stack(crops), design.shape


def _stored(folder: Path) -> tuple[NDArray[np.uint8], tuple[int, ...]]:
    """Crops of a set in the order of their levels, and how many levels there are.

    Args:
        folder: Folder written by `render-faces`.

    Returns:
        Crops (n, 128, 128, 3) and levels of the factors.

    Raises:
        ValueError: The set is not factorial.
    """
    people = load_crop_set(folder)
    labels = [json.loads(line) for line in (folder / "labels.jsonl").read_text(encoding="utf-8").splitlines()]
    names = [f"factor.{factor}" for factor in FACTORS]
    if not all(name in label for label in labels for name in names):
        raise ValueError(f"{folder} is no factorial set: run `doppel-train run render-faces --set factorial=[...]`")
    levels = np.array([[label[name] for name in names] for label in labels])
    shape = tuple(int(count) for count in levels.max(0) + 1)
    order = np.lexsort(levels.T[::-1])
    if len(people) != np.prod(shape) or len(np.unique(levels, axis=0)) != len(levels):
        raise ValueError(f"{folder} has {len(people)} faces for {shape} levels: each combination must be there once")
    return people.crops[order], shape


def _by_factor(table: NDArray[np.float64], shape: tuple[int, ...]) -> NDArray[np.float64]:
    return table.reshape(*shape, -1)


def _codes(crops: NDArray[np.uint8], context: RunContext) -> dict[str, NDArray[np.float64]]:
    """Codes of the networks of the store, (n, d) each."""
    store, device = context.store, context.device
    ensemble = load_ensemble(store, centers=load_thresholds(store).centers).to(device)
    identity = load_network(store, "face-encoder", IdentityEncoder, "identity").to(device)
    return _encode(crops, ensemble, identity, load_attributes(store).to(device), load_attribute_levels(store), device)


def _untrained_codes(crops: NDArray[np.uint8], seed: int) -> dict[str, NDArray[np.float64]]:
    device = torch.device("cpu")
    networks, _, oracles = untrained_inputs(3, crops.shape[1], seed, device)
    return _encode(crops, oracles, networks.identity, networks.attributes, None, device)


@torch.inference_mode()
def _encode(
    crops: NDArray[np.uint8],
    ensemble: nn.Module,
    identity: IdentityEncoder,
    attributes: FaceAttributes,
    levels: AttributeLevels | None,
    device: torch.device,
) -> dict[str, NDArray[np.float64]]:
    parts: list[Mapping[str, Tensor]] = []
    for start in range(0, len(crops), _BATCH):
        rows = to_tensor(crops[start : start + _BATCH]).to(device)
        embeddings = ensemble(rows)
        mean = attributes(rows)[0]
        found = {
            f"picture, {_COARSE} px": F.adaptive_avg_pool2d(rows, _COARSE),
            **{f"oracle {name}": table for name, table in embeddings.items()},
            "identity code": identity(embeddings),
            **_parts(mean),
        }
        if levels is not None:  # the landmarks of balanced are those of faithful, its learned part is that of strict
            limited = _parts(levels("strict", rows, mean))
            found |= {f"{name}, strict": part for name, part in limited.items()}
        parts.append({name: value.flatten(1).double().cpu() for name, value in found.items()})
    return {name: torch.cat([part[name] for part in parts]).numpy() for name in parts[0]}


def _parts(mean: Tensor) -> dict[str, Tensor]:
    """Learned part and landmarks of attribute codes (n, c + 2, 8, 8)."""
    learned, sheets = mean.tensor_split((-LANDMARK_CHANNELS,), dim=1)
    return {"learned part": learned, "landmarks": from_sheets(sheets)}


JOB = Job(
    name="factor-variance",
    summary="share of people, expression, pose and light in the variance of each code",
    source=Source(
        "A framework for the quantitative evaluation of disentangled representations",
        "https://openreview.net/forum?id=By-7dz-AZ",
        2018,
    ),
    config=FactorVarianceConfig,
    run=run,
    presets={
        "smoke": {
            "factorial": (3, 2, 2, 2),
            "supersampling": 1,
            "untrained": True,
            "min_identity": 0.0,
            "max_identity": 1.0,
        }
    },
)
