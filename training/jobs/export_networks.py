"""Job: every network that serves as an ONNX file, what other number formats and runtimes cost and what they change.

The files are for deployments without torch. They take and give what the networks of this package do: a recognizer
takes aligned crops and gives the centered unit embeddings that the gate compares. `index.json` beside them names
inputs, outputs and digests; whoever loads a file verifies its digest first. The service itself stays on torch.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from models.anonymizer.assembly import OWN_ARTIFACTS, UPSTREAM_ARTIFACTS, assemble
from models.runtime import inference_threads
from training.data.drawn_faces import drawn_crop_set
from training.data.face_crops import load_crop_set, to_tensor
from training.jobs.format_harm import EmbeddingHarm
from training.jobs.network_clock import ClockName
from training.jobs.network_ways import (
    EIGHT_BITS,
    HALF,
    ONNX,
    TORCH,
    Way,
    all_outputs,
    eight_bit_network,
    ms_per_row,
    torch_ways,
)
from training.jobs.onnx_export import OPSET, OnnxNetwork, export_onnx, parity
from training.jobs.served_networks import NETWORKS, ServedNetwork, served_networks
from training.runs.config import JobConfig
from training.runs.context import RunContext
from training.runs.job import Job
from training.runs.report import Check, Report
from training.runs.stopping import RunInterruptedError

_PER_PERSON = 2  # crops of each person, so that there are similar pairs too
_PARITY_ROWS = (1, 5)


class ExportNetworksConfig(JobConfig):
    """Settings of the run."""

    artifacts: Path | None = Field(None, description="artifact store; the run's own by default")
    faces: Path | None = Field(None, description="crop set; heads are rendered without it")
    networks: tuple[str, ...] = Field(NETWORKS, description="which networks", min_length=1)
    heads: int = Field(96, ge=6, description="crops on which outputs are compared, two of each person")
    calibration: int = Field(32, ge=0, description="crops of other people that set the scales of int8; 0 leaves it out")
    batches: tuple[int, ...] = Field((1, 8), description="rows of one timed call", min_length=1)
    rounds: int = Field(9, ge=1, description="timed turns of each way")
    threads: int = Field(1, ge=1)
    clock: ClockName = Field("wall", description="`processor` for shared machines")
    compile: bool = Field(False, description="also time torch.compile, which compiles for minutes")
    tolerance: float = Field(1e-4, gt=0, description="largest difference of a float32 file to torch")


def run(config: ExportNetworksConfig, context: RunContext) -> Report:
    """Export, compare and time.

    Args:
        config: Settings.
        context: Run directory, store and metrics.

    Returns:
        The report: files and their parity, milliseconds per row, and what each format changes.

    Raises:
        ExportError: A network cannot be exported; the message names it.
        RunInterruptedError: The run was told to stop; exporting starts anew.
    """
    context = context.with_store(config.artifacts)
    inference_threads(config.threads)
    assembly = assemble(context.store)
    compared, calibrating = _crops(config)
    shown = served_networks(assembly, compared, config.networks)
    scaling = served_networks(assembly, calibrating, config.networks) if len(calibrating) else [None] * len(shown)
    found = _Found()
    folder = context.directory / "onnx"
    folder.mkdir()
    for served, scales in zip(shown, scaling, strict=True):
        if context.should_stop():
            raise RunInterruptedError("exporting was stopped")
        _measure(config, served, scales, folder, found)
        context.log({f"ms.{served.name}": found.metrics[f"ms_per_row.{served.name}.{TORCH}.{config.batches[0]}"]})
    (folder / "index.json").write_text(json.dumps(found.index, indent=2) + "\n", encoding="utf-8")
    return Report(
        metrics=found.metrics,
        checks=found.checks,
        tables={
            "files": found.files,
            "milliseconds per row": found.times,
            **{f"what a format changes: {about}": rows for about, rows in found.harms.items()},
            "left out": found.left_out,
        },
    )


@dataclass(slots=True)
class _Found:
    """What the networks gave, one after the other."""

    metrics: dict[str, float] = field(default_factory=dict)
    checks: list[Check] = field(default_factory=list)
    index: dict[str, Any] = field(default_factory=dict)
    files: list[dict[str, Any]] = field(default_factory=list)
    times: list[dict[str, Any]] = field(default_factory=list)
    harms: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: defaultdict(list))
    left_out: list[dict[str, Any]] = field(default_factory=list)


def _measure(
    config: ExportNetworksConfig, served: ServedNetwork, scales: ServedNetwork | None, folder: Path, found: _Found
) -> None:
    path = folder / f"{served.name}.onnx"
    export_onnx(served, path)
    exported = OnnxNetwork(served.name, path, served.outputs, config.threads)
    difference = parity(served, exported, _PARITY_ROWS)
    found.checks.append(
        Check(f"{served.name}: largest difference of ONNX to torch", 0.0, difference, config.tolerance, "at_most")
    )
    reasons: dict[str, str] = {}
    ways = torch_ways(served, config.compile, reasons)
    sessions = {ONNX: exported}
    if scales is not None:
        target = path.with_suffix(".int8.onnx")
        eight_bits = eight_bit_network(scales, path, target, config.threads, reasons)
        sessions |= {} if eight_bits is None else {EIGHT_BITS: eight_bits}
    for batch in config.batches:
        for way, ms in ms_per_row(served, ways, sessions, batch, config.rounds, config.clock).items():
            found.metrics[f"ms_per_row.{served.name}.{way}.{batch}"] = ms
    found.times += [
        {"network": served.name, "way": way}
        | {
            f"{batch} rows": round(found.metrics[f"ms_per_row.{served.name}.{way}.{batch}"], 2)
            for batch in config.batches
        }
        for way in (*ways, *sessions)
    ]
    one_minus_cosine = _compare(served, ways, sessions, found)
    found.metrics[f"difference.{served.name}"] = difference
    found.files.append(
        {
            "network": served.name,
            "file": path.name,
            "MB": round(path.stat().st_size / 1e6, 2),
            "largest difference to torch": float(f"{difference:.1e}"),
            "1 - cosine": "" if one_minus_cosine is None else float(f"{one_minus_cosine:.1e}"),
        }
    )
    found.index[served.name] = _index_entry(served, path)
    found.left_out += [{"network": served.name, "way": way, "reason": reason} for way, reason in reasons.items()]


def _compare(
    served: ServedNetwork, ways: Mapping[str, Way], sessions: Mapping[str, OnnxNetwork], found: _Found
) -> float | None:
    """Compare every other way with torch in float32; for a recognizer, give 1 - cosine of its float32 file."""
    exact = all_outputs(served, ways[TORCH])
    others: dict[str, Callable[[Mapping[str, Tensor]], tuple[Tensor, ...]]] = {
        **ways,
        **{name: network.answer for name, network in sessions.items()},
    }
    one_minus_cosine = None
    for way, answer in others.items():
        if way == TORCH:
            continue
        other = all_outputs(served, answer)
        changed = served.harm(exact, other)
        row = {name: float(f"{value:.4g}") for name, value in changed.items()}
        found.harms[served.harm.about].append({"network": served.name, "way": way} | row)
        found.metrics |= {f"{served.name}.{way}.{name}": value for name, value in changed.items()}
        if not isinstance(served.harm, EmbeddingHarm):
            continue
        if way == ONNX:
            cosines = F.cosine_similarity(exact[0].double(), other[0].double())
            one_minus_cosine = float((1 - cosines).abs().max())
        if way == HALF:
            claim = f"{served.name}: change of a similarity in bfloat16, in margins of the sampler"
            found.checks.append(Check(claim, 1.0, changed["in margins"], relation="at_most"))
    return one_minus_cosine


def _index_entry(served: ServedNetwork, path: Path) -> dict[str, Any]:
    files = [path, path.with_suffix(".int8.onnx")]

    def shape(name: str) -> list[int | str]:
        sizes: list[int | str] = list(served.inputs[name].shape)
        if name not in served.shared:
            sizes[0] = "rows"
        return [*sizes[:2], "height", "width"] if served.has_free_sides else sizes

    return {
        "opset": OPSET,
        "inputs": {name: {"dtype": "float32", "shape": shape(name)} for name in served.inputs},
        "outputs": list(served.outputs),
        "sha256": {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files if file.is_file()},
    }


def _crops(config: ExportNetworksConfig) -> tuple[Tensor, Tensor]:
    """Crops to compare outputs on, and crops of other people that set the scales of eight bits."""
    people = [-(-count // _PER_PERSON) for count in (config.heads, config.calibration)]
    if config.faces is None:
        faces = drawn_crop_set(sum(people), _PER_PERSON, config.seed)
    else:
        faces = load_crop_set(config.faces)
    rng = np.random.default_rng(config.seed)
    groups = rng.permutation(np.unique(faces.groups))
    rows = [rng.permutation(np.flatnonzero(faces.groups == group))[:_PER_PERSON] for group in groups[: sum(people)]]
    # A set of one crop for each person gives fewer rows, and no similar pairs.
    first, second = rows[: people[0]], rows[people[0] :]
    compared = to_tensor(faces.crops[np.concatenate(first)][: config.heads])
    calibrating = to_tensor(faces.crops[np.concatenate(second)][: config.calibration]) if second else compared[:0]
    return compared, calibrating


JOB = Job(
    name="export-networks",
    summary="ONNX files of the networks that serve, their parity, speed, and what other formats change",
    config=ExportNetworksConfig,
    run=run,
    wants_large_malloc_thresholds=True,
    presets={
        "smoke": {
            "artifacts": "artifacts",
            "networks": ("dlib", "rnet"),
            "heads": 6,
            "calibration": 0,
            "batches": (1, 2),
            "rounds": 1,
        },
        "full": {"faces": "data/rendered"},
    },
    needs=tuple(f"artifacts/{name}" for name in (*OWN_ARTIFACTS, *UPSTREAM_ARTIFACTS)),
)
