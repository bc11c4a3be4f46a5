"""A toy job: small enough for every test, real enough to be stopped and resumed."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from models.registry.store import ArtifactStore
from training.loop import Budget, Settings, train
from training.runs.config import JobConfig
from training.runs.context import RunContext
from training.runs.execution import Place
from training.runs.job import Job, Source
from training.runs.report import Check, Report, write_report


class ToyConfig(JobConfig):
    """Fit a line; ``stop_at`` sends SIGTERM to the process when a fresh run reaches that step."""

    steps: int = Field(default=12, ge=1)
    stop_at: int | None = None
    tolerance: float = Field(default=10.0, ge=0)
    publish: bool = False


def run_toy(config: ToyConfig, context: RunContext) -> Report:
    generator = torch.Generator().manual_seed(config.seed)
    torch.manual_seed(config.seed)
    model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.2), nn.Linear(4, 1))
    fresh = context.restore() is None
    calls = 0

    def loss(batch: Tensor, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        nonlocal calls
        calls += 1
        if fresh and calls == config.stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        value = (model(batch) - batch.sum(dim=1, keepdim=True)).square().mean()
        return value, {"progress": torch.tensor(progress)}

    trained = train(
        model,
        lambda g: torch.randn(8, 3, generator=g),
        loss,
        torch.optim.AdamW(model.parameters(), betas=(0.9, 0.99)),
        settings=Settings(Budget(steps=config.steps), warmup=3, average_decay=0.9, log_every=2),
        context=context,
        generator=generator,
    )
    weights = torch.cat([p.detach().reshape(-1) for m in (model, trained.average) for p in m.parameters()])
    metrics = {f"w{i}": float(w) for i, w in enumerate(weights)} | {"steps": float(trained.step)}
    artifacts = (context.publish("toy", "weights", {"w.bin": b"abc"}),) if config.publish and trained.completed else ()
    return Report(metrics, [Check("toy claim", 0.0, metrics["w0"], config.tolerance)], artifacts)


@pytest.fixture
def toy_job() -> Job[ToyConfig]:
    return Job(
        name="toy",
        summary="a line fitted in a few steps",
        config=ToyConfig,
        run=run_toy,
        source=Source("A toy", "https://example.org", 2024),
        presets={"smoke": {"steps": 3}},
    )


@pytest.fixture
def toy_config() -> Callable[..., ToyConfig]:
    return ToyConfig


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(runs=tmp_path / "runs", artifacts=tmp_path / "artifacts")


class BlurredEnsemble(nn.Module):
    """Oracles that look at 8x8 means through a fixed random matrix."""

    def __init__(self, dims: Mapping[str, int]) -> None:
        super().__init__()
        rng = torch.Generator().manual_seed(0)
        self.maps = {name: torch.randn(3 * 64, dim, generator=rng) for name, dim in dims.items()}

    def forward(self, crops: Tensor) -> dict[str, Tensor]:
        seen = F.adaptive_avg_pool2d(crops, 8).flatten(1)
        return {name: F.normalize(seen @ matrix, dim=1) for name, matrix in self.maps.items()}


@pytest.fixture(scope="session")
def blurred_ensemble() -> Callable[[Mapping[str, int]], nn.Module]:
    return BlurredEnsemble


@pytest.fixture(scope="session")
def make_run_context() -> Callable[[Path], RunContext]:
    """A context for jobs that log nothing and publish nothing."""

    def refuse(name: str, kind: str, files: Any, **fields: Any) -> str:
        raise AssertionError(f"{name} must not be published")

    def make(directory: Path) -> RunContext:
        return RunContext(
            directory,
            torch.device("cpu"),
            log=lambda values: None,
            should_stop=lambda: False,
            save=lambda checkpoint: None,
            restore=lambda: None,
            store=ArtifactStore(directory / "artifacts"),
            publish=refuse,
        )

    return make


_AUDIT_MEASURES = {
    "P3 rank-1 source.faceres": 0.15,
    "A6 rank-1 source.faceres": 0.05,
    "A3 rank-1 source.pairs attacker": 0.2,
    "A6 trained rank-1 source.pairs attacker": 0.1,
    "U2 landmark error": 0.06,
    "U2 landmark error, autoencoder only": 0.04,
    "U3 pose error, rad": 0.1,
    "U5 expression agrees in all three": 0.6,
}


@pytest.fixture
def made_up_audit(tmp_path: Path) -> Callable[..., Path]:
    """Writes the report and settings of a made-up audit of a level, its measures times a factor."""

    def made_up(level: str, factor: float = 1.0, **settings: Any) -> Path:
        directory = tmp_path / f"{level}-{factor}"
        directory.mkdir()
        values = {name: value * factor for name, value in _AUDIT_MEASURES.items()}
        rows = [
            {
                "measure": name,
                "value": round(value, 4),
                "95 % interval": f"{value - 0.02:.4f} .. {value + 0.02:.4f}",
                "n": 400,
            }
            for name, value in values.items()
        ]
        tables = {"measures with 95 % intervals": rows, "artifacts": [{"artifact": "a", "version": "1"}]}
        write_report(Report(metrics=values, tables=tables), directory, title="audit")
        config = {"seed": 0, "folder": None, "photos": 400, "level": level, **settings}
        (directory / "config.json").write_text(json.dumps({"job": "audit", "config": config}))
        return directory / "report.json"

    return made_up
